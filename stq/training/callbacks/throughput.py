"""How many images a second were trained on, and how long the network waited for them."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

log = logging.getLogger(__name__)
_SLOW = 0.2  # of the time spent waiting: worth a hint
_ENOUGH = 20  # batches from which on it is told


class Throughput(Callback):
    """Tells at the end of training what the loader delivers beside what the network takes.

    The first batch of each epoch does not count: workers start there, and compilers.
    """

    def __init__(self) -> None:
        self.waited, self.busy, self.images, self.batches = 0.0, 0.0, 0, 0
        self._mark: float | None = None

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """The first wait of an epoch is not one for a batch alone."""
        self._mark = None

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, index: int) -> None:
        """The batch has come."""
        now = time.perf_counter()
        if self._mark is not None:
            self.waited += now - self._mark
            self.batches += 1
            self.images += len(batch[1])
        self._start = now

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """The batch is done."""
        now = time.perf_counter()
        if self._mark is not None:
            self.busy += now - self._start
        self._mark = now

    def on_fit_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Tell it."""
        if self.batches >= _ENOUGH and trainer.is_global_zero:
            log.info(self.sentence())

    def sentence(self) -> str:
        """What is told."""
        total = self.waited + self.busy
        text = (
            f"{self.images / total:,.0f} images a second in training, {self.waited / total:.0%} of the time waiting "
            f"for data; the network takes {self.images / max(self.busy, 1e-9):,.0f} a second, "
            f"the loader delivers {self.images / max(self.waited, 1e-9):,.0f}"
        )
        hint = "; more data.workers, or data.on_device, would help" if self.waited > _SLOW * total else ""
        return text + hint
