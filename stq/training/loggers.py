"""Loggers by name: metrics.csv always, wandb or tensorboard beside it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from ..errors import InputError, nearest

LOGGERS = ("csv", "wandb", "tensorboard")


def build_loggers(cfg: DictConfig, folder: Path) -> list[Logger]:
    """CSV into the run folder, and the one that ``logger.name`` names. Raises InputError for an unknown name."""
    name = cfg.logger.name
    if name not in LOGGERS:
        raise InputError(f"logger.name={name} is not a logger{nearest(name, LOGGERS)}: use {', '.join(LOGGERS)}")
    loggers: list[Logger] = [CSVLogger(folder, name="", version="", flush_logs_every_n_steps=1000)]
    if name == "wandb":
        loggers.append(_wandb(cfg, folder))
    if name == "tensorboard":
        try:
            loggers.append(TensorBoardLogger(folder, name="tensorboard", version=""))
        except ModuleNotFoundError as error:
            raise InputError(
                "logger=tensorboard needs the package tensorboard: pip install 'stq[tensorboard]'"
            ) from error
    return loggers


def _wandb(cfg: DictConfig, folder: Path) -> WandbLogger:
    """One wandb run for each job; offline where nobody is logged in, to be sent later by ``wandb sync``."""
    import wandb

    online = bool(os.environ.get("WANDB_API_KEY") or wandb.api.api_key)
    mode = cfg.logger.mode or ("online" if online else "offline")
    return WandbLogger(
        project=cfg.logger.project,
        group=cfg.logger.group,
        job_type="float" if cfg.quantizer.method == "none" else cfg.quantizer.method,
        name=folder.name,
        tags=list(cfg.tags),
        save_dir=str(folder),
        mode=mode,
        config=OmegaConf.to_container(cfg, resolve=True),
        reinit="finish_previous",
    )


def close_loggers(failed: bool) -> None:
    """End the wandb run of this job, so that the next job of a sweep does not go on in it."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish(exit_code=int(failed))
