"""Integer layers in C, with the thresholds behind them, and what makes their codes."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from ...errors import InputError
from ..network import Node, operand_limits
from . import gather, products
from .real_ops import RealOperations
from .requantize import Shifted, fit, nearly
from .values import CODES, REAL, TYPES

_HALF = 2**16 - 1
_PACKED = (1, 2, 3, 4)


class Depthwise(NamedTuple):
    """What a kernel of depthwise layers is written for. kind: how it finishes. packed: its codes share bytes."""

    kind: str
    wide: bool
    rows: int
    columns: int
    packed: bool

    @property
    def name(self) -> str:
        """The end of the function's name."""
        ends = ("_wide" if self.wide else "") + ("_packed" if self.packed else "")
        return f"{self.kind}_{self.rows}x{self.columns}{ends}"


class Convolution(NamedTuple):
    """What a kernel of other layers is written for. dot: what multiplies. packed: its codes share bytes."""

    kind: str
    dot: str
    packed: bool

    @property
    def name(self) -> str:
        """The end of the function's name."""
        return f"{self.kind}_{self.dot}" + ("_packed" if self.packed else "")


class Layers(RealOperations):
    """Writes the calls of integer layers and quantizers, and their constant arrays.

    cmsis: whether CMSIS-NN multiplies. container: the least bits that a weight takes.
    """

    cmsis: bool
    container: int

    def _threshold(self, node: Node) -> str:
        return self._layer_call(self.network[node.inputs[0]], node)

    def _conv(self, node: Node) -> str:
        return self._layer_call(node, None)

    _linear = _conv

    def _layer_call(self, layer: Node, thresholds: Node | None) -> str:
        fields = self._geometry(layer)
        widths = {"in_bits": self.width(layer.inputs[0]), "out_bits": self.width(thresholds.name) if thresholds else 8}
        packed = widths["out_bits"] < 8
        if widths["in_bits"] < 8:
            taps = max(4, fields["kernel_rows"] * fields["kernel_columns"] if fields["inputs"] == 1 else 4)
            self.line = max(self.line, taps * max(fields["inputs"], fields["groups"]))
        constant, weight_fields = self._weights(layer, fields)
        fields |= weight_fields
        kind = self._codes(layer, thresholds, constant, fields) if thresholds else self._real(layer, constant, fields)
        name = f"l{len(self.layers)}"
        wide, dot = fields.pop("wide", 0), fields.pop("dot", "")
        fields |= {key: width for key, width in widths.items() if width < 8}
        listed = ", ".join(f".{key} = {value}" for key, value in fields.items() if str(value) != "0")
        self.layers.append(f"static const struct stq_layer {name} = {{{listed}}}; /* {layer.name} */")
        if "layout" in fields:
            form = Convolution(kind, dot, packed)
            self.convolutions.add(form)
            function = f"stq_conv_{form.name}"
        else:
            form = Depthwise(kind, bool(wide), fields["kernel_rows"], fields["kernel_columns"], packed)
            self.depthwise.add(form)
            function = f"stq_depthwise_{form.name}"
        result = thresholds or layer
        return f"{function}(&{name}, §{layer.inputs[0]}§, §{result.name}§);\n"

    def _geometry(self, layer: Node) -> dict[str, object]:
        weight = layer.arrays["weight"]
        channels, height, width = self.shape(layer.inputs[0])
        if layer.op == "linear":
            if len(self.shapes[layer.inputs[0]]) != 1:
                raise InputError(f"'{layer.name}' has no C form: a linear layer over several positions")
            shape, geometry = (1, 1), {"strides": [1, 1], "dilations": [1, 1], "pads": [0] * 4, "groups": 1}
        else:
            geometry = layer.attributes
            shape = weight.shape[2:]
            if weight.ndim == 3:  # along one axis, which is the columns'
                shape = (1, *shape)
                geometry = {key: [filler, *layer[key]] for key, filler in (("strides", 1), ("dilations", 1))}
                geometry |= {"pads": [0, layer["pads"][0], 0, layer["pads"][1]], "groups": layer["groups"]}
        _, rows, columns = self.shape(layer.name)
        (sy, sx), (dy, dx), (top, left) = geometry["strides"], geometry["dilations"], geometry["pads"][:2]
        groups = geometry["groups"]
        if max(sy, sx, dy, dx, top, left, *shape) > 255 or max(channels, height, width, len(weight)) > 2**15 - 1:
            raise InputError(f"'{layer.name}' has no C form: it is too large")
        names = ("height", "width", "channels", "rows", "columns", "inputs", "outputs", "groups")
        values = (height, width, channels, rows, columns, weight.shape[1], len(weight) // groups, groups)
        names += ("kernel_rows", "kernel_columns", "stride_rows", "stride_columns", "dilation_rows", "dilation_columns")
        return dict(zip((*names, "top", "left"), (*values, *shape, sy, sx, dy, dx, top, left), strict=True))

    def _weights(self, layer: Node, fields: dict[str, object]) -> tuple[np.ndarray, dict[str, object]]:
        """What the layer's sums miss for each output, (O,), and the fields of its weights."""
        codes, low, step = layer.arrays["weight"].astype(np.int64), layer["weight_low"], layer["weight_stride"]
        zero, outputs = self.zero(layer), len(codes)
        rows = np.moveaxis(codes.reshape(outputs, fields["inputs"], -1), 1, 2).reshape(outputs, -1)  # channels last
        constant = -zero * rows.sum(1)
        padded = any(layer.attributes.get("pads", ()))
        padding = self._padding(zero, max(fields["inputs"], fields["groups"])) if padded else 0
        depthwise = fields["inputs"] == 1 and fields["groups"] > 1 and outputs == fields["groups"]
        if depthwise and "offset_multiplier" not in layer.arrays:
            wide = bool(rows.min() < -128 or rows.max() > 127)
            kind = "int16_t" if wide else "int8_t"
            name = self.array(layer, "weight", rows, kind)
            return constant, {"weight": f"(const uint8_t *){name}", "padding": padding, "wide": int(wide)}
        fields["padding"] = padding
        if "offset_multiplier" in layer.arrays:
            self.ones = max(self.ones, fields["inputs"])
        return constant, self._columns(layer, fields, rows, low, step)

    def _columns(
        self, layer: Node, fields: dict[str, object], rows: np.ndarray, low: int, step: int
    ) -> dict[str, object]:
        """The fields of weights, and of how operands lie beside them for their products."""
        if self.cmsis:
            if rows.min() >= -128 and rows.max() <= 127:
                codes, low, step = rows, 0, 1
            else:
                codes = (rows - low) // step - 128
                low += 128 * step
            self.layouts.add(gather.CMSIS)
            self.words = max(self.words, rows.shape[1])
            self.matrix = max(self.matrix, 4 * fields["outputs"])
            name = self.array(layer, "weight", codes, "int8_t")
            weight = f"(const uint8_t *){name}"
            return {"weight": weight, "dot": "matrix", "step": step, "low": low, "layout": gather.CMSIS}
        lowest, highest = operand_limits(self.network, layer)
        bits = layer["weight_bits"]
        width = next((width for width in _PACKED if width >= max(bits, self.container)), 8)
        packed, row_bytes, blocks = pack_rows((rows - low) // step, width)
        dot, layout, chunk = str(width), 1, _HALF // max((2**bits - 1) * (highest - lowest) * 8, 1)
        if width == 1 and highest - lowest == 1 and fields["inputs"] % 4 == 0:
            dot, layout, blocks = "ones", gather.BITS, -(-rows.shape[1] // 32)
            packed = np.append(packed, np.zeros(3, packed.dtype))  # the last word ends behind the last row
            self.dots["ones"] = products.DOT_ONES
            self.layouts.add(gather.BITS)
            self.words = max(self.words, 4 * blocks)
        elif chunk > 0 and fields["inputs"] * (highest - lowest) <= _HALF:
            dot = str(width) if chunk >= blocks else f"long_{width}"
            self.dots[dot] = products.dot(width, chunk >= blocks)
            self.words = max(self.words, 16 * blocks)
        else:  # loops over bytes take whole ones
            packed, row_bytes, blocks = pack_rows((rows - low) // step, 8)
            dot, layout = "bytes", 0
            self.dots["bytes"] = products.DOT_BYTES
            self.words = max(self.words, 8 * blocks)
        name = self.array(layer, "weight", packed, "uint8_t")
        found = {"weight": name, "dot": dot, "step": step, "low": low, "blocks": blocks}
        return found | {"chunk": min(chunk, blocks), "row_bytes": row_bytes, "layout": layout}

    def _padding(self, stored: int, channels: int) -> str:
        self.paddings[stored] = max(self.paddings.get(stored, 0), channels)
        return f"stq_padding_{stored}"

    def _codes(self, layer: Node, node: Node, constant: np.ndarray, fields: dict[str, object]) -> str:
        """Fields for codes; which function makes them."""
        levels = node["high"] - node["low"]
        gain, first = self.stored(node)
        fields |= {"levels": levels, "gain": gain, "first": first}
        thresholds, sign = node.arrays["thresholds"].astype(np.int64), node.arrays["sign"].astype(np.int64)
        bound = self.network.bounds[layer.name]
        reached = int((thresholds <= bound).sum(1).max(initial=1))  # above that a clip has cut all channels off
        thresholds, fields["levels"] = thresholds[:, : max(reached, 1)], max(reached, 1)
        for wide in (False, True, "nearly"):
            if wide == "nearly" and "slope" in node.arrays:
                found = nearly(thresholds, sign, bound, node.arrays["slope"], node.arrays["intercept"])
            else:
                found = fit(thresholds, sign, bound, 2**62 if wide else 2**31 - 1)
            if found is None:
                continue
            bias = found.bias + found.multiplier * constant
            # what is multiplied is the sum without its constant: also that must stay within the bits
            most = np.abs(found.multiplier).astype(float) * (bound + np.abs(constant)) + np.abs(bias)
            if most.max() >= 2.0 ** (62 if wide else 31) or np.abs(found.multiplier).max() >= 2**31:
                continue
            self.factors.append((node, found.multiplier))
            self.narrow &= bool(np.abs(found.multiplier).max() < 2**15)
            fields |= {"factor": f"%factor{len(self.factors) - 1}%", "shift": found.shift}
            fields["wide_bias" if wide else "bias"] = self.array(node, "bias", bias, "int64_t" if wide else "int32_t")
            if found.exceptions:
                self._exceptions(node, found, constant, fields)
                return "corrected"
            return "wide" if wide else "shifted"
        thresholds = np.clip(thresholds - (sign * constant)[:, None], -(2**31) + 1, 2**31 - 1)
        self.tables.append((node, thresholds, bound + int(np.abs(constant).max(initial=0)) + 1))
        fields["thresholds"] = f"%table{len(self.tables) - 1}%"
        if (sign < 0).any():
            fields["sign"] = self.array(node, "sign", sign, "int8_t")
        return "counted"

    def _exceptions(self, node: Node, found: Shifted, constant: np.ndarray, fields: dict[str, object]) -> None:
        channels = np.array([channel for channel, _, _ in found.exceptions])
        pairs = [(acc - int(constant[channel]), code) for channel, acc, code in found.exceptions]
        begins = np.searchsorted(channels, np.arange(len(constant) + 1))
        fields["odd_from"] = self.array(node, "exceptions_from", begins, "uint16_t")
        name = f"a{len(self.arrays)}_exceptions"
        listed = ", ".join(f"{{{acc}, {code}}}" for acc, code in pairs)
        self.arrays.append(f"static const struct stq_exception {name}[{len(pairs)}] = {{{listed}}};")
        self.flash[node.name] += 8 * len(pairs)
        fields["odd"] = name

    def _real(self, layer: Node, constant: np.ndarray, fields: dict[str, object]) -> str:
        fields |= self._scales(layer)
        if constant.any():
            fields["bias"] = self.array(layer, "constant", constant, "int32_t")
        self.used.add("sum")
        return "real"

    def _scales(self, layer: Node) -> dict[str, object]:
        """The fields that make a real number of a sum."""
        keys = {"scale": "multiplier", "offset": "bias", "seen": "offset_multiplier"}
        arrays = layer.arrays
        return {field: self.array(layer, field, arrays[key], REAL) for field, key in keys.items() if key in arrays}

    def _quantize(self, node: Node) -> str:
        self._check_axis(node)
        self.used |= {"sum", "round"}
        gain, first = self.stored(node)
        parts = []
        for key in ("gain", "shift"):
            values = node.arrays[key]
            name = self.array(node, key, values, REAL)
            parts.append(f"{name}[{'c' if values.size > 1 else '0'}]")
        statements, value = self._element_before(node)
        code = f"stq_code({value}, {parts[0]}, {parts[1]}, {node['low']}, {node['high']})"
        stored = f"§{node.name}§[at] = (uint8_t)({self._as(gain, first, node, code)});"
        return self._from_input(node, self._each(node, "\n    ".join([*statements, stored])))

    def _compare(self, node: Node) -> str:
        self._check_axis(node)
        gain, first = self.stored(node)
        levels = node.arrays["levels"]
        name = self.array(node, "levels", levels, REAL)
        count = levels.shape[1]
        row = f"c * {count} + i" if len(levels) > 1 else "i"
        statements, value = self._element_before(node)
        statements += [
            f"float v = {value};",
            "int n = 0;",
            f"for (int i = 0; i < {count}; i++) n += v >= {name}[{row}];",
        ]
        statements.append(f"§{node.name}§[at] = (uint8_t)({gain} * n + {first});")
        return self._from_input(node, self._each(node, "\n    ".join(statements)))

    def _table(self, node: Node) -> str:
        gain, first = self.stored(node)
        name = self.array(node, "table", gain * node.arrays["table"].astype(np.int64) + first, CODES)
        shift = sum(self.stored(self.network[source])[1] for source in node.inputs)
        index = " + ".join(f"§{source}§[at]" for source in node.inputs) + (f" - {shift}" if shift else "")
        return self._each(node, f"§{node.name}§[at] = {name}[{index}];")

    def _as(self, gain: int, first: int, node: Node, code: str) -> str:
        offset = first - gain * node["low"]
        text = code if gain == 1 else f"{gain} * {code}"
        return text if offset == 0 else f"{text} {'+' if offset > 0 else '-'} {abs(offset)}"

    def _check_axis(self, node: Node) -> None:
        arrays = node.arrays.values()
        per_channel = any(len(array) > 1 for array in arrays if array.ndim)
        axes = len(self.shapes[node.name])
        if per_channel and node["axis"] != -axes:
            raise InputError(f"'{node.name}' has no C form: its channels are not on the first axis")

    def _element_before(self, node: Node) -> tuple[list[str], str]:
        """What a quantizer reads at place ``at``: of the input, whose channels come first, that of the same place."""
        source = node.inputs[0]
        return ([], self._place_of_input("input", source)) if self._is_input(source) else self.read(source)

    def _is_input(self, name: str) -> bool:
        return self.network[name].op == "input" and not self.copies_input

    def _place_of_input(self, array: str, name: str) -> str:
        channels, rows, columns = self.shape(name)
        plane = rows * columns
        return (
            f"{array}[at]" if channels == 1 or plane == 1 else f"{array}[at % {channels} * {plane} + at / {channels}]"
        )

    def _from_input(self, node: Node, loop: str) -> str:
        """For uint8 pixels, the codes that each of them has are in a table."""
        if not (self.pixels and self._is_input(node.inputs[0])):
            return loop
        pixels, numbers = (re.sub("^(?=.)", "    ", text, flags=re.M) for text in (self._looked_up(node), loop))
        return f"if (pixels) {{\n{pixels}}} else {{\n{numbers}}}\n"

    def _looked_up(self, node: Node) -> str:
        table = self.array(node, "of_pixels", self.pixel_codes(node), CODES)
        pixel = self._place_of_input("pixels", node.inputs[0])
        index = f"c * 256 + {pixel}" if self.shape(node.name)[0] > 1 else pixel
        return self._each(node, f"§{node.name}§[at] = {table}[{index}];")


def pack_rows(index: np.ndarray, bits: int) -> tuple[np.ndarray, int, int]:
    """Rows of unsigned numbers of so many bits each, packed: (bytes, bytes of a row, blocks of 8 in a row).

    The first number is in the lowest bits of the first byte, rows are filled up with zeros to whole blocks.
    """
    blocks = -(-index.shape[1] // 8)
    filled = np.zeros((len(index), blocks * 8), np.int64)
    filled[:, : index.shape[1]] = index
    planes = (filled[:, :, None] >> np.arange(bits)) & 1
    packed = np.packbits(planes.astype(np.uint8).reshape(len(index), -1), axis=1, bitorder="little")
    return packed, packed.shape[1], blocks


def threshold_type(tables: list[tuple[Node, np.ndarray, int]]) -> str:
    """The type that holds all thresholds: those that no sum reaches may be cut to the next after the bound."""
    return "int16_t" if all(bound < TYPES["int16_t"][1] for _, _, bound in tables) else "int32_t"
