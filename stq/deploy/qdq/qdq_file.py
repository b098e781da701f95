"""Export to standard QDQ ONNX: int8 weights per channel and 8-bit activations around float operators.

    x -> Clip -> QuantizeLinear -> DequantizeLinear -> Conv <- DequantizeLinear <- int8 weights

Fewer than 8 bits sit in the 8-bit types; the Clip of real values keeps their range (between QuantizeLinear and
DequantizeLinear it would keep runtimes from fusing). Runtimes compute the same codes but for ties: they divide by the
step where the model multiplies with its inverse.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..about import About
from ..integer.saturation import INT16_MAX, largest_magnitude
from ..network import Network, Node
from ..onnx.fake_quantized import FakeQuantizedWriter, Quantizer


def export_qdq(network: Network, input_size: tuple[int, ...], path: Path, about: About) -> Path:
    """Write ``network`` for inputs (batch, *input_size); the batch size stays free."""
    return QdqWriter(network, input_size, about).save(path)


class QdqWriter(FakeQuantizedWriter):
    """uint8 activations alone, since ONNX Runtime fuses layers whose input and output are of one type."""

    target = "QDQ"

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
        """int8 through DequantizeLinear.

        Small codes are stored times a power of two, with a scale that is smaller by as much: the same weights, but a
        runtime that rounds biases to the products of both scales (as ONNX Runtime does) then rounds to finer ones.
        """
        if codes.min(initial=0) < -128 or codes.max(initial=0) > 127:
            raise self.refused(layer.name, "its 8-bit weights are odd codes to 255", "weight_method=lsq fits int8")
        factor = self._factor(layer, codes)
        stored = self.constant(codes * factor, np.int8, f"{layer.name}.weight")
        scales, zeros = self.constant(scale / factor, np.float32), self.constant(np.zeros(len(scale)), np.int8)
        return self.emit("DequantizeLinear", stored, scales, zeros, axis=channel)

    def _factor(self, layer: Node, codes: np.ndarray) -> int:
        """The largest power of two for which weights fit int8 and no kernel's sums of two products exceed 16 bits."""
        found, factor = self.found[layer.inputs[0]], 1
        inputs = max(abs(found.low), found.high)
        while (
            codes.min(initial=0) * 2 * factor >= -128
            and codes.max(initial=0) * 2 * factor <= 127
            and 2 * inputs * 2 * factor * largest_magnitude(codes) <= INT16_MAX
            and self.network.bounds[layer.name] * 2 * factor < 2**31
        ):
            factor *= 2
        return factor
