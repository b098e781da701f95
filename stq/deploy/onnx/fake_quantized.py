"""Layers as real-valued operators between quantizers: what QDQ and QONNX's Quant dialect have in common.

A quantizer there has one step and one zero point a tensor: ``real = step * (code - zero)``. A gain or shift a channel
stands before it as Mul and Sub. The step of a layer's input is free (the multiplier of the layer takes it up): it is
chosen so that no Mul is needed where the gain is one number.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import numpy as np

from ...errors import InputError
from ..about import About
from ..integer.gains import gains_into_layers, one_gain
from ..network import INTEGER_LAYERS, Network, Node
from .graph_writer import GraphWriter, geometry

_SAME = 1e-6  # relative; differences of steps that float32 does not keep apart
_COMPARATOR = 2.0**32  # gains beyond are those of one-bit signed codes, see ``make_record``


def compares(node: Node) -> bool:
    """Whether a quantize node gives -1 and 1 by comparing with a threshold."""
    return float(np.max(node.arrays["gain"])) > _COMPARATOR


class Quantizer(NamedTuple):
    """What a tensor's quantizer is: ``code = clip(round(x / step) + zero, low, high)``."""

    step: np.float32
    zero: float
    low: int
    high: int
    bits: int


class FakeQuantizedWriter(GraphWriter):
    """Writes integer layers as Conv, Gemm and MatMul on quantized values; subclasses write the quantizers."""

    def __init__(self, network: Network, input_size: tuple[int, ...], about: About):
        super().__init__(self.prepared(network, input_size), input_size, about)
        self.found: dict[str, Quantizer] = {}  # by the name of the quantize node
        for layer in self.network.of(*INTEGER_LAYERS):
            if "offset_multiplier" in layer.arrays:
                raise self.refused(
                    layer.name,
                    "its input has an offset that is no whole number of codes, as lsq_plus learns it",
                    "method=lsq has none",
                )

    target = ""

    def prepared(self, network: Network, input_size: tuple[int, ...]) -> Network:
        """The same function in the form that is written."""
        return gains_into_layers(network)

    def refused(self, name: str, why: str, remedy: str) -> InputError:
        """The error for what the target cannot express."""
        return InputError(f"'{name}' has no {self.target} form: {why}; {remedy}")

    @abstractmethod
    def quantizer(self, node: Node, x: str, found: Quantizer) -> str:
        """Write a quantizer of activations and return the tensor of quantized real values."""

    @abstractmethod
    def weights(self, layer: Node, codes: np.ndarray, scale: np.ndarray, channel: int) -> str:
        """Write weights, the real ones ``scale * codes`` with one scale for each index of the axis ``channel``."""

    def _quantize(self, node: Node, x: str) -> str:
        reader = self.users[node.name][0]
        if reader.op in INTEGER_LAYERS:
            zero = -reader["code_offset"] / reader["code_gain"]
            # -1 and 1 are operands already
            step = np.float32(reader["code_gain"] if compares(node) else 1 / one_gain(node))
        else:
            step = np.float32(reader.arrays["scale"])
            zero = -float(reader.arrays["offset"]) / float(step)
        self.found[node.name] = found = Quantizer(step, zero, node["low"], node["high"], node["bits"])
        x = self._aligned(node, x, found)
        return self.quantizer(node, x, found)

    def _compare(self, node: Node, x: str) -> str:
        layer = node.name.removesuffix(".quantize")
        raise self.refused(
            layer, "its thresholds are no even ladder", "target=onnxruntime, qonnx and packed carry them"
        )

    def _aligned(self, node: Node, x: str, found: Quantizer) -> str:
        """``gain * x - shift`` as ``x / step + zero``, with a Mul and a Sub where they differ."""
        gain, shift = (node.arrays[key].astype(np.float64) for key in ("gain", "shift"))
        if compares(node):  # only the place of the threshold counts
            less = (shift + 0.75) / gain
            return self._moved(node, x, None, less if less.any() else None)
        factor, less = gain * float(found.step), (shift + found.zero) * float(found.step)
        changes = np.abs(factor - 1).max() > _SAME, np.abs(less).max() > _SAME * float(found.step)
        return self._moved(node, x, factor if changes[0] else None, less if changes[1] else None)

    def _moved(self, node: Node, x: str, factor: np.ndarray | None, less: np.ndarray | None) -> str:
        """``factor * x - less``, each of one number or one a channel, or None where it changes nothing."""
        for op, value in (("Mul", factor), ("Sub", less)):
            if value is not None:
                after = (1,) * (-node["axis"] - 1)
                x = self.emit(op, x, self.constant(value.reshape(-1, *after) if value.ndim else value, np.float32))
        return x

    def _dequantize(self, node: Node, x: str) -> str:
        return x

    def scale(self, layer: Node) -> np.ndarray:
        """Of the weights, (O,), of either sign."""
        found = self.found[layer.inputs[0]]
        return layer.arrays["multiplier"].astype(np.float64) * layer["code_gain"] / float(found.step)

    def _signed(self, layer: Node) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """(codes, positive scales, what to multiply the output with): a scale below zero turns the codes over."""
        codes, scale = layer.arrays["weight"], self.scale(layer)
        each = (-1, *(1,) * (codes.ndim - 1))
        sign = np.where(scale < 0, -1, 1)
        codes = np.where((scale == 0).reshape(each), 0, codes)
        scale = np.where(scale == 0, 1.0, np.abs(scale))
        turned = codes * sign.reshape(each)
        low, high = layer["weight_low"], -layer["weight_low"] - (layer["weight_stride"] == 1)
        if turned.max(initial=0) > high or turned.min(initial=0) < low:
            return codes, scale, sign
        return turned, scale, None

    def _conv(self, layer: Node, x: str) -> str:
        codes, scale, sign = self._signed(layer)
        weight, bias = self.weights(layer, codes, scale, 0), layer.arrays["bias"]
        if sign is None:
            return self.emit("Conv", x, weight, *self._bias(bias), **geometry(layer))
        turned = self.emit("Mul", self.emit("Conv", x, weight, **geometry(layer)), self.channels(sign, codes.ndim))
        return self.emit("Add", turned, self.channels(bias, codes.ndim))

    def _bias(self, bias: np.ndarray) -> list[str]:
        return [self.constant(bias, np.float32)] if bias.any() else []

    def _linear(self, layer: Node, x: str) -> str:
        codes, scale, sign = self._signed(layer)
        if len(self.shapes[layer.name]) == 2 and sign is None:
            weight = self.weights(layer, codes, scale, 0)
            return self.emit("Gemm", x, weight, *self._bias(layer.arrays["bias"]), transB=1)
        product = self.emit("MatMul", x, self.weights(layer, codes.T, scale, 1))
        if sign is not None:
            product = self.emit("Mul", product, self.constant(sign, np.float32))
        return self.emit("Add", product, self.constant(layer.arrays["bias"], np.float32))
