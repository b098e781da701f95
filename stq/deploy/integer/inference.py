"""Reference inference of a frozen network: integer codes, 32-bit accumulation, float32 where numbers are real."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from ...errors import InputError
from .. import aten
from ..network import Network, Node

_EXACT_FLOAT32 = 2**24  # integers up to here, and so all partial sums of them, are exact in float32

ELEMENTWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "gelu": F.gelu,
    "tanh": torch.tanh,
}


@torch.no_grad()
def run(
    network: Network,
    x: Tensor | np.ndarray,
    observe: Callable[[Node, Tensor], Tensor | None] | None = None,
) -> Tensor:
    """The network's output for a batch ``x``, float32.

    observe: called with each node and its value; a tensor that it returns takes the value's place (to compare layer
    by layer, each with the inputs of another implementation). Codes are int32 tensors.
    """
    values: dict[str, Tensor] = {}
    readers = {name: len(nodes) for name, nodes in network.users().items()}
    for node in network.nodes:
        inputs = [values[name] for name in node.inputs]
        value = torch.as_tensor(x, dtype=torch.float32) if node.op == "input" else _told(network, node, inputs, x)
        if observe is not None and (instead := observe(node, value)) is not None:
            value = instead
        values[node.name] = value
        for name in node.inputs:
            readers[name] -= 1
            if not readers[name]:
                values.pop(name, None)
    return values[network.output]


def shapes(network: Network, input_size: Sequence[int], batch: int = 1) -> dict[str, tuple[int, ...]]:
    """The shape of each node's value for ``batch`` samples, (batch, ...), without computing any.

    Raises InputError naming the first node that does not fit the sizes before it.
    """
    found: dict[str, tuple[int, ...]] = {}
    with FakeTensorMode(allow_non_fake_inputs=True), _without_tracebacks():
        run(network, torch.zeros(batch, *input_size), lambda node, value: found.update({node.name: _shape(value)}))
    return found


def _told(network: Network, node: Node, inputs: list[Any], x: Tensor | np.ndarray) -> Any:
    """``evaluate``, with the node named where it does not fit what comes before it."""
    try:
        return evaluate(network, node, inputs)
    except (RuntimeError, IndexError, TypeError, AssertionError, OverflowError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        what = node.attributes.get("target", node.op)
        raise InputError(
            f"'{node.name}' ({what}) does not fit an input of size {tuple(x.shape[1:])}: {reason}"
        ) from error


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(value.shape) if isinstance(value, Tensor) else ()  # a size, or several tensors, each an item of it


@contextmanager
def _without_tracebacks() -> Iterator[None]:
    """torch logs a traceback of its own beside the error that it raises."""
    logger = logging.getLogger(FakeTensorMode.__module__)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def evaluate(network: Network, node: Node, inputs: list[Tensor]) -> Tensor:
    """One operation."""
    if node.op in ELEMENTWISE:
        return ELEMENTWISE[node.op](inputs[0])
    if node.op == "table":
        return _table(network, node, inputs)
    if node.op in ("conv", "linear"):
        accumulator = accumulate(network, node, inputs[0])
        return accumulator if node.attributes.get("fused") else real_output(node, accumulator, inputs[0])
    return _OPERATIONS[node.op](node, *inputs)


def accumulate(network: Network, layer: Node, codes: Tensor) -> Tensor:
    """Integer accumulator of an integer layer, exact; int32 (freeze has checked that no partial sum overflows).

    torch has no integer convolution on the CPU. A float convolution of integers is the same integer as long as every
    partial sum is representable, which decides between float32 and float64 here.
    """
    dtype = torch.float32 if network.bounds[layer.name] < _EXACT_FLOAT32 else torch.float64
    operand = (layer["code_gain"] * codes + layer["code_offset"]).to(dtype)
    return _apply(layer, operand, torch.from_numpy(layer.arrays["weight"]).to(dtype)).to(torch.int32)


def real_output(layer: Node, accumulator: Tensor, codes: Tensor | None = None) -> Tensor:
    """``multiplier * acc + bias`` in float32, as every export computes it; ``codes``: the input, for its shape."""
    multiplier, bias = (per_channel(layer, key, accumulator.dim()) for key in ("multiplier", "bias"))
    if "offset_multiplier" in layer.arrays:
        valid = torch.ones_like(codes[:1], dtype=torch.float32)
        weights = _apply(layer, valid, torch.from_numpy(layer.arrays["weight"]).float())
        bias = per_channel(layer, "offset_multiplier", accumulator.dim()) * weights + bias
    return multiplier * accumulator.float() + bias


def per_channel(layer: Node, key: str, dims: int) -> Tensor:
    """An array of shape (O,) viewed to broadcast over a layer's output."""
    after = dims - 2 if layer.op == "conv" else 0
    return torch.from_numpy(layer.arrays[key]).reshape(-1, *(1,) * after)


def _apply(layer: Node, operand: Tensor, weight: Tensor) -> Tensor:
    if layer.op.endswith("linear"):
        return F.linear(operand, weight)
    dims = weight.dim() - 2
    pads = layer["pads"]
    if pads[:dims] == pads[dims:]:
        padding: list[int] = pads[:dims]
    else:  # F.pad wants (before, after) of each axis, last axis first
        padding = [0] * dims
        operand = F.pad(operand, [p for i in reversed(range(dims)) for p in (pads[i], pads[dims + i])])
    convolve = F.conv2d if dims == 2 else F.conv1d
    return convolve(operand, weight, None, layer["strides"], padding, layer["dilations"], layer["groups"])


def _quantize(node: Node, x: Tensor) -> Tensor:
    gain, shift = (
        torch.from_numpy(array).reshape(-1, *(1,) * (-node["axis"] - 1)) if array.ndim else torch.from_numpy(array)
        for array in (node.arrays["gain"], node.arrays["shift"])
    )
    if not isinstance(x, FakeTensor) and torch.isnan(x).any():  # shapes alone have no values to look at
        raise ValueError(f"the input of '{node.name}' holds NaN, which has no integer code")
    return torch.clamp(gain * x - shift, node["low"], node["high"]).round().to(torch.int32)


def _compare(node: Node, x: Tensor) -> Tensor:
    after = (1,) * (-node["axis"] - 1)
    if not isinstance(x, FakeTensor) and torch.isnan(x).any():
        raise ValueError(f"the input of '{node.name}' holds NaN, which has no integer code")
    codes = torch.full(x.shape, node["low"], dtype=torch.int32)
    for level in torch.from_numpy(node.arrays["levels"]).unbind(1):
        codes = codes + (x >= level.reshape(-1, *after))
    return codes


def _threshold(node: Node, accumulator: Tensor) -> Tensor:
    shape = (-1, *(1,) * (accumulator.dim() - 2))
    signed = accumulator * torch.from_numpy(node.arrays["sign"]).reshape(shape)
    codes = torch.full_like(accumulator, node["low"])
    for level in torch.from_numpy(node.arrays["thresholds"]).unbind(1):
        codes += signed >= level.reshape(shape)
    return codes


def _table(network: Network, node: Node, inputs: list[Tensor]) -> Tensor:
    total = torch.zeros_like(inputs[0])
    for name, codes in zip(node.inputs, inputs, strict=True):
        total = total + (codes - network.source_of_codes(name)["low"])
    table = torch.from_numpy(node.arrays["table"]).to(torch.int32)
    return node["low"] + table[total.long()]


def _float_layer(node: Node, x: Tensor) -> Tensor:
    output = _apply(node, x, torch.from_numpy(node.arrays["weight"]))
    bias = torch.from_numpy(node.arrays["bias"])
    return output + (bias if node.op == "float_linear" else bias.reshape(-1, *(1,) * (output.dim() - 2)))


def _affine(node: Node, x: Tensor) -> Tensor:
    shape = (-1, *(1,) * (x.dim() - 2))
    multiplier, bias = (torch.from_numpy(node.arrays[key]).reshape(shape) for key in ("multiplier", "bias"))
    return x * multiplier + bias


def _max_pool(node: Node, x: Tensor) -> Tensor:
    settings = {"stride": node["strides"], "padding": node["pads"][:2], "dilation": node["dilations"]}
    pooled = F.max_pool2d(x.float(), node["kernel"], ceil_mode=node["ceil_mode"], **settings)
    return pooled.to(x.dtype)


def _avg_pool(node: Node, x: Tensor) -> Tensor:
    return F.avg_pool2d(
        x, node["kernel"], node["strides"], node["pads"][:2], node["ceil_mode"], node["count_include_pad"]
    )


def _pad(node: Node, x: Tensor) -> Tensor:
    both = zip(node["before"], node["after"], strict=True)
    return F.pad(x, [p for axis in reversed(list(both)) for p in axis])


def _prelu(node: Node, x: Tensor) -> Tensor:
    return F.prelu(x, torch.from_numpy(node.arrays["slope"]).reshape(-1))


_OPERATIONS: Mapping[str, Callable[..., Tensor]] = {
    "quantize": _quantize,
    "compare": _compare,
    "threshold": _threshold,
    "dequantize": lambda node, q: torch.from_numpy(node.arrays["scale"]) * q + torch.from_numpy(node.arrays["offset"]),
    "float_conv": _float_layer,
    "float_linear": _float_layer,
    "affine": _affine,
    "prelu": _prelu,
    "clip": lambda node, x: x.clamp(node["low"], node["high"]),
    "add": lambda node, a, b: a + b,
    "mul": lambda node, a, b: a * b,
    "concat": lambda node, *xs: torch.cat(xs, node["axis"]),
    "constant": lambda node: torch.from_numpy(node.arrays["value"]),
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "mean": lambda node, x: x.mean(tuple(node["axes"]), node["keepdims"]),
    "slice": lambda node, x: x[tuple(slice(None, None, step) for step in node["steps"])],
    "pad": _pad,
    "adaptive_avg_pool": lambda node, x: F.adaptive_avg_pool2d(x, node["size"]),
    "flatten": lambda node, x: x.flatten(node["start"]),
    "aten": lambda node, *xs: aten.call(node["target"], node["arguments"], xs),
    "item": lambda node, xs: xs[node["index"]],
}
