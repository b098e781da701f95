"""From a configuration to the objects it names: the data module, a backbone, its quantizers."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Mapping
from typing import Any

import hydra.utils
import pytorch_lightning as pl
import timm
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from .. import models  # noqa: F401  (registers the small backbones with timm)
from ..data.fingerprint import fingerprint_cache, stamp
from ..errors import InputError, nearest
from ..quantization.residual import Rounded
from ..quantization.surgery import input_quantizer, quantize, quantized_layers, weight_quantizer
from ..quantizers import get_method
from ..results.runs.identity import Identity, identify
from ..results.runs.settings import implied_settings
from ..storage.content_hash import HashCache, digest
from .instantiation import KNOWN_TARGETS, instantiate

log = logging.getLogger(__name__)


def plain(section: Any) -> Any:
    """A configuration section as plain dictionaries and lists; a plain value as it is."""
    return OmegaConf.to_container(section, resolve=True) if OmegaConf.is_config(section) else section


def build_data(cfg: DictConfig) -> pl.LightningDataModule:
    """The data module of a configuration; what its constructor finds wrong is raised as InputError.

    A data module of the user's gets what ours have beside Lightning's methods, as far as it can be seen from its
    batches: ``in_chans``, ``image_size``, ``name``, ``known``, ``calibration_batch``. It must say ``num_classes``.
    """
    section = plain(cfg.data)
    if section["_target_"] in KNOWN_TARGETS:
        return instantiate(section, "data")
    data = instantiate(_accepted(section), "data")
    if not isinstance(data, pl.LightningDataModule):
        raise InputError(f"data._target_={section['_target_']} is not a LightningDataModule")
    if not isinstance(getattr(data, "num_classes", None), int):
        raise InputError(f"data._target_={section['_target_']} does not say num_classes: set it in its __init__")
    if not hasattr(data, "calibration_batch"):
        data.calibration_batch = lambda size=256: _first_images(data, size)
    if not (hasattr(data, "in_chans") and hasattr(data, "image_size")):
        _, data.in_chans, data.image_size, *_ = data.calibration_batch(1).shape
    data.name = section.get("label") or getattr(data, "name", None) or type(data).__name__
    data.known = getattr(data, "known", None)
    return data


def _accepted(section: Mapping[str, Any]) -> dict[str, Any]:
    """Without the keys of the option that ``_target_`` was put over, as far as the user's class does not take them."""
    target = _located(section["_target_"], "data")
    parameters = inspect.signature(target.__init__ if isinstance(target, type) else target).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return dict(section)
    return {key: value for key, value in section.items() if key in parameters or key == "_target_"}


def _located(path: str, place: str) -> Any:
    try:
        return hydra.utils.get_object(path)
    except Exception as error:  # whatever the import of the user's module raises
        raise InputError(
            f"{place}._target_={path} cannot be imported: {str(error).strip().splitlines()[-1]}"
        ) from error


def _first_images(data: pl.LightningDataModule, size: int) -> Tensor:
    data.prepare_data()
    data.setup("fit")
    images, count = [], 0
    for batch in data.train_dataloader():
        images.append(batch[0])
        count += len(batch[0])
        if count >= size:
            break
    return torch.cat(images)[:size]


def fingerprint_of(config: Mapping[str, Any], data: pl.LightningDataModule, cache: HashCache) -> str:
    """What the data hold, remembered for the next start; of data modules without a fingerprint, their settings."""

    def compute() -> str:
        found = getattr(data, "fingerprint", None)
        return found if isinstance(found, str) else digest(config["data"])

    known = stamp(config["data"]) if config["data"]["_target_"] in KNOWN_TARGETS else None
    return compute() if known is None else cache.of(known, compute)


def identity_of(cfg: DictConfig, data: pl.LightningDataModule) -> Identity:
    """Which run a configuration is with these data."""
    config, cache = plain(cfg), fingerprint_cache(cfg.paths.float_dir)
    return identify(config, fingerprint_of(config, data, cache), cache)


def build_backbone(cfg: DictConfig, data: pl.LightningDataModule, pretrained: bool = False) -> nn.Module:
    """``timm.create_model`` with the data's classes and channels, or the user's model that ``model._target_`` names.

    Raises InputError for an unknown name or argument.
    """
    arguments = plain(cfg.model)
    facts = {"num_classes": data.num_classes, "in_chans": data.in_chans}
    target = arguments.pop("_target_", None)
    if target is not None:
        if pretrained:
            raise InputError("init=pretrained takes timm's weights; a model of yours loads its own, or init.path")
        parameters = inspect.signature(_located(target, "model")).parameters
        own = {key: value for key, value in arguments.items() if key != "name" and (value is not None)}
        own = {key: value for key, value in own.items() if key in parameters or key != "width"}  # resnet8's
        return instantiate({"_target_": target, **own}, "model", **{k: v for k, v in facts.items() if k in parameters})
    name = arguments.pop("name")
    base = str(name).split(".")[0]
    if not timm.is_model(base) and "/" not in name:
        raise InputError(f"model.name={name} is not a timm model{nearest(name, timm.list_models())}")
    try:
        model = timm.create_model(name, pretrained=pretrained, **facts, **arguments)
        if pretrained:
            _warn_of_recipe(model)
        return model
    except TypeError as error:
        raise InputError(f"model {name} does not take these arguments: {error}") from error
    except (RuntimeError, OSError, ValueError, AssertionError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        what = "the pretrained weights of" if pretrained else "the model"
        raise InputError(f"{what} {name} could not be {'read' if pretrained else 'made'}: {reason}") from error


def _warn_of_recipe(model: nn.Module) -> None:
    """Weights of timm's recipes A1 to A3 (arXiv 2110.00476) quantize badly: a ResNet-50 to 0.1 %, BRECQ's issue 45."""
    tag = str((getattr(model, "pretrained_cfg", None) or {}).get("tag") or "")
    if re.match(r"a[123]_", tag):
        log.warning(
            "the weights %s come from a recipe (A1 to A3) whose networks lose much when quantized: others of the same "
            "network, such as its tv_in1k, are the safer start",
            tag,
        )


def is_quantized(cfg: DictConfig) -> bool:
    """Whether the configuration asks for quantizers at all. Raises InputError for an unknown method."""
    try:
        return get_method(cfg.quantizer.method).activation is not None
    except ValueError as error:
        raise InputError(f"quantizer.method={cfg.quantizer.method}: {error}") from error


def add_quantizers(model: nn.Module, cfg: DictConfig) -> nn.Module:
    """``stq.quantize`` with the configuration's bits, methods and policy. Raises InputError for what is wrong there."""
    settings = plain(cfg.quantizer)
    settings["settings"] = implied_settings(settings["method"]) | settings["settings"]
    settings["weight_settings"] = {k: v for k, v in settings["weight_settings"].items() if v is not None}
    try:
        return quantize(
            model,
            weight_bits=cfg.weight_bits,
            activation_bits=cfg.activation_bits,
            first_last_bits=cfg.first_last_bits,
            residual_bits=cfg.get("residual_bits"),
            **settings,
        )
    except ValueError as error:
        raise InputError(str(error)) from error


def bits_of(layer: nn.Module) -> tuple[int | None, int | None]:
    """Bits of a layer's weight and input; None for a side in float."""
    return tuple(getattr(each, "bits", None) for each in (weight_quantizer(layer), input_quantizer(layer)))


def own_layers(model: nn.Module, cfg: DictConfig) -> set[str]:
    """Paths of the layers that have the run's own bits, not those of first and last layer or of an exception."""
    wanted = (cfg.weight_bits, cfg.activation_bits)
    return {
        path
        for path, layer in quantized_layers(model)
        if not isinstance(layer, Rounded)
        if all(bits in (None, want) for bits, want in zip(bits_of(layer), wanted, strict=True))
    }


def own_bits(model: nn.Module, paths: set[str], cfg: DictConfig) -> dict[str, int]:
    """``weight_bits`` and ``activation_bits`` as the trained network has them in the layers ``paths``.

    Those of the configuration where no layer of it is quantized on that side.
    """
    found = [bits_of(layer) for path, layer in quantized_layers(model) if path in paths]
    result = {}
    for side, key in enumerate(("weight_bits", "activation_bits")):
        widths = {bits[side] for bits in found} - {None}
        if widths:
            result[key] = max(widths)
    return result
