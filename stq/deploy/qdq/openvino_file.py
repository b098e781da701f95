"""Export to QDQ ONNX for OpenVINO."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from ..about import About
from ..network import Network
from .qdq_file import QdqWriter


def export_openvino(network: Network, input_size: tuple[int, ...], path: Path, about: About) -> Path:
    """Write ``network`` for inputs (batch, *input_size); the batch size stays free."""
    return OpenVinoWriter(network, input_size, about).save(path)


class OpenVinoWriter(QdqWriter):
    """Maxima over positions are pools: OpenVINO (2026.4) computes ReduceMax before an int8 layer wrong."""

    def finish(self) -> None:
        """Put pools in the place of maxima and minima over positions."""
        if not any(node.op_type in ("ReduceMax", "ReduceMin") for node in self.nodes):
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
            else:
                self.nodes.append(node)

    def _pool(self, node: NodeProto, kernel: list[int], axes: list[int]) -> None:
        kept = next((each.i for each in node.attribute if each.name == "keepdims"), 1)
        steps = [("MaxPool", (), {"kernel_shape": kernel})]
        if node.op_type == "ReduceMin":
            steps = [("Neg", (), {}), *steps, ("Neg", (), {})]
        if not kept:
            steps.append(("Squeeze", (self.constant(np.array(axes), np.int64),), {}))
        x, output = node.input[0], node.output[0]
        for place, (op, more, attributes) in enumerate(steps):
            name = output if place == len(steps) - 1 else f"{output}.{place}"
            x = self.emit(op, x, *more, name=name, **attributes)
