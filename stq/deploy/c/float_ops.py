"""Operations of the C export that work on real numbers (or only move values)."""

from __future__ import annotations

import re

from ...errors import InputError
from ..network import Node
from .buffers import BufferWriter
from .templates import literal


class RealWriter(BufferWriter):
    """Writes one C block for each operation that is no integer layer."""

    def _each(self, node: Node, statement: str) -> str:
        """A statement for each element; ``c`` is its channel, ``at`` its place."""
        channels, rows, columns = self.shape(node.name)
        plane = rows * columns
        used = f"int c = at / {plane}; " if re.search(r"\bc\b", statement) else ""
        return f"for (int at = 0; at < {channels * plane}; at++) {{\n    {used}{statement}\n}}\n"

    def _map(self, node: Node, expression: str) -> str:
        x = self.places[node.inputs[0]]
        return self._each(node, f"float v = {x}[at];\n    {self.places[node.name]}[at] = {expression};")

    def _relu(self, node: Node) -> str:
        return self._map(node, "v > 0.0f ? v : 0.0f")

    def _clip(self, node: Node) -> str:
        low, high = (literal(node[key]) for key in ("low", "high"))
        return self._map(node, f"v < {low} ? {low} : (v > {high} ? {high} : v)")

    def _prelu(self, node: Node) -> str:
        slope = node.arrays["slope"]
        name = self._const_array(node, "slope", slope, "float")
        return self._map(node, f"v > 0.0f ? v : v * {name}[{'c' if slope.size > 1 else '0'}]")

    def _affine(self, node: Node) -> str:
        multiplier, bias = (self._const_array(node, k, node.arrays[k], "float") for k in ("multiplier", "bias"))
        return self._map(node, f"stq_sum(v * {multiplier}[c], {bias}[c])")

    def _add(self, node: Node) -> str:
        if self.shape(node.inputs[0]) != self.shape(node.inputs[1]):
            raise InputError(f"'{node.name}' has no C form: it adds tensors of different shapes")
        a, b = (self.places[name] for name in node.inputs)
        return self._each(node, f"{self.places[node.name]}[at] = {a}[at] + {b}[at];")

    def _mean(self, node: Node) -> str:
        if [axis % 4 for axis in node["axes"]] != [2, 3]:
            raise InputError(f"'{node.name}' has no C form: a mean over axes {node['axes']}")
        channels, rows, columns = self.shape(node.inputs[0])
        plane = rows * columns
        return (
            f"for (int c = 0; c < {channels}; c++) {{\n    double sum = 0;\n"
            f"    for (int i = 0; i < {plane}; i++) sum += {self.places[node.inputs[0]]}[c * {plane} + i];\n"
            f"    {self.places[node.name]}[c] = (float)(sum / {plane});\n}}\n"
        )

    def _max_pool(self, node: Node) -> str:
        kind = self.types[node.name]
        return self._pool(
            node, f"{kind} best = 0; int any = 0;", "if (!any || {v} > best) best = {v};\n any = 1;", "best"
        )

    def _avg_pool(self, node: Node) -> str:
        if (node["count_include_pad"] and any(node["pads"])) or node["ceil_mode"]:
            raise InputError(f"'{node.name}' has no C form: average pooling that counts padding, or rounds sizes up")
        return self._pool(node, "double sum = 0; int any = 0;", "sum += {v};\n any++;", "(float)(sum / any)")

    def _adaptive_avg_pool(self, node: Node) -> str:
        (_, height, width), (_, rows, columns) = self.shape(node.inputs[0]), self.shape(node.name)
        if height % rows or width % columns:
            raise InputError(f"'{node.name}' has no C form: it pools {height} x {width} to {rows} x {columns}")
        kernel = [height // rows, width // columns]
        pool = node.changed(kernel=kernel, strides=kernel, pads=[0] * 4, ceil_mode=False, count_include_pad=False)
        return self._avg_pool(pool)

    def _pool(self, node: Node, start: str, step: str, finish: str) -> str:
        (channels, height, width), (_, rows, columns) = self.shape(node.inputs[0]), self.shape(node.name)
        (ky, kx), (sy, sx), (top, left) = node["kernel"], node["strides"], node["pads"][:2]
        dy, dx = node.attributes.get("dilations", (1, 1))
        value = f"{self.places[node.inputs[0]]}[(c * {height} + row) * {width} + column]"
        return f"""\
for (int c = 0; c < {channels}; c++)
for (int y = 0; y < {rows}; y++)
for (int z = 0; z < {columns}; z++) {{
    {start}
    for (int ky = 0; ky < {ky}; ky++)
    for (int kx = 0; kx < {kx}; kx++) {{
        int row = y * {sy} + ky * {dy} - {top}, column = z * {sx} + kx * {dx} - {left};
        if (row < 0 || row >= {height} || column < 0 || column >= {width}) continue;
        {step.format(v=value)}
    }}
    {self.places[node.name]}[(c * {rows} + y) * {columns} + z] = {finish};
}}
"""

    def _slice(self, node: Node) -> str:
        _, step, sy, sx = (*node["steps"], *(1,) * (4 - len(node["steps"])))
        if step != 1:
            raise InputError(f"'{node.name}' has no C form: it skips channels")
        (_, height, width), (channels, rows, columns) = self.shape(node.inputs[0]), self.shape(node.name)
        return (
            f"for (int c = 0; c < {channels}; c++)\nfor (int y = 0; y < {rows}; y++)\n"
            f"for (int z = 0; z < {columns}; z++)\n    {self.places[node.name]}[(c * {rows} + y) * {columns} + z] = "
            f"{self.places[node.inputs[0]]}[(c * {height} + y * {sy}) * {width} + z * {sx}];\n"
        )

    def _pad(self, node: Node) -> str:
        missing = len(self.shapes[node.name]) - len(node["before"])
        before, after = ([0] * missing + node[key] for key in ("before", "after"))
        if any((*before[2:], *after[2:])):
            raise InputError(f"'{node.name}' has no C form: only channels can be padded")
        channels, rows, columns = self.shape(node.inputs[0])
        first, plane = before[1], rows * columns
        inside = f"at >= {first * plane} && at < {(first + channels) * plane}"
        value = f"{self.places[node.inputs[0]]}[at - {first * plane}]"
        return self._each(node, f"{self.places[node.name]}[at] = {inside} ? {value} : 0.0f;")
