"""Gates that stay at inference, as they are stored and computed in a deployed network.

    v = g x / s    g = 2 sigmoid(u1) to the nearest 1/128,  u1 = gate 1 of the squeezed x        if stage 1 stays
    v - t          t = t_max tanh(u2) to the nearest 1/64,  u2 = gate 2 of the squeezed clip(v)  if stage 2 stays

A static record that rounds codes quantizes the result, which is in codes. Parameters of a gate are int8 with a scale
each, the mean and the inverse deviation that standardize its input are float16. Gain and shift are rounded so that
every runtime, whatever the order of its sums, comes to the same. Constants are put together where they can be: in an
ONNX file each operation on a few channels costs as much as one on a small picture.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .attention import SQUEEZES, Standardize
from .gates import Gate

GAIN_GRID, SHIFT_GRID = 128.0, 64.0  # steps in one of gain, in one code of shift
_LARGEST = 60_000.0  # float16


class StoredGate(nn.Module):
    """A gate with its parameters in 8 bits, its buffers as they are, and what standardizes its input."""

    def __init__(self, gate: Gate, squeeze: str, standard: nn.Module):
        super().__init__()
        self._gate, self.squeeze = [gate], squeeze  # a list: its float parameters are not stored
        self.names = [name for name, _ in gate.named_parameters()]
        for index, (_, parameter) in enumerate(gate.named_parameters()):
            value = parameter.detach().float()
            largest = value.abs().max()
            scale = torch.where(largest > 0, largest, torch.ones_like(largest)) / 127
            self.register_buffer(f"codes{index}", (value / scale).round().to(torch.int8))
            self.register_buffer(f"scale{index}", scale)
        self.standardized = isinstance(standard, Standardize)
        if self.standardized:
            self.register_buffer("mean", standard.mean.half())
            self.register_buffer("inverse_deviation", (1 / standard.deviation).clamp(max=_LARGEST).half())
        self.kept = [name for name, _ in gate.named_buffers()]
        for index, (_, buffer) in enumerate(gate.named_buffers()):
            self.register_buffer(f"buffer{index}", buffer.detach())

    def forward(self, z: Tensor) -> Tensor:
        """u of the squeezed input."""
        dtype, z = z.dtype, z.float()
        if self.standardized:
            z = ((z - self.mean.float()) * self.inverse_deviation.float()).clamp(-3, 3)
        stored = {
            name: getattr(self, f"codes{index}").float() * getattr(self, f"scale{index}")
            for index, name in enumerate(self.names)
        }
        stored |= {name: getattr(self, f"buffer{index}") for index, name in enumerate(self.kept)}
        return functional_call(self._gate[0], stored, (z,)).to(dtype)

    @property
    def multiplications(self) -> int:
        """For one sample: one for each parameter of a map, one a channel at least, and one a channel to standardize."""
        counts = [getattr(self, f"codes{index}").numel() for index in range(len(self.names))]
        channels = self._gate[0].channels
        return sum(max(count, channels) for count in counts) + channels


class KeptGates(nn.Module):
    """The stages that stay, of a layer whose channels are on an axis counted from the end; maps x to codes, unrounded.

    gain: codes per unit of ``g x``, shape () or (C,). mean_gain, mean_shift: g and t on average, (C,).
    """

    def __init__(
        self,
        range_gate: StoredGate | None,
        threshold_gate: StoredGate | None,
        gain: Tensor,
        low: int,
        high: int,
        levels: int,
        t_max: float,
        channel_axis: int,
        mean_gain: Tensor,
        mean_shift: Tensor,
    ):
        super().__init__()
        self.range_gate, self.threshold_gate = range_gate, threshold_gate
        self.low, self.high, self.levels = low, high, levels
        self.t_max, self.channel_axis = t_max, channel_axis
        self.register_buffer("gain", gain)
        self._mean_gain, self._mean_shift = [mean_gain], [mean_shift]  # lists: not stored

    @property
    def mean_gain(self) -> Tensor:
        """(C,), in codes per unit of x."""
        return self.gain * self._mean_gain[0]

    @property
    def mean_shift(self) -> Tensor:
        """(C,) in codes, zeros where stage two does not stay."""
        return self._mean_shift[0]

    @property
    def stored_bytes(self) -> int:
        """Of all codes, statistics and the gain."""
        return sum(buffer.numel() * buffer.element_size() for buffer in self.buffers())

    def multiplications(self, elements: int) -> int:
        """For one sample of so many input elements: the maps, and one for each element that a stage changes."""
        stages = [stage for stage in (self.range_gate, self.threshold_gate) if stage is not None]
        return sum(stage.multiplications for stage in stages) + (elements if self.range_gate is not None else 0)

    def forward(self, x: Tensor) -> Tensor:
        """Codes, neither shifted by what does not stay nor clipped and rounded; the shape of x."""
        gain = self.gain
        if self.range_gate is not None:
            z = SQUEEZES[self.range_gate.squeeze](self._positions(x))
            grid = torch.sigmoid(self.range_gate(relative(z))) * (2 * GAIN_GRID)
            gain = self._per_sample(grid.round() * (gain / GAIN_GRID), x)
        elif gain.dim():
            gain = self._per_sample(gain.unsqueeze(0), x)
        x = x * gain
        if self.threshold_gate is not None:
            z = SQUEEZES[self.threshold_gate.squeeze](self._positions(x.clamp(self.low, self.high))) / self.levels
            grid = torch.tanh(self.threshold_gate(z)) * (self.t_max * SHIFT_GRID)
            x = x - self._per_sample(grid.round() * (1 / SHIFT_GRID), x)
        return x

    def _positions(self, x: Tensor) -> Tensor:
        return positions(x, self.channel_axis)

    def _per_sample(self, value: Tensor, x: Tensor) -> Tensor:
        return per_sample(value, x, self.channel_axis)


def relative(z: Tensor) -> Tensor:
    """z over the mean of its magnitude over the channels: a brighter image has the same."""
    return z / (z.abs().mean(-1, keepdim=True) + 1e-6)


def positions(x: Tensor, channel_axis: int) -> Tensor:
    """x as (samples, C, ...); a Linear input (N, C) has one position."""
    if x.dim() <= 2:
        return x.unsqueeze(-1)
    return x if channel_axis == 1 - x.dim() else x.movedim(channel_axis, 1)


def per_sample(value: Tensor, x: Tensor, channel_axis: int) -> Tensor:
    """View (samples, C) so that it broadcasts over x."""
    before, after = x.dim() + channel_axis - 1, -channel_axis - 1
    return value.reshape(-1, *(1,) * before, value.shape[1], *(1,) * after)
