"""Convolutions of timm that standardize their weight (arXiv 1903.10520, 2101.08692).

Their forward would standardize a quantized weight anew: standardizing becomes a parametrization before the quantizer.
"""

from __future__ import annotations

import torch.nn.functional as F
from timm.layers import std_conv
from timm.layers.padding import pad_same
from torch import Tensor, nn

TYPES = (std_conv.StdConv2d, std_conv.StdConv2dSame, std_conv.ScaledStdConv2d, std_conv.ScaledStdConv2dSame)
FORWARDS = tuple(kind.forward for kind in TYPES)


class Standardized(nn.Module):
    """The weight that such a layer convolves with: each output channel standardized, then scaled."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = [layer]  # a list, so that the layer is no module within this one

    def forward(self, weight: Tensor) -> Tensor:
        """The shape of ``weight``."""
        (layer,) = self.layer
        gain = (layer.gain * layer.scale).view(-1) if hasattr(layer, "gain") else None
        flat = weight.reshape(1, layer.out_channels, -1)
        return F.batch_norm(flat, None, None, gain, training=True, momentum=0.0, eps=layer.eps).reshape_as(weight)


def padded(layer: nn.Module, x: Tensor) -> Tensor:
    """The input that such a layer convolves."""
    return pad_same(x, layer.kernel_size, layer.stride, layer.dilation) if getattr(layer, "same_pad", False) else x
