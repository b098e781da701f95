"""LSQ: learned step size quantization (arXiv 1902.08153).

``x_hat = s * round(clip(x / s, -Qn, Qp))`` (eq. 1 and 2); autograd through the straight-through round gives the
paper's gradient to s (eq. 3): ``round(x/s) - x/s`` inside, ``-Qn`` or ``Qp`` outside, scaled by ``1/sqrt(N Qp)``.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from .base import ActivationQuantizer, WeightQuantizer, sign_ste, smallest_error
from .fused import Kernel, fused
from .record import ActivationRecord, clip, round_ste
from .registry import register_quantizer, register_weight_quantizer


def initial_step(x: Tensor, high: int, binary: bool) -> Tensor:
    """Start of the step: ``2 mean|x| / sqrt(Qp)`` (section 2.1), or mean|x| for codes -1, +1 (ours: least squares)."""
    return x.abs().mean() * (1 if binary else 2 / math.sqrt(high))


@fused
def rounded_to_steps(x: Tensor, step: Tensor, low: int, high: int) -> Tensor:
    """``s * round(clip(x / s))``."""
    return step * round_ste(clip(x * (1 / step), low, high))


@fused
def rounded_to_sign(x: Tensor, step: Tensor) -> Tensor:
    """``s * sign(x / s)``, for codes -1 and +1."""
    return step * sign_ste(x * (1 / step))


@fused
def weight_to_steps(weight: Tensor, step: Tensor, low: int, high: int) -> Tensor:
    """``s * round(clip(w / s))``."""
    return step * round_ste(clip(weight / step, low, high))


def _nearest_odd(v: Tensor, levels: int) -> Tensor:
    return 2 * round_ste(clip(v - 0.5, -(levels + 1) // 2, (levels - 1) // 2)) + 1


@fused
def weight_to_odd_steps(weight: Tensor, step: Tensor, levels: int) -> Tensor:
    """``s / 2`` times the nearest odd code."""
    return (step * 0.5) * _nearest_odd(weight / step, levels)


@fused
def weight_to_sign(weight: Tensor, step: Tensor) -> Tensor:
    """``s * sign(w)``."""
    return step * sign_ste(weight / step)


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
        return 1 / math.sqrt(max(x.shape[1:].numel(), 1) * self.high)

    def step(self, x: Tensor) -> Tensor:
        """The step, shape (), with its gradient scaled."""
        return self.bounded("step", self.gradient_scale(x))

    def kernel(self, x: Tensor) -> tuple[Kernel, tuple]:
        """``s * round(clip(x / s))``."""
        step = self.step(x)
        return (rounded_to_sign, (step,)) if self.binary else (rounded_to_steps, (step, self.low, self.high))

    def record(self) -> ActivationRecord:
        """Gain 1/s, scale s."""
        step = self.bounded("step")
        return self.make_record(1 / step, torch.zeros_like(step), step)


class _LearnedStepWeight(WeightQuantizer):
    """A learned step, per tensor or (``per_channel``) per output channel; one bit: ``s * sign(w)``.

    Subclasses say which code a weight of more bits has, and how many steps lie between neighbouring codes.
    """

    steps_per_code: float

    def __init__(self, *args, per_channel: bool = False, **common):
        super().__init__(*args, **common)
        self.per_channel = per_channel
        self.positive("step", (self.channels,) if per_channel else ())

    def initialize(self, weight: Tensor) -> None:
        """Start each step on its own weights."""
        start = torch.stack([self.start(row) for row in weight]) if self.per_channel else self.start(weight)
        self.set_positive("step", start)

    def start(self, weight: Tensor) -> Tensor:
        """Start of the step for the weights that share it: the paper's."""
        return initial_step(weight, self.high, self.bits == 1)

    def kernel(self, weight: Tensor) -> tuple[Kernel, tuple]:
        """Codes times scale at once."""
        step = self.step(weight)
        return (weight_to_sign, (step,)) if self.bits == 1 else self.rounded(step)

    def step(self, weight: Tensor) -> Tensor:
        """The step, with its gradient scaled by 1 / sqrt(weights that share it * Qp); it broadcasts over the weight."""
        sharing = weight.numel() / self.raw_step.numel()
        step = self.bounded("step", 1 / math.sqrt(sharing * self.high))
        return step.reshape(-1, *(1,) * (weight.dim() - 1)) if self.per_channel else step

    def encode(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Codes and scale."""
        step = self.step(weight)
        v = weight / step
        return (sign_ste(v), step) if self.bits == 1 else (self.nearest(v), step * self.steps_per_code)

    @abstractmethod
    def nearest(self, v: Tensor) -> Tensor:
        """The nearest code to a weight in steps, straight-through."""

    @abstractmethod
    def rounded(self, step: Tensor) -> tuple[Kernel, tuple]:
        """The kernel of the scale times ``nearest``."""


@register_weight_quantizer("lsq")
class LSQWeight(_LearnedStepWeight):
    """The paper's codes, one step apart: -2**(bits - 1) to 2**(bits - 1) - 1."""

    steps_per_code = 1.0

    @property
    def low(self) -> int:
        """Smallest code, -2**(bits - 1)."""
        return -(2 ** (self.bits - 1))

    @property
    def high(self) -> int:
        """Largest code, 2**(bits - 1) - 1, or +1 for one bit."""
        return max(1, 2 ** (self.bits - 1) - 1)

    def nearest(self, v: Tensor) -> Tensor:
        """``round(clip(v))``."""
        return round_ste(clip(v, self.low, self.high))

    def rounded(self, step: Tensor) -> tuple[Kernel, tuple]:
        """``s * round(clip(w / s))``."""
        return weight_to_steps, (step, self.low, self.high)


@register_weight_quantizer("lsq_symmetric")
class LSQSymmetricWeight(_LearnedStepWeight):
    """A learned step on 2**bits levels that lie evenly around zero and leave zero out: odd codes -L, -L + 2, ..., L.

    Ours: the levels of DoReFa's weights with LSQ's learned step, two codes apart. LSQ's own levels are one more below
    zero than above, of which at 2 bits (-2, -1, 0, 1) one in four is hardly used. The step starts where the squared
    error of the weights is smallest. One bit is LSQ's.
    """

    steps_per_code = 0.5

    def start(self, weight: Tensor) -> Tensor:
        """The step of least squared error, of 64 candidates; with one bit that is mean|w|."""
        if self.bits == 1:
            return super().start(weight)
        largest = 2 * weight.abs().max() / self.levels
        candidates = largest * torch.linspace(1 / 64, 1, 64, device=weight.device)
        return smallest_error(weight, candidates, lambda step: step / 2 * self.nearest(weight / step))

    def nearest(self, v: Tensor) -> Tensor:
        """The nearest odd code."""
        return _nearest_odd(v, self.levels)

    def rounded(self, step: Tensor) -> tuple[Kernel, tuple]:
        """``s / 2`` times the nearest odd code."""
        return weight_to_odd_steps, (step, self.levels)
