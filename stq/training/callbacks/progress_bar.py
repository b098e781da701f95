"""How far training is, for people: a bar in a terminal, one line an epoch in a pipe."""

from __future__ import annotations

import sys
import time

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar, RichProgressBar


class PlainProgress(ProgressBar):
    """One line an epoch, for pipes and log files."""

    def __init__(self):
        super().__init__()
        self._started, self._printed = time.monotonic(), 0

    def disable(self) -> None:
        """Nothing to disable: lines are printed by the first process only."""

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Start the clock; a resumed run begins behind the epochs it has."""
        self._started, self._printed = time.monotonic(), trainer.current_epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Print the line of the epoch before, whose metrics are complete by now."""
        if trainer.current_epoch > self._printed:
            self._line(trainer, trainer.current_epoch)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Print the line of the last epoch."""
        self._line(trainer, trainer.max_epochs)

    def _line(self, trainer: pl.Trainer, epoch: int) -> None:
        self._printed = epoch
        if trainer.is_global_zero:
            metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
            shown = [
                f"{name} {metrics[name]:.4g}" for name in ("train_loss", "train_top1", "val_top1") if name in metrics
            ]
            seconds = time.monotonic() - self._started
            print(f"epoch {epoch}/{trainer.max_epochs}  {'  '.join(shown)}  {seconds:.0f} s", flush=True)


def progress_bar() -> ProgressBar:
    """A rich bar in a terminal, plain lines in a pipe."""
    return RichProgressBar() if sys.stdout.isatty() else PlainProgress()
