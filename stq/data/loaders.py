"""The part of loading that both kinds of data module share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torch.utils.data.distributed import DistributedSampler

from ..errors import InputError


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@runtime_checkable
class DrawsByEpoch(Protocol):
    """A data set whose augmentation depends on the epoch's seed alone."""

    def begin_epoch(self, seed: int) -> None:
        """Draw what is random in an epoch."""


class TrainingLoader(DataLoader):
    """Seeds each epoch by (seed, epoch): after a resume, order and augmentation are those of a run left alone.

    The seed is the one in force where the loader is made. All random generators are seeded, for without workers the
    augmentation draws from them; workers are seeded from them. Without a trainer it is a plain DataLoader.
    """

    def __init__(self, *args, trainer: pl.Trainer | None, **settings):
        super().__init__(*args, **settings)
        self._trainer, self._seed = trainer, torch.initial_seed()

    def __iter__(self) -> Iterator:
        """The batches of the trainer's current epoch, which is known at the first batch: a resume sets it late."""
        if self._trainer is not None:
            epoch = np.random.SeedSequence((self._seed, self._trainer.current_epoch))
            seed = int(epoch.generate_state(1)[0])
            pl.seed_everything(seed, workers=True, verbose=False)
        else:
            seed = int(torch.randint(2**31, ()))
        if isinstance(self.dataset, DrawsByEpoch):
            self.dataset.begin_epoch(seed)
        yield from super().__iter__()


def training_loader(data: Dataset, batch_size: int, trainer: pl.Trainer | None, **settings: Any) -> DataLoader:
    """Shuffled whole batches; ``batch_size`` is that of the whole run, of which each process gets its share.

    A stream shuffles itself. settings: of the DataLoader. Raises InputError if the batch cannot be divided evenly.
    Evaluation is never sharded: a sampler would repeat images to even out the shares, and the accuracy would not be
    exact.
    """
    processes = trainer.world_size if trainer is not None else 1
    if batch_size % processes:
        raise InputError(
            f"data.batch_size={batch_size} cannot be shared by {processes} processes: use a multiple of it"
        )
    order: dict[str, Any] = {"shuffle": True}
    if isinstance(data, IterableDataset):
        order = {}
    elif processes > 1:
        order = {"sampler": DistributedSampler(data, processes, trainer.global_rank, shuffle=True, drop_last=True)}
    return TrainingLoader(data, batch_size // processes, drop_last=True, trainer=trainer, **order, **settings)
