"""Residual networks for small images (He et al., arXiv 1512.03385, section 4.2): 6n + 2 layers, three stages.

Shortcuts that change the shape take every second pixel and pad channels with zeros (option A), as in the paper.
"""

from __future__ import annotations

import torch.nn.functional as F
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

__all__ = ["SmallResNet"]


class Block(nn.Module):
    """conv - bn - relu - conv - bn, added to the shortcut, relu."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.act2 = nn.ReLU()
        self.stride, self.extra = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H / stride, W / stride)."""
        y = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        if self.stride > 1 or self.extra:
            x = x[:, :, :: self.stride, :: self.stride]
            x = F.pad(x, (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2))
        return self.act2(x + y)


class SmallResNet(nn.Module):
    """depth: 6n + 2. width: channels of the first stage (16 in the paper), doubled at each stage."""

    def __init__(self, depth: int = 20, width: int = 16, num_classes: int = 10, in_chans: int = 3):
        super().__init__()
        blocks = (depth - 2) // 6
        self.num_classes, self.num_features = num_classes, 4 * width
        self.conv1 = nn.Conv2d(in_chans, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = nn.ReLU()
        channels, stages = width, []
        for stage in range(3):
            outputs, layers = width * 2**stage, []
            for i in range(blocks):
                layers.append(Block(channels, outputs, 2 if stage and not i else 1))
                channels = outputs
            stages.append(nn.Sequential(*layers))
        self.layer1, self.layer2, self.layer3 = stages
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) to logits (N, num_classes)."""
        x = self.act1(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.global_pool(x).flatten(1))


def _cfg(**extra) -> dict:
    return {"num_classes": 10, "input_size": (3, 32, 32), "first_conv": "conv1", "classifier": "fc", **extra}


_NAMES = ("resnet8", "resnet20", "resnet32", "resnet44", "resnet56")
default_cfgs = generate_default_cfgs({f"{name}.untrained": _cfg() for name in _NAMES})


def _create(variant: str, pretrained: bool, **kwargs) -> SmallResNet:
    return build_model_with_cfg(SmallResNet, variant, pretrained, depth=int(variant.removeprefix("resnet")), **kwargs)


@register_model
def resnet8(pretrained: bool = False, **kwargs) -> SmallResNet:
    """ResNet-8, 0.08 M parameters at width 16."""
    return _create("resnet8", pretrained, **kwargs)


@register_model
def resnet20(pretrained: bool = False, **kwargs) -> SmallResNet:
    """ResNet-20, 0.27 M parameters at width 16."""
    return _create("resnet20", pretrained, **kwargs)


@register_model
def resnet32(pretrained: bool = False, **kwargs) -> SmallResNet:
    """ResNet-32, 0.46 M parameters at width 16."""
    return _create("resnet32", pretrained, **kwargs)


@register_model
def resnet44(pretrained: bool = False, **kwargs) -> SmallResNet:
    """ResNet-44, 0.66 M parameters at width 16."""
    return _create("resnet44", pretrained, **kwargs)


@register_model
def resnet56(pretrained: bool = False, **kwargs) -> SmallResNet:
    """ResNet-56, 0.85 M parameters at width 16."""
    return _create("resnet56", pretrained, **kwargs)
