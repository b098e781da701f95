"""Lightning's Trainer as configured: its callbacks, ours and the user's, its loggers, its checkpoints."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins.environments import SLURMEnvironment

from ..errors import InputError, nearest
from .build import is_quantized, plain
from .callbacks.annealing import QuantizerProgress
from .callbacks.batch_norm import BatchNormReestimation
from .callbacks.monitor import QuantizerMonitor
from .callbacks.progress_bar import progress_bar
from .callbacks.progressive_bits import ProgressiveBits, stages
from .callbacks.throughput import Throughput
from .checkpoints import DurableCheckpointIO, MovableCheckpoint
from .instantiation import instantiate
from .loggers import build_loggers

OURS = ("monitor", "progressive", "reestimate_batch_norm")


def build_trainer(cfg: DictConfig, folder: Path, resumed: Mapping[str, Any] | None = None) -> pl.Trainer:
    """The Trainer of a run in ``folder``; resumed: the checkpoint that it goes on from.

    Raises InputError for a setting that Lightning does not know or accept.
    """
    arguments = {key: value for key, value in plain(cfg.trainer).items() if value is not None or key == "max_epochs"}
    try:
        return pl.Trainer(
            **arguments,
            default_root_dir=folder,
            logger=build_loggers(cfg, folder, resumed),
            callbacks=_callbacks(cfg, folder / "checkpoints"),
            plugins=[DurableCheckpointIO(), *_slurm()],
            use_distributed_sampler=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
        )
    except (TypeError, ValueError, pl.utilities.exceptions.MisconfigurationException) as error:
        text = str(error).splitlines()[0]
        if found := re.search(r"unexpected keyword argument '(\w+)'", text):
            known = list(inspect.signature(pl.Trainer.__init__).parameters)[1:]
            near = nearest(f"trainer.{found[1]}", [f"trainer.{name}" for name in known])
            raise InputError(f"there is no setting 'trainer.{found[1]}'{near}: Lightning's Trainer has none") from error
        raise InputError(f"the trainer does not accept its settings: {text}") from error


def _callbacks(cfg: DictConfig, checkpoints: Path) -> list[Callback]:
    callbacks = user_callbacks(cfg)
    if not cfg.trainer.get("fast_dev_run"):
        callbacks += [
            MovableCheckpoint(checkpoints, "best", monitor="val_score", mode="max", enable_version_counter=False),
            MovableCheckpoint(checkpoints, "last", enable_version_counter=False),  # of every epoch, and knows the best
        ]
    callbacks.append(Throughput())
    callbacks += [progress_bar()] if cfg.trainer.enable_progress_bar else []
    if cfg.callbacks.reestimate_batch_norm is not None:
        callbacks.append(BatchNormReestimation(cfg.callbacks.reestimate_batch_norm))
    if is_quantized(cfg):
        callbacks.append(QuantizerProgress())
        callbacks += [QuantizerMonitor()] if cfg.callbacks.monitor else []
    if (progressive := progressive_bits(cfg)) is not None:
        callbacks.append(progressive)
    return callbacks


def progressive_bits(cfg: DictConfig) -> ProgressiveBits | None:
    """The callback of ``callbacks.progressive``, where a quantized run has one. Raises InputError as that does."""
    if not is_quantized(cfg) or not cfg.callbacks.progressive:
        return None
    return ProgressiveBits(stages(plain(cfg.callbacks.progressive)), cfg.weight_bits, cfg.activation_bits)


def user_callbacks(cfg: DictConfig) -> list[Callback]:
    """Those that entries of ``callbacks`` with a ``_target_`` name. Raises InputError for an entry of another kind."""
    made = []
    for name, entry in plain(cfg.callbacks).items():
        if name in OURS or entry is None:
            continue
        if not isinstance(entry, Mapping) or "_target_" not in entry:
            raise InputError(
                f"there is no setting 'callbacks.{name}'{nearest(name, OURS)}; a Lightning callback of yours is added "
                f"with +callbacks.{name}._target_=PACKAGE.CLASS"
            )
        callback = instantiate(entry, f"callbacks.{name}")
        if not isinstance(callback, Callback):
            raise InputError(f"callbacks.{name}._target_={entry['_target_']} is not a Lightning callback")
        made.append(callback)
    return made


def _slurm() -> list[SLURMEnvironment]:
    """Under Slurm, Lightning must not queue the job again: its launcher does, and the run folder has the checkpoint."""
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
