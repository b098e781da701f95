"""``stq.freeze(model)``: pulls the static records out of a trained model into a frozen network of plain arrays."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import InputError
from ...quantization.surgery import float_weight, input_quantizer, quantizers, weight_quantizer
from ..graph.left_out import refuse_what_would_be_left_out
from ..graph.trace import Step, trace
from ..network import INTEGER_LAYERS, Network, Node
from .fold import fold

_INT32_MAX = 2**31 - 1


def freeze(model: nn.Module, quantized: bool = True) -> Network:
    """The integer network behind a quantized (or float) model in evaluation; the model is left as it is.

    quantized: False gives the float network behind it, without quantizers (what the integers are compared with).

    Running thresholds become constants, batch norm folds into the layer before it, weights become integer codes.
    Raises InputError, naming layer and reason, for what has no frozen form: a quantizer without a static record or
    without calibration, a module or function this package does not know, hooks and other things that a file would leave
    out, half precision, NaN, an accumulator that overflows 32 bits.
    """
    refuse_what_would_be_left_out(model)
    found = set(quantizers(model))
    for path, module in model.named_modules():
        if quantized and module in found and not module.calibrated:
            raise InputError(f"'{path}' is not calibrated: call stq.calibrate(model, batch) or load a checkpoint first")
    nodes: list[Node] = []
    for step in trace(model):
        nodes += _layer(step, quantized) if isinstance(step, Step) else [step]
    network = fold(Network(tuple(nodes)))
    for layer in network.of(*INTEGER_LAYERS):
        if network.bounds[layer.name] > _INT32_MAX:
            raise InputError(f"'{layer.name}' cannot be frozen: its sums overflow a 32-bit accumulator")
    return network


def _layer(step: Step, quantized: bool) -> list[Node]:
    """Nodes of a convolution or linear layer: quantize -> integer layer, or a float layer."""
    layer, name, (source,) = step.layer, step.name, step.inputs
    kind = "linear" if isinstance(layer, nn.Linear) else "conv"
    activations, weights = (input_quantizer(layer), weight_quantizer(layer)) if quantized else (None, None)
    bias = np.zeros(len(layer.weight)) if layer.bias is None else _array(layer.bias, np.float64)
    geometry = {} if kind == "linear" else _geometry(step)
    try:
        inputs = None if activations is None else activations.record()
        codes = None if weights is None else weights.record(float_weight(layer).detach())
    except ValueError as error:
        raise InputError(f"'{step.path}' cannot be frozen: {error}") from error
    nodes = []
    if inputs is not None:
        values = {"gain": _array(inputs.gain), "shift": _array(inputs.shift)}
        limits = {"bits": inputs.bits, "low": inputs.low, "high": inputs.high, "axis": inputs.channel_axis}
        if not all(np.isfinite(v).all() for v in (*values.values(), _array(inputs.scale), _array(inputs.offset))):
            raise InputError(f"'{step.path}' cannot be frozen: its activation quantizer holds NaN or infinity")
        nodes.append(Node(f"{name}.quantize", "quantize", (source,), limits, values))
    if inputs is None or codes is None:
        if inputs is not None:
            values = {"scale": _array(inputs.scale), "offset": _array(inputs.offset)}
            nodes.append(Node(f"{name}.dequantize", "dequantize", (nodes[-1].name,), {}, values))
        weight = _array(codes.decode() if codes is not None else layer.weight if quantized else float_weight(layer))
        arrays = {"weight": weight, "bias": bias.astype(np.float32)}
        return [*nodes, Node(name, f"float_{kind}", (nodes[-1].name if nodes else source,), geometry, arrays)]
    scale, offset = float(inputs.scale), float(inputs.offset)
    code_gain, code_offset = inputs.integer_operand() or (1, 0)
    weight_scale = np.broadcast_to(_array(codes.scale, np.float64).reshape(-1), (len(layer.weight),))
    arrays = {
        "weight": _array(codes.codes, np.int32),
        "multiplier": weight_scale * (scale / code_gain),
        "bias": bias,
    }
    if offset and code_offset == 0:
        arrays["offset_multiplier"] = weight_scale * offset
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise InputError(f"'{step.path}' cannot be frozen: its scales or bias hold NaN or infinity")
    attributes = {"code_gain": code_gain, "code_offset": code_offset}
    attributes |= {"weight_bits": codes.bits, "weight_low": codes.low, "weight_stride": codes.stride, **geometry}
    return [*nodes, Node(name, kind, (nodes[-1].name,), attributes, arrays)]


def _geometry(step: Step) -> dict:
    layer = step.layer
    zeros = [0] * len(layer.kernel_size)
    both = layer._reversed_padding_repeated_twice  # (left, right) of each axis, last axis first
    starts, ends = both[0::2][::-1], both[1::2][::-1]
    if layer.padding == "valid":
        starts = ends = zeros
    if layer.padding_mode != "zeros" and any((*starts, *ends)):
        raise InputError(f"'{step.path}' cannot be frozen: padding_mode='{layer.padding_mode}' is not known here")
    return {
        "strides": list(layer.stride),
        "pads": [*starts, *ends],
        "dilations": list(layer.dilation),
        "groups": layer.groups,
    }


def _array(tensor: Tensor, dtype: type = np.float32) -> np.ndarray:
    """A contiguous copy, since the model may train on."""
    tensor = tensor.detach().cpu()
    wide = tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
    return np.array(wide.numpy(), dtype=dtype)
