"""What the ONNX exports share: a graph under construction, and every operation that works on real numbers."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ...errors import InputError
from ..about import About, checksum
from ..integer.inference import shapes
from ..network import CARRIED, Network, Node
from .torch_part import RESULT, TorchPart, translated

OPSET = 21
_IR_VERSION = 10


class GraphWriter:
    """Writes the nodes of a network one by one: ``_conv`` writes a conv, and so on; subclasses add the integer ones."""

    def __init__(self, network: Network, input_size: tuple[int, ...], about: About):
        self.network, self.users, self.input_size, self.about = network, network.users(), input_size, about
        self.shapes = shapes(network, input_size)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.tensors: dict[str, str] = {}  # node name -> tensor name
        self.writing = ""  # the node that is being written
        self.named: dict[str, int] = {}
        self.annotations: dict[str, str] = {}  # tensor -> its type in QONNX

    def save(self, path: Path, batch: int | str = "batch", domains: tuple[tuple[str, int], ...] = ()) -> Path:
        """Write all nodes and the file; raises InputError where the graph is not a valid one."""
        carried = any(node.op in CARRIED for node in self.network.nodes)
        if carried:
            model = translated(self.network, self.input_size, self.shapes, OPSET)
            self.part = TorchPart(model, self.tensors, self.nodes.append, self._torch_constant)
        for node in (node for node in self.network.nodes if node.op not in CARRIED):
            self.writing = node.name
            inputs = (self._read(node.name, place, name) for place, name in enumerate(node.inputs))
            self.tensors[node.name] = getattr(self, f"_{node.op}")(node, *inputs)
        self._name_output(self._read(RESULT, 0, self.network.output))
        self.finish()
        shape = [batch, *self.shapes[self.network.output][1:]]
        read = {name for node in self.nodes for name in node.input}
        graph = helper.make_graph(
            self.nodes,
            "stq",
            [helper.make_tensor_value_info("input", self._input_type(), [batch, *self.input_size])],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
            [tensor for name, tensor in self.initializers.items() if name in read],
        )
        for tensor, kind in self.annotations.items():
            note = onnx.StringStringEntryProto(key="finn_datatype", value=kind)
            graph.quantization_annotation.append(
                onnx.TensorAnnotation(tensor_name=tensor, quant_parameter_tensor_names=[note])
            )
        opsets = [helper.make_opsetid(*pair) for pair in (("", OPSET), *domains)]
        model = helper.make_model(graph, opset_imports=opsets, producer_name="stq", ir_version=_IR_VERSION)
        if not domains:
            onnx.checker.check_model(model, full_check=True)
        helper.set_model_props(model, {**self.about.entries(), "stq.checksum": checksum(graph.SerializeToString())})
        onnx.save(model, str(path))
        return path

    def finish(self) -> None:
        """What a target changes in the nodes when all are there."""

    def _input_type(self) -> int:
        return TensorProto.UINT8 if self.about.pixels else TensorProto.FLOAT

    def _name_output(self, tensor: str) -> None:
        """Call the tensor "output", by a node of its own where no node makes it (converters stumble over those)."""
        self.writing = ""
        if not any(tensor in node.output for node in self.nodes):
            self.emit("Identity", tensor, name="output")
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = ["output" if name == tensor and "output" not in node.output else name for name in names]

    def _read(self, reader: str, place: int, name: str) -> str:
        return self.tensors[name] if name in self.tensors else self.part.read_by(reader, place)

    def _torch_constant(self, array: np.ndarray) -> str:
        return self.constant(array, array.dtype)

    def emit(self, op: str, *inputs: str, name: str | None = None, **attributes) -> str:
        """Append a node with one output, named after the network's node, and return the output's name."""
        output = name or f"{op}_{len(self.nodes)}"
        node = helper.make_node(op, list(inputs), [output], name=self._node_name(op), **attributes)
        self.nodes.append(node)
        return output

    def _node_name(self, op: str) -> str:
        wanted = f"{self.writing}/{op}".removeprefix("/")
        self.named[wanted] = count = self.named.get(wanted, 0) + 1
        return wanted if count == 1 else f"{wanted}_{count}"

    def split(self, x: str, sizes: list[int], axis: int) -> list[str]:
        """Parts of ``x`` along an axis."""
        parts = [f"{x}.{index}" for index in range(len(sizes))]
        inputs, name = [x, self.constant(sizes, np.int64)], self._node_name("Split")
        self.nodes.append(helper.make_node("Split", inputs, parts, name=name, axis=axis))
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
        """The input itself, or what uint8 pixels become: ``(pixel / 255 - mean) / std``."""
        if not self.about.pixels:
            return "input"
        mean, std = (np.asarray(each, np.float64).reshape(-1, 1, 1) for each in (self.about.mean, self.about.std))
        if len(mean) != self.input_size[0]:
            raise InputError(f"mean and std are of {len(mean)} channels, and the input has {self.input_size[0]}")
        scaled = self.emit("Div", self.emit("Cast", "input", to=TensorProto.FLOAT), self.constant(255.0, np.float32))
        centred = self.emit("Sub", scaled, self.constant(mean, np.float32))
        return self.emit("Div", centred, self.constant(std, np.float32))

    def _constant(self, node: Node) -> str:
        value = node.arrays["value"]
        return self.constant(value, value.dtype)

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
        """Plain pooling where the sizes divide, nothing where they are equal, else a product with a matrix an axis."""
        size, given = node["size"], self.shapes[node.inputs[0]][2:]
        if not any(a % b for a, b in zip(given, size, strict=True)):
            kernel = [a // b for a, b in zip(given, size, strict=True)]
            return x if kernel == [1, 1] else self.emit("AveragePool", x, kernel_shape=kernel, strides=kernel)
        rows, columns = (_averages(*pair) for pair in zip(given, size, strict=True))
        rows, columns = (self.constant(matrix, np.float32) for matrix in (rows, columns.T))
        return self.emit("MatMul", self.emit("MatMul", rows, x), columns)

    def _mean(self, node: Node, x: str) -> str:
        return self.emit("ReduceMean", x, self.constant(node["axes"], np.int64), keepdims=int(node["keepdims"]))

    def _flatten(self, node: Node, x: str) -> str:
        if node["start"] != 1:
            return self.emit("Reshape", x, self.constant([0] * node["start"] + [-1], np.int64))
        return self.emit("Flatten", x, axis=1)

    def _slice(self, node: Node, x: str) -> str:
        steps = node["steps"]
        axes, ends = list(range(len(steps))), [2**31 - 1] * len(steps)
        return self.emit("Slice", x, *(self.constant(v, np.int64) for v in ([0] * len(steps), ends, axes, steps)))

    def _pad(self, node: Node, x: str) -> str:
        before = [0] * (len(self.shapes[node.name]) - len(node["before"]))  # the axes that are not padded
        both = [*before, *node["before"], *before, *node["after"]]
        return self.emit("Pad", x, self.constant(both, np.int64))


def _averages(given: int, size: int) -> np.ndarray:
    """The matrix (size, given) that averages as torch's adaptive pooling does: windows from floor to ceiling."""
    matrix = np.zeros((size, given))
    for place in range(size):
        first, end = place * given // size, -(-(place + 1) * given // size)
        matrix[place, first:end] = 1 / (end - first)
    return matrix


def geometry(layer: Node) -> dict:
    """ONNX attributes of a convolution."""
    return {
        "kernel_shape": layer.arrays["weight"].shape[2:],
        "strides": layer["strides"],
        "pads": layer["pads"],
        "dilations": layer["dilations"],
        "group": layer["groups"],
    }
