"""The packed file: a frozen network in a safetensors file, weights at their bit width.

Layout: a safetensors file (8 bytes header length, JSON header, tensors). Its metadata holds a key ``stq``, a JSON
object ``{"format": "stq-packed", "version": 4, "input_size": [...], "nodes": [...]}``, or where that is long ``zlib:``
and the same compressed, in base64; a node is ``[name, op, inputs, attributes, arrays]`` as in ``network.py``. Tensor
``<node>/weight`` of an integer layer holds its codes: uint8 bytes with ``(code - weight_low) / weight_stride`` in
``weight_bits`` bits each, in order, the first code in the lowest bits of the first byte, the last byte filled with 0.
``arrays`` maps it to its shape, a single float32 number to itself, and each other array to ``[shape, type]``; their
bytes stand one after the other, in the order of the description, in the tensor ``arrays``. Real numbers are float32,
or what is the same in fewer bytes: float16, or int8 times a float32 number, which stands in the place of the type.

In versions 1 to 3 every array is a tensor of its own, ``<node>/<array>``, and ``arrays`` has shapes, in version 3
``[shape, scale]``; in version 2 that is tensor ``<node>/<array>.scale``.

``stq.checksum`` is the SHA-256 of the description, the table of tensors and their bytes; it is read through before
anything else is. Loading runs no code from the file. Whatever does not fit is refused with one InputError before any
memory that the file merely claims is taken.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ..about import About
from ..compact import in_fewer_bytes
from ..integer.inference import shapes
from ..network import INTEGER_LAYERS, Network, Node
from .schema import ANY, MOST, SCHEMA, check_consistent, is_number, is_sizes, is_whole

FORMAT, VERSION = "stq-packed", 4
_ARRAYS = "arrays"  # the tensor of all arrays but weights
_TYPES = ("float32", "float16", "int64", "int32", "bool")
_COMPRESSED, _LONG = "zlib:", 2**12  # of the description, in characters
_MOST_TEXT = 2**26
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

    tensors, others, nodes = {}, [], []
    for node in network.nodes:
        arrays: dict[str, Any] = {}
        for key, array in node.arrays.items():
            if node.op in INTEGER_LAYERS and key == "weight":
                arrays[key] = list(array.shape)
                packed = pack(array, node["weight_bits"], node["weight_low"], node["weight_stride"])
                tensors[f"{node.name}/{key}"] = packed
            elif array.ndim == 0 and array.dtype == np.float32 and np.isfinite(array):
                arrays[key] = float(array)
            else:
                stored = in_fewer_bytes(array)
                kind = float(stored[".scale"][0]) if ".scale" in stored else stored[""].dtype.name
                arrays[key] = [list(array.shape), kind]
                others.append(stored[""].astype(stored[""].dtype.newbyteorder("<")).tobytes())
        nodes.append([node.name, node.op, list(node.inputs), node.attributes, arrays])
    if others:
        tensors[_ARRAYS] = np.frombuffer(b"".join(others), np.uint8)
    header = {"format": FORMAT, "version": VERSION, "input_size": list(input_size), "nodes": nodes}
    described = json.dumps(header, separators=(",", ":"))
    if len(described) > _LONG:
        described = _COMPRESSED + base64.b64encode(zlib.compress(described.encode(), 9)).decode()
    path.write_bytes(save(tensors, metadata={"stq": described, **about.entries()}))
    told = {"stq": described, **about.entries(), "stq.checksum": file_checksum(path, described)}
    path.write_bytes(save(tensors, metadata=told))
    return path


def file_checksum(path: Path, described: str) -> str:
    """SHA-256 of a description, of the table of tensors and of their bytes, read piece by piece. Raises ValueError."""
    size, digest = path.stat().st_size, hashlib.sha256(described.encode())
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size - 8, _MOST_TEXT):
            raise ValueError("its header is longer than it")
        table = json.loads(file.read(length))
        if not isinstance(table, dict):
            raise ValueError("its header is no table")
        table.pop("__metadata__", None)
        digest.update(json.dumps(table, sort_keys=True, separators=(",", ":")).encode())
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()


def load_packed(path: str | Path) -> tuple[Network, tuple[int, ...]]:
    """(network, input size) of a packed file. Raises InputError for anything but a whole, consistent file."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            _check_whole(path, metadata)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no dictionary)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except RecursionError:
        raise InputError(f"{path} is not a readable packed file: its header is nested too deeply") from None
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, OverflowError) as error:
        raise InputError(f"{path} is not a readable packed file: {error}") from None
    try:
        return _read(json.loads(_description(metadata.get("stq", ""))), tensors)
    except RecursionError:
        raise InputError(f"{path} is not a readable packed file: its description is nested too deeply") from None
    except ValueError as error:  # also JSONDecodeError
        raise InputError(f"{path} is not a packed file of version 1 to 4: {error}") from None


def _check_whole(path: Path, metadata: dict[str, str]) -> None:
    """Raise ValueError for a file that is not as it was written; those of version 1 do not say."""
    described, recorded = metadata.get("stq", ""), metadata.get("stq.checksum")
    if '"version":1,' in described[:200] or '"version": 1,' in described[:200] or not described:
        return
    if recorded is None:
        raise ValueError("it has no checksum")
    if file_checksum(path, described) != recorded:
        raise ValueError("it is damaged: its checksum is another")


def _description(text: str) -> str:
    if not text.startswith(_COMPRESSED):
        return text
    unpacker = zlib.decompressobj()
    try:
        found = unpacker.decompress(base64.b64decode(text.removeprefix(_COMPRESSED), validate=True), _MOST_TEXT)
        return found.decode()
    except zlib.error as error:
        raise ValueError(f"its description is damaged ({error})") from None


def _read(header: Any, tensors: dict[str, np.ndarray]) -> tuple[Network, tuple[int, ...]]:
    if not isinstance(header, dict) or header.get("format") != FORMAT or header.get("version") not in (1, 2, 3, 4):
        raise ValueError("its description is missing or of another format or version")
    size, listed = header.get("input_size"), header.get("nodes")
    if not is_sizes(size) or math.prod(size) > MOST:
        raise ValueError("its input size is not a list of 1 to 4 sizes of sensible length")
    if not isinstance(listed, list) or not listed:
        raise ValueError("it lists no nodes")
    nodes: dict[str, Node] = {}
    left = dict(tensors)
    others = _Others(left.pop(_ARRAYS, None)) if header["version"] == VERSION else None
    for entry in listed:
        node = _node(entry, nodes, left, others)
        nodes[node.name] = node
    if left:
        raise ValueError(f"tensor '{next(iter(left))}' belongs to no node")
    if others is not None and others.left:
        raise ValueError(f"{others.left} bytes of tensor '{_ARRAYS}' belong to no node")
    network = Network(tuple(nodes.values()))
    if sum(node.op == "input" for node in network.nodes) != 1:
        raise ValueError("it has not exactly one input")
    for layer in network.of(*INTEGER_LAYERS):
        if network.bounds[layer.name] >= 2**31:
            raise ValueError(f"the sums of '{layer.name}' overflow 32 bits")
    if max(math.prod(shape) for shape in shapes(network, size).values()) > _MOST_VALUES:
        raise ValueError("its values are too large")
    return network, tuple(size)


class _Others:
    """The arrays that are no weights, read in the order in which they stand."""

    def __init__(self, tensor: np.ndarray | None):
        if tensor is not None and (tensor.dtype != np.uint8 or tensor.ndim != 1):
            raise ValueError(f"tensor '{_ARRAYS}' is no row of bytes")
        self._bytes, self._at = b"" if tensor is None else tensor.tobytes(), 0

    @property
    def left(self) -> int:
        """How many bytes have not been read."""
        return len(self._bytes) - self._at

    def next(self, name: str, shape: list[int], kind: Any) -> np.ndarray:
        """The next array, of a type or of int8 codes times a number. Raises ValueError."""
        if not (is_number(kind) or kind in _TYPES):
            raise ValueError(f"array '{name}' has neither a type nor a scale")
        stored = np.dtype(np.int8 if is_number(kind) else kind)
        end = self._at + math.prod(shape) * stored.itemsize
        if end > len(self._bytes):
            raise ValueError(f"tensor '{_ARRAYS}' ends before array '{name}'")
        found = np.frombuffer(self._bytes[self._at : end], stored.newbyteorder("<")).reshape(shape).astype(stored)
        self._at = end
        return _widened(name, found, np.array([kind], np.float32) if is_number(kind) else None)


def _node(entry: Any, before: dict[str, Node], tensors: dict[str, np.ndarray], others: _Others | None) -> Node:
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
        if is_number(shape):
            arrays[key] = np.array(shape, np.float32)
            continue
        kind = None
        if isinstance(shape, list) and len(shape) == 2 and isinstance(shape[0], list):
            shape, kind = shape
        if not isinstance(shape, list) or not all(is_whole(n) and 0 < n <= MOST for n in shape):
            raise ValueError(f"array '{key}' of node '{name}' has no proper shape")
        weight = op in INTEGER_LAYERS and key == "weight"
        if others is not None and not weight:
            tensor = others.next(f"{name}/{key}", shape, kind)
        elif (tensor := tensors.pop(f"{name}/{key}", None)) is None:
            raise ValueError(f"tensor '{name}/{key}' is missing")
        elif not weight:
            scale = tensors.pop(f"{name}/{key}.scale", np.array([kind], np.float32) if is_number(kind) else None)
            tensor = _widened(f"{name}/{key}", tensor, scale)
        arrays[key] = _array(f"{name}/{key}", tensor, tuple(shape), op, attributes)
    node = Node(name, op, tuple(inputs), attributes, arrays)
    check_consistent(node, before)
    return node


def _widened(name: str, tensor: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    """The float32 numbers of float16 ones, or of int8 ones and their scale."""
    if scale is not None:
        if tensor.dtype != np.int8 or scale.dtype != np.float32 or scale.shape != (1,) or not np.isfinite(scale).all():
            raise ValueError(f"tensor '{name}' and its scale are not int8 and one float32 number")
        return tensor.astype(np.float32) * scale[0]
    return tensor.astype(np.float32) if tensor.dtype == np.float16 else tensor


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
