"""ReActNet (Liu et al., arXiv 2003.03488): MobileNetV1's layout with shortcuts around every binary convolution.

The network is float; ``stq.quantize(model, bits 1)`` makes its convolutions binary. RSign is the learned shift before a
quantized convolution, RPReLU the shifted PReLU after a shortcut.
"""

from __future__ import annotations

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

__all__ = ["ReActNet"]

# (channels as a factor of the width, stride) of each block, as MobileNetV1
_BLOCKS = ((2, 1), (4, 2), (4, 1), (8, 2), (8, 1), (16, 2), *((16, 1),) * 5, (32, 2), (32, 1))


class Shift(nn.Module):
    """A learned shift for each channel of (N, C, H, W)."""

    def __init__(self, channels: int):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x plus the shift."""
        return x + self.shift


class RPReLU(nn.Sequential):
    """Shift, PReLU with a slope a channel, shift."""

    def __init__(self, channels: int):
        super().__init__(Shift(channels), nn.PReLU(channels), Shift(channels))


class ShortcutConv(nn.Module):
    """RSign - convolution - batch norm, added to the shortcut; the channels stay as they are."""

    def __init__(self, channels: int, kernel: int, stride: int = 1):
        super().__init__()
        self.sign_shift = Shift(channels)
        self.conv = nn.Conv2d(channels, channels, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.shortcut = nn.AvgPool2d(2, ceil_mode=True) if stride == 2 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H / stride, W / stride)."""
        return self.bn(self.conv(self.sign_shift(x))) + self.shortcut(x)


class Block(nn.Module):
    """A 3x3 and one or two 1x1 convolutions; where the channels double, the two are set side by side."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.spatial = ShortcutConv(inputs, 3, stride)
        self.act1 = RPReLU(inputs)
        self.pointwise = nn.ModuleList(ShortcutConv(inputs, 1) for _ in range(outputs // inputs))
        self.act2 = RPReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H / stride, W / stride)."""
        x = self.act1(self.spatial(x))
        return self.act2(torch.cat([conv(x) for conv in self.pointwise], 1))


class ReActNet(nn.Module):
    """width: channels after the first convolution (32 in the paper's ReActNet-A)."""

    def __init__(self, width: int = 32, num_classes: int = 1000, in_chans: int = 3):
        super().__init__()
        self.num_classes, self.num_features = num_classes, 32 * width
        self.conv1 = nn.Conv2d(in_chans, width, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        blocks, channels = [], width
        for factor, stride in _BLOCKS:
            blocks.append(Block(channels, factor * width, stride))
            channels = factor * width
        self.blocks = nn.Sequential(*blocks)
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) to logits (N, num_classes)."""
        x = self.blocks(self.bn1(self.conv1(x)))
        return self.fc(self.global_pool(x).flatten(1))


default_cfgs = generate_default_cfgs(
    {
        "reactnet.untrained": {
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "first_conv": "conv1",
            "classifier": "fc",
        }
    }
)


@register_model
def reactnet(pretrained: bool = False, **kwargs) -> ReActNet:
    """ReActNet-A, 29 M parameters at width 32."""
    return build_model_with_cfg(ReActNet, "reactnet", pretrained, **kwargs)
