"""Export to ONNX with standard operators, in the forms that ONNX Runtime runs with its 8-bit integer kernels.

A layer whose output goes to a quantizer alone is DequantizeLinear - Conv - QuantizeLinear, which runtimes fuse into one
integer convolution; scales and biases are chosen so that the codes are exact. A layer whose output is needed as a real
number (before a residual addition) is ConvInteger or MatMulInteger. Codes are clipped to their level range where it is
smaller than that of the 8-bit type; weights of up to 4 bits are stored as int4.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..errors import InputError
from .integer import run
from .network import INTEGER_LAYERS, Network, Node, accumulator_bound
from .requantize import Requantization, fit
from .thresholds import fuse

OPSET = 21
_IR_VERSION = 10
_INT16_MAX = 2**15 - 1  # x86 kernels without VNNI add two products in saturating 16 bits
_EXACT_FLOAT32 = 2**24


def export_onnx(network: Network, input_size: tuple[int, ...], path: Path) -> Path:
    """Write ``network`` (or a float network) for inputs (batch, *input_size); the batch size stays free."""
    model = _Builder(network, input_size).model()
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    return path


class _Builder:
    def __init__(self, network: Network, input_size: tuple[int, ...]):
        self.input_size = input_size
        self.shapes: dict[str, tuple[int, ...]] = {}  # of each node's value for one sample
        run(network, np.zeros((1, *input_size)), lambda node, value: self.shapes.update({node.name: value.shape}))
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.requantized: dict[str, Requantization] = {}
        self.network = self._fused(network)
        self.users = self.network.users()
        self.tensors: dict[str, str] = {}  # node name -> tensor name
        self.zero_points: dict[str, int] = {}  # of stored codes, by node name
        self._count = 0

    def _fused(self, network: Network) -> Network:
        """Fuse thresholds where one 8-bit convolution reproduces them exactly."""
        fused, skip = fuse(network), [node.name for node in network.of("linear")]
        readers = fused.users()
        for threshold in fused.of("threshold"):
            layer = fused[threshold.inputs[0]]
            if layer.op != "conv":
                continue
            found = None
            if (largest := _largest(layer.arrays["weight"])) <= 127:
                reader = _reader(readers, threshold)
                gain = reader["code_gain"] if reader.op in INTEGER_LAYERS else 1
                found = fit(threshold, gain, accumulator_bound(fused, layer), 127 // largest)
            if found is None:
                skip.append(layer.name)
            else:
                self.requantized[layer.name] = found
        return fuse(network, skip)

    def model(self) -> onnx.ModelProto:
        for node in self.network.nodes:
            self.tensors[node.name] = getattr(self, f"_{node.op}")(node, *(self.tensors[i] for i in node.inputs))
        output = self.tensors[self.network.output]
        graph = helper.make_graph(
            [*self.nodes, helper.make_node("Identity", [output], ["output"])],
            "stq",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", *self.input_size])],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, None)],
            list(self.initializers.values()),
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="stq")
        model.ir_version = _IR_VERSION
        return onnx.shape_inference.infer_shapes(model)

    # building blocks

    def emit(self, op: str, *inputs: str, name: str | None = None, **attributes) -> str:
        self._count += 1
        output = name or f"{op}_{self._count}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=output, **attributes))
        return output

    def constant(self, value, dtype: type, label: str = "c") -> str:
        array = np.asarray(value, dtype=dtype)
        name = f"{label}_{array.dtype}_{'x'.join(map(str, array.shape))}_{hash(array.tobytes()) & 0xFFFFFFFFFFFF:x}"
        self.initializers.setdefault(name, numpy_helper.from_array(array, name))
        return name

    def channels(self, vector: np.ndarray, dims: int) -> str:
        """A vector over channels, to broadcast over a tensor of ``dims`` axes with channels on axis 1."""
        return self.constant(vector.reshape(-1, *(1,) * (dims - 2)) if np.ndim(vector) else vector, np.float32)

    def weight(self, layer: Node, codes: np.ndarray, dtype: type, factor: np.ndarray | int = 1, zero: int = 0) -> str:
        """``factor * codes + zero``; the codes are stored as int4 where they fit, and widened at load."""
        if layer["weight_bits"] > 4 or codes.min(initial=0) < -8 or codes.max(initial=0) > 7:
            return self.constant(codes * factor + zero, dtype, f"{layer.name}.weight")
        value = f"{layer.name}.weight"
        self.initializers[value] = helper.make_tensor(value, TensorProto.INT4, codes.shape, codes.reshape(-1))
        value = self.emit("Cast", value, to=TensorProto.INT32)
        if not np.all(np.asarray(factor) == 1):
            value = self.emit("Mul", value, self.constant(factor, np.int32))
        if zero:
            value = self.emit("Add", value, self.constant(zero, np.int32))
        return self.emit("Cast", value, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    # codes

    def _signed(self, node: Node) -> bool:
        """Whether the codes of a node are stored as int8, which ConvInteger wants beside unsigned weights."""
        reader = _reader(self.users, node)
        return (
            reader.op == "conv" and reader.name not in self.requantized and _runs_as_conv_integer(self.network, reader)
        )

    def _store(self, node: Node) -> tuple[int, int, type, int]:
        """(gain, base, dtype, zero): stored = gain * (code - low) + base; ``zero`` is the stored form of operand 0."""
        reader = _reader(self.users, node)
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
        gain, base, dtype, _ = self._store(node)
        levels = gain * (node["high"] - node["low"])
        stored = self.emit("QuantizeLinear", real, self.constant(1.0, np.float32), self.constant(0, np.uint8))
        stored = self._clipped(node, stored, np.uint8, 0, levels)
        if dtype == np.uint8:
            return stored
        if base:
            raise InputError(f"'{node.name}': 8-bit codes cannot move from an 8-bit layer to a signed one")
        return self.emit("Cast", stored, to=TensorProto.INT8)

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

    def _source(self, layer: Node) -> Node:
        source = self.network[layer.inputs[0]]
        while source.op == "max_pool":
            source = self.network[source.inputs[0]]
        return source

    def _conv(self, layer: Node, stored: str) -> str:
        source = self._source(layer)
        _, base, dtype, zero = self._store(source)
        largest_code = max(abs(base), abs(base + layer["code_gain"] * (source["high"] - source["low"])))
        if layer.name in self.requantized:
            return self._conv_to_codes(layer, stored, zero, largest_code)
        if not _runs_as_conv_integer(self.network, layer):
            accumulator = self._conv_in_float(layer, stored, zero, dtype)
        else:
            accumulator = self._conv_integer(layer, stored, zero, dtype, largest_code)
        return self._real(layer, accumulator)

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
        return self.emit("Conv", x, weight, bias, **_geometry(layer))

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
        accumulator = self.emit("ConvInteger", stored, weight, *points, **_geometry(layer))
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
        return self.emit("Conv", x, weight, **_geometry(layer))

    def _real(self, layer: Node, accumulator: str) -> str:
        """``multiplier * acc + bias`` of an integer (int32, or exact float) accumulator."""
        multiplier, bias = (layer.arrays[key].astype(np.float32) for key in ("multiplier", "bias"))
        dims = 2 if layer.op == "linear" else layer.arrays["weight"].ndim
        if layer.op == "conv" and _runs_as_conv_integer(self.network, layer):
            real = self.emit("DequantizeLinear", accumulator, self.constant(multiplier, np.float32), axis=1)
        else:
            real = self.emit("Mul", accumulator, self.channels(multiplier, dims))
        if "offset_multiplier" in layer.arrays:
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
        geometry = {**_geometry(layer), "group": 1}
        valid = self.emit("Conv", ones, self.constant(sums, np.float32), **geometry)
        scaled = self.emit("Mul", valid, self.channels(layer.arrays["offset_multiplier"], dims))
        return self.emit("Add", scaled, self.channels(layer.arrays["bias"], dims))

    def _linear(self, layer: Node, stored: str) -> str:
        source = self._source(layer)
        _, base, dtype, zero = self._store(source)
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

    def _float_conv(self, layer: Node, x: str) -> str:
        weight, bias = (self.constant(layer.arrays[key], np.float32, layer.name) for key in ("weight", "bias"))
        return self.emit("Conv", x, weight, bias, **_geometry(layer))

    def _float_linear(self, layer: Node, x: str) -> str:
        product = self.emit("MatMul", x, self.constant(layer.arrays["weight"].T, np.float32, layer.name))
        return self.emit("Add", product, self.constant(layer.arrays["bias"], np.float32))

    # everything else

    def _input(self, node: Node) -> str:
        return "input"

    def _constant(self, node: Node) -> str:
        return self.constant(node.arrays["value"], np.float32)

    def _affine(self, node: Node, x: str) -> str:
        dims = len(self.shapes[node.name])
        scaled = self.emit("Mul", x, self.channels(node.arrays["multiplier"], dims))
        return self.emit("Add", scaled, self.channels(node.arrays["bias"], dims))

    def _prelu(self, node: Node, x: str) -> str:
        slope = node.arrays["slope"]
        return self.emit("PRelu", x, self.channels(slope, len(self.shapes[node.name])))

    def _relu(self, node: Node, x: str) -> str:
        return self.emit("Relu", x)

    def _silu(self, node: Node, x: str) -> str:
        return self.emit("Mul", x, self.emit("Sigmoid", x))

    def _sigmoid(self, node: Node, x: str) -> str:
        return self.emit("Sigmoid", x)

    def _tanh(self, node: Node, x: str) -> str:
        return self.emit("Tanh", x)

    def _gelu(self, node: Node, x: str) -> str:
        return self.emit("Gelu", x)

    def _hardsigmoid(self, node: Node, x: str) -> str:
        return self.emit("HardSigmoid", x, alpha=1 / 6, beta=0.5)

    def _hardswish(self, node: Node, x: str) -> str:
        return self.emit("HardSwish", x)

    def _clip(self, node: Node, x: str) -> str:
        return self.emit("Clip", x, *(self.constant(node[key], np.float32) for key in ("low", "high")))

    def _add(self, node: Node, a: str, b: str) -> str:
        return self.emit("Add", a, b)

    def _mul(self, node: Node, a: str, b: str) -> str:
        return self.emit("Mul", a, b)

    def _concat(self, node: Node, *xs: str) -> str:
        return self.emit("Concat", *xs, axis=node["axis"])

    def _max_pool(self, node: Node, x: str) -> str:
        settings = {"kernel_shape": node["kernel"], "strides": node["strides"], "pads": node["pads"]}
        return self.emit("MaxPool", x, dilations=node["dilations"], ceil_mode=int(node["ceil_mode"]), **settings)

    def _avg_pool(self, node: Node, x: str) -> str:
        settings = {"kernel_shape": node["kernel"], "strides": node["strides"], "pads": node["pads"]}
        include = int(node["count_include_pad"])
        return self.emit("AveragePool", x, count_include_pad=include, ceil_mode=int(node["ceil_mode"]), **settings)

    def _adaptive_avg_pool(self, node: Node, x: str) -> str:
        """Plain pooling, or nothing, where the sizes divide."""
        size, given = node["size"], self.shapes[node.inputs[0]][2:]
        if any(a % b for a, b in zip(given, size, strict=True)):
            raise InputError(f"'{node.name}' pools {tuple(given)} to {tuple(size)}: ONNX has no operator for that")
        kernel = [a // b for a, b in zip(given, size, strict=True)]
        return x if kernel == [1, 1] else self.emit("AveragePool", x, kernel_shape=kernel, strides=kernel)

    def _mean(self, node: Node, x: str) -> str:
        return self.emit("ReduceMean", x, self.constant(node["axes"], np.int64), keepdims=int(node["keepdims"]))

    def _flatten(self, node: Node, x: str) -> str:
        if node["start"] != 1:
            raise InputError(f"'{node.name}' flattens from axis {node['start']}; the ONNX export flattens from axis 1")
        return self.emit("Flatten", x, axis=1)

    def _slice(self, node: Node, x: str) -> str:
        steps = node["steps"]
        axes, ends = list(range(len(steps))), [2**31 - 1] * len(steps)
        return self.emit("Slice", x, *(self.constant(v, np.int64) for v in ([0] * len(steps), ends, axes, steps)))

    def _pad(self, node: Node, x: str) -> str:
        return self.emit("Pad", x, self.constant([*node["before"], *node["after"]], np.int64))


def _reader(users: dict[str, list[Node]], node: Node) -> Node:
    """The layer that reads a node's codes, past pooling; freeze makes one quantize node for each layer."""
    (reader,) = users[node.name]
    return _reader(users, reader) if reader.op == "max_pool" else reader


def _sign(users: dict[str, list[Node]], layer: Node) -> np.ndarray:
    node = layer
    while node.op != "threshold":
        (node,) = users[node.name]
    return node.arrays["sign"]


def _runs_as_conv_integer(network: Network, layer: Node) -> bool:
    return layer["groups"] == 1 or accumulator_bound(network, layer) >= _EXACT_FLOAT32


def _largest(codes: np.ndarray) -> int:
    return int(np.abs(codes).max(initial=1))


def _geometry(layer: Node) -> dict:
    return {
        "kernel_shape": layer.arrays["weight"].shape[2:],
        "strides": layer["strides"],
        "pads": layer["pads"],
        "dilations": layer["dilations"],
        "group": layer["groups"],
    }
