"""The part of loading that both kinds of data module share."""

from __future__ import annotations

import pytorch_lightning as pl
from torch.utils.data import Dataset
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
