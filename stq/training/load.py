"""Open a finished run folder again."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from ..errors import InputError
from .network import add_quantizers, build_backbone, is_quantized
from .start import read_state


def build_data(cfg: DictConfig) -> pl.LightningDataModule:
    """The data module of a configuration; what its constructor finds wrong is raised as InputError."""
    from hydra.errors import InstantiationException

    try:
        return instantiate(cfg.data)
    except InstantiationException as error:
        cause = error.__cause__
        while cause is not None and not isinstance(cause, InputError):
            cause = cause.__cause__
        if cause is None:
            raise
        raise cause from None


def load_run(run: str | Path) -> tuple[nn.Module, pl.LightningDataModule, DictConfig]:
    """(model in eval mode with the selected checkpoint, data module, configuration) of a run folder.

    Raises InputError for a folder that is no finished run, or a checkpoint that does not fit its configuration.
    """
    folder = Path(run)
    if not (folder / "config.yaml").is_file():
        raise InputError(f"run={folder} is not a run folder: it has no config.yaml")
    cfg = OmegaConf.load(folder / "config.yaml")
    path = folder / "checkpoints" / "best.ckpt"
    if not path.is_file():
        raise InputError(f"run={folder} has no checkpoints/best.ckpt: the run has not finished an epoch")
    data = build_data(cfg)
    model = build_backbone(cfg, data)
    if is_quantized(cfg):
        add_quantizers(model, cfg)
    try:
        model.load_state_dict(read_state(path))
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{path} does not fit the run's config.yaml: {str(error).splitlines()[0]}") from error
    return model.eval(), data, cfg
