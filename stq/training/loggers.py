"""Loggers by name: metrics.csv always, wandb or tensorboard beside it."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from ..errors import InputError, nearest
from ..results.wandb.mode import default_mode

LOGGERS = ("csv", "wandb", "tensorboard")


def check_logger(cfg: DictConfig) -> str:
    """``logger.name``. Raises InputError for one that there is not."""
    name = cfg.logger.name
    if name not in LOGGERS:
        raise InputError(f"logger.name={name} is not a logger{nearest(name, LOGGERS)}: use {', '.join(LOGGERS)}")
    return name


def build_loggers(cfg: DictConfig, folder: Path, resumed: Mapping[str, Any] | None = None) -> list[Logger]:
    """CSV into the run folder, and the one that ``logger.name`` names. Raises InputError for an unknown name.

    resumed: the checkpoint that the run goes on from; metrics.csv goes on too.
    """
    name = check_logger(cfg)
    loggers: list[Logger] = [_csv(folder, resumed)]
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


def _csv(folder: Path, resumed: Mapping[str, Any] | None) -> CSVLogger:
    """Lightning's, which begins a new file: the lines of the epochs that are not trained again are put into it."""
    kept = _lines_until(folder / "metrics.csv", resumed) if resumed is not None else []
    logger = CSVLogger(folder, name="", version="", flush_logs_every_n_steps=1000)
    if kept and rank_zero_only.rank == 0:
        logger.experiment.metrics = kept
        logger.experiment.save()
    return logger


def _lines_until(path: Path, resumed: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What metrics.csv holds of the epochs up to the checkpoint's, whose own numbers the checkpoint has as well."""
    last = dict(resumed.get("metrics") or {})
    kept = []
    try:
        with path.open(newline="") as file:
            for line in csv.DictReader(file):
                if None not in line.values() and line["epoch"] and int(float(line["epoch"])) <= resumed["epoch"]:
                    kept.append({key: value for key, value in line.items() if value != ""})
    except (OSError, ValueError, KeyError, csv.Error):  # cut off in the middle of a line
        pass
    present = {key for line in kept if int(float(line["epoch"])) == resumed["epoch"] for key in line}
    if missing := {key: value for key, value in last.items() if key not in present}:
        kept.append(missing | {"epoch": resumed["epoch"], "step": last.get("step", 0)})
    return kept


def _wandb(cfg: DictConfig, folder: Path) -> WandbLogger:
    """One wandb run for each job; offline where nobody is logged in, to be sent later by ``wandb sync``."""
    in_sweep = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    return WandbLogger(
        project=cfg.logger.project,
        group=cfg.logger.group or (cfg.sweep_name if in_sweep else None),
        job_type="float" if cfg.quantizer.method == "none" else cfg.quantizer.method,
        name=folder.name,
        tags=list(cfg.tags),
        save_dir=str(folder),
        mode=cfg.logger.mode or default_mode(),
        config=OmegaConf.to_container(cfg, resolve=True),
        reinit="finish_previous",
    )


def close_loggers(folder: Path, result: dict[str, Any]) -> None:
    """End the wandb run of this job, so that the next job of a sweep does not go on in it.

    Its summary gets the numbers of the result, its artifact the run folder's small files.
    """
    wandb = sys.modules.get("wandb")
    if wandb is None or wandb.run is None:
        return
    wandb.run.summary.update({key: value for key, value in result.items() if isinstance(value, int | float | str)})
    artifact = wandb.Artifact(f"run-{result['config_hash']}", type="result")
    for name in ("result.json", "config.yaml", "codes.json", "metrics.csv"):
        if (folder / name).is_file():
            artifact.add_file(str(folder / name))
    wandb.run.log_artifact(artifact)
    wandb.finish(exit_code=int(result["status"] != "done"))
