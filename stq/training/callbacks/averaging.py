"""Averages of weights (EMA, SWA) beside quantizers: those of other bits, or from before calibration, do not count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch.optim.swa_utils import AveragedModel

from ...quantization.surgery import adopt_bits


def adopt_bits_in_averages(trainer: pl.Trainer, state: Mapping[str, Any]) -> None:
    """Let every averaged model have the bits of a checkpoint's state, which is loaded into it then."""
    for average in _averages(trainer):
        adopt_bits(average.module, state)


@torch.no_grad()
def restart_averages(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    """Let every averaged model that a callback of the trainer keeps begin anew from the model as it is now."""
    state = module.state_dict()
    for average in _averages(trainer):
        adopt_bits(average.module, state)
        average.module.load_state_dict(state)
        average.n_averaged.zero_()


def _averages(trainer: pl.Trainer) -> Iterator[AveragedModel]:
    for callback in trainer.callbacks:
        yield from (each for each in vars(callback).values() if isinstance(each, AveragedModel))
