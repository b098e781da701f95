"""Export to standard QDQ ONNX: int8 weights per channel and 8-bit activations around float operators.

    x -> Clip -> QuantizeLinear -> DequantizeLinear -> Conv <- DequantizeLinear <- int8 weights

Fewer than 8 bits sit in the 8-bit types; the Clip of real values keeps their range (between QuantizeLinear and
DequantizeLinear it would keep runtimes from fusing). Runtimes compute the same codes but for ties: they divide by the
step where the model multiplies with its inverse. ``whole_biases`` readies biases for ONNX Runtime, which rounds them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..about import About
from ..network import Network, Node
from ..onnx.fake_quantized import FakeQuantizedWriter, Quantizer
from .whole_biases import largest_factor, whole_biases


def export_qdq(network: Network, input_size: tuple[int, ...], path: Path, about: About) -> Path:
    """Write ``network`` for inputs (batch, *input_size); the batch size stays free."""
    return QdqWriter(network, input_size, about).save(path)


class QdqWriter(FakeQuantizedWriter):
    """uint8 activations alone, since ONNX Runtime fuses layers whose input and output are of one type."""

    target = "QDQ"

    def prepared(self, network: Network, input_size: tuple[int, ...]) -> Network:
        """As for every format of this kind, with biases that may be rounded."""
        return whole_biases(super().prepared(network, input_size), input_size)

    def quantizer(self, node: Node, x: str, found: Quantizer) -> str:
        """Clip, QuantizeLinear, DequantizeLinear."""
        if found.zero != round(found.zero):
            remedy = "use 2 bits or more, or a layer whose input is not negative"
            if node["bits"] > 1:
                remedy = "method=lsq has none"
            raise self.refused(node.name.removesuffix(".quantize"), "its codes lie between those of int8", remedy)
        kind, least, most = self.storage(node, found)
        middle = 128 if kind is np.uint8 and found.low < 0 else 0  # negative codes in a type without them
        if (found.low + middle, found.high + middle) != (least, most):
            limits = ((code - found.zero) * float(found.step) for code in (found.low, found.high))
            x = self.emit("Clip", x, *(self.constant(limit, np.float32) for limit in limits))
        step, zero = self.constant(found.step, np.float32), self.constant(int(found.zero) + middle, kind)
        return self.emit("DequantizeLinear", self.emit("QuantizeLinear", x, step, zero), step, zero)

    def storage(self, node: Node, found: Quantizer) -> tuple[type, int, int]:
        """The type of a node's codes, and its least and largest value."""
        return np.uint8, 0, 255

    def weights(self, layer: Node, codes: np.ndarray, scale: np.ndarray, channel: int) -> str:
        """int8 through DequantizeLinear, times a power of two where they are small, with a scale smaller by as much."""
        if codes.min(initial=0) < -128 or codes.max(initial=0) > 127:
            raise self.refused(layer.name, "its 8-bit weights are odd codes to 255", "weight_method=lsq fits int8")
        factor = largest_factor(self.network, layer)
        stored = self.constant(codes * factor, np.int8, f"{layer.name}.weight")
        scales, zeros = self.constant(scale / factor, np.float32), self.constant(np.zeros(len(scale)), np.int8)
        return self.emit("DequantizeLinear", stored, scales, zeros, axis=channel)
