"""Quantized layers of other libraries, put into any network as ours are: for comparison, where they are installed.

All learn one step for each layer's weight and input. What differs from ours is how that is computed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TorchLayer(nn.Module):
    """A layer between torch's own learnable fake quantization of its input (unsigned) and its weight."""

    def __init__(self, layer: nn.Module, bits: int):
        super().__init__()
        self.layer, self.bits = layer, bits
        self.step = nn.Parameter(torch.tensor([0.3]))
        self.weight_step = nn.Parameter(2 * layer.weight.detach().abs().mean().reshape(1) / (2 ** (bits - 1)) ** 0.5)
        self.register_buffer("zero", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """As the layer's."""
        learnable = torch._fake_quantize_learnable_per_tensor_affine
        low, high = -(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1
        x = learnable(x, self.step, self.zero, 0, 2**self.bits - 1, 1.0)
        weight = learnable(self.layer.weight, self.weight_step, self.zero, low, high, 1.0)
        if isinstance(self.layer, nn.Linear):
            return F.linear(x, weight, self.layer.bias)
        return self.layer._conv_forward(x, weight, self.layer.bias)


def with_torch(model: nn.Module, bits: int) -> nn.Module:
    """A copy with ``torch._fake_quantize_learnable_per_tensor_affine`` around each convolution and linear layer."""
    return _replaced(model, lambda layer: TorchLayer(layer, bits))


def with_brevitas(model: nn.Module, bits: int) -> nn.Module | None:
    """A copy with brevitas' layers, which learn the scale of activations; None where brevitas is not installed."""
    try:
        import brevitas.nn as layers
        from brevitas.quant import Int8WeightPerTensorFloat, Uint8ActPerTensorFloat
    except ImportError:
        return None
    if not hasattr(Tensor, "rename"):  # brevitas 0.13 strips names of axes, which torch 2.14 has no more
        Tensor.rename = lambda x, *names: x
    quantization = {
        "weight_quant": Int8WeightPerTensorFloat,
        "weight_bit_width": bits,
        "input_quant": Uint8ActPerTensorFloat,
        "input_bit_width": bits,
    }

    def build(layer: nn.Module) -> nn.Module:
        if isinstance(layer, nn.Linear):
            made = layers.QuantLinear(
                layer.in_features, layer.out_features, bias=layer.bias is not None, **quantization
            )
        else:
            names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
            geometry = {name: getattr(layer, name) for name in names}
            made = layers.QuantConv2d(**geometry, bias=layer.bias is not None, **quantization)
        made.load_state_dict(layer.state_dict(), strict=False)
        return made

    return _replaced(model, build)


def _replaced(model: nn.Module, build: Callable[[nn.Module], nn.Module]) -> nn.Module:
    model = copy.deepcopy(model)
    for path, layer in list(model.named_modules()):
        if type(layer) in (nn.Conv2d, nn.Linear):
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, build(layer))
    return model
