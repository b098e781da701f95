"""The part of loading that both kinds of data module share."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from ..errors import InputError


def training_sampler(
    data: Dataset, batch_size: int, trainer: pl.Trainer | None
) -> tuple[DistributedSampler | None, int]:
    """Sampler and batch size of this process; ``batch_size`` is that of the whole run. No sampler in a single process.

    Raises InputError if the batch cannot be divided evenly. Evaluation is never sharded: a sampler would repeat images
    to even out the shares, and the accuracy would not be exact.
    """
    processes = trainer.world_size if trainer is not None else 1
    if batch_size % processes:
        raise InputError(
            f"data.batch_size={batch_size} cannot be shared by {processes} processes: use a multiple of it"
        )
    if processes == 1:
        return None, batch_size
    sampler = DistributedSampler(data, processes, trainer.global_rank, shuffle=True, drop_last=True)
    return sampler, batch_size // processes


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
            pl.seed_everything(int(epoch.generate_state(1)[0]), workers=True, verbose=False)
        yield from super().__iter__()
