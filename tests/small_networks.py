"""Small networks for tests, calibrated on noise, with batch norms that do something."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

import stq


class Residual(nn.Module):
    """x + conv(relu(bn(conv(x))))."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x):
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


def small_network() -> nn.Module:
    """A stem, a residual block, a strided depthwise layer, a linear bottleneck (signed inputs), pooling, a linear."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), Residual(8)),
        *(nn.Conv2d(8, 8, 3, 2, 1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU6()),
        *(nn.Conv2d(8, 12, 1, bias=False), nn.BatchNorm2d(12)),
        *(nn.Conv2d(12, 16, 3, padding=1), nn.BatchNorm2d(16), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)),
    )


def awaken(model: nn.Module) -> nn.Module:
    """Give every batch norm statistics and weights of its own, some of them negative, so that ties are no rule."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
            module.weight.data[::5] *= -1
    return model


def calibrated(model: nn.Module, size: tuple[int, ...], method: str, bits: int, **policy) -> nn.Module:
    """A quantized model in evaluation, calibrated on noise, with a range and a threshold of its own per channel."""
    stq.quantize(awaken(model), method, weight_bits=bits, activation_bits=bits, **policy)
    stq.calibrate(model, torch.randn(8, *size))
    for _, layer in stq.quantized_layers(model):
        if hasattr(layer.input_quantizer, "running_gain"):
            layer.input_quantizer.running_gain.uniform_(0.7, 1.4)
            layer.input_quantizer.running_threshold.uniform_(-0.5, 0.5)
    stq.set_progress(model, 1.0)
    return model.eval()
