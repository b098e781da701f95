"""LSQ+: improving low-bit quantization through learnable offsets and better initialization (arXiv 2004.09576).

``x_hat = s * round(clip((x - b) / s, n, p)) + b`` (eq. 4) with a learned offset b for signed inputs; the gradient to b
is 1 outside the range and 0 inside.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .base import scale_gradient, sign_ste, smallest_error
from .fused import Kernel, fused
from .lsq import LSQActivation
from .record import ActivationRecord, clip, round_ste
from .registry import register_quantizer


@fused
def rounded_to_offset_steps(x: Tensor, step: Tensor, offset: Tensor, low: int, high: int, binary: bool) -> Tensor:
    """``s * round(clip((x - b) / s)) + b``."""
    gain = 1 / step
    v = gain * x - gain * offset
    return step * (sign_ste(v) if binary else round_ste(clip(v, low, high))) + offset


@register_quantizer("lsq_plus", weights="lsq")
class LSQPlusActivation(LSQActivation):
    """LSQ whose codes 0..2^k - 1 start at a learned offset where the input is signed; plain LSQ where it is not."""

    def __init__(self, *args, **common):
        super().__init__(*args, **common)
        self.offset = nn.Parameter(torch.zeros(()))

    low = 0

    @property
    def high(self) -> int:
        """Largest code, 2**bits - 1: the offset makes signed codes needless."""
        return self.levels

    @property
    def binary(self) -> bool:
        """Never: one bit has the levels b and b + s."""
        return False

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Offset and step of smallest squared error (as in the paper) among 40 parts of the batch's range."""
        self._learn_offset()
        if not self.signed:
            self.offset.zero_()
            return super().initialize(x)
        least, most = x.min(), x.max()
        parts = torch.arange(1, 41, device=x.device) / 40

        def quantize(part: Tensor) -> Tensor:
            step, offset = part * (most - least) / self.levels, part * least
            return step * self.round((x - offset) * (1 / step)) + offset

        part = smallest_error(x, parts, quantize) if most > least else parts[-1]
        self.offset.copy_(part * least)
        self.set_positive("step", part * (most - least) / self.levels)

    def set_extra_state(self, state: Tensor) -> None:
        """A checkpoint brings the signedness, and with it whether there is an offset to learn."""
        super().set_extra_state(state)
        self._learn_offset()

    def _learn_offset(self) -> None:
        """An offset that takes no part must not be trained: data-parallel training waits for all gradients."""
        self.offset.requires_grad_(bool(self.signed))

    def kernel(self, x: Tensor) -> tuple[Kernel, tuple]:
        """``s * round(clip((x - b) / s)) + b``; b shares the step's gradient scale."""
        if not self.signed:
            return super().kernel(x)
        offset = scale_gradient(self.offset, self.gradient_scale(x))
        return rounded_to_offset_steps, (self.step(x), offset, self.low, self.high, self.binary)

    def record(self) -> ActivationRecord:
        """Gain 1/s, shift b/s, offset b."""
        step = self.bounded("step")
        gain = 1 / step
        return self.make_record(gain, gain * self.offset, step, self.offset)
