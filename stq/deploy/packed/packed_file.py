"""The packed file: a frozen network in a safetensors file, weights at their bit width.

Layout: a safetensors file (8 bytes header length, JSON header, tensors). Its metadata holds a key ``stq``, a JSON
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
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ..about import About, checksum
from ..integer.inference import shapes
from ..network import INTEGER_LAYERS, Network, Node
from .schema import ANY, MOST, SCHEMA, check_consistent, is_sizes, is_whole

FORMAT, VERSION = "stq-packed", 1
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


def export_packed(network: Network, input_size: tuple[int, ...], path: Path, about: About) -> Path:
    """Write the packed file."""
    from safetensors.numpy import save

    tensors, nodes = {}, []
    for node in network.nodes:
        for key, array in node.arrays.items():
            packed = node.op in INTEGER_LAYERS and key == "weight"
            value = pack(array, node["weight_bits"], node["weight_low"], node["weight_stride"]) if packed else array
            tensors[f"{node.name}/{key}"] = np.ascontiguousarray(value).reshape(value.shape)
        shapes = {key: list(array.shape) for key, array in node.arrays.items()}
        nodes.append([node.name, node.op, list(node.inputs), node.attributes, shapes])
    header = {"format": FORMAT, "version": VERSION, "input_size": list(input_size), "nodes": nodes}
    described = json.dumps(header, separators=(",", ":"))
    facts = {**about.entries(), "stq.checksum": checksum(described.encode() + save(tensors))}
    path.write_bytes(save(tensors, metadata={"stq": described, **facts}))
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
    if not is_sizes(size) or math.prod(size) > MOST:
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
    if name in before or op not in SCHEMA:
        raise ValueError(f"node '{name}' is there twice" if name in before else f"'{op}' is not an operation")
    count, wanted, arrays_wanted = SCHEMA[op]
    if not all(isinstance(i, str) and i in before for i in inputs):
        raise ValueError(f"node '{name}' reads a node that does not come before it")
    if (len(inputs) != count) if count >= 0 else (count != ANY and not inputs):
        raise ValueError(f"node '{name}' ({op}) has {len(inputs)} inputs")
    if set(attributes) != set(wanted) or not all(check(attributes[key]) for key, check in wanted.items()):
        raise ValueError(f"the attributes of node '{name}' ({op}) are not those of a {op}")
    optional = {"offset_multiplier"} if op in INTEGER_LAYERS else set()
    if not set(arrays_wanted) <= set(declared) <= set(arrays_wanted) | optional:
        raise ValueError(f"the arrays of node '{name}' ({op}) are not those of a {op}")
    arrays = {}
    for key, shape in declared.items():
        if not isinstance(shape, list) or not all(is_whole(n) and 0 < n <= MOST for n in shape):
            raise ValueError(f"array '{key}' of node '{name}' has no proper shape")
        if (tensor := tensors.pop(f"{name}/{key}", None)) is None:
            raise ValueError(f"tensor '{name}/{key}' is missing")
        arrays[key] = _array(f"{name}/{key}", tensor, tuple(shape), op, attributes)
    node = Node(name, op, tuple(inputs), attributes, arrays)
    check_consistent(node, before)
    return node


def _array(name: str, tensor: np.ndarray, shape: tuple[int, ...], op: str, attributes: dict[str, Any]) -> np.ndarray:
    count = math.prod(shape)
    if op in INTEGER_LAYERS and name.endswith("/weight"):
        bits, low, stride = (attributes[f"weight_{key}"] for key in ("bits", "low", "stride"))
        if tensor.dtype != np.uint8 or tensor.shape != (-(-count * bits // 8),):
            raise ValueError(f"tensor '{name}' has not the bytes of {count} codes of {bits} bits")
        return unpack(tensor, shape, bits, low, stride)
    kinds = (np.float32, np.int64, np.int32, np.bool_) if op == "constant" else (np.float32,)
    if tensor.shape != shape or tensor.dtype not in kinds or not np.isfinite(tensor).all():
        raise ValueError(f"tensor '{name}' has not the declared shape, or is no array of finite float32 numbers")
    return tensor
