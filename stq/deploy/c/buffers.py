"""Where the C export keeps values: types, buffers that are used again once their value is read, const arrays."""

from __future__ import annotations

import math
import re

import numpy as np

from ...errors import InputError
from ..integer.inference import shapes
from ..network import INTEGER_LAYERS, Network, Node
from .templates import TYPES, literal


class BufferWriter:
    """Places for the values of a network with fused thresholds, for one sample."""

    def __init__(self, network: Network, input_size: tuple[int, ...]):
        self.network, self.users = network, network.users()
        self.shapes = shapes(network, input_size)
        self.arrays: list[str] = []
        self.buffers: list[tuple[str, int]] = []  # (type, elements)
        self.places: dict[str, str] = {}  # node -> C name
        self.types: dict[str, str] = {}
        self.free: list[int] = []

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a node's value without the batch, padded to (channels, rows, columns)."""
        shape = self.shapes[name][1:]
        return (*shape[:1], *(1,) * (3 - len(shape)), *shape[1:]) if len(shape) < 3 else shape

    def _read_by(self, node: Node) -> list[str]:
        if node.op == "threshold":
            return list(self.network[node.inputs[0]].inputs)
        return list(node.inputs)

    def _buffer(self, kind: str, size: int) -> int:
        """A free buffer of the type (the largest, grown where needed), or a new one."""
        fitting = [i for i in self.free if self.buffers[i][0] == kind]
        if not fitting:
            self.buffers.append((kind, size))
            return len(self.buffers) - 1
        chosen = max(fitting, key=lambda i: self.buffers[i][1])
        self.free.remove(chosen)
        self.buffers[chosen] = (kind, max(size, self.buffers[chosen][1]))
        return chosen

    def _release(self, name: str, held: dict[str, int], left: dict[str, int]) -> None:
        left[name] -= 1
        if left[name] == 0 and name in held:
            buffer = held.pop(name)
            if buffer not in held.values():
                self.free.append(buffer)

    def _is_view(self, node: Node) -> bool:
        return math.prod(self.shape(node.name)) == math.prod(self.shape(node.inputs[0]))

    def _alias(self, node: Node, held: dict[str, int], left: dict[str, int]) -> None:
        source = node.inputs[0]
        self.places[node.name], self.types[node.name] = self.places[source], self.types[source]
        if source in held:
            held[node.name] = held[source]
        self._release(source, held, left)

    def _type(self, node: Node) -> str:
        """Codes are stored as the operands of their layer, in the smallest type."""
        if node.op in ("quantize", "threshold"):
            reader = self._layer_after(node)
            ends = [reader["code_gain"] * node[key] + reader["code_offset"] for key in ("low", "high")]
            return next(k for k, (least, most) in TYPES.items() if least <= min(ends) and max(ends) <= most)
        return self.types[node.inputs[0]] if node.op == "max_pool" else "float"

    def _layer_after(self, node: Node) -> Node:
        (reader,) = self.users[node.name]
        if reader.op not in (*INTEGER_LAYERS, "max_pool"):
            raise InputError(f"'{reader.name}' has no C form: its layer has float weights")
        return reader if reader.op in INTEGER_LAYERS else self._layer_after(reader)

    def _const_array(self, node: Node, key: str, array: np.ndarray, kind: str) -> str:
        name = re.sub(r"\W", "_", f"{node.name}_{key}")
        name = f"a{len(self.arrays)}_{name}"
        if kind == "float":
            shown = [literal(v) for v in array.reshape(-1)]
        else:
            shown = [str(int(v)) for v in array.reshape(-1)]
        rows = [", ".join(shown[i : i + 16]) for i in range(0, len(shown), 16)]
        self.arrays.append(f"static const {kind} {name}[{array.size}] = {{\n    " + ",\n    ".join(rows) + "};")
        return name
