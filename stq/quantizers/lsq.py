"""LSQ: learned step size quantization (arXiv 1902.08153).

``x_hat = s * round(clip(x / s, -Qn, Qp))`` (eq. 1 and 2); autograd through the straight-through round gives the
paper's gradient to s (eq. 3): ``round(x/s) - x/s`` inside, ``-Qn`` or ``Qp`` outside, scaled by ``1/sqrt(N Qp)``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .base import ActivationQuantizer, WeightQuantizer, scale_gradient, sign_ste, smallest_error
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
        self.set_positive(
            "step", torch.stack([self.start(row) for row in weight]) if self.per_channel else self.start(weight)
        )

    def start(self, weight: Tensor) -> Tensor:
        """Start of the step for the weights that share it."""
        return initial_step(weight, self.high, self.bits == 1)

    def step(self, weight: Tensor) -> Tensor:
        """The step, to broadcast over ``weight``; its gradient is scaled by 1 / sqrt(weights that share it * Qp)."""
        step = self.bounded("step")
        step = scale_gradient(step, 1 / math.sqrt(weight.numel() / step.numel() * self.high))
        return step.reshape(-1, *(1,) * (weight.dim() - 1)) if self.per_channel else step

    def encode(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Codes and step."""
        step = self.step(weight)
        v = weight / step
        return (sign_ste(v) if self.bits == 1 else round_ste(clip(v, self.low, self.high))), step


@register_weight_quantizer("lsq_symmetric")
class LSQSymmetricWeight(LSQWeight):
    """A learned step on 2**bits levels that lie evenly around zero and leave zero out: odd codes -L, -L + 2, ..., L.

    Ours: the levels of DoReFa's weights with LSQ's learned step, two codes apart. LSQ's own levels are one more below
    zero than above, of which at 2 bits (-2, -1, 0, 1) one in four is hardly used. The step starts where the squared
    error of the weights is smallest. One bit is LSQ's.
    """

    @property
    def low(self) -> int:
        """Smallest code, -L."""
        return -self.levels

    @property
    def high(self) -> int:
        """Largest code, L."""
        return self.levels

    def start(self, weight: Tensor) -> Tensor:
        """The step of least squared error, of 64 candidates; with one bit that is mean|w|."""
        if self.bits == 1:
            return super().start(weight)
        largest = 2 * weight.abs().max() / self.levels
        candidates = largest * torch.linspace(1 / 64, 1, 64, device=weight.device)
        return smallest_error(weight, candidates, lambda step: step / 2 * self._odd(weight / step))

    def _odd(self, v: Tensor) -> Tensor:
        """Nearest odd code of a weight in steps."""
        return 2 * round_ste(clip(v - 0.5, -(self.levels + 1) // 2, (self.levels - 1) // 2)) + 1

    def encode(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Codes and half the step."""
        if self.bits == 1:
            return super().encode(weight)
        step = self.step(weight)
        return self._odd(weight / step), step / 2
