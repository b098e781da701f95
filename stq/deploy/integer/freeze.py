"""``stq.freeze(model)``: pulls the static records out of a trained model into a frozen network of plain arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import InputError
from ...quantization.surgery import input_quantizer, quantized_layers
from ...quantizers import ActivationRecord
from ..graph.fitness import check_model
from ..graph.trace import Dequantized, Step, trace
from ..network import INTEGER_LAYERS, Network, Node
from .fold import fold, leading_to

_INT32_MAX = 2**31 - 1


def freeze(model: nn.Module, example_input: Tensor, quantized: bool = True) -> Network:
    """The integer network behind a quantized (or float) model in evaluation; the model is left as it is.

    example_input: a batch as the model takes it, (N, ...), for the size of the inputs; its values do not matter.
    quantized: False gives the float network behind it, without quantizers (what the integers are compared with).

    Running thresholds become constants, batch norm folds into the layer before it, weights become integer codes.
    Raises InputError, naming layer and reason, for what has no frozen form: a quantizer without a static record or
    without calibration, an operation whose result depends on more than its inputs, half precision, NaN, an accumulator
    that overflows 32 bits.
    """
    check_example(example_input)
    check_model(model)
    network = _network(model, example_input, quantized)
    for layer in network.of(*INTEGER_LAYERS):
        if network.bounds[layer.name] > _INT32_MAX:
            raise InputError(f"'{layer.name}' cannot be frozen: its sums overflow a 32-bit accumulator")
    return network


def _network(model: nn.Module, example: Tensor, quantized: bool) -> Network:
    steps, output = trace(model, example, quantized)
    layers, nodes = [layer for _, layer in quantized_layers(model)], []
    for step in steps:
        if isinstance(step, Node):
            nodes.append(step)
        elif isinstance(step, Dequantized):
            quantize, dequantize = _codes(step.name, step.name, step.source, _record(layers[step.quantized], step.name))
            nodes += [quantize, replace(dequantize, name=step.name)]
        else:
            nodes += _layer(step, layers)
    return fold(leading_to(Network(tuple(nodes)), output), example.dim())


def check_example(example: Tensor) -> None:
    """Raise InputError for an example that is no batch of real numbers."""
    if not isinstance(example, Tensor) or example.dim() < 2 or not example.is_floating_point():
        tensor = isinstance(example, Tensor)
        kind = f"{example.dtype} of shape {tuple(example.shape)}" if tensor else type(example).__name__
        raise InputError(f"example_input must be a batch as the model takes it, a float tensor (N, ...), not {kind}")


def _record(layer: nn.Module, path: str) -> ActivationRecord:
    if not input_quantizer(layer).calibrated:
        raise InputError(
            f"'{path}.input_quantizer' is not calibrated: call stq.calibrate(model, batch) or load a checkpoint first"
        )
    try:
        record = input_quantizer(layer).record()
    except ValueError as error:
        raise InputError(f"'{path}' cannot be frozen: {error}") from error
    values = (record.gain, record.shift, record.scale, record.offset, *[record.levels] * (record.levels is not None))
    if not all(torch.isfinite(value).all() for value in values):
        raise InputError(f"'{path}' cannot be frozen: its activation quantizer holds NaN or infinity")
    return record


def _codes(name: str, path: str, source: str, inputs: ActivationRecord) -> tuple[Node, Node]:
    """The nodes that make codes of real values, and real values of the codes."""
    limits = {"bits": inputs.bits, "low": inputs.low, "high": inputs.high, "axis": inputs.channel_axis}
    arrays = {"gain": _array(inputs.gain), "shift": _array(inputs.shift)}
    quantize = Node(f"{name}.quantize", "quantize", (source,), limits, arrays)
    if inputs.levels is not None:
        quantize = replace(quantize, op="compare", arrays={"levels": _array(inputs.levels)})
    arrays = {"scale": _array(inputs.scale), "offset": _array(inputs.offset)}
    return quantize, Node(f"{name}.dequantize", "dequantize", (quantize.name,), {}, arrays)


def _layer(step: Step, layers: Sequence[nn.Module]) -> list[Node]:
    """Nodes of a convolution or linear layer: quantize -> integer layer, or a float layer."""
    bias = np.zeros(len(step.weight)) if step.bias is None else _array(step.bias, np.float64)
    inputs = None if step.quantized is None else _record(layers[step.quantized], step.path)
    try:
        codes = None if step.codes is None else step.codes[0].record(step.codes[1])
    except ValueError as error:
        raise InputError(f"'{step.path}' cannot be frozen: {error}") from error
    if inputs is None or codes is None:
        nodes = [] if inputs is None else [*_codes(step.name, step.path, step.source, inputs)]
        arrays = {"weight": _array(step.weight), "bias": bias.astype(np.float32)}
        source = nodes[-1].name if nodes else step.source
        return [*nodes, Node(step.name, f"float_{step.kind}", (source,), step.geometry, arrays)]
    quantize, _ = _codes(step.name, step.path, step.source, inputs)
    scale, offset = float(inputs.scale), float(inputs.offset)
    code_gain, code_offset = inputs.integer_operand() or (1, 0)
    weight_scale = np.broadcast_to(_array(codes.scale, np.float64).reshape(-1), (len(step.weight),))
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
    attributes |= {"weight_bits": codes.bits, "weight_low": codes.low, "weight_stride": codes.stride, **step.geometry}
    return [quantize, Node(step.name, step.kind, (quantize.name,), attributes, arrays)]


def _array(tensor: Tensor, dtype: type = np.float32) -> np.ndarray:
    """A contiguous copy, since the model may train on."""
    tensor = tensor.detach().cpu()
    wide = tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
    return np.array(wide.numpy(), dtype=dtype)
