"""Networks for these scripts: random weights, batch norms settled on noise, quantized and calibrated on it."""

from __future__ import annotations

import timm
import torch
import torchvision
from torch import nn

import stq
import stq.models


def float_network(source: str, name: str, pixels: int, images: int = 16) -> nn.Module:
    """A network of timm or torchvision in evaluation, with statistics of its own in every batch norm."""
    torch.manual_seed(0)
    if source == "timm":
        model = timm.create_model(name)
    else:
        own = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
        model = torchvision.models.get_model(name, weights=None, **own)
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None  # the plain average
    with torch.no_grad():
        for _ in range(4):
            model.train()(torch.randn(images, 3, pixels, pixels))
    return model.eval()


def quantized(model: nn.Module, pixels: int, images: int = 16, method: str = "lsq", **settings) -> nn.Module:
    """The network quantized, calibrated on noise, in evaluation."""
    model = stq.quantize(model, method, **settings)
    stq.calibrate(model, torch.randn(images, 3, pixels, pixels))
    return model.eval()
