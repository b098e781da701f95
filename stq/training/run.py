"""One run: from a composed configuration to a run folder with checkpoints, metrics and result.json."""

from __future__ import annotations

import contextlib
import copy
import datetime
import logging
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only
from torch import nn

from ..errors import InputError, StorageFailed, TrainingFailed
from ..quantization.calibration import calibrate
from ..quantization.surgery import adopt_bits
from ..quantizers.fused import set_kernels
from ..results.runs.config_hash import config_hash
from ..results.runs.identity import Identity, config_of, finished_result, read_identity, write_identity
from ..results.runs.result_file import write_result
from ..storage.durable_files import storage_failure, write_text_durably
from ..storage.run_lock import run_lock
from .allocator import keep_freed_memory
from .build import add_quantizers, build_data, identity_of, is_quantized, own_bits, own_layers, plain
from .callbacks.monitor import write_codes
from .checkpoints import BEST, checkpoint_to_resume, forget_the_ones_before, read_checkpoint, save_state
from .checks import check_before_training, check_settings
from .classifier import Classifier
from .initial_weights import Start, check_gates, read_state, start_from
from .loggers import close_loggers
from .record import cost_of, facts_of, note_other_versions
from .silence_lightning import quieten
from .trainer import build_trainer

log = logging.getLogger(__name__)


def train(cfg: DictConfig, wait: bool = False) -> dict[str, Any]:
    """Train as configured and return what result.json holds.

    The run folder is ``paths.output_dir``; wait: until another process that works in it is done, instead of refusing.
    A folder whose run is done is not trained again; one that was interrupted resumes from its last checkpoint. A
    failure is recorded in result.json with its reason and raised: InputError for what is wrong in the configuration or
    where the folder holds another run, TrainingFailed for a run that diverged, StorageFailed for a disk that is full.
    """
    folder = Path(cfg.paths.output_dir)
    check_settings(cfg)
    try:
        # only the first process of a data-parallel run takes the lock: the others train with it
        with run_lock(folder, wait) if rank_zero_only.rank == 0 else contextlib.nullcontext():
            return _train_or_return(cfg, folder, told=not wait)
    except (OSError, RuntimeError) as error:
        if not isinstance(error, StorageFailed) and (failure := storage_failure(error)) is not None:
            raise failure from error
        raise


def _train_or_return(cfg: DictConfig, folder: Path, told: bool) -> dict[str, Any]:
    quieten()
    data = build_data(cfg)
    identity = identity_of(cfg, data)
    if (result := finished_result(folder, identity, plain(cfg))) is not None:
        log.info("%s is done already", folder)
        note_other_versions(folder, result)
        _mend(cfg, folder, identity)
        return result
    check_before_training(cfg, data)
    if told and rank_zero_only.rank == 0:
        log.info("run folder %s (to go on after an interruption: stq-train run=%s)", folder, _short(folder))
    _begin(cfg, folder, identity)
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    facts = facts_of(cfg, data, identity, started)
    result = facts
    try:
        result = facts | _train(cfg, data, folder)
    except Exception as error:
        result = facts | {"error": _sentence(error)}
        raise
    finally:  # an interrupted run leaves no result: it goes on later
        if result is not facts:
            _write(folder, result)
        close_loggers(folder, result)
    forget_the_ones_before(folder / "checkpoints")
    return result


@rank_zero_only
def _begin(cfg: DictConfig, folder: Path, identity: Identity) -> None:
    write_text_durably(folder / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    write_identity(folder, identity)


@rank_zero_only
def _mend(cfg: DictConfig, folder: Path, identity: Identity) -> None:
    """What is known of a finished run is written again where it was lost; what is not is told."""
    if config_hash(config_of(folder)) != identity.config_hash and read_identity(folder) is not None:
        write_text_durably(folder / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    if not (folder / "checkpoints" / BEST).is_file():
        log.warning("%s has lost checkpoints/best.ckpt: delete its result.json to train it again", folder)


@rank_zero_only
def _write(folder: Path, result: dict[str, Any]) -> None:
    if result["status"] == "done":
        write_result(folder, result)
        return
    with contextlib.suppress(StorageFailed):  # the failure that is being told may be that very one
        write_result(folder, result)


def _sentence(error: Exception) -> str:
    """What went wrong, in one line; by its type too where it is not one of ours."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else ""
    return text if isinstance(error, InputError | TrainingFailed) else f"{type(error).__name__}: {text}"


def _train(cfg: DictConfig, data: pl.LightningDataModule, folder: Path) -> dict[str, Any]:
    quantized = is_quantized(cfg)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    start = start_from(cfg, data, train)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)  # whether a float baseline was trained on the way or not
    model = start.model
    teacher = copy.deepcopy(model) if cfg.loss.distillation_weight > 0 else None
    own: set[str] = set()
    if quantized:
        model = add_quantizers(model, cfg)
        own = own_layers(model, cfg)
    if start.gates:
        check_gates(model, cfg.quantizer.method, start.gates)
    if quantized:
        _calibrate_or_restore(model, start, data)
    set_kernels(cfg.get("kernels") or "plain")
    keep_freed_memory()
    if cfg.compile:
        torch.compiler.reset()  # what earlier jobs of this process compiled would count against its limit
    optimization = (plain(cfg[section]) for section in ("optimizer", "scheduler", "loss"))
    how = {"compile": cfg.compile, "channels_last": bool(cfg.get("channels_last")), "memory": cfg.get("memory")}
    module = Classifier(model, data.num_classes, *optimization, teacher, **how)
    best = folder / "checkpoints" / BEST
    resumed = checkpoint_to_resume(best.parent)
    trainer = build_trainer(cfg, folder, read_checkpoint(resumed) if resumed else None)
    clock = time.monotonic()
    if cfg.trainer.max_epochs != 0:
        _fit(trainer, module, data, resumed, folder)
    seconds = time.monotonic() - clock
    progress = {"epochs": _whole_epochs(trainer), "steps": trainer.global_step}
    if not best.is_file():  # nothing was trained, or Lightning's dry run
        save_state(model, best)
    state = read_state(best)
    adopt_bits(model, state)
    model.load_state_dict(state)
    trainer.validate(module, data, verbose=False)
    trainer.test(module, data, verbose=False)
    if quantized and rank_zero_only.rank == 0:
        write_codes(model, data.calibration_batch(), folder / "codes.json")
    return {
        "status": "done",
        **progress,
        **own_bits(model, own, cfg),
        "val_top1": module.accuracy["val"],
        "test_top1": module.accuracy["test"],
        "float_test_top1": start.float_test_top1,
        "wall_seconds": round(seconds, 2),
        **cost_of(cfg, model, data),
    }


def _whole_epochs(trainer: pl.Trainer) -> int:
    """That were trained: one that ends with max_steps is none."""
    loop = trainer.fit_loop
    batches = loop.epoch_loop.batch_progress.total.completed
    ended = loop.epoch_progress.current.completed
    return min(ended, batches // trainer.num_training_batches) if ended else 0


def _fit(
    trainer: pl.Trainer, module: Classifier, data: pl.LightningDataModule, resumed: Path | None, folder: Path
) -> None:
    """Raises KeyboardInterrupt, which says how to go on, where the user stopped it: Lightning only leaves then."""
    try:
        trainer.fit(module, data, ckpt_path=str(resumed) if resumed else None)
    except SystemExit:
        if not trainer.interrupted:
            raise
    if trainer.interrupted:
        raise KeyboardInterrupt(f"interrupted: go on with stq-train run={_short(folder)}")


def _short(folder: Path) -> Path:
    """From where the command was given."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def _calibrate_or_restore(model: nn.Module, start: Start, data: pl.LightningDataModule) -> None:
    """A checkpoint of the very same quantized network brings its own steps; everything else is calibrated."""
    own = model.state_dict()
    state = start.quantized_state or {}
    same = own.keys() == state.keys() and all(
        own[key].shape == state[key].shape and (not key.endswith("_extra_state") or own[key][0] == state[key][0])
        for key in own
    )
    if same:
        model.load_state_dict(state)
        return
    if start.gates:
        model.load_state_dict(start.gates, strict=False)
    summary = calibrate(model, data.calibration_batch())
    signed = [row.path for row in summary if row.input == "signed"]
    log.info("signed inputs: %s; all other quantized inputs are non-negative", ", ".join(signed) or "none")
