"""LSQ: learned step size quantization (arXiv 1902.08153).

``x_hat = s * round(clip(x / s, -Qn, Qp))`` (eq. 1 and 2); autograd through the straight-through round gives the
paper's gradient to s (eq. 3): ``round(x/s) - x/s`` inside, ``-Qn`` or ``Qp`` outside, scaled by ``1/sqrt(N Qp)``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .base import ActivationQuantizer, WeightQuantizer, scale_gradient, sign_ste
from .record import ActivationRecord, clip, round_ste
from .registry import register_quantizer, register_weight_quantizer


def initial_step(x: Tensor, high: int, binary: bool) -> Tensor:
    """Start of the step: ``2 mean|x| / sqrt(Qp)`` (section 2.1), or mean|x| for codes -1, +1 (ours: least squares)."""
    return x.abs().mean() * (1 if binary else 2 / math.sqrt(high))


@register_quantizer("lsq", weights="lsq")
class LSQActivation(ActivationQuantizer):
    """One learned step per layer."""

    def __init__(self, *args, **common):
        super().__init__(*args, **common)
        self.positive("step")

    def initialize(self, x: Tensor) -> None:
        """The paper's start on a batch."""
        self.set_positive("step", initial_step(x, self.high, self.binary))

    def gradient_scale(self, x: Tensor) -> float:
        """``1 / sqrt(N Qp)`` with N features per sample."""
        return 1 / math.sqrt(x[:1].numel() * self.high)

    def step(self, x: Tensor) -> Tensor:
        """The step, shape (), with its gradient scaled."""
        return scale_gradient(self.bounded("step"), self.gradient_scale(x))

    def fake_quantize(self, x: Tensor) -> Tensor:
        """``s * round(clip(x / s))``."""
        step = self.step(x)
        return step * self.round(x * (1 / step))

    def record(self) -> ActivationRecord:
        """Gain 1/s, scale s."""
        step = self.bounded("step")
        return self.make_record(1 / step, torch.zeros_like(step), step)


@register_weight_quantizer("lsq")
class LSQWeight(WeightQuantizer):
    """A learned step, per tensor or (``per_channel``) per output channel; one bit: ``s * sign(w)``."""

    def __init__(self, *args, per_channel: bool = False, **common):
        super().__init__(*args, **common)
        self.per_channel = per_channel
        self.positive("step", (self.channels,) if per_channel else ())

    @property
    def low(self) -> int:
        """Smallest code, -2**(bits - 1)."""
        return -(2 ** (self.bits - 1))

    @property
    def high(self) -> int:
        """Largest code, 2**(bits - 1) - 1, or +1 for one bit."""
        return max(1, 2 ** (self.bits - 1) - 1)

    def initialize(self, weight: Tensor) -> None:
        """The paper's start, for each step on its own weights."""
        if self.per_channel:
            step = torch.stack([initial_step(row, self.high, self.bits == 1) for row in weight])
        else:
            step = initial_step(weight, self.high, self.bits == 1)
        self.set_positive("step", step)

    def encode(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Codes and step; the step's gradient is scaled by 1 / sqrt(weights that share it * Qp)."""
        step = self.bounded("step")
        step = scale_gradient(step, 1 / math.sqrt(weight.numel() / step.numel() * self.high))
        if self.per_channel:
            step = step.reshape(-1, *(1,) * (weight.dim() - 1))
        v = weight / step
        return (sign_ste(v) if self.bits == 1 else round_ste(clip(v, self.low, self.high))), step
