"""Export to ONNX with standard operators, in the forms that ONNX Runtime runs with its 8-bit integer kernels.

Scales and biases are chosen so that the codes are exact. Codes are clipped to their level range where it is smaller
than that of the 8-bit type; weights of up to 4 bits are stored as int4.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto

from ..about import About
from ..integer.requantize import Requantization, fit
from ..integer.saturation import largest_magnitude
from ..integer.thresholds import fuse
from ..network import INTEGER_LAYERS, Network, Node
from .layer_writer import LayerWriter


def export_onnx(network: Network, input_size: tuple[int, ...], path: Path, about: About) -> Path:
    """Write ``network`` (or a float network) for inputs (batch, *input_size); the batch size stays free."""
    fused, requantized = _fuse(network, input_size)
    return _Writer(fused, input_size, about, requantized).save(path)


def _fuse(network: Network, input_size: tuple[int, ...]) -> tuple[Network, dict[str, Requantization]]:
    """Fuse thresholds where one 8-bit convolution reproduces them exactly; and how, by layer."""
    fused, skip, requantized = fuse(network, input_size), [node.name for node in network.of("linear")], {}
    users = fused.users()
    for threshold in fused.of("threshold"):
        layer = fused[threshold.inputs[0]]
        largest = largest_magnitude(layer.arrays["weight"])
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
    return fuse(network, input_size, skip), requantized


class _Writer(LayerWriter):
    """Adds what makes and reads codes."""

    def _clipped(self, stored: str, levels: int, dtype: type = np.uint8, offset: int = 0) -> str:
        """Clip stored codes to their range; the type saturates on both sides where all 256 values are in use."""
        if levels == 255:
            return stored
        return self.emit("Clip", stored, *(self.constant(value - offset, dtype) for value in (0, levels)))

    def _quantize(self, node: Node, x: str) -> str:
        gain, levels, _ = self.storage(node)
        after = -node["axis"] - 1
        arrays = [a.reshape(-1, *(1,) * after) if a.ndim else a for a in (node.arrays["gain"], node.arrays["shift"])]
        value = x if (arrays[0] == 1).all() else self.emit("Mul", x, self.constant(arrays[0], np.float32))
        if arrays[1].any():
            value = self.emit("Sub", value, self.constant(arrays[1], np.float32))
        if gain == 2:  # one bit, stored as 0 and 2
            limits = [self.constant(v, np.float32) for v in (0.0, 1.0)]
            value = self.emit("Round", self.emit("Clip", value, *limits))
        dtype, offset = self.stored_type(node)
        zero = self.constant(-node["low"] * gain - offset, dtype)
        stored = self.emit("QuantizeLinear", value, self.constant(1.0 / gain, np.float32), zero)
        return self._clipped(stored, levels, dtype, offset)

    def _compare(self, node: Node, x: str) -> str:
        """How many levels are at most x, all compared at once along an axis of their own."""
        gain, levels = self.storage(node)[0], node.arrays["levels"]
        after = (1,) * (-node["axis"] - 1)
        level = self.constant(levels.reshape(len(levels), *after, -1), np.float32)
        beyond = self.emit("Unsqueeze", x, self.constant([-1], np.int64))
        reached = self.emit("Cast", self.emit("GreaterOrEqual", beyond, level), to=TensorProto.INT32)
        count = self.emit("ReduceSum", reached, self.constant([-1], np.int64), keepdims=0)
        count = count if gain == 1 else self.emit("Mul", count, self.constant(gain, np.int32))
        return self.emit("Cast", count, to=TensorProto.UINT8)

    def _threshold(self, node: Node, real: str) -> str:
        _, levels, _ = self.storage(node)
        stored = self.emit("QuantizeLinear", real, self.constant(1.0, np.float32), self.constant(0, np.uint8))
        return self._clipped(stored, levels)

    def _dequantize(self, node: Node, stored: str) -> str:
        source = self.source(node)
        real = self.emit("Cast", stored, to=TensorProto.FLOAT)
        code = self.emit("Add", real, self.constant(source["low"], np.float32)) if source["low"] else real
        value = self.emit("Mul", code, self.constant(node.arrays["scale"], np.float32))
        offset = node.arrays["offset"]
        return self.emit("Add", value, self.constant(offset, np.float32)) if offset else value
