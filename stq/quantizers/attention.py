"""What the attention of Squeeze-and-Threshold sees: the squeezed input, standardized, and means over samples.

Channels are squeezed to one number each, as in Squeeze-and-Excitation (arXiv 1709.01507); see ``gates`` for what is
made of them, and ``squeeze_threshold`` for what becomes of that.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .base import is_recomputing
from .fused import is_transformed, wide, wide_type


def _over(x: Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.dim()))


class _Mean(torch.autograd.Function):
    """Over all axes but the first two; its gradient, the same at all positions, takes no memory for each of them."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.shape, ctx.dtype = x.shape, x.dtype
        return x.mean(_over(x), dtype=wide_type(x.dtype))

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        of_each = (gradient / ctx.shape[2:].numel()).to(ctx.dtype)
        return of_each.reshape(*ctx.shape[:2], *(1,) * (len(ctx.shape) - 2)).expand(ctx.shape)


def _mean(x: Tensor) -> Tensor:
    return wide(x).mean(_over(x)) if is_transformed() or not x.requires_grad else _Mean.apply(x)


# (N, C) of (N, C, ...), in float32 at least; over axes as they are: OpenVINO 2026.4 computes wrong what follows a mean
# over flattened ones
SQUEEZES: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": _mean,
    "abs": lambda x: _mean(x.abs()),
    "max": lambda x: wide(x.amax(_over(x))),
    # attends to nothing: what learned constants alone would do
    "none": lambda x: wide(torch.ones_like(x).amax(_over(x))),
    "rms": lambda x: (_mean(wide(x).square()) + 1e-12).sqrt(),
}


class _AllReduceSum(torch.autograd.Function):
    """Sum over the processes of a data-parallel run; so is the gradient."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient


def is_distributed() -> bool:
    """Whether several processes train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def batch_mean(x: Tensor) -> Tensor:
    """Mean of x (N, C) over the samples of all processes, shape (C,); differentiable."""
    if not is_distributed():
        return x.mean(0)
    total = _AllReduceSum.apply(torch.cat([x.sum(0), x.new_tensor([float(len(x))])]))
    return total[:-1] / total[-1]


LEAST_DEVIATION = 1 / 256  # of a channel's mean: one that varies less tells nothing but how the mean is rounded


def update(running: Tensor, of_batch: Tensor, weight: Tensor | float) -> None:
    """Move a running mean in place; a channel whose batch holds NaN or infinity stays where it is."""
    running.lerp_(torch.where(of_batch.isfinite(), of_batch.to(running.dtype), running), weight)


class Standardize(nn.Module):
    """``(z - mean) / deviation`` for each channel of z (N, C), clipped to [-3, 3].

    Mean and deviation over the samples are running ones, in training too, so one sample is enough. The deviation is
    that from the running mean, at least ``LEAST_DEVIATION`` of it.
    """

    def __init__(self, channels: int, momentum: float):
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, z: Tensor) -> Tensor:
        """The same shape; updates the running statistics in training."""
        if self.training and not is_recomputing():
            with torch.no_grad():
                mean = batch_mean(z)
                self.batches += mean.isfinite().all()
                weight = (1 / self.batches).clamp(self.momentum, 1)  # a plain mean over the first batches
                update(self.mean, mean, weight)
                update(self.variance, batch_mean((z - self.mean).square()), weight)
        return ((z - self.mean) / self.deviation).clamp(-3, 3).to(z.dtype)

    @property
    def deviation(self) -> Tensor:
        """(C,), in float32 at least."""
        return torch.maximum((wide(self.variance) + 1e-10).sqrt(), wide(self.mean).abs() * LEAST_DEVIATION)
