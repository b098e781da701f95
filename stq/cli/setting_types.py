"""The type and range of every setting that has one: a wrong value is told at once, before the slow imports.

What a quantizer, timm or Lightning takes as its own argument is theirs to judge, and is not listed here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ..errors import InputError


@dataclass(frozen=True)
class SettingType:
    """``name`` completes the sentence "KEY=VALUE is not ..."."""

    name: str
    accepts: Callable[[Any], bool]


def _whole(least: int, most: float = math.inf) -> SettingType:
    limits = f"from {least} to {most:.0f}" if most < math.inf else f"from {least} up"
    return SettingType(f"a whole number {limits}", lambda value: type(value) is int and least <= value <= most)


def _real(least: float = 0.0, most: float = math.inf) -> SettingType:
    limits = f"from {least:g} to {most:g}" if most < math.inf else f"from {least:g} up"
    return SettingType(f"a number {limits}", lambda value: _is_number(value) and least <= value <= most)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _or_null(kind: SettingType) -> SettingType:
    return SettingType(f"{kind.name}, or null", lambda value: value is None or kind.accepts(value))


_FLAG = SettingType("true or false", lambda value: type(value) is bool)
_NAME = SettingType("a name", lambda value: isinstance(value, str) and value != "")
_PATH = SettingType("a path", lambda value: isinstance(value, str) and value != "")
_POSITIVE = SettingType("a number above 0", lambda value: _is_number(value) and value > 0)
_PATHS = SettingType(
    "a name such as my_package.MyData, or a list of names",
    lambda value: isinstance(value, str) or (isinstance(value, list) and all(isinstance(each, str) for each in value)),
)
_EPOCHS = SettingType(
    "a whole number from 0 up (0: calibrate and evaluate only), or -1 with +trainer.max_steps",
    lambda value: type(value) is int and value >= -1,
)
_LIST = SettingType("a list such as [a,b]", lambda value: isinstance(value, list))
_OVERRIDES = SettingType(
    "overrides by path pattern such as {layer3.*:{weight_bits:4}}",
    lambda value: isinstance(value, dict) and all(isinstance(each, dict) for each in value.values()),
)
_STAGES = SettingType(
    "null or bits by stage such as 8-4-3, or 8-4@0.3-3@0.6",
    lambda value: (
        value is None
        or isinstance(value, str)
        or (isinstance(value, dict) and all(_is_number(part) and type(bits) is int for part, bits in value.items()))
    ),
)
_SETTINGS = SettingType("settings by name such as {t_max:0.5}", lambda value: isinstance(value, dict))
_KERNELS = ("plain", "lean", "compiled")  # as stq.quantizers.fused has them, without its imports
_BITS = SettingType(
    "a bit width: use 1 to 8, or 32 for float", lambda value: type(value) is int and value in (*range(1, 9), 32)
)

TRAIN: Mapping[str, SettingType] = {
    "weight_bits": _BITS,
    "activation_bits": _BITS,
    "first_last_bits": _or_null(_BITS),
    "residual_bits": _or_null(_BITS),
    "target": _or_null(_NAME),
    "seed": _whole(0, 2**32 - 1),
    "tags": _LIST,
    "sweep_name": _NAME,
    "threads": _or_null(_whole(1)),
    "compile": _FLAG,
    "channels_last": _or_null(_FLAG),
    "kernels": _or_null(SettingType("plain, lean or compiled", lambda value: value in _KERNELS)),
    "memory": _or_null(SettingType("low", lambda value: value == "low")),
    "run": _or_null(_PATH),
    "trust": _PATHS,
    "model.name": _or_null(_NAME),
    "model.width": _whole(1),
    "quantizer.settings": _or_null(_SETTINGS),
    "quantizer.layers": _OVERRIDES,
    "quantizer.skip": _LIST,
    "quantizer.weight_settings.per_channel": _or_null(_FLAG),
    "data.path": _or_null(_PATH),
    "data.image_size": _or_null(_whole(1)),
    "data.crop_padding": _whole(0),
    "data.flip": _FLAG,
    "data.val_fraction": _real(0, 1),
    "data.split_seed": _whole(0),
    "data.batch_size": _whole(1),
    "data.eval_batch_size": _whole(1),
    "data.workers": _or_null(_whole(0)),
    "data.on_device": SettingType("true, false or auto", lambda value: value in (True, False, "auto")),
    "init.path": _or_null(_PATH),
    "optimizer.opt": _NAME,
    "optimizer.lr": _real(),
    "optimizer.momentum": _real(0, 1),
    "optimizer.weight_decay": _real(),
    "optimizer.quantizer_lr_factor": _real(),
    "scheduler.sched": _NAME,
    "scheduler.warmup_epochs": _real(),
    "scheduler.min_lr": _real(),
    "loss.label_smoothing": _real(0, 1),
    "loss.mixup": _real(),
    "loss.cutmix": _real(),
    "loss.distillation_weight": _real(0, 1),
    "loss.distillation_temperature": _POSITIVE,
    "trainer.max_epochs": _EPOCHS,
    "trainer.accumulate_grad_batches": _whole(1),
    "trainer.gradient_clip_val": _or_null(_real()),
    "trainer.limit_train_batches": _or_null(_POSITIVE),
    "trainer.enable_progress_bar": _FLAG,
    "callbacks.monitor": _FLAG,
    "callbacks.progressive": _STAGES,
    "callbacks.reestimate_batch_norm": _or_null(_whole(1)),
    "paths.runs": _PATH,
    "paths.float_dir": _PATH,
    "paths.data": _PATH,
}
RUN: Mapping[str, SettingType] = {
    "run": _PATH,
    "trust": _PATHS,
    "format": _NAME,
    "target": _or_null(_NAME),
    "pixels": _FLAG,
    "c.prefix": _or_null(_NAME),
    "c.backend": _or_null(_NAME),
    "c.container": _or_null(_whole(1)),
    "c.pack": _or_null(_FLAG),
    "c.float": _or_null(_FLAG),
    "output": _or_null(_PATH),
    "benchmark": _FLAG,
}


def check_types(cfg: DictConfig, kinds: Mapping[str, SettingType]) -> None:
    """Raise InputError for the first setting of ``cfg`` whose value is not of its kind; those it lacks are left out.

    What the float baseline overrides (``init.float``) is held to the same.
    """
    for prefix in ("", "init.float."):
        for key, kind in kinds.items():
            section, _, name = f"{prefix}{key}".rpartition(".")
            parent = OmegaConf.select(cfg, section) if section else cfg
            if not OmegaConf.is_dict(parent) or name not in parent:
                continue
            value = parent[name]
            value = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            if not kind.accepts(value):
                shown = "null" if value is None else str(value).lower() if type(value) is bool else value
                raise InputError(f"{prefix}{key}={shown} is not {kind.name}")


def trusted(cfg: DictConfig) -> list[str]:
    """``trust`` as a list: one name may stand without brackets."""
    given = OmegaConf.to_container(cfg).get("trust") or []
    return [given] if isinstance(given, str) else given
