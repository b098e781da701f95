"""What is checked before anything is trained, so that no float baseline is trained for a slip in a later setting."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from torch import nn

from ..deploy.export import export
from ..errors import InputError, nearest
from ..quantization.calibration import calibrate
from ..quantizers import FLOAT_BITS, get_method, list_quantizers
from .build import add_quantizers, build_backbone, is_quantized, plain
from .classifier import Classifier
from .initial_weights import check_gates, check_start, float_config
from .loggers import check_logger
from .trainer import progressive_bits, user_callbacks

_SECTIONS = ("model", "quantizer", "data", "init", "optimizer", "scheduler", "loss", "trainer", "callbacks", "logger")
_BITS = ("bits", "weight_bits", "activation_bits", "first_last_bits", "residual_bits")
_VALUES = (*_BITS, "target", "sweep_name", "seed", "tags", "threads")
# launchers add theirs
_KNOWN = {
    *_SECTIONS,
    *_VALUES,
    "paths",
    "compile",
    "kernels",
    "memory",
    "channels_last",
    "variables",
    "run",
    "trust",
    "jobs",
    "slurm",
}
_CLOSED = {
    "loss": ("label_smoothing", "mixup", "cutmix", "distillation_weight", "distillation_temperature"),
    "init": ("start", "path", "float"),
    "paths": ("runs", "float_dir", "data", "output_dir"),
    "logger": ("name", "project", "group", "mode"),
}
_SAMPLES = 4  # images that the quantized network is tried on


def check_settings(cfg: DictConfig) -> None:
    """Raise InputError for a setting that nothing reads, and for settings that contradict each other."""
    _refuse_unknown("", plain(cfg), _KNOWN)
    for section, known in _CLOSED.items():
        _refuse_unknown(f"{section}.", plain(cfg[section]) or {}, known)
    check_start(cfg)
    if cfg.get("memory") == "low" and cfg.compile:
        raise InputError(
            "memory=low and compile=true: torch.compile decides itself what is kept; leave one of them out"
        )
    check_logger(cfg)
    method = cfg.quantizer.method
    if _leaves_float(method) and {cfg.weight_bits, cfg.activation_bits} != {FLOAT_BITS}:
        raise InputError(f"quantizer={method} leaves its layers in float, so bits={cfg.bits} does nothing: use bits=32")
    if cfg.trainer.max_epochs == -1 and not (cfg.trainer.get("max_steps") or cfg.trainer.get("max_time")):
        raise InputError("trainer.max_epochs=-1 needs a length in steps: +trainer.max_steps=NUMBER")
    if cfg.loss.distillation_weight > 0 and cfg.init.start == "scratch":
        raise InputError(
            "loss.distillation_weight above 0 learns from the float network that the run starts from, and init=scratch "
            "has none that was trained: use init=float_baseline, pretrained or checkpoint"
        )
    progressive, epochs = progressive_bits(cfg), cfg.trainer.max_epochs
    if progressive is not None and epochs > 0 and not cfg.trainer.get("max_steps"):
        progressive.check_reached([epoch / epochs for epoch in range(epochs)])


def check_before_training(cfg: DictConfig, data: pl.LightningDataModule) -> None:
    """Build everything that is trained, on random weights, and run it on a few images. Raises InputError."""
    user_callbacks(cfg)
    progressive, steps = progressive_bits(cfg), cfg.trainer.get("max_steps") or 0
    if progressive is not None and steps > 0:
        batches = max(1, len(data.train_dataloader()) // cfg.trainer.accumulate_grad_batches)
        progressive.check_reached([begin / steps for begin in range(0, steps, batches)])
    model = build_backbone(cfg, data)
    if is_quantized(cfg):
        model = add_quantizers(model, cfg)
        calibrate(model, data.calibration_batch(_SAMPLES))
        _check_target(model, data, cfg.get("target"))
    if cfg.init.start == "float_baseline" and _leaves_float(float_config(cfg).quantizer.method):
        check_gates(model, cfg.quantizer.method)
    module = Classifier(model, data.num_classes, *(plain(cfg[each]) for each in ("optimizer", "scheduler", "loss")))
    module.check_optimizers()
    with torch.no_grad():
        scores = model.eval()(data.calibration_batch(_SAMPLES).to(next(model.parameters()).device))
    if not isinstance(scores, torch.Tensor) or scores.shape != (_SAMPLES, data.num_classes):
        shape = tuple(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
        raise InputError(
            f"the model gives {shape} for {_SAMPLES} images; a classifier of {data.num_classes} classes gives "
            f"{(_SAMPLES, data.num_classes)}"
        )


def _leaves_float(method: str) -> bool:
    """Whether it is a method that only puts gates into a float network."""
    return method in list_quantizers() and not get_method(method).rounds


def _check_target(model: nn.Module, data: pl.LightningDataModule, name: str | None) -> None:
    """Write the file that will be wanted, and forget it: what it cannot express is told now."""
    if name is None:
        return
    try:
        with tempfile.TemporaryDirectory() as folder:
            export(model.cpu(), data.calibration_batch(1), Path(folder) / "model", name)
    except InputError as error:
        raise InputError(f"target={name}: {error}") from error


def _refuse_unknown(prefix: str, found: Mapping[str, Any], known: Mapping | tuple | set) -> None:
    for key in found:
        if key not in known:
            near = nearest(f"{prefix}{key}", [f"{prefix}{name}" for name in known])
            raise InputError(f"there is no setting '{prefix}{key}'{near}: nothing would read it")
