"""Tells quantizers how far training is: annealing hangs on it."""

from __future__ import annotations

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from ...quantization.surgery import quantizers
from ...quantizers import ActivationQuantizer


class QuantizerProgress(Callback):
    """Before each training step, tells every quantizer which part of training is done (annealing hangs on it)."""

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch, index: int) -> None:
        """Fraction 0 to 1 of the optimizer steps."""
        fraction = trainer.global_step / max(1, trainer.estimated_stepping_batches - 1)
        for quantizer in quantizers(module.model):
            if isinstance(quantizer, ActivationQuantizer):
                quantizer.set_progress(min(1.0, fraction))
