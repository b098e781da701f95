"""The static record: what a trained quantizer is at inference, whatever the method behind it.

Everything after training (folding, integer inference, export, cost, threshold plots) reads these two records and
nothing else, so a new quantizer is deployable as soon as it can fill one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn


class _Round(torch.autograd.Function):
    """round half to even; the gradient passes unchanged (straight-through)."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient


class _RoundOfFunctions(torch.autograd.Function):
    """The same in the form that ``torch.func`` takes, which costs more in every call."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient


for_functions = False  # while a kernel's backward pass is derived, see ``fused``


def round_ste(x: Tensor) -> Tensor:
    """Round half to even with a straight-through gradient; NaN stays NaN."""
    return _RoundOfFunctions.apply(x) if for_functions else _Round.apply(x)


def clip(v: Tensor, low: int, high: int) -> Tensor:
    """clip(v, low, high); gradient 1 where low < v < high, else 0 (that of torch.clamp at a clip varies by version)."""
    return nn.functional.hardtanh(v, low, high)


def along_channels(vector: Tensor, x: Tensor, channel_axis: int) -> Tensor:
    """View a vector of shape (C,) so that it broadcasts over ``x`` along ``channel_axis`` (negative); scalars pass."""
    if vector.dim() == 0:
        return vector
    return vector.reshape(-1, *(1,) * (-channel_axis - 1))


@dataclass(frozen=True)
class ActivationRecord:
    """``code = clip(round(gain * x - shift), low, high)`` and ``value = scale * code + offset``.

    gain, shift: shape () or (C,), float32; ``gain`` in codes per unit of the input, ``shift`` in codes.
    scale, offset: shape (), in units of the input. low, high: integers, ``high - low < 2**bits``.
    channel_axis: where the channels of the input are, counted from the end: -3 for (N, C, H, W), -1 for (..., C).
    levels: for methods whose thresholds are no even ladder (N2UQ, arXiv 2111.14826): shape (C or 1, high - low),
    ascending, in units of the input; the code is ``low`` + how many of its channel's are at most x, whatever gain and
    shift say. gate: for methods whose gain or shift depends on the input (``kept_gates``): a module that maps x to what
    is encoded in its place.
    """

    bits: int
    low: int
    high: int
    gain: Tensor
    shift: Tensor
    scale: Tensor
    offset: Tensor
    channel_axis: int
    levels: Tensor | None = None
    gate: nn.Module | None = None

    def _code(self, x: Tensor) -> Tensor:
        if self.gate is not None:
            x = self.gate(x)
        if self.levels is not None:
            return self._compared(x)
        gain = along_channels(self.gain, x, self.channel_axis)
        shift = along_channels(self.shift, x, self.channel_axis)
        return round_ste(torch.clamp(gain * x - shift, self.low, self.high))

    def _compared(self, x: Tensor) -> Tensor:
        code = torch.full_like(x, self.low)
        for level in self.levels.unbind(1):
            code = code + (x >= along_channels(level if level.numel() > 1 else level[0], x, self.channel_axis))
        return torch.where(torch.isnan(x), x, code)

    def encode(self, x: Tensor) -> Tensor:
        """Integer codes (int32, the shape of ``x``). Raises ValueError where ``x`` is NaN: NaN has no code."""
        code = self._code(x if x.dtype == torch.float64 else x.float())
        if torch.isnan(code).any():
            raise ValueError("the input holds NaN, which has no integer code")
        return code.to(torch.int32)

    def decode(self, code: Tensor) -> Tensor:
        """Real values of integer codes."""
        return self.scale * code + self.offset

    def fake_quantize(self, x: Tensor) -> Tensor:
        """``decode(encode(x))`` in floating point; straight-through gradient, NaN stays NaN."""
        return self.scale * self._code(x) + self.offset

    def integer_operand(self) -> tuple[int, int] | None:
        """(a, b), integers for which ``value`` is ``scale / a * (a * code + b)`` exactly; None where none are small.

        So a zero of the padding is an integer of its own (0), between the two values of a binary input for instance.
        """
        scale, offset = float(self.scale), float(self.offset)
        for gain in (1, 2):
            ratio = offset * gain / scale
            if -255 <= ratio <= 0 and ratio == round(ratio):  # so that 0 is a storable code, or lies between two
                return gain, round(ratio)
        return None

    def on_average(self) -> ActivationRecord:
        """Without the gate: gain and shift as they are on average over the inputs."""
        if self.gate is None:
            return self
        gain, shift = self.gain * self.gate.mean_gain, self.shift + self.gate.mean_shift
        return replace(self, gain=gain, shift=shift, gate=None)

    def thresholds(self) -> Tensor:
        """The inputs at which the code steps up, shape (C or 1, high - low), ascending: comparators of the layer."""
        if self.levels is not None:
            return self.levels
        if self.gate is not None:
            return self.on_average().thresholds()
        levels = torch.arange(self.low + 1, self.high + 1, device=self.gain.device, dtype=self.gain.dtype)
        return (levels - 0.5 + self.shift.reshape(-1, 1)) / self.gain.reshape(-1, 1)


@dataclass(frozen=True)
class WeightRecord:
    """Integer weights: ``value = scale * code``.

    codes: int32, the shape of the weight (O, ...), ``low <= code <= high`` in steps of ``stride``.
    scale: shape () or (O,), in units of the weight.
    """

    bits: int
    low: int
    high: int
    codes: Tensor
    scale: Tensor

    @property
    def stride(self) -> int:
        """Distance of neighbouring codes: 1, or 2 where the levels are the odd integers (so ``bits`` bits suffice)."""
        return max(1, (self.high - self.low) // (2**self.bits - 1))

    def decode(self) -> Tensor:
        """The real weight, shape (O, ...)."""
        return self.scale.reshape(-1, *(1,) * (self.codes.dim() - 1)) * self.codes
