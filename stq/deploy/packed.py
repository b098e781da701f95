"""The packed file: a frozen network in a safetensors file, weights at their bit width.

Layout: a safetensors file (8 bytes header length, JSON header, tensors). Its metadata holds one key, ``stq``, a JSON
object ``{"format": "stq-packed", "version": 1, "input_size": [...], "nodes": [...]}``; a node is ``[name, op, inputs,
attributes, arrays]`` as in ``network.py``, ``arrays`` maps each array to its shape. Tensor ``<node>/<array>`` holds
its values; the weight codes of integer layers are uint8 bytes with ``(code - weight_low) / weight_stride`` in
``weight_bits`` bits each, in order, the first code in the lowest bits of the first byte, the last byte filled with 0.

Loading runs no code from the file. Whatever does not fit is refused with one InputError before any memory that the
file merely claims is taken.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from .integer import shapes
from .network import INTEGER_LAYERS, Network, Node

FORMAT, VERSION = "stq-packed", 1
_MOST = 2**24  # elements of an input; sizes, strides and pads are far below
_MOST_VALUES = 2**28  # elements of any value


def pack(codes: np.ndarray, bits: int, low: int, stride: int) -> np.ndarray:
    """Codes low, low + stride, ... as bytes (uint8, ceil(size * bits / 8)), ``bits`` bits each."""
    index = (codes.reshape(-1).astype(np.int64) - low) // stride
    planes = (index[:, None] >> np.arange(bits)) & 1
    return np.packbits(planes.astype(np.uint8).reshape(-1), bitorder="little")


def unpack(packed: np.ndarray, shape: tuple[int, ...], bits: int, low: int, stride: int) -> np.ndarray:
    """The int32 codes of ``pack``."""
    count = math.prod(shape)
    planes = np.unpackbits(packed, count=count * bits, bitorder="little").reshape(count, bits)
    index = planes.astype(np.int32) @ (1 << np.arange(bits, dtype=np.int32))
    return (low + stride * index).astype(np.int32).reshape(shape)


def export_packed(network: Network, input_size: tuple[int, ...], path: Path) -> Path:
    """Write the packed file."""
    from safetensors.numpy import save_file

    tensors, nodes = {}, []
    for node in network.nodes:
        for key, array in node.arrays.items():
            packed = node.op in INTEGER_LAYERS and key == "weight"
            value = pack(array, node["weight_bits"], node["weight_low"], node["weight_stride"]) if packed else array
            tensors[f"{node.name}/{key}"] = np.ascontiguousarray(value).reshape(value.shape)
        shapes = {key: list(array.shape) for key, array in node.arrays.items()}
        nodes.append([node.name, node.op, list(node.inputs), node.attributes, shapes])
    header = {"format": FORMAT, "version": VERSION, "input_size": list(input_size), "nodes": nodes}
    save_file(tensors, path, metadata={"stq": json.dumps(header, separators=(",", ":"))})
    return path


def load_packed(path: str | Path) -> tuple[Network, tuple[int, ...]]:
    """(network, input size) of a packed file. Raises InputError for anything but a whole, consistent file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no dictionary)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, OverflowError) as error:
        raise InputError(f"{path} is not a readable packed file: {error}") from None
    try:
        return _read(json.loads(metadata.get("stq", "")), tensors)
    except RecursionError:
        raise InputError(f"{path} is not a readable packed file: its description is nested too deeply") from None
    except ValueError as error:  # also JSONDecodeError
        raise InputError(f"{path} is not a packed file of version {VERSION}: {error}") from None


def _read(header: Any, tensors: dict[str, np.ndarray]) -> tuple[Network, tuple[int, ...]]:
    if not isinstance(header, dict) or header.get("format") != FORMAT or header.get("version") != VERSION:
        raise ValueError("its description is missing or of another format or version")
    size, listed = header.get("input_size"), header.get("nodes")
    if not _sizes(size) or math.prod(size) > _MOST:
        raise ValueError("its input size is not a list of 1 to 4 sizes of sensible length")
    if not isinstance(listed, list) or not listed:
        raise ValueError("it lists no nodes")
    nodes: dict[str, Node] = {}
    left = dict(tensors)
    for entry in listed:
        node = _node(entry, nodes, left)
        nodes[node.name] = node
    if left:
        raise ValueError(f"tensor '{next(iter(left))}' belongs to no node")
    network = Network(tuple(nodes.values()))
    if sum(node.op == "input" for node in network.nodes) != 1:
        raise ValueError("it has not exactly one input")
    for layer in network.of(*INTEGER_LAYERS):
        if network.bounds[layer.name] >= 2**31:
            raise ValueError(f"the sums of '{layer.name}' overflow 32 bits")
    if max(math.prod(shape) for shape in shapes(network, size).values()) > _MOST_VALUES:
        raise ValueError("its values are too large")
    return network, tuple(size)


def _node(entry: Any, before: dict[str, Node], tensors: dict[str, np.ndarray]) -> Node:
    kinds = (str, str, list, dict, dict)
    if not isinstance(entry, list) or [type(v) for v in entry] != list(kinds):
        raise ValueError("a node is not [name, op, inputs, attributes, arrays]")
    name, op, inputs, attributes, declared = entry
    if name in before or op not in _SCHEMA:
        raise ValueError(f"node '{name}' is there twice" if name in before else f"'{op}' is not an operation")
    count, wanted, arrays_wanted = _SCHEMA[op]
    if not all(isinstance(i, str) and i in before for i in inputs):
        raise ValueError(f"node '{name}' reads a node that does not come before it")
    if (len(inputs) != count) if count >= 0 else not inputs:
        raise ValueError(f"node '{name}' ({op}) has {len(inputs)} inputs")
    if set(attributes) != set(wanted) or not all(check(attributes[key]) for key, check in wanted.items()):
        raise ValueError(f"the attributes of node '{name}' ({op}) are not those of a {op}")
    optional = {"offset_multiplier"} if op in INTEGER_LAYERS else set()
    if not set(arrays_wanted) <= set(declared) <= set(arrays_wanted) | optional:
        raise ValueError(f"the arrays of node '{name}' ({op}) are not those of a {op}")
    arrays = {}
    for key, shape in declared.items():
        if not isinstance(shape, list) or not all(_whole(n) and 0 < n <= _MOST for n in shape):
            raise ValueError(f"array '{key}' of node '{name}' has no proper shape")
        if (tensor := tensors.pop(f"{name}/{key}", None)) is None:
            raise ValueError(f"tensor '{name}/{key}' is missing")
        arrays[key] = _array(f"{name}/{key}", tensor, tuple(shape), op, attributes)
    node = Node(name, op, tuple(inputs), attributes, arrays)
    _consistent(node, before)
    return node


def _array(name: str, tensor: np.ndarray, shape: tuple[int, ...], op: str, attributes: dict[str, Any]) -> np.ndarray:
    count = math.prod(shape)
    if op in INTEGER_LAYERS and name.endswith("/weight"):
        bits, low, stride = (attributes[f"weight_{key}"] for key in ("bits", "low", "stride"))
        if tensor.dtype != np.uint8 or tensor.shape != (-(-count * bits // 8),):
            raise ValueError(f"tensor '{name}' has not the bytes of {count} codes of {bits} bits")
        return unpack(tensor, shape, bits, low, stride)
    if tensor.shape != shape or tensor.dtype != np.float32 or not np.isfinite(tensor).all():
        raise ValueError(f"tensor '{name}' has not the declared shape, or is no array of finite float32 numbers")
    return tensor


def _consistent(node: Node, before: dict[str, Node]) -> None:
    """What no single attribute shows: dimensions of weights, limits of codes, codes where codes are wanted."""

    def wrong(what: str) -> ValueError:
        return ValueError(f"node '{node.name}' ({node.op}): {what}")

    source = before[node.inputs[0]] if node.inputs else None
    if (node.op in (*INTEGER_LAYERS, "dequantize")) != (source is not None and source.op == "quantize"):
        raise wrong("codes go to an integer layer or dequantize, and only codes do")
    if node.op == "quantize":
        if not (-256 <= node["low"] < node["high"] <= 255 and node["high"] - node["low"] < 2 ** node["bits"]):
            raise wrong("low and high do not fit the bits")
        if any(array.ndim > 1 for array in node.arrays.values()):
            raise wrong("gain and shift are one number or one a channel")
    if node.op.endswith(("conv", "linear")):
        weight = node.arrays["weight"]
        dims = 0 if node.op.endswith("linear") else weight.ndim - 2
        if (weight.ndim != 2) if node.op.endswith("linear") else dims not in (1, 2):
            raise wrong("its weight has the wrong number of axes")
        if dims and (
            [len(node[key]) for key in ("strides", "dilations", "pads")] != [dims, dims, 2 * dims]
            or len(weight) % node["groups"]
        ):
            raise wrong("its geometry does not fit its weight")
        if any(a.shape != (len(weight),) for key, a in node.arrays.items() if key != "weight"):
            raise wrong("its scales or bias are not one for each output channel")


def _whole(value: Any, least: int = -(2**15), most: int = _MOST) -> bool:
    return type(value) is int and least <= value <= most


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and 1 <= len(value) <= 4 and all(_whole(v, 1) for v in value)


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _flag(value: Any) -> bool:
    return type(value) is bool


def _between(least: int, most: int) -> Callable[[Any], bool]:
    return lambda value: _whole(value, least, most)


def _list(least: int, most: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and len(value) <= 8 and all(_whole(v, least, most) for v in value)


_POSITIVE, _PADS = _list(1, 4096), _list(0, 4096)
_GEOMETRY = {"strides": _POSITIVE, "pads": _PADS, "dilations": _POSITIVE, "groups": _between(1, 2**20)}
_INTEGER = {
    "code_gain": _between(1, 2),
    "code_offset": _between(-255, 0),
    "weight_bits": _between(1, 8),
    "weight_low": _between(-255, 255),
    "weight_stride": _between(1, 2),
}
_WEIGHTS = ("weight", "multiplier", "bias")
_POOL = {"kernel": _POSITIVE, "strides": _POSITIVE, "pads": _PADS, "ceil_mode": _flag}
# inputs (-1: one or more), attributes with their checks, arrays
_SCHEMA: dict[str, tuple[int, dict[str, Callable[[Any], bool]], tuple[str, ...]]] = {
    "input": (0, {}, ()),
    "constant": (0, {}, ("value",)),
    "quantize": (
        1,
        {"bits": _between(1, 8), "low": _between(-256, 255), "high": _between(-256, 255), "axis": _between(-4, -1)},
        ("gain", "shift"),
    ),
    "dequantize": (1, {}, ("scale", "offset")),
    "conv": (1, {**_INTEGER, **_GEOMETRY}, _WEIGHTS),
    "linear": (1, _INTEGER, _WEIGHTS),
    "float_conv": (1, _GEOMETRY, ("weight", "bias")),
    "float_linear": (1, {}, ("weight", "bias")),
    "affine": (1, {}, ("multiplier", "bias")),
    "prelu": (1, {}, ("slope",)),
    "clip": (1, {"low": _number, "high": _number}, ()),
    **{op: (1, {}, ()) for op in ("relu", "silu", "sigmoid", "hardswish", "hardsigmoid", "gelu", "tanh")},
    **{op: (2, {}, ()) for op in ("add", "mul")},
    "concat": (-1, {"axis": _between(-4, 4)}, ()),
    "max_pool": (1, {**_POOL, "dilations": _POSITIVE}, ()),
    "avg_pool": (1, {**_POOL, "count_include_pad": _flag}, ()),
    "adaptive_avg_pool": (1, {"size": _POSITIVE}, ()),
    "mean": (1, {"axes": _list(-4, 4), "keepdims": _flag}, ()),
    "flatten": (1, {"start": _between(-4, 4)}, ()),
    "slice": (1, {"steps": _POSITIVE}, ()),
    "pad": (1, {"before": _PADS, "after": _PADS}, ()),
}
