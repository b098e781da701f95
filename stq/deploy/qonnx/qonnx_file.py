"""Export to QONNX for FPGA flows: MultiThreshold for activations, Quant and BipolarQuant for weights.

Every quantizer of activations is a MultiThreshold with ascending thresholds for each channel (or one row for all):
integers where it follows a layer directly, float32 numbers where it follows real numbers. Between a MultiThreshold and
the next, a layer sees integers only: the codes, and weights whose Quant has scale 1 (2 for odd codes).
QONNX holds integers in float32, so sums above 2^24 are refused.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...errors import InputError
from ..about import About
from ..integer.inference import real_output
from ..integer.thresholds import fuse, real_thresholds
from ..network import CARRIED, INTEGER_LAYERS, Network, Node
from ..onnx.graph_writer import GraphWriter, geometry

DOMAIN = "qonnx.custom_op.general"
TORCH_ALONE = "it is one of torch's own operations on real numbers"
_EXACT_FLOAT32 = 2**24
_LAYOUTS = {(2, -1): "NC", (3, -2): "NCW", (3, -1): "NWC", (4, -3): "NCHW", (4, -1): "NHWC"}


def export_qonnx(network: Network, input_size: tuple[int, ...], path: Path, about: About, batch: int = 1) -> Path:
    """Write ``network`` for inputs (batch, *input_size), a fixed shape as FPGA flows want it."""
    for node in network.of(*CARRIED):
        raise InputError(f"'{node.name}' ({node.attributes.get('target', node.op)}) has no QONNX form: {TORCH_ALONE}")
    for layer in network.of(*INTEGER_LAYERS):
        if network.bounds[layer.name] >= _EXACT_FLOAT32:
            raise InputError(
                f"'{layer.name}' has no QONNX form: its integer sums can exceed 2^24, which QONNX "
                "cannot hold exactly in its float32 tensors; use fewer bits in this layer"
            )
    writer = _Writer(fuse(network, input_size), input_size, about)
    return writer.save(path, batch, ((DOMAIN, 1),))


class _Writer(GraphWriter):
    def custom(self, op: str, *inputs: str, **attributes) -> str:
        return self.emit(op, *inputs, domain=DOMAIN, **attributes)

    def _multi_threshold(self, node: Node, x: str, thresholds: np.ndarray, axis: int, whole: bool = False) -> str:
        """Operands of the layer that reads the codes: gain * code + offset."""
        reader = self.reader(node)
        gain, offset = (reader["code_gain"], reader["code_offset"]) if reader.op in INTEGER_LAYERS else (1, 0)
        least, most = (gain * node[key] + offset for key in ("low", "high"))
        layout = _LAYOUTS.get((len(self.shapes[node.name]), axis))
        if layout is None:
            raise InputError(f"'{node.name}' has no QONNX form: its input has {len(self.shapes[node.name])} axes")
        rows = self.constant(thresholds, np.float32, f"{node.name}.thresholds")
        if whole:  # what it compares are integers: FINN asks for thresholds of an integer type then
            self.annotations[rows] = _data_type(int(thresholds.min()), int(thresholds.max()), 1)
        settings = {"out_dtype": _data_type(least, most, gain), "data_layout": layout}
        return self.custom("MultiThreshold", x, rows, out_scale=float(gain), out_bias=float(least), **settings)

    def _quantize(self, node: Node, x: str) -> str:
        return self._multi_threshold(node, x, real_thresholds(node), node["axis"])

    def _compare(self, node: Node, x: str) -> str:
        return self._multi_threshold(node, x, node.arrays["levels"], node["axis"])

    def _threshold(self, node: Node, accumulator: str) -> str:
        dims, sign = len(self.shapes[node.name]), node.arrays["sign"]
        if (sign < 0).any():
            accumulator = self.emit("Mul", accumulator, self.channels(sign, dims))
        # what no accumulator reaches stays out of reach, and within what float32 holds exactly
        thresholds = np.minimum(node.arrays["thresholds"].astype(np.int64), _EXACT_FLOAT32)
        return self._multi_threshold(node, accumulator, thresholds, 1 - dims, whole=True)

    def _dequantize(self, node: Node, codes: str) -> str:
        value = self.emit("Mul", codes, self.constant(node.arrays["scale"], np.float32))
        return self.emit("Add", value, self.constant(node.arrays["offset"], np.float32))

    def _weights(self, layer: Node, codes: np.ndarray) -> str:
        bits, stride = layer["weight_bits"], layer["weight_stride"]
        stored = self.constant(codes, np.float32, f"{layer.name}.weight")
        scale = self.constant(float(stride), np.float32)
        if stride == 2 and bits == 1:
            return self.custom("BipolarQuant", stored, self.constant(1.0, np.float32))
        # odd codes are 2 (n + 1/2): a zero point of -1/2
        zero, width = self.constant(-0.5 if stride == 2 else 0.0, np.float32), self.constant(float(bits), np.float32)
        return self.custom("Quant", stored, scale, zero, width, signed=1, narrow=0, rounding_mode="ROUND")

    def _conv(self, layer: Node, operand: str) -> str:
        weight = self._weights(layer, layer.arrays["weight"])
        return self._finish(layer, self.emit("Conv", operand, weight, **geometry(layer)))

    def _linear(self, layer: Node, operand: str) -> str:
        return self._finish(layer, self.emit("MatMul", operand, self._weights(layer, layer.arrays["weight"].T)))

    def _finish(self, layer: Node, accumulator: str) -> str:
        """The integer itself where thresholds follow, else the real output."""
        if layer.attributes.get("fused"):
            return accumulator
        dims = 2 if layer.op == "linear" else layer.arrays["weight"].ndim
        real = self.emit("Mul", accumulator, self.channels(layer.arrays["multiplier"], dims))
        if "offset_multiplier" not in layer.arrays:
            return self.emit("Add", real, self.channels(layer.arrays["bias"], dims))
        import torch

        nothing = torch.zeros((1, *self.shapes[layer.name][1:]), dtype=torch.int32)
        ones = torch.ones((1, *self.shapes[layer.inputs[0]][1:]), dtype=torch.int32)
        return self.emit("Add", real, self.constant(real_output(layer, nothing, ones).numpy(), np.float32))


def _data_type(least: int, most: int, gain: int) -> str:
    """The QONNX name of the smallest integer type for operands."""
    if gain == 2 and (least, most) == (-1, 1):
        return "BIPOLAR"
    if least >= 0:
        return "BINARY" if most == 1 else f"UINT{most.bit_length()}"
    return f"INT{max((-least - 1).bit_length(), max(most, 0).bit_length()) + 1}"
