"""The values of a network in C: shapes, the type and place of each, constant arrays."""

from __future__ import annotations

import math
import re

import numpy as np

from ...errors import InputError
from ..compact import in_fewer_bytes
from ..integer.inference import shapes
from ..network import INTEGER_LAYERS, Network, Node, operand_limits
from .memory import Value, place

TYPES = {"int8_t": (-128, 127), "uint8_t": (0, 255), "int16_t": (-(2**15), 2**15 - 1), "int32_t": (-(2**31), 2**31)}
REAL, CODES = "float", "uint8_t"
_WORTH_IT = 8  # numbers
MOVES = ("max_pool", "slice", "pad")  # what moves values moves codes too
VIEWS = (
    "aten.reshape.default",
    "aten.view.default",
    "aten.unsqueeze.default",
    "aten.squeeze.dim",
    "aten.clone.default",
)


def literal(value: float) -> str:
    """A C literal that is exactly the float32 number."""
    text = repr(float(np.float32(value)))
    if text in ("inf", "-inf", "nan"):
        raise InputError("a constant of the network is not a finite number")
    return f"{text}f"


class Values:
    """Places for the values of a network with fused thresholds, for one sample; channels last in memory.

    pack: whether codes of few bits share bytes.
    """

    pack = False

    def __init__(self, network: Network, input_size: tuple[int, ...]):
        self.network, self.users = network, network.users()
        self.shapes = {name: tuple(shape[1:]) for name, shape in shapes(network, input_size).items()}
        for node in network.of("constant"):
            self.shapes[node.name] = tuple(node.arrays["value"].shape)
        self.arrays: list[str] = []
        self.types: dict[str, str] = {}
        self.aliases: dict[str, str] = {}  # a value that lies where another does
        self.scales: dict[str, str] = {}
        self.flash: dict[str, int] = {}  # bytes of constant arrays by the node that has them

    def shape(self, name: str) -> tuple[int, int, int]:
        """(channels, rows, columns) of a node's value."""
        shape = self.shapes[name]
        if len(shape) > 3:
            raise InputError(f"'{name}' has no C form: its value has {len(shape)} axes")
        return (*shape[:1], *(1,) * (3 - len(shape)), *shape[1:]) if len(shape) < 3 else shape

    def size(self, name: str) -> int:
        """Elements of a node's value."""
        return math.prod(self.shapes[name])

    def readers_of_codes(self, node: Node) -> list[Node]:
        """What takes the codes of a node in the end: integer layers, tables, what makes real values of them."""
        found: list[Node] = []
        for reader in self.users[node.name]:
            found += self.readers_of_codes(reader) if reader.op in MOVES else [reader]
        return found

    def stored(self, node: Node) -> tuple[int, int]:
        """(gain, first) of a node of codes: code ``low + n`` is stored as ``gain * n + first``."""
        node = self.network.source_of_codes(node.name)
        forms = {self._form(node, reader) for reader in self.readers_of_codes(node) if reader.op in INTEGER_LAYERS}
        others = [reader for reader in self.readers_of_codes(node) if reader.op not in INTEGER_LAYERS]
        if len(forms) > 1 or (others and any(gain != 1 for gain, _ in forms)):
            raise InputError(f"'{node.name}' has no C form: its codes are read in two ways")
        return next(iter(forms), (1, 0))

    def _form(self, node: Node, layer: Node) -> tuple[int, int]:
        lowest, highest = operand_limits(self.network, layer)
        if highest - lowest > 255:
            raise InputError(f"'{layer.name}' has no C form: its operands reach from {lowest} to {highest}")
        return layer["code_gain"], layer["code_gain"] * node["low"] + layer["code_offset"] - lowest

    def width(self, name: str) -> int:
        """Bits that each code of a value takes in memory: 1, 2, 4 or 8, and 8 where codes are not packed."""
        if not self.pack or self.types.get(name, CODES) != CODES:
            return 8
        node = self.network.source_of_codes(self.root(name))
        gain, first = self.stored(node)
        most = max(
            gain * (node["high"] - node["low"]) + first, first - gain * node["low"]
        )  # or zero, where it is padded
        return next(bits for bits in (1, 2, 4, 8) if most < 2**bits)

    def bytes_of(self, name: str) -> int:
        """Of a value in memory."""
        return -(-self.size(name) * self.width(name) // 8) if self.types.get(name) == CODES else 4 * self.size(name)

    def zero(self, layer: Node) -> int:
        """What is stored for an operand of 0; the least operand is stored as 0."""
        return -operand_limits(self.network, layer)[0]

    def numbers(self, node: Node, key: str, values: np.ndarray) -> str:
        """The name of a new constant array of real numbers that only expressions read: of int8 where that is exact."""
        stored = in_fewer_bytes(values.astype(np.float32)) if values.size >= _WORTH_IT else {}
        if ".scale" not in stored:
            return self.array(node, key, values, REAL)
        name = self.array(node, key, stored[""], "int8_t")
        self.scales[name] = literal(stored[".scale"][0])
        return name

    def with_scales(self, text: str) -> str:
        """Text in which elements of arrays of int8 have become the real numbers that they stand for."""
        for name, scale in self.scales.items():
            text = re.sub(rf"\b{name}\[([^\[\]]*)\]", rf"({scale} * (float){name}[\1])", text)
        return text

    def array(self, node: Node, key: str, values: np.ndarray, kind: str) -> str:
        """The name of a new constant array."""
        name = f"a{len(self.arrays)}_" + re.sub(r"\W", "_", f"{node.name}_{key}")
        shown = [literal(v) if kind == REAL else str(int(v)) for v in values.reshape(-1)]
        rows = [", ".join(shown[i : i + 20]) for i in range(0, len(shown), 20)]
        self.arrays.append(f"static const {kind} {name}[{values.size}] = {{\n    " + ",\n    ".join(rows) + "};")
        bytes_each = {"int8_t": 1, "uint8_t": 1, "int16_t": 2, "uint16_t": 2, "int64_t": 8}.get(kind, 4)
        self.flash[node.name] = self.flash.get(node.name, 0) + bytes_each * values.size
        return name

    def root(self, name: str) -> str:
        """The value whose place another one shares."""
        while name in self.aliases:
            name = self.aliases[name]
        return name

    def placed(self, steps: list[tuple[str, tuple[str, ...]]]) -> tuple[dict[str, str], int]:
        """The C expression of every value, and the bytes of memory; steps: what is written, and read, in order."""
        alive: dict[str, Value] = {}
        for index, (name, inputs) in enumerate(steps):
            for each in (name, *inputs):
                root = self.root(each)
                if root not in self.types or self.types[root] == "":
                    continue
                value = alive.setdefault(root, Value(root, 0, index, index))
                value.bytes, value.last = max(value.bytes, self.bytes_of(each)), index
        offsets, total = place(list(alive.values()))
        found = {}
        for name in self.types:
            if (root := self.root(name)) in offsets:
                at = offsets[root]
                real = self.types[name] == REAL
                found[name] = f"(stq_memory + {at // 4})" if real else f"((uint8_t *)stq_memory + {at})"
        return found, total
