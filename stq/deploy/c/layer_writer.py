"""Integer layers of the C export, with the thresholds behind them, and what makes their codes."""

from __future__ import annotations

import math

from ...errors import InputError
from ..network import Node
from .float_ops import RealWriter
from .templates import TYPES


class LayerWriter(RealWriter):
    """Writes one C block for each integer layer and each quantizer."""

    def _threshold(self, node: Node) -> str:
        layer, reader = self.network[node.inputs[0]], self._layer_after(node)
        levels = node["high"] - node["low"]
        thresholds = self._const_array(node, "thresholds", node.arrays["thresholds"], "int32_t")
        sign = ""
        if (node.arrays["sign"] < 0).any():
            sign = f"{self._const_array(node, 'sign', node.arrays['sign'], 'int8_t')}[o] * "
        gain, base = reader["code_gain"], reader["code_gain"] * node["low"] + reader["code_offset"]
        steps = f"stq_steps({sign}acc, {thresholds} + o * {levels}, {levels})"
        kind = self.types[node.name]
        return self._sums(layer, f"{self.places[node.name]}[at] = ({kind})({gain} * {steps} + {base});")

    def _layer(self, layer: Node) -> str:
        multiplier, bias = (self._const_array(layer, k, layer.arrays[k], "float") for k in ("multiplier", "bias"))
        value = f"stq_real(acc, {multiplier}[o], {bias}[o])"
        if "offset_multiplier" in layer.arrays:
            offset = self._const_array(layer, "offset", layer.arrays["offset_multiplier"], "float")
            value = f"stq_real(acc, {multiplier}[o], stq_real(seen, {offset}[o], {bias}[o]))"
        return self._sums(layer, f"{self.places[layer.name]}[at] = {value};")

    _conv = _linear = _layer

    def _sums(self, layer: Node, finish: str) -> str:
        """The integer sums of a layer; ``finish`` stores what becomes of ``acc`` at place ``at`` of channel ``o``."""
        codes = layer.arrays["weight"]
        kind = next(k for k, (least, most) in TYPES.items() if least <= codes.min() and codes.max() <= most)
        weight, x = self._const_array(layer, "weight", codes, kind), self.places[layer.inputs[0]]
        if layer.op == "linear":
            if math.prod(self.shape(layer.inputs[0])) != codes.shape[1]:
                raise InputError(f"'{layer.name}' has no C form: a linear layer over several positions")
            return (
                f"for (int o = 0; o < {len(codes)}; o++) {{\n"
                f"    int32_t acc = 0;\n    int at = o;\n"
                f"    for (int i = 0; i < {codes.shape[1]}; i++) acc += {weight}[o * {codes.shape[1]} + i] * {x}[i];\n"
                f"    {finish}\n}}\n"
            )
        if codes.ndim == 3:
            raise InputError(f"'{layer.name}' has no C form: only two-dimensional convolutions have")
        (_, height, width), (_, rows, columns) = self.shape(layer.inputs[0]), self.shape(layer.name)
        outputs, inputs, kernel_rows, kernel_columns = codes.shape
        (sy, sx), (dy, dx), (top, left) = layer["strides"], layer["dilations"], layer["pads"][:2]
        per_group = outputs // layer["groups"]
        seen = "offset_multiplier" in layer.arrays
        first = f"(o / {per_group}) * {inputs} + i" if layer["groups"] > 1 else "i"
        index = f"((o * {inputs} + i) * {kernel_rows} + ky) * {kernel_columns} + kx"
        return f"""\
for (int o = 0; o < {outputs}; o++)
for (int y = 0; y < {rows}; y++)
for (int z = 0; z < {columns}; z++) {{
    int32_t acc = 0;{" int32_t seen = 0;" if seen else ""}
    int at = (o * {rows} + y) * {columns} + z;
    for (int i = 0; i < {inputs}; i++)
    for (int ky = 0; ky < {kernel_rows}; ky++) {{
        int row = y * {sy} + ky * {dy} - {top};
        if (row < 0 || row >= {height}) continue;
        for (int kx = 0; kx < {kernel_columns}; kx++) {{
            int column = z * {sx} + kx * {dx} - {left};
            if (column < 0 || column >= {width}) continue;
            acc += {weight}[{index}] * {x}[(({first}) * {height} + row) * {width} + column];{
            f'''
            seen += {weight}[{index}];'''
            if seen
            else ""
        }
        }}
    }}
    {finish}
}}
"""

    def _quantize(self, node: Node) -> str:
        reader = self._layer_after(node)
        parts = []
        for key in ("gain", "shift"):
            array = node.arrays[key]
            name = self._const_array(node, key, array, "float")
            parts.append(f"{name}[{'c' if array.size > 1 else '0'}]")
        if node["axis"] != (-1 if len(self.shapes[node.name]) == 2 else -3):
            raise InputError(f"'{node.name}' has no C form: its channels are not on the first axis")
        code = f"stq_code({self.places[node.inputs[0]]}[at], {parts[0]}, {parts[1]}, {node['low']}, {node['high']})"
        gain, offset = reader["code_gain"], reader["code_offset"]
        kind = self.types[node.name]
        return self._each(node, f"{self.places[node.name]}[at] = ({kind})({gain} * {code} + {offset});")
