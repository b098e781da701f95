"""DoReFa-Net: training low bitwidth convolutional networks with low bitwidth gradients (arXiv 1606.06160).

Weights (eq. 9): ``2 q_k(tanh(w) / (2 max|tanh w|) + 1/2) - 1``; one bit (eq. 7): ``sign(w) * mean|w|``.
Activations (eq. 11): ``q_k(clip(x, 0, 1))`` with ``q_k(r) = round((2^k - 1) r) / (2^k - 1)``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .base import ActivationQuantizer, WeightQuantizer, sign_ste, straight_through
from .fused import Kernel, fused, is_transformed, kernels
from .record import ActivationRecord, clip, round_ste
from .registry import register_quantizer, register_weight_quantizer


@fused
def rounded_in_range(x: Tensor, low: int, high: int, binary: bool) -> Tensor:
    """``round(clip(high x, low, high)) / high``."""
    v = x * high
    return (sign_ste(v) if binary else round_ste(clip(v, low, high))) / high


@fused
def weight_through_tanh(weight: Tensor, largest: Tensor, levels: int) -> Tensor:
    """``2 q_k(tanh(w) / (2 max|tanh w|) + 1/2) - 1``; largest: that maximum, over the layer."""
    return (1 / levels) * _codes_through_tanh(weight, largest, levels)


def _codes_through_tanh(weight: Tensor, largest: Tensor, levels: int) -> Tensor:
    return 2 * round_ste(levels * (weight.tanh() / (2 * largest) + 0.5)) - levels


def largest_tanh(weight: Tensor) -> Tensor:
    """``max|tanh w|``, which is ``tanh(max|w|)``; takes part in the gradient."""
    magnitude = weight.abs().max() if kernels() == "plain" or is_transformed() else _Largest.apply(weight)
    return torch.where(magnitude == 0, 1.0, magnitude.tanh())  # all zeros: a gradient of 1 instead of an infinite one


class _Largest(torch.autograd.Function):
    """``max|w|``, without a copy of the magnitudes for the backward pass."""

    @staticmethod
    def forward(ctx, weight: Tensor) -> Tensor:
        low, high = weight.aminmax()
        largest = torch.maximum(-low, high)
        ctx.save_for_backward(weight, largest)
        return largest

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> Tensor:
        weight, largest = ctx.saved_tensors
        places = (weight == largest).logical_or_(weight == -largest).nonzero(as_tuple=True)
        result = torch.zeros_like(weight)
        result[places] = weight[places].sign() * (gradient / len(places[0]))
        return result


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
        codes = _codes_through_tanh(weight, largest_tanh(weight), self.levels)
        return codes, weight.new_ones(()) / self.levels

    def kernel(self, weight: Tensor) -> tuple[Kernel, tuple] | None:
        """For more than one bit."""
        return None if self.bits == 1 else (weight_through_tanh, (largest_tanh(weight), self.levels))
