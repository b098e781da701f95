"""The C export without floating point: a real number is a whole one, the number times 2**fraction, in 32 bits.

``fraction`` is chosen so that no value of the network can overflow. Values are not those of float32: codes behind
additions of real numbers can differ from the trained ones in a tie. With ``residual_bits`` no addition is of real
numbers.
"""

from __future__ import annotations

import math

import numpy as np

from ...errors import InputError
from ..integer.thresholds import real_thresholds
from ..network import INTEGER_LAYERS, Network, Node

_LARGEST = 2**31 - 1
_MOST, _LEAST = 24, 12  # bits of the fraction: more than float32 has are of no use, fewer are too coarse
_TORCHS = ("aten.mean.dim", "aten.upsample_nearest2d.vec")  # keep the largest too
_SLOPE = 20  # bits of the fraction of a slope
_KEEPS = (
    "relu",
    "hardswish",
    "prelu",
    "max_pool",
    "slice",
    "pad",
    "flatten",
    "mean",
    "avg_pool",
    "adaptive_avg_pool",
    "concat",
)

COUNT = """\
/* how many of count ascending levels are at most v */
static inline int stq_reached(int32_t v, const int32_t *levels, int count)
{
    int low = 0, high = count;
    while (low < high) {
        int middle = (low + high) / 2;
        if (v >= levels[middle]) low = middle + 1;
        else high = middle;
    }
    return low;
}
"""

REAL_OF_SUM = """\
static inline int32_t stq_real(int32_t acc, int32_t factor, int64_t offset, int shift)
{
    return (int32_t)(((int64_t)factor * acc + offset) >> shift);
}
"""


def fraction_bits(network: Network) -> int:
    """Bits of the fraction for which no real value of a network, with fused thresholds, leaves 32 bits.

    Raises InputError, naming the node, for what has no form without floating point.
    """
    largest: dict[str, float] = {}
    for node in network.nodes:
        if node.op in INTEGER_LAYERS and not node.attributes.get("fused"):
            largest[node.name] = _of_layer(network, node)
        elif node.op == "dequantize":
            codes = network.source_of_codes(node.inputs[0])
            most = max(abs(codes["low"]), abs(codes["high"]))
            largest[node.name] = float(np.abs(node.arrays["scale"]).max() * most + np.abs(node.arrays["offset"]).max())
        elif _is_known(node) and all(name in largest for name in node.inputs):
            largest[node.name] = _after(node, [largest[name] for name in node.inputs])
        elif node.op not in ("input", "quantize", "compare", "threshold", "table", *INTEGER_LAYERS, *_KEEPS):
            raise refused(node)
    whole = max(largest.values(), default=1.0)
    bits = min(_MOST, 30 - math.ceil(math.log2(max(whole, 1e-9))))
    if bits < _LEAST:
        name = max(largest, key=largest.__getitem__)
        raise InputError(f"'{name}' has no form without floating point: its values can reach {whole:.3g}")
    return bits


def _is_known(node: Node) -> bool:
    known = ("add", "mul", "clip", "hardsigmoid", *_KEEPS)
    return node.op in known or node.attributes.get("target") in _TORCHS


def _after(node: Node, sizes: list[float]) -> float:
    """The largest magnitude behind an operation, from those of what it reads."""
    if node.op == "add":
        return sum(sizes)
    if node.op == "mul":
        return math.prod(sizes)
    if node.op == "clip":
        return max(abs(node["low"]), min(abs(node["high"]), max(sizes)))
    if node.op == "prelu":
        return max(sizes) * max(1.0, float(np.abs(node.arrays["slope"]).max()))
    return 1.0 if node.op == "hardsigmoid" else max(sizes)


def _of_layer(network: Network, layer: Node) -> float:
    arrays = layer.arrays
    most = np.abs(arrays["multiplier"]).astype(float) * network.bounds[layer.name] + np.abs(arrays["bias"])
    if "offset_multiplier" in arrays:
        weights = np.abs(arrays["weight"].astype(float)).reshape(len(most), -1).sum(1)
        most = most + np.abs(arrays["offset_multiplier"]) * weights
    return float(most.max())


def refused(node: Node) -> InputError:
    """That a node needs floating point, and what helps."""
    layer, gate, _ = node.name.partition(".input_quantizer.")
    if gate:
        return InputError(f"'{layer}' has a gate, which needs floating point: train double_st_frozen for c.float=false")
    what = node.attributes.get("target", node.op)
    return InputError(f"'{node.name}' ({what}) needs floating point: leave c.float=false out")


class FixedOperations:
    """Takes the place of what ``RealOperations`` and ``Layers`` write with floating point; comes first in a class."""

    real = "int32_t"

    def number(self, value: float) -> str:
        """A real number."""
        return str(int(np.clip(round(value * 2.0**self.fraction), -_LARGEST, _LARGEST)))

    def element(self, node: Node) -> tuple[list[str], str]:
        """As ``RealOperations.element``."""
        if node.op == "relu":
            return self._function(node, "relu", "v > 0 ? v : 0")
        three, six = self.number(3.0), self.number(6.0)
        upper = f"(v <= -{three} ? 0 : (v >= {three} ? {six} : v + {three}))"
        if node.op == "hardsigmoid":
            return self._function(node, "hardsigmoid", f"{upper} / 6")
        if node.op == "hardswish":
            return self._function(node, "hardswish", f"(int32_t)(((int64_t)v * {upper} >> {self.fraction}) / 6)")
        if node.op == "prelu":
            name = self.array(node, "slope", np.rint(node.arrays["slope"].astype(float) * 2.0**_SLOPE), "int32_t")
            row = "c" if node.arrays["slope"].size > 1 else "0"
            return self._function(node, "prelu", f"v > 0 ? v : (int32_t)((int64_t)v * {name}[{row}] >> {_SLOPE})")
        if node.op == "mul":
            (before, a), (more, b) = (self._operand(node, name) for name in node.inputs)
            return [*before, *more], f"(int32_t)((int64_t){a} * {b} >> {self.fraction})"
        if node.op not in ("clip", "add", "dequantize"):
            raise refused(node)
        return super().element(node)

    def _element_dequantize(self, node: Node) -> tuple[list[str], str]:
        source = self.network[node.inputs[0]]
        scale, offset = (self.number(float(node.arrays[key].reshape(-1)[0])) for key in ("scale", "offset"))
        least = self.network.source_of_codes(source.name)["low"] - self.stored(source)[1]
        return [], f"{scale} * (§{source.name}§[at] + ({least})) + ({offset})"

    def _constant(self, node: Node) -> str:
        raise refused(node)

    def aten(self, node: Node) -> str:
        """As ``RealOperations.aten``."""
        if node["target"] not in _TORCHS:
            raise refused(node)
        return super().aten(node)

    def _reduce(self, node: Node, target: str, axes: list[int]) -> str:
        whole = self.shapes[node.inputs[0]]
        channels, rows, columns = self.shape(node.inputs[0])
        if sorted(axis % (len(whole) + 1) for axis in axes) != list(range(2, len(whole) + 1)):
            raise refused(node)
        x, plane = f"§{node.inputs[0]}§", rows * columns
        return (
            f"for (int c = 0; c < {channels}; c++) {{\n    int64_t sum = {plane // 2};\n"
            f"    for (int i = 0; i < {plane}; i++) sum += {x}[i * {channels} + c];\n"
            f"    §{node.name}§[c] = (int32_t)(sum / {plane});\n}}\n"
        )

    def _avg_pool(self, node: Node) -> str:
        start, step = "int64_t sum = 0; int any = 0;", "sum += {v};\n            any++;"
        if not node["count_include_pad"]:
            return self._pool(node, start, step, "(int32_t)(sum / any)")
        return self._pool(node, f"{start} {self._counted_positions(node)}", step, "(int32_t)(sum / all)")

    def _adaptive_avg_pool(self, node: Node) -> str:
        if set(self.shape(node.name)[1:]) != {1}:
            raise refused(node)
        return self._reduce(node, "aten.mean.dim", list(range(2, len(self.shapes[node.inputs[0]]) + 1)))

    def _float_linear(self, node: Node) -> str:
        raise refused(node)

    _float_conv = _float_linear

    def _scales(self, layer: Node) -> dict[str, object]:
        keys = ("multiplier", "offset_multiplier") if "offset_multiplier" in layer.arrays else ("multiplier",)
        factors = [layer.arrays[key].astype(float) * 2.0**self.fraction for key in keys]
        shift = int(np.clip(30 - np.floor(np.log2(max(np.abs(each).max() for each in factors) or 1.0)) - 1, 0, 30))
        scaled = [np.rint(each * 2.0**shift) for each in factors]
        offset = np.rint(layer.arrays["bias"].astype(float) * 2.0 ** (self.fraction + shift)) + 2 ** max(shift - 1, 0)
        if max(np.abs(each).max() for each in scaled) > _LARGEST or np.abs(offset).max() > 2.0**62:
            raise InputError(f"'{layer.name}' has no form without floating point: its scales are too large")
        found = {"scale": self.array(layer, "scale", scaled[0], "int32_t")}
        found |= {"offset": self.array(layer, "offset", offset, "int64_t"), "shift": shift}
        if len(scaled) > 1:
            found["seen"] = self.array(layer, "seen", scaled[1], "int32_t")
        return found

    def _quantize(self, node: Node) -> str:
        self._check_axis(node)
        return self._counted(node, None if self._is_input(node.inputs[0]) else real_thresholds(node))

    def _compare(self, node: Node) -> str:
        self._check_axis(node)
        return self._counted(node, node.arrays["levels"])

    def _counted(self, node: Node, levels: np.ndarray | None) -> str:
        """Codes as how many levels are at most a value; the input's are those of its pixels."""
        if self._is_input(node.inputs[0]):
            return self._looked_up(node)
        self.used.add("reached")
        gain, first = self.stored(node)
        scaled = np.ceil(levels.astype(float) * 2.0**self.fraction)
        count = scaled.shape[1]
        name = self.array(node, "levels", np.clip(scaled, -_LARGEST, _LARGEST), "int32_t")
        row = f"{name} + c * {count}" if len(scaled) > 1 else name
        statements, value = self._element_before(node)
        stored = f"§{node.name}§[at] = (uint8_t)({gain} * stq_reached({value}, {row}, {count}) + {first});"
        return self._each(node, "\n    ".join([*statements, stored]))
