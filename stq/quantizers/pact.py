"""PACT: parameterized clipping activation for quantized neural networks (arXiv 1805.06085).

``y = clip(x, 0, alpha)``, ``y_q = round(y L / alpha) alpha / L`` with ``L = 2^k - 1`` (eq. 1 and 2); the gradient to
alpha is 1 where ``x >= alpha``, else 0 (eq. 3); alpha has an L2 penalty of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .base import ActivationQuantizer, sign_ste, smallest_error, straight_through
from .fused import Kernel, fused
from .record import ActivationRecord, clip, round_ste
from .registry import register_quantizer


@fused
def clipped_and_rounded(x: Tensor, alpha: Tensor, low: int, high: int, signed: bool, binary: bool) -> Tensor:
    """``round(clip(x, 0, alpha) L / alpha) alpha / L`` with the gradients of the clip (eq. 1 to 3)."""
    y = torch.where(x >= alpha, alpha, x)
    y = torch.where(x <= -alpha, -alpha, y) if signed else y.relu()
    v = x.detach() * (high / alpha.detach())
    code = sign_ste(v) if binary else round_ste(clip(v, low, high))
    return straight_through(code * (alpha / high), y)


@register_quantizer("pact", weights="dorefa")
class PACTActivation(ActivationQuantizer):
    """A learned clip ``alpha`` per layer.

    initial_clip: start of alpha (the paper: 10), or None to calibrate it, which suits a start from a float model.
    clip_decay: weight decay of alpha. Signed inputs, which the paper does not treat, are clipped to [-alpha, alpha]
    with symmetric codes (ours).
    """

    def __init__(self, *args, initial_clip: float | None = None, clip_decay: float = 2e-4, **common):
        super().__init__(*args, **common)
        if initial_clip is not None and initial_clip <= 0:
            raise ValueError(f"initial_clip={initial_clip} must be above 0")
        self.initial_clip, self.decay = initial_clip, clip_decay
        self.positive("clip")

    @property
    def low(self) -> int:
        """Smallest code; symmetric where signed."""
        return -self.high if self.signed else 0

    def initialize(self, x: Tensor) -> None:
        """Alpha as given, or the clip of smallest squared error among 40 parts of the batch's largest magnitude."""
        if self.initial_clip is not None:
            clip = torch.full_like(self.raw_clip, self.initial_clip)
        else:
            candidates = x.abs().max() * torch.arange(1, 41, device=x.device) / 40
            clip = smallest_error(x, candidates, lambda c: self.round(x * (self.high / c)) * (c / self.high))
        self.set_positive("clip", clip)

    def kernel(self, x: Tensor) -> tuple[Kernel, tuple]:
        """The clipped input, rounded; inside the clip the gradient goes to ``x``, outside to alpha."""
        return clipped_and_rounded, (self.bounded("clip"), self.low, self.high, bool(self.signed), self.binary)

    def record(self) -> ActivationRecord:
        """Gain ``high / alpha``, scale ``alpha / high``."""
        clip = self.bounded("clip")
        return self.make_record(self.high / clip, torch.zeros_like(clip), clip / self.high)
