"""One run: from a composed configuration to a run folder with checkpoints, metrics and result.json."""

from __future__ import annotations

import copy
import datetime
import logging
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.plugins.environments import SLURMEnvironment
from pytorch_lightning.utilities import rank_zero_only

from ..deploy.cost import SizeReport, cost, model_size
from ..errors import InputError, TrainingFailed
from ..quantization.calibration import calibrate
from ..quantizers import get_method
from ..results.runs.config_hash import config_hash
from ..results.runs.result_file import OPTIONAL_KEYS, SCHEMA_VERSION, finished_result, write_result
from .build import add_quantizers, build_data, is_quantized, plain
from .callbacks.annealing import QuantizerProgress
from .callbacks.batch_norm import BatchNormReestimation
from .callbacks.monitor import QuantizerMonitor, write_codes
from .callbacks.progress_bar import progress_bar
from .callbacks.progressive_bits import ProgressiveBits
from .classifier import Classifier
from .initial_weights import Start, read_state, start_from
from .loggers import build_loggers, close_loggers
from .provenance import command, git_commit, hardware, versions
from .silence_lightning import quieten

log = logging.getLogger(__name__)


def train(cfg: DictConfig) -> dict[str, Any]:
    """Train as configured and return what result.json holds.

    The run folder is ``paths.output_dir``. A folder whose run is done is not trained again; one that was interrupted
    resumes from its last checkpoint. A failure is recorded in result.json with its reason and raised: InputError for
    what is wrong in the configuration, TrainingFailed for a run that diverged.
    """
    folder = Path(cfg.paths.output_dir)
    identity = config_hash(cfg)
    if (result := finished_result(folder, identity)) is not None:
        log.info("%s is done already", folder)
        return result
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    facts = _facts(cfg, identity, started)
    result = facts
    try:
        result = facts | _train(cfg, folder)
    except Exception as error:
        result = facts | {"error": _sentence(error)}
        raise
    finally:  # an interrupted run leaves no result: it goes on later
        if result is not facts:
            _write(folder, result)
        close_loggers(folder, result)
    return result


@rank_zero_only
def _write(folder: Path, result: dict[str, Any]) -> None:
    write_result(folder, result)


def _sentence(error: Exception) -> str:
    """What went wrong, in one line; by its type too where it is not one of ours."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else ""
    return text if isinstance(error, InputError | TrainingFailed) else f"{type(error).__name__}: {text}"


def _train(cfg: DictConfig, folder: Path) -> dict[str, Any]:
    quieten()
    data = build_data(cfg)
    quantized = is_quantized(cfg)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    start = start_from(cfg, data, train)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)  # whether a float baseline was trained on the way or not
    model = start.model
    teacher = copy.deepcopy(model) if cfg.loss.distillation_weight > 0 else None
    if quantized:
        add_quantizers(model, cfg)
        _calibrate_or_restore(cfg, start, data)
    if cfg.compile:
        torch.compiler.reset()  # what earlier jobs of this process compiled would count against its limit
    optimization = (plain(cfg[section]) for section in ("optimizer", "scheduler", "loss"))
    module = Classifier(model, data.num_classes, *optimization, teacher, cfg.compile)
    trainer = _trainer(cfg, folder)
    last = folder / "checkpoints" / "last.ckpt"
    clock = time.monotonic()
    trainer.fit(module, data, ckpt_path=str(last) if last.is_file() else None)
    seconds = time.monotonic() - clock
    if trainer.interrupted:
        raise KeyboardInterrupt
    module.model.load_state_dict(read_state(folder / "checkpoints" / "best.ckpt"))
    trainer.validate(module, data, verbose=False)
    trainer.test(module, data, verbose=False)
    if quantized and rank_zero_only.rank == 0:
        write_codes(module.model, data.calibration_batch(), folder / "codes.json")
    return {
        "status": "done",
        "epochs": trainer.max_epochs,
        "val_top1": module.accuracy["val"],
        "test_top1": module.accuracy["test"],
        "float_test_top1": start.float_test_top1,
        "wall_seconds": round(seconds, 2),
        **_cost(module.model, data),
    }


def _cost(model: torch.nn.Module, data: pl.LightningDataModule) -> dict[str, Any]:
    """Size, and the cost of one input where that can be told: a run that has been trained is not lost for it."""
    try:
        found = cost(model, (data.in_chans, data.image_size, data.image_size))
    except Exception as error:  # the model's own code runs in there, and is traced
        log.warning("result.json has no cost of one input: %s", _sentence(error))
        return model_size(model)._asdict()
    return {key: getattr(found, key) for key in (*SizeReport._fields, *OPTIONAL_KEYS)}


def _calibrate_or_restore(cfg: DictConfig, start: Start, data: pl.LightningDataModule) -> None:
    """A checkpoint of the very same quantized network brings its own steps; everything else is calibrated."""
    own = start.model.state_dict()
    state = start.quantized_state or {}
    same = own.keys() == state.keys() and all(
        own[key].shape == state[key].shape and (not key.endswith("_extra_state") or own[key][0] == state[key][0])
        for key in own
    )
    if same:
        start.model.load_state_dict(state)
        return
    summary = calibrate(start.model, data.calibration_batch())
    signed = [row.path for row in summary if row.input == "signed"]
    log.info("signed inputs: %s; all other quantized inputs are non-negative", ", ".join(signed) or "none")


def _trainer(cfg: DictConfig, folder: Path) -> pl.Trainer:
    quantized = is_quantized(cfg)
    checkpoints = folder / "checkpoints"
    callbacks: list[Callback] = [
        ModelCheckpoint(checkpoints, "best", monitor="val_score", mode="max", enable_version_counter=False),
        ModelCheckpoint(checkpoints, "last", enable_version_counter=False),  # of every epoch, and knows the best
    ]
    callbacks += [progress_bar()] if cfg.trainer.enable_progress_bar else []
    if cfg.callbacks.reestimate_batch_norm is not None:
        callbacks.append(BatchNormReestimation(cfg.callbacks.reestimate_batch_norm))
    if quantized:
        callbacks.append(QuantizerProgress())
        callbacks += [QuantizerMonitor()] if cfg.callbacks.monitor else []
        if cfg.callbacks.progressive:
            bits = (cfg.weight_bits, cfg.activation_bits)
            callbacks.append(ProgressiveBits(plain(cfg.callbacks.progressive), *bits))
    arguments, loggers = plain(cfg.trainer), build_loggers(cfg, folder)
    try:
        return pl.Trainer(
            **arguments,
            default_root_dir=folder,
            logger=loggers,
            callbacks=callbacks,
            plugins=_plugins(),
            use_distributed_sampler=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
        )
    except (TypeError, ValueError, pl.utilities.exceptions.MisconfigurationException) as error:
        raise InputError(f"the trainer does not accept its settings: {str(error).splitlines()[0]}") from error


def _plugins() -> list[SLURMEnvironment]:
    """Under Slurm, Lightning must not queue the job again: its launcher does, and the run folder has the checkpoint."""
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []


def _facts(cfg: DictConfig, identity: str, started: str) -> dict[str, Any]:
    """What result.json says whether the run succeeds or not."""
    quantized = is_quantized(cfg)
    return {
        "schema_version": SCHEMA_VERSION,
        "status": "failed",
        "error": None,
        "method": cfg.quantizer.method,
        "weight_method": (cfg.quantizer.weight_method or get_method(cfg.quantizer.method).weights)
        if quantized
        else None,
        "weight_bits": cfg.weight_bits if quantized else 32,
        "activation_bits": cfg.activation_bits if quantized else 32,
        "first_last_bits": cfg.first_last_bits if quantized else 32,
        "data": cfg.data.get("label") or cfg.data.name,
        "model": cfg.model.name,
        "seed": cfg.seed,
        "epochs": None,
        "val_top1": None,
        "test_top1": None,
        "float_test_top1": None,
        "parameters": None,
        "size_bytes": None,
        "float_size_bytes": None,
        "wall_seconds": None,
        **dict.fromkeys(OPTIONAL_KEYS),
        "versions": versions(),
        "git_commit": git_commit(),
        "hardware": hardware(),
        "command": command(),
        "config_hash": identity,
        "tags": plain(cfg.tags),
        "started": started,
    }
