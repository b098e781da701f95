"""Gains of a quantizer, moved into the layer before it, for formats whose quantizers have one step a tensor."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..network import INTEGER_LAYERS, Network, Node

_LAYERS = (*INTEGER_LAYERS, "float_conv", "float_linear")
_SCALED_ALONG = ("relu", "max_pool", "avg_pool", "mean", "prelu")  # f(a x) = a f(x) for a > 0, channel by channel


def one_gain(quantize: Node) -> float:
    """The gain of a tensor that stands for those of its channels: their geometric mean."""
    gain = quantize.arrays["gain"].astype(np.float64)
    return float(gain.reshape(-1)[0]) if gain.size == 1 else float(np.exp(np.log(gain).mean()))


def gains_into_layers(network: Network) -> Network:
    """The same function; where nothing else reads what a quantizer reads, the layer before it gives it scaled."""
    users, changed = network.users(), {}
    for quantize in network.of("quantize"):
        gain = quantize.arrays["gain"]
        if gain.size == 1 or not (gain > 0).all() or quantize["axis"] == -1:
            continue
        layer = _layer_before(network, users, quantize)
        if layer is None or layer.name in changed or len(layer.arrays["bias"]) != gain.size:
            continue
        common = np.float32(one_gain(quantize))
        factor = gain.astype(np.float64) / common
        changed[layer.name] = _scaled(layer, factor)
        changed[quantize.name] = replace(quantize, arrays={**quantize.arrays, "gain": np.array(common)})
    return Network(tuple(changed.get(node.name, node) for node in network.nodes))


def _layer_before(network: Network, users: dict[str, list[Node]], node: Node) -> Node | None:
    while len(users[node.inputs[0]]) == 1:
        node = network[node.inputs[0]]
        if node.op in _LAYERS:
            return node
        if node.op not in _SCALED_ALONG:
            return None
    return None


def _scaled(layer: Node, factor: np.ndarray) -> Node:
    keys = ("weight", "bias") if layer.op.startswith("float") else ("multiplier", "offset_multiplier", "bias")
    arrays = dict(layer.arrays)
    for key in keys:
        if key in arrays:
            after = (1,) * (arrays[key].ndim - 1)
            arrays[key] = (arrays[key] * factor.reshape(-1, *after)).astype(np.float32)
    return replace(layer, arrays=arrays)
