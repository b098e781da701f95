"""Evaluation of a quantized layer: the codes are summed as integers, then scaled, as a deployed layer does.

A float sum of real-valued products depends on the order of the additions, and on graphics processors on how many bits
of each factor are kept (TF32 keeps 11, a quantized value needs more). Products of codes are integers, which every float
format in use holds whole, and so are their sums below 2^24. So what is measured is what is deployed.
"""

from __future__ import annotations

from collections.abc import Callable

import timm.layers
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..quantizers import ActivationQuantizer, WeightQuantizer
from ..quantizers.fused import kernels
from ..quantizers.record import round_ste
from . import standardized
from .lean_layer import is_lean, lean

# timm's linear layer differs under torch.jit.script alone
_PLAIN = (nn.Conv1d.forward, nn.Conv2d.forward, nn.Linear.forward, timm.layers.Linear.forward, *standardized.FORWARDS)


def install(kind: type[nn.Module]) -> None:
    """Make ``forward`` that of all layers of this class."""
    kind.forward_without_quantizers, kind.forward = kind.forward, forward


def forward(layer: nn.Module, input: Tensor) -> Tensor:
    """In place of the ``forward`` of a quantized layer. input: fake-quantized, as the layer's pre-hook gives it.

    Training is as ever, and so is evaluation where codes do not tell all: a side in float, attention kept at inference,
    an input offset that is no whole number of codes, half precision, a layer type with a forward of its own, a pre-hook
    that changes what the quantizer gives, and under ``torch.compile``, which cannot follow the choice.
    """
    own = plain_forward(layer)
    if takes_float_input(layer, input):
        if (output := lean(layer, input)) is not None:
            return output
        input = layer.input_quantizer(input)
    if own in standardized.FORWARDS:
        input = standardized.padded(layer, input)
    known = is_plain(layer) and input.dtype in (torch.float32, torch.float64) and _reads_codes(layer)
    if layer.training or not known or torch.compiler.is_compiling():
        return _real(layer, input, own)
    weights = layer.parametrizations.weight if parametrize.is_parametrized(layer, "weight") else ()
    unit = _unit(layer) if len(weights) > 0 and isinstance(weights[-1], WeightQuantizer) else None
    if unit is None:
        return _real(layer, input, own)
    with torch.autocast(input.device.type, enabled=False):
        codes, scale = weights[-1].encode(received_weight(layer))
        operand = round_ste(input / unit)
        linear = isinstance(layer, nn.Linear)
        sums = F.linear(operand, codes) if linear else layer._conv_forward(operand, codes, None)
        channels = (-1, *(1,) * (0 if linear else codes.dim() - 2))
        real = (scale * unit).reshape(channels) * sums
        return real if layer.bias is None else real + layer.bias.reshape(channels)


def takes_float_input(layer: nn.Module, input: Tensor) -> bool:
    """Whether ``forward`` is given the float input and quantizes it itself, which the layer's pre-hook then leaves."""
    if kernels() == "plain":
        return False
    own = plain_forward(layer)
    plain = own in _PLAIN and own not in standardized.FORWARDS and hasattr(type(layer), "plain_weight")
    return plain and _reads_codes(layer) and is_lean(layer, input)


def _real(layer: nn.Module, input: Tensor, own: Callable) -> Tensor:
    """The sum of real values, with the weight as it is computed: only the user is given a guarded one."""
    if own not in _PLAIN or not hasattr(type(layer), "plain_weight"):
        return own(layer, input)
    weight = layer.plain_weight
    if isinstance(layer, nn.Linear):
        return F.linear(input, weight, layer.bias)
    return layer._conv_forward(input, weight, layer.bias)


def received_weight(layer: nn.Module) -> Tensor:
    """What the layer's weight quantizer is given: the float weight, or what parametrizations before it make of that."""
    weight = layer.parametrizations.weight.original
    for each in layer.parametrizations.weight:
        if isinstance(each, WeightQuantizer):
            break
        weight = each(weight)
    return weight


def plain_forward(layer: nn.Module) -> Callable:
    """The ``forward`` of the layer's type, as it is without quantizers; takes the layer as its first argument."""
    return getattr(type(layer), "forward_without_quantizers", type(layer).forward)


def _reads_codes(layer: nn.Module) -> bool:
    """Whether no pre-hook comes after the one that quantizes the input."""
    last = next(reversed(layer._forward_pre_hooks.values()), None)
    return getattr(last, "quantizes_input", False)


def is_plain(layer: nn.Module) -> bool:
    """Whether a convolution or linear layer computes what torch's own of that kind does, and nothing beside it."""
    return plain_forward(layer) in _PLAIN


def _unit(layer: nn.Module) -> Tensor | None:
    """The real value of which every quantized input of the layer is a whole multiple; None where there is none."""
    quantizer = getattr(layer, "input_quantizer", None)
    try:
        record = quantizer.record() if isinstance(quantizer, ActivationQuantizer) else None
    except ValueError:  # no static record
        return None
    operand = record and record.integer_operand()
    return record.scale / operand[0] if operand else None
