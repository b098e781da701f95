"""Quantization of any LightningModule: surgery before its optimizers, calibration before its first step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import nn

from ...quantization.annealing import set_progress
from ...quantization.calibration import calibrate
from ...quantization.surgery import quantize, quantized_layers, quantizers
from .averaging import restart_averages


class QuantizationCallback(Callback):
    """Quantizes a LightningModule (classification, detection, segmentation, ...) and anneals its quantizers.

    method, and the fields of ``stq.Policy`` in ``policy``: as ``stq.quantize`` takes them. attribute: the part of the
    module that is quantized (``"model"``); None: all of it. calibration_batches: of the training loader, on which the
    steps are set before the first training step. forward: ``(module, batch) -> anything``, run on each of them; None is
    ``module.training_step(batch, index)``, whose logging is ignored then.

    The layers are quantized in ``setup``, before Lightning makes the optimizers. A checkpoint brings its own steps.
    Raises ValueError as ``stq.quantize`` does.
    """

    def __init__(
        self,
        method: str,
        *,
        attribute: str | None = None,
        calibration_batches: int = 1,
        forward: Callable[[pl.LightningModule, Any], Any] | None = None,
        **policy: Any,
    ):
        if calibration_batches < 1:
            raise ValueError(f"calibration_batches={calibration_batches} must be 1 or more")
        self.method, self.policy, self.attribute = method, policy, attribute
        self.calibration_batches, self.forward = calibration_batches, forward

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Put the quantizers in, where they are not there yet."""
        part = self._part(pl_module)
        if not any(True for _ in quantized_layers(part)):
            found = quantize(part, self.method, **self.policy)
            if found is not part and self.attribute is None:
                raise ValueError(
                    "residual_bits makes another module of the network: name its attribute=, as in 'model'"
                )
            if found is not part:
                setattr(pl_module, self.attribute, found)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Calibrate, unless a checkpoint has brought the steps."""
        part = self._part(pl_module)
        if all(quantizer.calibrated for quantizer in quantizers(part)):
            return
        trainer.fit_loop.setup_data()
        batches = list(islice(iter(trainer.train_dataloader), self.calibration_batches))

        def forward(given: list[Any]) -> None:
            for index, batch in enumerate(given):
                if self.forward is not None:
                    self.forward(pl_module, batch)
                else:
                    pl_module.training_step(batch, index)

        with _without_logging(pl_module):
            calibrate(part, batches, forward)
        restart_averages(trainer, pl_module)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        """Tell the quantizers how far training is."""
        total = trainer.estimated_stepping_batches
        set_progress(self._part(pl_module), min(1.0, trainer.global_step / max(1, total - 1)))

    def _part(self, module: pl.LightningModule) -> nn.Module:
        if self.attribute is None:
            return module
        part = getattr(module, self.attribute, None)
        if not isinstance(part, nn.Module):
            names = [name for name, _ in module.named_children()]
            raise ValueError(f"{type(module).__name__} has no module '{self.attribute}': there are {', '.join(names)}")
        return part


@contextmanager
def _without_logging(module: pl.LightningModule) -> Iterator[None]:
    """What a training step logs belongs to training."""
    module.log = module.log_dict = lambda *args, **kwargs: None
    try:
        yield
    finally:
        del module.log, module.log_dict
