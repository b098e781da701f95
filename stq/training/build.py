"""From a configuration to the objects it names: the data module, a timm backbone, its quantizers."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import timm
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from .. import models  # noqa: F401  (registers the small backbones with timm)
from ..errors import InputError, nearest
from ..quantization.surgery import quantize
from ..quantizers import get_method


def plain(section: DictConfig | None) -> Any:
    """A configuration section as plain dictionaries and lists."""
    return OmegaConf.to_container(section, resolve=True) if section is not None else None


def build_data(cfg: DictConfig) -> pl.LightningDataModule:
    """The data module of a configuration; what its constructor finds wrong is raised as InputError."""
    from hydra.errors import InstantiationException

    try:
        return instantiate(cfg.data)
    except InstantiationException as error:
        cause: BaseException = error
        while cause.__cause__ is not None and not isinstance(cause, InputError):
            cause = cause.__cause__
        if isinstance(cause, InputError):
            raise cause from None
        raise InputError(f"data: {str(cause).strip().splitlines()[0]} ({type(cause).__name__})") from error


def build_backbone(cfg: DictConfig, data: pl.LightningDataModule, pretrained: bool = False) -> nn.Module:
    """``timm.create_model`` with the data's classes and channels. Raises InputError for an unknown name or argument."""
    arguments = plain(cfg.model)
    name = arguments.pop("name")
    base = str(name).split(".")[0]
    if not timm.is_model(base) and "/" not in name:
        raise InputError(f"model.name={name} is not a timm model{nearest(name, timm.list_models())}")
    try:
        return timm.create_model(
            name, pretrained=pretrained, num_classes=data.num_classes, in_chans=data.in_chans, **arguments
        )
    except TypeError as error:
        raise InputError(f"model {name} does not take these arguments: {error}") from error
    except (RuntimeError, OSError) as error:
        if not pretrained:
            raise
        raise InputError(f"the pretrained weights of {name} could not be read: {str(error).splitlines()[0]}") from error


def is_quantized(cfg: DictConfig) -> bool:
    """Whether the configuration asks for quantizers at all. Raises InputError for an unknown method."""
    try:
        return get_method(cfg.quantizer.method).activation is not None
    except ValueError as error:
        raise InputError(f"quantizer.method={cfg.quantizer.method}: {error}") from error


def add_quantizers(model: nn.Module, cfg: DictConfig) -> None:
    """``stq.quantize`` with the configuration's bits, methods and policy. Raises InputError for what is wrong there."""
    settings = plain(cfg.quantizer)
    settings["weight_settings"] = {k: v for k, v in settings["weight_settings"].items() if v is not None}
    try:
        quantize(
            model,
            weight_bits=cfg.weight_bits,
            activation_bits=cfg.activation_bits,
            first_last_bits=cfg.first_last_bits,
            **settings,
        )
    except ValueError as error:
        raise InputError(str(error)) from error
