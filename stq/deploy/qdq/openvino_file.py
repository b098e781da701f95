"""Export to QDQ ONNX for OpenVINO."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from ..about import About
from ..network import Network, Node
from .qdq_file import QdqWriter

_RIGHT = ("relu", "conv", "float_conv", "add")  # behind these a factor or shift alone is right
_NEXT_TO_ONE, _LEAST = 1 + 2.0**-23, 1e-30  # change no code but at a tie, and are not taken away


def export_openvino(network: Network, input_size: tuple[int, ...], path: Path, about: About) -> Path:
    """Write ``network`` for inputs (batch, *input_size); the batch size stays free."""
    return OpenVinoWriter(network, input_size, about).save(path)


class OpenVinoWriter(QdqWriter):
    """Operations in the forms that OpenVINO (2026.4) computes right.

    Before a quantizer it wants a factor and a shift a channel, or neither: one alone is taken into the quantizer, whose
    limits are then one a channel, and the layer behind is wrong where a pooling or the input stands before. Maxima
    over positions are pools, for it computes ReduceMax before an int8 layer wrong. And axes are taken away by a node
    of their own: where ReduceMean takes some of three away it computes wrong what constants follow.
    """

    def _moved(self, node: Node, x: str, factor: np.ndarray | None, less: np.ndarray | None) -> str:
        """As every format's, but both or neither where one alone would be computed wrong."""
        if self.network[node.inputs[0]].op not in _RIGHT:
            if factor is None and less is not None and less.size > 1:
                factor = np.array(_NEXT_TO_ONE)
            elif less is None and factor is not None and factor.size > 1:
                less = np.array(_LEAST)
        return super()._moved(node, x, factor, less)

    def finish(self) -> None:
        """Put these forms in the place of others."""
        if not any(node.op_type.startswith("Reduce") for node in self.nodes):
            return
        read = helper.make_tensor_value_info("input", self._input_type(), [1, *self.input_size])
        graph = helper.make_graph(self.nodes, "stq", [read], [], list(self.initializers.values()))
        inferred = onnx.shape_inference.infer_shapes(helper.make_model(graph), data_prop=True).graph.value_info
        shapes = {info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim] for info in inferred}
        nodes, self.nodes[:] = list(self.nodes), []
        constants = {node.output[0]: node.attribute[0].t for node in nodes if node.op_type == "Constant"}
        for node in nodes:
            axes, shape = (), shapes.get(node.input[0], []) if node.input else []
            if node.op_type in ("ReduceMax", "ReduceMin") and len(node.input) > 1 and len(shape) in (3, 4):
                tensor = constants.get(node.input[1], self.initializers.get(node.input[1]))
                axes = () if tensor is None else numpy_helper.to_array(tensor).reshape(-1) % len(shape)
            if len(axes) and min(axes) > 1 and all(shape[axis] for axis in axes):
                self._pool(node, [size if axis in axes else 1 for axis, size in enumerate(shape)][2:], sorted(axes))
            elif (
                node.op_type.startswith("Reduce") and len(node.input) > 1 and len(shape) != 4 and not _keeps_axes(node)
            ):
                more = {each.name: helper.get_attribute_value(each) for each in node.attribute} | {"keepdims": 1}
                kept = self.emit(node.op_type, *node.input, name=f"{node.output[0]}.kept", **more)
                self.emit("Squeeze", kept, node.input[1], name=node.output[0])
            else:
                self.nodes.append(node)

    def _pool(self, node: NodeProto, kernel: list[int], axes: list[int]) -> None:
        steps = [("MaxPool", (), {"kernel_shape": kernel})]
        if node.op_type == "ReduceMin":
            steps = [("Neg", (), {}), *steps, ("Neg", (), {})]
        if not _keeps_axes(node):
            steps.append(("Squeeze", (self.constant(np.array(axes), np.int64),), {}))
        x, output = node.input[0], node.output[0]
        for place, (op, more, attributes) in enumerate(steps):
            name = output if place == len(steps) - 1 else f"{output}.{place}"
            x = self.emit(op, x, *more, name=name, **attributes)


def _keeps_axes(node: NodeProto) -> bool:
    return next((bool(each.i) for each in node.attribute if each.name == "keepdims"), True)
