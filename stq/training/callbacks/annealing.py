"""Tells quantizers how far training is: annealing hangs on it."""

from __future__ import annotations

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from ...quantization.annealing import set_progress


class QuantizerProgress(Callback):
    """Before each training step, tells every quantizer which part of training is done (annealing hangs on it)."""

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch, index: int) -> None:
        """Fraction 0 to 1 of the optimizer steps."""
        fraction = trainer.global_step / max(1, trainer.estimated_stepping_batches - 1)
        set_progress(module, min(1.0, fraction))
