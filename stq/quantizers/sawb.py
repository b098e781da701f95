"""SAWB: statistics-aware weight binning (Choi et al., SysML 2019; coefficients as published with PACT-SAWB).

``clip = c1 sqrt(E[w^2]) - c2 E|w|``; 2^k levels evenly from -clip to clip.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .base import WeightQuantizer, straight_through
from .registry import register_weight_quantizer

_PUBLISHED = {2: (3.12, 2.064), 3: (7.509, 6.892), 4: (12.68, 12.80), 5: (17.74, 18.64), 8: (31.76, 35.04)}


def _coefficients(bits: int) -> tuple[float, float]:
    if bits in _PUBLISHED:
        return _PUBLISHED[bits]
    part = (bits - 5) / 3  # 6 and 7 bits are not published: on the line between 5 and 8 (ours)
    return tuple((1 - part) * five + part * eight for five, eight in zip(_PUBLISHED[5], _PUBLISHED[8], strict=True))


@register_weight_quantizer("sawb")
class SAWBWeight(WeightQuantizer):
    """Odd codes -L, ..., L with scale clip / L; the clip is a statistic, the gradient to the weight is 1.

    One bit, which has no published coefficients, is sign(w) * mean|w| (ours, as in XNOR-Net).
    """

    def clip(self, weight: Tensor) -> Tensor:
        """The clip from the weight's moments, shape (); max|w| where the formula gives nothing positive."""
        magnitude = weight.detach().abs()
        if self.bits == 1:
            clip = magnitude.mean()
        else:
            c1, c2 = _coefficients(self.bits)
            clip = c1 * magnitude.square().mean().sqrt() - c2 * magnitude.mean()
            clip = torch.where(clip <= 0, magnitude.max(), clip)
        return clip.clamp_min(torch.finfo(clip.dtype).tiny)

    def encode(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Codes and scale."""
        clip = self.clip(weight)
        scale = clip / self.levels
        if self.bits == 1:
            codes = torch.where(weight >= 0, 1.0, torch.where(weight < 0, -1.0, weight))
        else:
            unit = weight.clamp(-clip, clip) / (2 * clip) + 0.5
            codes = 2 * torch.round(self.levels * unit) - self.levels
        return straight_through(codes, weight / scale), scale
