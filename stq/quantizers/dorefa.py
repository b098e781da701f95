"""DoReFa-Net: training low bitwidth convolutional networks with low bitwidth gradients (arXiv 1606.06160).

Weights (eq. 9): ``2 q_k(tanh(w) / (2 max|tanh w|) + 1/2) - 1``; one bit (eq. 7): ``sign(w) * mean|w|``.
Activations (eq. 11): ``q_k(clip(x, 0, 1))`` with ``q_k(r) = round((2^k - 1) r) / (2^k - 1)``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .base import ActivationQuantizer, WeightQuantizer, sign_ste, straight_through
from .fused import Kernel, fused
from .record import ActivationRecord, clip, round_ste
from .registry import register_quantizer, register_weight_quantizer


@fused
def rounded_in_range(x: Tensor, low: int, high: int, binary: bool) -> Tensor:
    """``round(clip(high x, low, high)) / high``."""
    v = x * high
    return (sign_ste(v) if binary else round_ste(clip(v, low, high))) / high


@fused
def weight_through_tanh(weight: Tensor, levels: int) -> Tensor:
    """``2 q_k(tanh(w) / (2 max|tanh w|) + 1/2) - 1``; the maximum is over the layer."""
    codes, scale = _codes_through_tanh(weight, levels)
    return scale * codes


def _codes_through_tanh(weight: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    squashed = weight.tanh()
    largest = squashed.abs().max()
    largest = torch.where(largest == 0, 1.0, largest)  # all zeros: a gradient of 1 instead of an infinite one
    unit = squashed / (2 * largest) + 0.5
    return 2 * round_ste(levels * unit) - levels, torch.ones_like(largest).detach() / levels


@register_quantizer("dorefa", weights="dorefa")
class DoReFaActivation(ActivationQuantizer):
    """A fixed range, [0, 1]. Signed inputs, which the paper does not treat, use the range [-1, 1] (ours)."""

    def __init__(self, *args, **common):
        super().__init__(*args, **common)
        self.register_buffer("range", torch.ones(()), persistent=False)  # fixed; a buffer, so that it knows the device

    @property
    def low(self) -> int:
        """Smallest code; symmetric where signed."""
        return -self.high if self.signed else 0

    def initialize(self, x: Tensor) -> None:
        """Nothing is learned."""

    def kernel(self, x: Tensor) -> tuple[Kernel, tuple]:
        """``round(high * clip(x, 0 or -1, 1)) / high``; gradient 1 inside the range, 0 outside."""
        return rounded_in_range, (self.low, self.high, self.binary)

    def record(self) -> ActivationRecord:
        """Gain ``high``, scale ``1 / high``."""
        return self.make_record(self.high / self.range, torch.zeros_like(self.range), self.range / self.high)


@register_weight_quantizer("dorefa")
class DoReFaWeight(WeightQuantizer):
    """Odd codes -L, -L + 2, ..., L with scale 1/L; the maximum is over the layer and takes part in the gradient."""

    def encode(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Codes and scale; for one bit the gradient to the weight is 1 and the mean is a constant."""
        if self.bits == 1:
            scale = weight.detach().abs().mean().clamp_min(torch.finfo(weight.dtype).tiny)
            sign = torch.where(weight >= 0, 1.0, torch.where(weight < 0, -1.0, weight))
            return straight_through(sign, weight / scale), scale
        return _codes_through_tanh(weight, self.levels)

    def kernel(self, weight: Tensor) -> tuple[Kernel, tuple] | None:
        """For more than one bit."""
        return None if self.bits == 1 else (weight_through_tanh, (self.levels,))
