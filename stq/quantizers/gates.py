"""Gates: what a stage of Squeeze-and-Threshold makes of the squeezed input, and what of that a deployed layer keeps.

A gate maps z (N, C), one number of each channel, to u (N, C), zero at the start. Stage one turns u into a gain
``2 sigmoid(u)``, stage two into a threshold shift ``t_max tanh(u)``, so at the start the gain is 1 and the shift 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .registry import register_gate


class Gate(nn.Module, ABC):
    """Subclasses declare parameters and write ``map``. channels: C.

    squeeze: the statistic that it is made for (a key of ``SQUEEZES``), or None for the quantizer's. standardized:
    whether z is given in standard deviations from its mean over the samples, or None for what the quantizer is told.
    """

    squeeze: str | None = None
    standardized: bool | None = None

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels

    def forward(self, z: Tensor) -> Tensor:
        """u of z, both (N, C), in the precision of the parameters."""
        parameters = dict(self.named_parameters())
        dtype = next(iter(parameters.values())).dtype if parameters else z.dtype
        u = self.map(z.to(dtype), parameters)
        if u.shape != z.shape:
            raise ValueError(
                f"a gate of {type(self).__name__} gives {tuple(u.shape)} for {tuple(z.shape)}: give one u for each z"
            )
        return u.to(z.dtype)

    @abstractmethod
    def map(self, z: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        """u of z for these values of the gate's parameters: in a deployed layer those that are stored."""


@register_gate("mlp")
class MLPGate(Gate):
    """Linear(C, h) -> ReLU -> Linear(h, C), h = max(C / reduction, 8), as in Squeeze-and-Excitation (1709.01507)."""

    def __init__(self, channels: int, reduction: int = 4):
        super().__init__(channels)
        hidden = max(channels // reduction, 8)
        self.add_module("0", nn.Linear(channels, hidden))
        self.add_module("2", nn.Linear(hidden, channels))
        nn.init.zeros_(self.get_submodule("2").weight)
        nn.init.zeros_(self.get_submodule("2").bias)

    def map(self, z: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        """2 C h multiplications."""
        hidden = F.linear(z, parameters["0.weight"], parameters["0.bias"]).relu()
        return F.linear(hidden, parameters["2.weight"], parameters["2.bias"])


@register_gate("channel")
class ChannelGate(Gate):
    """``w_c z_c + b_c`` (ours; a weight on standardized statistics as in SRM, arXiv 1903.10829)."""

    standardized = True

    def __init__(self, channels: int):
        super().__init__(channels)
        self.weight, self.bias = (nn.Parameter(torch.zeros(channels)) for _ in range(2))

    def map(self, z: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        """C multiplications."""
        return parameters["weight"] * z + parameters["bias"]


@register_gate("low_rank")
class LowRankGate(ChannelGate):
    """``channel``, and a map between channels of a small rank: ``w_c z_c + b_c + (U V z)_c`` (ours)."""

    def __init__(self, channels: int, rank: int = 4):
        super().__init__(channels)
        self.down = nn.Parameter(torch.randn(rank, channels) / channels**0.5)
        self.up = nn.Parameter(torch.zeros(channels, rank))

    def map(self, z: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        """C (1 + 2 rank) multiplications."""
        between = F.linear(F.linear(z, parameters["down"]), parameters["up"], parameters["bias"])
        return parameters["weight"] * z + between


@register_gate("eca")
class ECAGate(Gate):
    """A convolution of ``kernel_size`` neighbouring channels, ECA (arXiv 1910.03151)."""

    standardized = True

    def __init__(self, channels: int, kernel_size: int = 5):
        super().__init__(channels)
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={kernel_size} of the gate 'eca' must be odd")
        self.weight = nn.Parameter(torch.zeros(kernel_size))

    def map(self, z: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        """C kernel_size multiplications."""
        weight = parameters["weight"].reshape(1, 1, -1)
        return F.conv1d(z.unsqueeze(1), weight, padding=weight.shape[-1] // 2).squeeze(1)


@register_gate("gct")
class GCTGate(Gate):
    """Gated channel transformation, ``1 + tanh(gamma_c e_c / rms(e) + beta_c)``, e_c = alpha_c ||x_c|| (1909.11519)."""

    squeeze = "rms"  # ||x_c|| but for a factor that rms(e) takes out again
    standardized = False

    def __init__(self, channels: int):
        super().__init__(channels)
        self.alpha = nn.Parameter(torch.ones(channels))
        self.gamma, self.beta = (nn.Parameter(torch.zeros(channels)) for _ in range(2))

    def map(self, z: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        """3 C multiplications; twice the argument of the paper's tanh, for 1 + tanh(a) = 2 sigmoid(2 a)."""
        e = parameters["alpha"] * z
        e = e / (e.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return 2 * (parameters["gamma"] * e + parameters["beta"])
