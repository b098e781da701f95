"""Operations of the C export that work on real numbers (or only move values), channels last."""

from __future__ import annotations

import math
import re

import numpy as np

from ...errors import InputError
from ..network import QUANTIZERS, Node
from .values import CODES, REAL, Values, literal

_FUNCTIONS = {
    "relu": "v > 0.0f ? v : 0.0f",
    "sigmoid": "1.0f / (1.0f + expf(-v))",
    "silu": "v / (1.0f + expf(-v))",
    "tanh": "tanhf(v)",
    "gelu": "0.5f * v * (1.0f + erff(v * 0.70710678f))",
    "hardsigmoid": "(v + 3.0f <= 0.0f ? 0.0f : (v + 3.0f >= 6.0f ? 6.0f : v + 3.0f)) / 6.0f",
    "hardswish": "v * (v + 3.0f <= 0.0f ? 0.0f : (v + 3.0f >= 6.0f ? 6.0f : v + 3.0f)) / 6.0f",
}
_OF_LIBRARY = ("sigmoid", "silu", "tanh", "gelu")
_TORCHS = {
    "aten.abs.default": "v < 0.0f ? -v : v",
    "aten.neg.default": "-v",
    "aten.square.default": "v * v",
    "aten.sqrt.default": "sqrtf(v)",
    "aten.rsqrt.default": "1.0f / sqrtf(v)",
    "aten.reciprocal.default": "1.0f / v",
    "aten.exp.default": "expf(v)",
    "aten.round.default": "rintf(v)",
}
_BINARY = {"aten.add.Tensor": "+", "aten.sub.Tensor": "-", "aten.mul.Tensor": "*", "aten.div.Tensor": "/"}
_CLAMPS, _SQUARE = ("aten.clamp.default", "aten.clamp_min.default"), "aten.pow.Tensor_Scalar"


class RealOperations(Values):
    """Writes one C block for each operation that is no integer layer; ``§name§`` stands for the place of a value."""

    used: set[str]
    constants: dict[str, str]
    variables = 0
    real = "float"  # the type of real numbers

    def number(self, value: float) -> str:
        """A real number as a literal."""
        return literal(value)

    def _each(self, node: Node, statement: str) -> str:
        """A statement for each element; ``c`` is its channel, ``at`` its place."""
        channels, rows, columns = self.shape(node.name)
        code = re.sub(r"§[^§]*§", "", statement)  # without names of layers
        used = f"int c = at % {channels}; " if re.search(r"\bc\b", code) else ""
        return f"for (int at = 0; at < {channels * rows * columns}; at++) {{\n    {used}{statement}\n}}\n"

    def element(self, node: Node) -> tuple[list[str], str]:
        """Statements, and the expression after them, for one element of the value of a node that is made so.

        ``§name§`` stands for the place of a value. What an element is made of may be an expression too.
        """
        if node.op == "aten":
            return self._torchs(node)
        if node.op in _FUNCTIONS:
            return self._function(node, node.op, _FUNCTIONS[node.op])
        return getattr(self, f"_element_{node.op}")(node)

    def is_inside(self, node: Node) -> bool:
        """Whether a node's value is nowhere in memory: an expression in the loop of the only one that reads it."""
        readers = self.users[node.name]
        if len(readers) != 1 or node.name == self.network.output:
            return False
        reader = readers[0]
        by_element = reader.op in QUANTIZERS or self._is_element(reader)
        return by_element and self._is_element(node) and self.shapes[reader.name] == self.shapes[node.name]

    def _is_element(self, node: Node) -> bool:
        if node.op == "aten":
            return node["target"] in (*_TORCHS, *_BINARY, *_CLAMPS, _SQUARE)
        return node.op in _FUNCTIONS or hasattr(self, f"_element_{node.op}")

    def read(self, name: str) -> tuple[list[str], str]:
        """Statements and an expression for the element of a value at place ``at``."""
        node = self.network[name]
        if not self.is_inside(node):
            return [], f"§{name}§[at]"
        statements, expression = self.element(node)
        variable = self._variable()
        product = "volatile " if "*" in expression else ""  # or a compiler may fuse it with a sum that follows
        return [*statements, f"{product}{self.real} {variable} = {expression};"], variable

    def read_by(self, node: Node) -> tuple[str, ...]:
        """The values in memory that the loop of a node reads."""
        found: list[str] = []
        for name in node.inputs:
            source = self.network[name]
            found += self.read_by(source) if self.is_inside(source) else [name]
        return tuple(found)

    def by_element(self, node: Node) -> str:
        """The loop that makes the elements of a node's value one by one."""
        statements, expression = self.element(node)
        return self._each(node, "\n    ".join([*statements, f"§{node.name}§[at] = {expression};"]))

    def _variable(self) -> str:
        """A name that is new in the source."""
        self.variables += 1
        return f"v{self.variables - 1}"

    def _function(self, node: Node, name: str, expression: str) -> tuple[list[str], str]:
        statements, value = self.read(node.inputs[0])
        if "f(v" in expression or name in _OF_LIBRARY:
            self.used.add("math")
        variable = self._variable()
        return [*statements, f"{self.real} {variable} = {value};"], re.sub(r"\bv\b", variable, expression)

    def _element_clip(self, node: Node) -> tuple[list[str], str]:
        low, high = (self.number(node[key]) for key in ("low", "high"))
        return self._function(node, "clip", f"v < {low} ? {low} : (v > {high} ? {high} : v)")

    def _element_prelu(self, node: Node) -> tuple[list[str], str]:
        slope = node.arrays["slope"]
        name = self.numbers(node, "slope", slope)
        return self._function(node, "prelu", f"v > 0.0f ? v : v * {name}[{'c' if slope.size > 1 else '0'}]")

    def _element_affine(self, node: Node) -> tuple[list[str], str]:
        multiplier, bias = (self.numbers(node, key, node.arrays[key]) for key in ("multiplier", "bias"))
        self.used.add("sum")
        statements, value = self.read(node.inputs[0])
        return statements, f"stq_sum({value} * {multiplier}[c], {bias}[c])"

    def _element_dequantize(self, node: Node) -> tuple[list[str], str]:
        source = self.network[node.inputs[0]]
        self.used.add("sum")
        scale, offset = (self.array(node, key, node.arrays[key], REAL) for key in ("scale", "offset"))
        least = self.network.source_of_codes(source.name)["low"] - self.stored(source)[1]
        return [], f"stq_sum({scale}[0] * (float)(§{source.name}§[at] + ({least})), {offset}[0])"

    def _element_add(self, node: Node) -> tuple[list[str], str]:
        return self._binary(node, node.inputs, "+")

    def _element_mul(self, node: Node) -> tuple[list[str], str]:
        return self._binary(node, node.inputs, "*")

    def _binary(self, node: Node, operands: tuple[str | float, ...], sign: str) -> tuple[list[str], str]:
        (before, a), (more, b) = (self._operand(node, each) for each in operands)
        return [*before, *more], f"{a} {sign} {b}"

    def _operand(self, node: Node, operand: str | float) -> tuple[list[str], str]:
        """One side of a sum or product: a number, or a value whose axes of length 1 are repeated."""
        if not isinstance(operand, str):
            return [], self.number(operand)
        shape, whole = self.shapes[operand], self.shapes[node.name]
        if self.network[operand].op == "constant" and len(shape) == len(whole) + 1 and shape[0] == 1:
            shape = shape[1:]  # a batch of one
        if shape == whole:
            return self.read(operand)
        if math.prod(shape) == 1:
            return [], f"§{operand}§[0]"
        if len(shape) == len(whole) and shape[0] == whole[0] and set(shape[1:]) <= {1}:
            return [], f"§{operand}§[c]"
        if len(shape) == len(whole) and shape[0] == 1 and shape[1:] == whole[1:]:
            return [], f"§{operand}§[at / {whole[0]}]"
        raise InputError(f"'{node.name}' has no C form: it joins values of shape {shape} and {whole}")

    def _constant(self, node: Node) -> str:
        value = node.arrays["value"]
        if value.dtype.kind != "f":
            return ""
        shaped = value.reshape(value.shape[1:]) if value.ndim == 4 and value.shape[0] == 1 else value
        if shaped.ndim == 3:
            shaped = np.moveaxis(shaped, 0, -1)
        self.constants[node.name] = self.numbers(node, "value", shaped)
        return ""

    def _torchs(self, node: Node) -> tuple[list[str], str]:
        target, arguments = node["target"], node["arguments"]
        if target in _TORCHS and len(arguments) == 1:
            return self._function(node, target, _TORCHS[target])
        if target in _BINARY and len(arguments) in (2, 3) and (len(arguments) == 2 or arguments[2] == 1):
            operands = tuple(a if not isinstance(a, dict) else node.inputs[a["input"]] for a in arguments[:2])
            if all(isinstance(each, str | int | float) for each in operands):
                return self._binary(node, operands, _BINARY[target])
        if target == _SQUARE and arguments[1] == 2:
            return self._function(node, target, "v * v")
        if target in _CLAMPS and len(arguments) in (2, 3):
            low = literal(arguments[1]) if arguments[1] is not None else None
            high = literal(arguments[2]) if len(arguments) > 2 and arguments[2] is not None else None
            above = f"(v > {high} ? {high} : v)" if high else "v"
            return self._function(node, target, f"v < {low} ? {low} : {above}" if low else above)
        raise InputError(f"'{node.name}' ({target}) has no C form: it is one of torch's own operations")

    def aten(self, node: Node) -> str:
        """An operation of torch's own, not element by element. Raises InputError for one that has no C form."""
        target, arguments = node["target"], node["arguments"]
        if target in ("aten.mean.dim", "aten.sum.dim_IntList", "aten.amax.default"):
            return self._reduce(node, target, arguments[1])
        if target == "aten.upsample_nearest2d.vec":
            return self._upsample(node)
        raise InputError(f"'{node.name}' ({target}) has no C form: it is one of torch's own operations")

    def _mean(self, node: Node) -> str:
        return self._reduce(node, "aten.mean.dim", node["axes"])

    def _reduce(self, node: Node, target: str, axes: list[int]) -> str:
        whole = self.shapes[node.inputs[0]]
        axes = sorted(axis % (len(whole) + 1) - 1 for axis in axes)
        channels, rows, columns = self.shape(node.inputs[0])
        plane, x, y = rows * columns, f"§{node.inputs[0]}§", f"§{node.name}§"
        if axes == list(range(1, len(whole))) and axes:  # over positions
            outer, inner, index = channels, plane, f"i * {channels} + c"
        elif axes == [0]:
            outer, inner, index = plane, channels, f"c * {channels} + i"
        else:
            raise InputError(f"'{node.name}' has no C form: it reduces axes {axes} of {len(whole)}")
        if target == "aten.amax.default":
            start = f"int i = 0; float most = {x}[{index}];"
            step = f"if ({x}[{index}] > most) most = {x}[{index}];"
            return (
                f"for (int c = 0; c < {outer}; c++) {{\n    {start}\n"
                f"    for (i = 1; i < {inner}; i++) {step}\n    {y}[c] = most;\n}}\n"
            )
        self.used.add("mean")
        count = f"{inner}.0f" if target == "aten.mean.dim" else "1.0f"
        return (
            f"for (int c = 0; c < {outer}; c++) {{\n    struct stq_total total = {{0.0f, 0.0f}};\n"
            f"    for (int i = 0; i < {inner}; i++) stq_add(&total, {x}[{index}]);\n"
            f"    {y}[c] = stq_divided(&total, {count});\n}}\n"
        )

    def _max_pool(self, node: Node) -> str:
        kind = self.real if self.types[node.name] == REAL else CODES
        step = "if (!any || {v} > best) best = {v};\n            any = 1;"
        return self._pool(node, f"{kind} best = 0; int any = 0;", step, "best")

    def _avg_pool(self, node: Node) -> str:
        self.used.add("mean")
        start = "struct stq_total total = {0.0f, 0.0f}; int any = 0;"
        if node["count_include_pad"]:
            start += f" {self._counted_positions(node)}"
        count = "all" if node["count_include_pad"] else "any"
        return self._pool(
            node, start, "stq_add(&total, {v});\n            any++;", f"stq_divided(&total, (float){count})"
        )

    def _counted_positions(self, node: Node) -> str:
        """A declaration of how many positions of a window are counted, those of the padding too."""
        (_, height, width), (ky, kx) = self.shape(node.inputs[0]), node["kernel"]
        (top, left), (sy, sx) = node["pads"][:2], node["strides"]
        rows = f"stq_within(y * {sy} - {top}, {ky}, {height + top})"
        columns = f"stq_within(z * {sx} - {left}, {kx}, {width + left})"
        self.used.add("within")
        return f"int all = {rows} * {columns}; (void)any;"

    def _pool(self, node: Node, start: str, step: str, finish: str) -> str:
        (channels, height, width), (_, rows, columns) = self.shape(node.inputs[0]), self.shape(node.name)
        (ky, kx), (sy, sx), (top, left) = node["kernel"], node["strides"], node["pads"][:2]
        dy, dx = node.attributes.get("dilations", (1, 1))
        value = f"§{node.inputs[0]}§[(row * {width} + column) * {channels} + c]"
        return f"""\
for (int y = 0; y < {rows}; y++)
for (int z = 0; z < {columns}; z++)
for (int c = 0; c < {channels}; c++) {{
    {start}
    for (int ky = 0; ky < {ky}; ky++)
    for (int kx = 0; kx < {kx}; kx++) {{
        int row = y * {sy} + ky * {dy} - {top}, column = z * {sx} + kx * {dx} - {left};
        if (row >= 0 && row < {height} && column >= 0 && column < {width}) {{
            {step.format(v=value)}
        }}
    }}
    §{node.name}§[(y * {columns} + z) * {channels} + c] = {finish};
}}
"""

    def _adaptive_avg_pool(self, node: Node) -> str:
        (channels, height, width), (_, rows, columns) = self.shape(node.inputs[0]), self.shape(node.name)
        self.used.add("mean")
        return f"""\
for (int y = 0; y < {rows}; y++)
for (int z = 0; z < {columns}; z++)
for (int c = 0; c < {channels}; c++) {{
    struct stq_total total = {{0.0f, 0.0f}};
    int top = y * {height} / {rows}, bottom = ((y + 1) * {height} + {rows} - 1) / {rows};
    int left = z * {width} / {columns}, right = ((z + 1) * {width} + {columns} - 1) / {columns};
    for (int row = top; row < bottom; row++)
    for (int column = left; column < right; column++)
        stq_add(&total, §{node.inputs[0]}§[(row * {width} + column) * {channels} + c]);
    §{node.name}§[(y * {columns} + z) * {channels} + c] = stq_divided(&total, (float)((bottom - top) * (right - left)));
}}
"""

    def _upsample(self, node: Node) -> str:
        (channels, height, width), (_, rows, columns) = self.shape(node.inputs[0]), self.shape(node.name)
        if rows % height or columns % width:
            raise InputError(f"'{node.name}' has no C form: it enlarges {height} x {width} to {rows} x {columns}")
        row, column = (
            f"at / {channels * columns} / {rows // height}",
            f"at / {channels} % {columns} / {columns // width}",
        )
        place = f"({row} * {width} + {column}) * {channels} + at % {channels}"
        return self._each(node, f"§{node.name}§[at] = §{node.inputs[0]}§[{place}];")

    def _slice(self, node: Node) -> str:
        _, step, sy, sx = (*node["steps"], *(1,) * (4 - len(node["steps"])))
        (before, _, width), (channels, _, columns) = self.shape(node.inputs[0]), self.shape(node.name)
        row, column = f"at / {channels * columns} * {sy}", f"at / {channels} % {columns} * {sx}"
        place = f"({row} * {width} + {column}) * {before} + at % {channels} * {step}"
        return self._each(node, f"§{node.name}§[at] = §{node.inputs[0]}§[{place}];")

    def _pad(self, node: Node) -> str:
        shape = self.shapes[node.name]
        missing = len(shape) + 1 - len(node["before"])
        before = ([0] * missing + node["before"])[1:] + [0] * (3 - len(shape))
        channels, rows, columns = self.shape(node.inputs[0])
        wide, _, long = self.shape(node.name)
        index = f"int c = at % {wide} - {before[0]}, row = at / {wide * long} - {before[1]};\n    "
        index += f"int column = at / {wide} % {long} - {before[2]};\n    "
        inside = f"c >= 0 && c < {channels} && row >= 0 && row < {rows} && column >= 0 && column < {columns}"
        value = f"§{node.inputs[0]}§[(row * {columns} + column) * {channels} + c]"
        count = math.prod(self.shape(node.name))
        zero = self._code_of_zero(node) if self.types[node.name] == CODES else self.number(0.0)
        statement = f"{index}§{node.name}§[at] = {inside} ? {value} : {zero};"
        return f"for (int at = 0; at < {count}; at++) {{\n    {statement}\n}}\n"

    def _code_of_zero(self, node: Node) -> int:
        gain, first = self.stored(node)
        return first - gain * self.network.source_of_codes(node.name)["low"]

    def _concat(self, node: Node) -> str:
        axes = len(self.shapes[node.name])
        if node["axis"] % (axes + 1) != 1:
            raise InputError(f"'{node.name}' has no C form: it joins along axis {node['axis']}")
        total, rows, columns = self.shape(node.name)
        blocks, first = [], 0
        for name in node.inputs:
            channels, x = self.shape(name)[0], f"§{name}§"
            blocks.append(
                f"for (int at = 0; at < {channels * rows * columns}; at++)\n"
                f"    §{node.name}§[at / {channels} * {total} + at % {channels} + {first}] = {x}[at];\n"
            )
            first += channels
        return "".join(blocks)

    def _reshaped(self, node: Node) -> str:
        """Another shape of a value; elements are counted with the channels first, and lie with the channels last."""
        (before, rows, columns), (after, *others) = self.shape(node.inputs[0]), self.shape(node.name)
        plane, other = rows * columns, math.prod(others)
        number = f"int n = at % {after} * {other} + at / {after};"
        return self._each(
            node, f"{number}\n    §{node.name}§[at] = §{node.inputs[0]}§[n % {plane} * {before} + n / {plane}];"
        )

    def _float_linear(self, node: Node) -> str:
        weight = node.arrays["weight"]
        if len(self.shapes[node.inputs[0]]) != 1:
            raise InputError(f"'{node.name}' has no C form: a linear layer over several positions")
        names = [self.numbers(node, key, node.arrays[key]) for key in ("weight", "bias")]
        outputs, inputs = weight.shape
        return (
            f"for (int o = 0; o < {outputs}; o++) {{\n    float sum = 0.0f;\n"
            f"    for (int i = 0; i < {inputs}; i++) sum += {names[0]}[o * {inputs} + i] * §{node.inputs[0]}§[i];\n"
            f"    §{node.name}§[o] = sum + {names[1]}[o];\n}}\n"
        )

    def _float_conv(self, node: Node) -> str:
        weight = node.arrays["weight"]
        (channels, height, width), (outputs, rows, columns) = self.shape(node.inputs[0]), self.shape(node.name)
        if weight.ndim == 3:
            sizes = [(1, *node["strides"]), (1, *node["dilations"]), (0, node["pads"][0]), (1, weight.shape[2])]
        else:
            sizes = [tuple(node["strides"]), tuple(node["dilations"]), tuple(node["pads"][:2]), weight.shape[2:]]
        (sy, sx), (dy, dx), (top, left), (ky, kx) = sizes
        inputs, per_group = weight.shape[1], outputs // node["groups"]
        rows_last = np.moveaxis(weight.reshape(outputs, inputs, ky * kx), 1, 2)
        name = self.numbers(node, "weight", rows_last)
        bias = self.numbers(node, "bias", node.arrays["bias"])
        first = f"o / {per_group} * {inputs} + " if node["groups"] > 1 else ""
        return f"""\
for (int y = 0; y < {rows}; y++)
for (int z = 0; z < {columns}; z++)
for (int o = 0; o < {outputs}; o++) {{
    float sum = 0.0f;
    for (int k = 0; k < {ky * kx}; k++) {{
        int row = y * {sy} + k / {kx} * {dy} - {top}, column = z * {sx} + k % {kx} * {dx} - {left};
        if (row < 0 || row >= {height} || column < 0 || column >= {width}) continue;
        for (int i = 0; i < {inputs}; i++)
            sum += {name}[(o * {ky * kx} + k) * {inputs} + i]
                * §{node.inputs[0]}§[(row * {width} + column) * {channels} + {first}i];
    }}
    §{node.name}§[(y * {columns} + z) * {outputs} + o] = sum + {bias}[o];
}}
"""
