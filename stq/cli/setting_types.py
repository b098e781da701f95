"""The kind and range of every setting that has one: a wrong value is told at once, before the slow imports.

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
class Kind:
    """``name`` completes the sentence "KEY=VALUE is not ..."."""

    name: str
    accepts: Callable[[Any], bool]


def _whole(least: int, most: float = math.inf) -> Kind:
    limits = f"from {least} to {most:.0f}" if most < math.inf else f"from {least} up"
    return Kind(f"a whole number {limits}", lambda value: type(value) is int and least <= value <= most)


def _real(least: float = 0.0, most: float = math.inf) -> Kind:
    limits = f"from {least:g} to {most:g}" if most < math.inf else f"from {least:g} up"
    return Kind(f"a number {limits}", lambda value: _is_number(value) and least <= value <= most)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _or_null(kind: Kind) -> Kind:
    return Kind(f"{kind.name}, or null", lambda value: value is None or kind.accepts(value))


_FLAG = Kind("true or false", lambda value: type(value) is bool)
_NAME = Kind("a name", lambda value: isinstance(value, str) and value != "")
_PATH = Kind("a path", lambda value: isinstance(value, str) and value != "")
_POSITIVE = Kind("a number above 0", lambda value: _is_number(value) and value > 0)
_LIST = Kind("a list such as [a,b]", lambda value: isinstance(value, list))
_OVERRIDES = Kind(
    "overrides by path pattern such as {layer3.*:{weight_bits:4}}",
    lambda value: isinstance(value, dict) and all(isinstance(each, dict) for each in value.values()),
)
_STAGES = Kind(
    "null or bits by part of training such as {0.0:8,0.5:3}",
    lambda value: (
        value is None
        or (isinstance(value, dict) and all(_is_number(part) and type(bits) is int for part, bits in value.items()))
    ),
)
_SETTINGS = Kind("settings by name such as {t_max:0.5}", lambda value: isinstance(value, dict))
_BITS = Kind(
    "a bit width: use 1 to 8, or 32 for float", lambda value: type(value) is int and value in (*range(1, 9), 32)
)

TRAIN: Mapping[str, Kind] = {
    "weight_bits": _BITS,
    "activation_bits": _BITS,
    "first_last_bits": _or_null(_BITS),
    "seed": _whole(0, 2**32 - 1),
    "tags": _LIST,
    "sweep_name": _NAME,
    "threads": _or_null(_whole(1)),
    "compile": _FLAG,
    "model.name": _NAME,
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
    "data.workers": _whole(0),
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
    "trainer.max_epochs": _whole(1),
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
RUN: Mapping[str, Kind] = {"run": _PATH, "format": _NAME, "output": _or_null(_PATH), "benchmark": _FLAG}


def check_kinds(cfg: DictConfig, kinds: Mapping[str, Kind]) -> None:
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
