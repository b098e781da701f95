"""Export to ONNX with standard operators, in the forms that ONNX Runtime runs with its 8-bit integer kernels.

A layer whose output goes to a quantizer alone is DequantizeLinear - Conv - QuantizeLinear, which runtimes fuse into one
integer convolution; scales and biases are chosen so that the codes are exact. A layer whose output is needed as a real
number (before a residual addition) is ConvInteger or MatMulInteger. Codes are clipped to their level range where it is
smaller than that of the 8-bit type; weights of up to 4 bits are stored as int4.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from .network import INTEGER_LAYERS, Network, Node
from .onnx_graph import GraphWriter, geometry
from .requantize import Requantization, fit
from .thresholds import fuse

_INT16_MAX = 2**15 - 1  # x86 kernels without VNNI add two products in saturating 16 bits
_EXACT_FLOAT32 = 2**24
_MATMUL_POSITIONS = 14 * 14  # measured: above, gathering the patches costs more than it saves


def export_onnx(network: Network, input_size: tuple[int, ...], path: Path) -> Path:
    """Write ``network`` (or a float network) for inputs (batch, *input_size); the batch size stays free."""
    fused, requantized = _fuse(network)
    return _Writer(fused, input_size, requantized).save(path)


def _fuse(network: Network) -> tuple[Network, dict[str, Requantization]]:
    """Fuse thresholds where one 8-bit convolution reproduces them exactly; and how, by layer."""
    fused, skip, requantized = fuse(network), [node.name for node in network.of("linear")], {}
    users = fused.users()
    for threshold in fused.of("threshold"):
        layer = fused[threshold.inputs[0]]
        largest = _largest(layer.arrays["weight"])
        if layer.op != "conv" or largest > 127:
            skip.append(layer.name)
            continue
        reader = threshold
        while reader.op in ("threshold", "max_pool"):
            (reader,) = users[reader.name]
        gain = reader["code_gain"] if reader.op in INTEGER_LAYERS else 1
        if (found := fit(threshold, gain, fused.bounds[layer.name], 127 // largest)) is None:
            skip.append(layer.name)
        else:
            requantized[layer.name] = found
    return fuse(network, skip), requantized


class _Writer(GraphWriter):
    def __init__(self, network: Network, input_size: tuple[int, ...], requantized: dict[str, Requantization]):
        super().__init__(network, input_size)
        self.requantized = requantized
        self.pooled: set[str] = set()  # pooling nodes that are done already

    def weight(self, layer: Node, codes: np.ndarray, dtype: type, factor: np.ndarray | int = 1, zero: int = 0) -> str:
        """``factor * codes + zero``; the codes are stored as int4 where they fit, and widened at load."""
        if layer["weight_bits"] > 4 or codes.min(initial=0) < -8 or codes.max(initial=0) > 7:
            return self.constant(codes * factor + zero, dtype, f"{layer.name}.weight")
        value = f"{layer.name}.weight"
        nibbles = np.append(codes.reshape(-1), [0] * (codes.size % 2)).astype(np.int8).view(np.uint8) & 15
        stored = (nibbles[0::2] | nibbles[1::2] << 4).tobytes()
        self.initializers[value] = helper.make_tensor(value, TensorProto.INT4, codes.shape, stored, raw=True)
        value = self.emit("Cast", value, to=TensorProto.INT32)
        if not np.all(np.asarray(factor) == 1):
            value = self.emit("Mul", value, self.constant(factor, np.int32))
        if zero:
            value = self.emit("Add", value, self.constant(zero, np.int32))
        return self.emit("Cast", value, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    # codes

    def _form(self, layer: Node) -> str:
        """How a convolution runs: codes, matmul, integer, or float (on integers that float32 holds exactly)."""
        codes = layer.arrays["weight"]
        if layer.name in self.requantized:
            return "codes"
        if layer["groups"] > 1 and self.network.bounds[layer.name] < _EXACT_FLOAT32:
            return "float"
        source = self.source(layer)
        largest_code = layer["code_gain"] * (source["high"] - source["low"])
        small = self.positions(layer) <= _MATMUL_POSITIONS and codes.ndim == 4 and codes[0, 0].size > 1
        fits = _largest(codes) <= 127 and 2 * largest_code * _largest(codes) <= _INT16_MAX
        plain = layer["groups"] == 1 and "offset_multiplier" not in layer.arrays
        return "matmul" if small and fits and plain else "integer"

    def positions(self, layer: Node) -> int:
        """Output positions of a convolution."""
        return int(np.prod(self.shapes[layer.name][2:]))

    def _signed(self, node: Node) -> bool:
        """Whether the codes of a node are stored as int8, which ConvInteger wants beside unsigned weights.

        Codes that an 8-bit convolution has made are unsigned, and stay so where int8 would not hold them.
        """
        reader = self.reader(node)
        wide = reader["code_gain"] * (node["high"] - node["low"]) > 127 if reader.op == "conv" else False
        return reader.op == "conv" and self._form(reader) == "integer" and not (node.op == "threshold" and wide)

    def _store(self, node: Node) -> tuple[int, int, type, int]:
        """(gain, base, dtype, zero): stored = gain * (code - low) + base; ``zero`` is the stored form of operand 0."""
        reader = self.reader(node)
        gain, offset = (reader["code_gain"], reader["code_offset"]) if reader.op in INTEGER_LAYERS else (1, 0)
        levels = gain * (node["high"] - node["low"])
        signed = self._signed(node)
        base = -128 if signed and levels > 127 else 0
        return gain, base, np.int8 if signed else np.uint8, base - (gain * node["low"] + offset)

    def _clipped(self, node: Node, stored: str, dtype: type, base: int, levels: int) -> str:
        """Clip stored codes to their range; the type saturates on both sides where all 256 values are in use."""
        if levels == 255:
            return stored
        return self.emit("Clip", stored, self.constant(base, dtype), self.constant(base + levels, dtype))

    def _quantize(self, node: Node, x: str) -> str:
        gain, base, dtype, _ = self._store(node)
        levels = node["high"] - node["low"]
        after = -node["axis"] - 1
        value = x
        arrays = [a.reshape(-1, *(1,) * after) if a.ndim else a for a in (node.arrays["gain"], node.arrays["shift"])]
        value = self.emit("Mul", value, self.constant(arrays[0], np.float32))
        if arrays[1].any():
            value = self.emit("Sub", value, self.constant(arrays[1], np.float32))
        if gain == 2:  # one bit, stored as 0 and 2
            limits = [self.constant(v, np.float32) for v in (0.0, 1.0)]
            value = self.emit("Round", self.emit("Clip", value, *limits))
        zero = base - node["low"] * gain
        scale = self.constant(1.0 / gain, np.float32)
        stored = self.emit("QuantizeLinear", value, scale, self.constant(zero, dtype))
        return self._clipped(node, stored, dtype, base, gain * levels)

    def _threshold(self, node: Node, real: str) -> str:
        gain, _, dtype, _ = self._store(node)
        levels = gain * (node["high"] - node["low"])
        stored = self.emit("QuantizeLinear", real, self.constant(1.0, np.float32), self.constant(0, np.uint8))
        stored = self._clipped(node, stored, np.uint8, 0, levels)
        return stored if dtype == np.uint8 else self.emit("Cast", stored, to=TensorProto.INT8)

    def _dequantize(self, node: Node, stored: str) -> str:
        source = self.network[node.inputs[0]]
        while source.op == "max_pool":
            source = self.network[source.inputs[0]]
        real = self.emit("Cast", stored, to=TensorProto.FLOAT)
        code = self.emit("Add", real, self.constant(source["low"], np.float32)) if source["low"] else real
        value = self.emit("Mul", code, self.constant(node.arrays["scale"], np.float32))
        offset = node.arrays["offset"]
        return self.emit("Add", value, self.constant(offset, np.float32)) if offset else value

    # layers

    def _conv(self, layer: Node, stored: str) -> str:
        source = self.source(layer)
        _, base, dtype, zero = self._store(source)
        largest_code = max(abs(base), abs(base + layer["code_gain"] * (source["high"] - source["low"])))
        form = self._form(layer)
        if form == "codes":
            return self._conv_to_codes(layer, stored, zero, largest_code)
        if form == "matmul":
            return self._conv_as_matmul(layer, stored, zero)
        if form == "float":
            return self._real(layer, self._conv_in_float(layer, stored, zero, dtype))
        return self._real(layer, self._conv_integer(layer, stored, zero, dtype, largest_code))

    def _conv_as_matmul(self, layer: Node, stored: str, zero: int) -> str:
        """Patches times weights: on small pictures faster than ConvInteger, which packs its weights at every call."""
        codes, pads = layer.arrays["weight"], layer["pads"]
        x = self.emit("Transpose", stored, perm=[0, 2, 3, 1])
        if any(pads):
            both = [0, *pads[:2], 0, 0, *pads[2:], 0]
            x = self.emit("Pad", x, self.constant(both, np.int64), self.constant(zero, np.uint8))
        patches = []
        _, _, height, width = self.shapes[layer.name]
        for row, column in np.ndindex(codes.shape[2:]):
            first = np.array([row, column]) * layer["dilations"]
            last = first + np.array(layer["strides"]) * (np.array([height, width]) - 1) + 1
            place = (self.constant(v, np.int64) for v in (first, last, [1, 2], layer["strides"]))
            patches.append(self.emit("Slice", x, *place))
        patch = self.emit("Concat", *patches, axis=3)
        matrix = self.weight(layer, codes.transpose(2, 3, 1, 0).reshape(-1, len(codes)), np.int8)
        points = self.constant(zero, np.uint8), self.constant(0, np.int8)
        accumulator = self.emit("MatMulInteger", patch, matrix, *points)
        scale, bias = (self.constant(layer.arrays[key], np.float32) for key in ("multiplier", "bias"))
        real = self.emit("Add", self.emit("DequantizeLinear", accumulator, scale, axis=3), bias)
        return self.emit("Transpose", real, perm=[0, 3, 1, 2])

    def _pool_before_bias(self, layer: Node, real: str) -> str:
        """Pool before bias and ReLU, which then run on fewer values; all three are increasing, so they commute."""
        chain, node = [], layer
        while len(self.users[node.name]) == 1 and (node := self.users[node.name][0]).op == "relu":
            chain.append(node)
        if not chain or node.op != "max_pool" or len(self.users[chain[-1].name]) != 1:
            return real
        pooled = self._max_pool(node, real)
        self.pooled.add(node.name)
        return pooled

    def _conv_to_codes(self, layer: Node, stored: str, zero: int, largest_code: int) -> str:
        """Real-valued Conv between DequantizeLinear and QuantizeLinear (which ``_threshold`` adds)."""
        found = self.requantized[layer.name]
        sign = _sign(self.users, layer)
        after = (1,) * (layer.arrays["weight"].ndim - 1)
        factor = (found.factor * sign).reshape(-1, *after)
        scale = self.constant(found.multiplier, np.float32)
        x = self.emit("DequantizeLinear", stored, self.constant(1.0, np.float32), self.constant(zero, np.uint8))
        channels = len(sign)
        if 2 * largest_code * _largest(layer.arrays["weight"]) * found.factor <= _INT16_MAX:
            kind, middle = np.int8, 0
            codes = self.weight(layer, layer.arrays["weight"], kind, factor)
        else:
            kind, middle = np.uint8, 128
            codes = self.constant(layer.arrays["weight"] * factor + middle, kind, f"{layer.name}.weight")
        points = self.constant(np.full(channels, middle), kind)
        weight = self.emit("DequantizeLinear", codes, scale, points, axis=0)
        zeros = self.constant(np.zeros(channels), np.int32)
        bias = self.emit("DequantizeLinear", self.constant(found.bias, np.int32), scale, zeros, axis=0)
        return self.emit("Conv", x, weight, bias, **geometry(layer))

    def _conv_integer(self, layer: Node, stored: str, zero: int, dtype: type, largest_code: int) -> str:
        codes = layer.arrays["weight"]
        odd = _largest(codes) > 128 or codes.max(initial=0) > 127
        if odd:  # odd codes beyond int8: 2 w + 1, where the + 1 is one more channel that sums the inputs
            halves = (codes - 1) // 2
            codes = np.concatenate([halves, np.ones_like(halves[:1])])
        least = int(codes.min(initial=0))
        if dtype == np.int8 and 2 * largest_code * (int(codes.max(initial=0)) - least) > _INT16_MAX:
            # move to unsigned codes, whose kernel adds in 32 bits
            stored = self.emit("Cast", stored, to=TensorProto.INT32)
            stored = self.emit("Add", stored, self.constant(128, np.int32))
            stored, zero, dtype = self.emit("Cast", stored, to=TensorProto.UINT8), zero + 128, np.uint8
        weight = self.weight(layer, codes, np.uint8, zero=-least)
        points = self.constant(zero, dtype), self.constant(-least, np.uint8)
        accumulator = self.emit("ConvInteger", stored, weight, *points, **geometry(layer))
        if not odd:
            return accumulator
        parts = [len(codes) - 1, 1]
        split = [f"{layer.name}.halves", f"{layer.name}.inputs"]
        self.nodes.append(helper.make_node("Split", [accumulator, self.constant(parts, np.int64)], split, axis=1))
        doubled = self.emit("Mul", split[0], self.constant(2, np.int32))
        return self.emit("Add", doubled, split[1])

    def _conv_in_float(self, layer: Node, stored: str, zero: int, dtype: type) -> str:
        """Depthwise and grouped convolutions: a float kernel on integers, whose sums float32 holds exactly."""
        x = self.emit("DequantizeLinear", stored, self.constant(1.0, np.float32), self.constant(zero, dtype))
        codes = layer.arrays["weight"]
        if codes.min() < -128 or codes.max() > 127:
            weight = self.constant(codes, np.float32, f"{layer.name}.weight")
        else:
            weight = self.emit("Cast", self.weight(layer, codes, np.int8), to=TensorProto.FLOAT)
        # as an integer, which also keeps runtimes from folding the scale into the weights and rounding otherwise
        return self.emit("Cast", self.emit("Conv", x, weight, **geometry(layer)), to=TensorProto.INT32)

    def _real(self, layer: Node, accumulator: str) -> str:
        """``multiplier * acc + bias`` of an integer (int32, or exact float) accumulator."""
        multiplier, bias = (layer.arrays[key].astype(np.float32) for key in ("multiplier", "bias"))
        dims = 2 if layer.op == "linear" else layer.arrays["weight"].ndim
        if layer.op == "conv":
            real = self.emit("DequantizeLinear", accumulator, self.constant(multiplier, np.float32), axis=1)
        else:
            real = self.emit("Mul", accumulator, self.channels(multiplier, dims))
        if "offset_multiplier" not in layer.arrays:
            real = self._pool_before_bias(layer, real)
        else:
            return self.emit("Add", real, self._offset_map(layer, dims))
        return self.emit("Add", real, self.channels(bias, dims)) if bias.any() else real

    def _offset_map(self, layer: Node, dims: int) -> str:
        """Bias plus the input's offset times the weights on valid inputs: the border sees fewer of them.

        Shape (1, O, positions); made of constants, so runtimes compute it once, when they load the model.
        """
        sums = layer.arrays["weight"].sum(1, keepdims=True).astype(np.float32)
        ones = self.emit(
            "ConstantOfShape",
            self.constant([1, 1, *self.shapes[layer.inputs[0]][2:]], np.int64),
            value=helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0]),
        )
        valid = self.emit("Conv", ones, self.constant(sums, np.float32), **{**geometry(layer), "group": 1})
        scaled = self.emit("Mul", valid, self.channels(layer.arrays["offset_multiplier"], dims))
        return self.emit("Add", scaled, self.channels(layer.arrays["bias"], dims))

    def _linear(self, layer: Node, stored: str) -> str:
        source = self.source(layer)
        _, _, dtype, zero = self._store(source)
        codes = layer.arrays["weight"].T  # (inputs, outputs)
        bound = layer["code_gain"] * (source["high"] - source["low"])
        odd = _largest(codes) > 128 or codes.max(initial=0) > 127
        if odd:
            halves = (codes - 1) // 2
            codes = np.concatenate([halves, np.ones_like(halves[:, :1])], 1)
        if 2 * bound * _largest(codes) <= _INT16_MAX:
            weight, point = self.weight(layer, codes, np.int8), self.constant(0, np.int8)
        else:
            weight = self.constant(codes + 128, np.uint8, f"{layer.name}.weight")
            point = self.constant(128, np.uint8)
        accumulator = self.emit("MatMulInteger", stored, weight, self.constant(zero, dtype), point)
        if odd:
            split = [f"{layer.name}.halves", f"{layer.name}.inputs"]
            parts = self.constant([codes.shape[1] - 1, 1], np.int64)
            self.nodes.append(helper.make_node("Split", [accumulator, parts], split, axis=-1))
            accumulator = self.emit("Add", self.emit("Mul", split[0], self.constant(2, np.int32)), split[1])
        return self._real(layer, self.emit("Cast", accumulator, to=TensorProto.FLOAT))

    def _max_pool(self, node: Node, x: str) -> str:
        return x if node.name in self.pooled else super()._max_pool(node, x)  # where the layer before has pooled


def _sign(users: dict[str, list[Node]], layer: Node) -> np.ndarray:
    node = layer
    while node.op != "threshold":
        (node,) = users[node.name]
    return node.arrays["sign"]


def _largest(codes: np.ndarray) -> int:
    return int(np.abs(codes).max(initial=1))
