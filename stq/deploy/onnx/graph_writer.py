"""What the ONNX exports share: a graph under construction, and every operation that works on real numbers."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ...errors import InputError
from ..integer.inference import shapes
from ..network import Network, Node

OPSET = 21
_IR_VERSION = 10


class GraphWriter:
    """Writes the nodes of a network one by one: ``_conv`` writes a conv, and so on; subclasses add the integer ones."""

    def __init__(self, network: Network, input_size: tuple[int, ...]):
        self.network, self.users, self.input_size = network, network.users(), input_size
        self.shapes = shapes(network, input_size)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.tensors: dict[str, str] = {}  # node name -> tensor name

    def save(self, path: Path, batch: int | str = "batch", domains: tuple[tuple[str, int], ...] = ()) -> Path:
        """Write all nodes and the file; raises InputError where the graph is not a valid one."""
        for node in self.network.nodes:
            self.tensors[node.name] = getattr(self, f"_{node.op}")(node, *(self.tensors[i] for i in node.inputs))
        output = self.emit("Identity", self.tensors[self.network.output], name="output")
        shape = [batch, *self.shapes[self.network.output][1:]]
        graph = helper.make_graph(
            self.nodes,
            "stq",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, *self.input_size])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
            list(self.initializers.values()),
        )
        opsets = [helper.make_opsetid(*pair) for pair in (("", OPSET), *domains)]
        model = helper.make_model(graph, opset_imports=opsets, producer_name="stq", ir_version=_IR_VERSION)
        if not domains:
            onnx.checker.check_model(model, full_check=True)
        onnx.save(model, str(path))
        return path

    def emit(self, op: str, *inputs: str, name: str | None = None, **attributes) -> str:
        """Append a node with one output and return the output's name."""
        output = name or f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=output, **attributes))
        return output

    def split(self, x: str, sizes: list[int], axis: int) -> list[str]:
        """Parts of ``x`` along an axis."""
        parts = [f"{x}.{index}" for index in range(len(sizes))]
        self.nodes.append(helper.make_node("Split", [x, self.constant(sizes, np.int64)], parts, axis=axis))
        return parts

    def constant(self, value, dtype: type, label: str = "constant") -> str:
        """An initializer; equal ones are stored once. Raises OverflowError where a value does not fit the type."""
        array = np.asarray(value)
        narrow = array.astype(dtype)
        if np.issubdtype(dtype, np.integer) and not np.array_equal(narrow, array):
            raise OverflowError(f"{label} does not fit {np.dtype(dtype)}")
        digest = hashlib.sha256(narrow.tobytes() + str((narrow.shape, narrow.dtype)).encode()).hexdigest()[:12]
        name = f"{label}_{digest}"
        self.initializers.setdefault(
            name, numpy_helper.from_array(np.ascontiguousarray(narrow).reshape(narrow.shape), name)
        )
        return name

    def channels(self, vector: np.ndarray, dims: int) -> str:
        """A vector over channels, to broadcast over a tensor of ``dims`` axes with channels on axis 1."""
        return self.constant(vector.reshape(-1, *(1,) * (dims - 2)) if np.ndim(vector) else vector, np.float32)

    def source(self, layer: Node) -> Node:
        """The node that made the codes an integer layer or a dequantize node reads."""
        source = self.network[layer.inputs[0]]
        return self.source(source) if source.op == "max_pool" else source

    def reader(self, node: Node) -> Node:
        """The layer that reads a node's codes; freeze makes one quantize node for each layer."""
        (reader,) = self.users[node.name]
        return self.reader(reader) if reader.op == "max_pool" else reader

    def _float_conv(self, layer: Node, x: str) -> str:
        weight, bias = (self.constant(layer.arrays[key], np.float32, layer.name) for key in ("weight", "bias"))
        return self.emit("Conv", x, weight, bias, **geometry(layer))

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
        before = [0] * (len(self.shapes[node.name]) - len(node["before"]))  # the axes that are not padded
        both = [*before, *node["before"], *before, *node["after"]]
        return self.emit("Pad", x, self.constant(both, np.int64))


def geometry(layer: Node) -> dict:
    """ONNX attributes of a convolution."""
    return {
        "kernel_shape": layer.arrays["weight"].shape[2:],
        "strides": layer["strides"],
        "pads": layer["pads"],
        "dilations": layer["dilations"],
        "group": layer["groups"],
    }
