"""Export to QDQ ONNX as TensorRT takes it: int8 alone, zero points 0, biases in float."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..about import About
from ..network import Network, Node
from ..onnx.fake_quantized import Quantizer
from .qdq_file import QdqWriter


def export_tensorrt(network: Network, input_size: tuple[int, ...], path: Path, about: About) -> Path:
    """Write ``network`` for inputs (batch, *input_size); the batch size stays free."""
    return _Writer(network, input_size, about).save(path)


class _Writer(QdqWriter):
    target = "TensorRT"

    def storage(self, node: Node, found: Quantizer) -> tuple[type, int, int]:
        """int8, always."""
        layer = node.name.removesuffix(".quantize")
        if found.zero:
            raise self.refused(layer, "its input has a zero point", "method=lsq has none")
        if found.high > 127:
            raise self.refused(
                layer,
                "its 8-bit input without negative values does not fit int8",
                f"trained with layers={{{layer}: {{activation_bits: 7}}}} it does "
                f"('+quantizer.layers={{{layer}:{{activation_bits:7}}}}' for stq-train)",
            )
        return np.int8, -128, 127
