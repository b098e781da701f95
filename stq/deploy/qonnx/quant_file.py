"""Export to QONNX's Quant dialect, as brevitas and hls4ml write and FINN's and hls4ml's converters read it.

    x -> Quant(step, 0, bits) -> Conv <- Quant(1, 0, bits) <- codes        Conv -> BatchNormalization (scales, biases)

One-bit weights and signed one-bit inputs are BipolarQuant. FINN and hls4ml have integers between
their layers, so what they cannot hold as integers is refused by name.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..about import About
from ..network import CARRIED, Network, Node
from ..onnx.fake_quantized import FakeQuantizedWriter, Quantizer, compares
from ..onnx.graph_writer import geometry
from .qonnx_file import DOMAIN, TORCH_ALONE


def export_finn(network: Network, input_size: tuple[int, ...], path: Path, about: About) -> Path:
    """Write ``network`` for FINN, for inputs (1, *input_size): a fixed shape, as FPGA flows want it."""
    return _export(network, input_size, path, about, "FINN")


def export_hls4ml(network: Network, input_size: tuple[int, ...], path: Path, about: About) -> Path:
    """Write ``network`` for hls4ml, for inputs (1, *input_size)."""
    return _export(network, input_size, path, about, "hls4ml")


def _export(network: Network, input_size: tuple[int, ...], path: Path, about: About, target: str) -> Path:
    writer = _Writer(network, input_size, about)
    writer.target = target
    for node in network.nodes:
        if node.op in _REAL:
            raise writer.refused(node.name, _REAL[node.op], "leave it out of the network, or use target=onnxruntime")
    return writer.save(path, 1, ((DOMAIN, 1),))


_REAL = {
    **dict.fromkeys(("float_conv", "float_linear"), "the layer has float weights"),
    **dict.fromkeys(CARRIED, TORCH_ALONE),
    **dict.fromkeys(("silu", "gelu", "hardswish", "mul"), "it has no integer form there"),
}


class _Writer(FakeQuantizedWriter):
    def custom(self, op: str, *inputs: str, **attributes) -> str:
        return self.emit(op, *inputs, domain=DOMAIN, **attributes)

    def quantizer(self, node: Node, x: str, found: Quantizer) -> str:
        """Quant, or BipolarQuant."""
        layer = node.name.removesuffix(".quantize")
        if compares(node):
            return self.custom("BipolarQuant", x, self.constant(1.0, np.float32))
        if found.zero:
            raise self.refused(layer, "its input has a zero point", "method=lsq has none")
        step, zero = self.constant(found.step, np.float32), self.constant(0.0, np.float32)
        bits = self.constant(float(found.bits), np.float32)
        return self.custom("Quant", x, step, zero, bits, signed=int(found.low < 0), narrow=0, rounding_mode="ROUND")

    def weights(self, layer: Node, codes: np.ndarray, scale: np.ndarray, channel: int) -> str:
        """Quant of the codes themselves, with scale 1: the layer's scales come after it."""
        bits, stride = layer["weight_bits"], layer["weight_stride"]
        stored, one = self.constant(codes, np.float32, f"{layer.name}.weight"), self.constant(1.0, np.float32)
        if stride == 2 and bits == 1:
            return self.custom("BipolarQuant", stored, one)
        if stride == 2:
            raise self.refused(layer.name, "its weights are odd codes, between the integers", "use weight_method=lsq")
        zero, width = self.constant(0.0, np.float32), self.constant(float(bits), np.float32)
        return self.custom("Quant", stored, one, zero, width, signed=1, narrow=0, rounding_mode="ROUND")

    def _conv(self, layer: Node, x: str) -> str:
        weight = self.weights(layer, layer.arrays["weight"], np.ones(()), 0)
        return self._scaled(layer, self.emit("Conv", x, weight, **geometry(layer)))

    def _linear(self, layer: Node, x: str) -> str:
        weight = self.weights(layer, layer.arrays["weight"].T, np.ones(()), 1)
        product = self.emit("MatMul", x, weight)
        if len(self.shapes[layer.name]) == 2:
            return self._scaled(layer, product)
        scaled = self.emit("Mul", product, self.constant(self.scale(layer), np.float32))
        return self.emit("Add", scaled, self.constant(layer.arrays["bias"], np.float32))

    def _scaled(self, layer: Node, sums: str) -> str:
        """The layer's scales and biases as a batch norm, which both converters take up into what follows."""
        zeros, ones = np.zeros(len(layer.arrays["weight"])), np.ones(len(layer.arrays["weight"]))
        values = (self.scale(layer), layer.arrays["bias"], zeros, ones)
        return self.emit("BatchNormalization", sums, *(self.constant(v, np.float32) for v in values), epsilon=0.0)
