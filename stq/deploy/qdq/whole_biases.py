"""Biases that a runtime may round to the product of two scales: multiples of it that give every code as before.

ONNX Runtime stores the bias of a layer before a quantizer as int32 in units of (scale of its input) x (scale of its
weight). Small weights are therefore stored times a power of two, which makes that unit finer; multiplier and bias are
fitted within what the integer thresholds of the next codes allow, so that the bias is a whole number of units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..integer.requantize import fit_channels
from ..integer.saturation import INT16_MAX, largest_magnitude
from ..integer.thresholds import fuse
from ..network import Network, Node

_SAME = 1e-6  # of a code


def whole_biases(network: Network, input_size: Sequence[int]) -> Network:
    """The same codes, by other multipliers and biases where a layer runs into a quantizer of one gain and whole shift.

    input_size: of one sample. Channels for which nothing fits stay as they are.
    """
    changed = {}
    for threshold in fuse(network, input_size).of("threshold"):
        layer, quantize = network[threshold.inputs[0]], network[threshold.name.removesuffix(".codes")]
        gain, shift = quantize.arrays["gain"], quantize.arrays["shift"]
        whole = np.unique(np.rint(shift))
        if gain.size > 1 or len(whole) > 1 or np.abs(shift - whole).max() > _SAME or layer["code_gain"] != 1:
            continue
        if _rescaled(network, layer, quantize):
            continue
        bound, factor = network.bounds[layer.name], largest_factor(network, layer)
        if (found := fit_channels(threshold, bound, factor, quantize["low"] + int(whole[0]))) is None:
            continue
        unit = found.multiplier.astype(np.float64) / float(gain)
        arrays = {"multiplier": threshold.arrays["sign"] * found.factor * unit, "bias": found.bias * unit}
        arrays = {key: np.where(found.fits, value, layer.arrays[key]) for key, value in arrays.items()}
        arrays = {key: value.astype(np.float32) for key, value in arrays.items()}
        changed[layer.name] = replace(layer, arrays={**layer.arrays, **arrays})
    return Network(tuple(changed.get(node.name, node) for node in network.nodes))


def _rescaled(network: Network, layer: Node, quantize: Node) -> bool:
    """Whether an affine map stands in between."""
    node = quantize
    while node.name != layer.name:
        node = network[node.inputs[0]]
        if node.op == "affine":
            return True
    return False


def largest_factor(network: Network, layer: Node) -> int:
    """The largest power of two for which weights fit int8 and no kernel's sums of two products exceed 16 bits."""
    source, largest, factor = network.source_of_codes(layer.inputs[0]), largest_magnitude(layer.arrays["weight"]), 1
    inputs = max(abs(source["low"]), source["high"])
    while (
        2 * factor * largest <= 127
        and 2 * inputs * 2 * factor * largest <= INT16_MAX
        and network.bounds[layer.name] * 2 * factor < 2**31
    ):
        factor *= 2
    return factor
