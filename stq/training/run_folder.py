"""Open a finished run folder again."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn
from yaml import YAMLError

from ..errors import InputError
from .build import add_quantizers, build_backbone, build_data, is_quantized
from .initial_weights import read_state


def load_run(run: str | Path) -> tuple[nn.Module, pl.LightningDataModule, DictConfig]:
    """(model in eval mode with the selected checkpoint, data module, configuration) of a run folder.

    Raises InputError for a folder that is no finished run, or a checkpoint that does not fit its configuration.
    """
    folder = Path(run)
    if not (folder / "config.yaml").is_file():
        raise InputError(f"run={folder} is not a run folder: it has no config.yaml")
    cfg = _read_config(folder / "config.yaml")
    path = folder / "checkpoints" / "best.ckpt"
    if not path.is_file():
        raise InputError(f"run={folder} has no checkpoints/best.ckpt: the run has not finished an epoch")
    data = build_data(cfg)
    model = build_backbone(cfg, data)
    if is_quantized(cfg):
        add_quantizers(model, cfg)
    state = read_state(path)
    try:
        model.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{path} does not fit the run's config.yaml: {str(error).splitlines()[0]}") from error
    return model.eval(), data, cfg


def _read_config(path: Path) -> DictConfig:
    """A run's config.yaml. Raises InputError where it is damaged or foreign."""
    try:
        cfg = OmegaConf.load(path)
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise InputError(f"{path} is not readable ({str(error).splitlines()[0]})") from None
    sections = ("model", "data", "quantizer", "optimizer", "scheduler", "loss", "trainer")
    if missing := [name for name in sections if not OmegaConf.is_dict(cfg) or not OmegaConf.is_dict(cfg.get(name))]:
        raise InputError(f"{path} is not the configuration of a run of stq: it has no section '{missing[0]}'")
    return cfg
