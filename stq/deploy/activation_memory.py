"""Peak memory of activations: which values are alive at the same time, and how many bytes each takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..quantization.surgery import input_quantizer, quantized_layers
from ..quantizers import FLOAT_BITS
from ..quantizers.kept_gates import KeptGates
from .integer.freeze import freeze
from .integer.inference import ELEMENTWISE, shapes
from .network import Network, Node

_IN_PLACE = (*ELEMENTWISE, "clip", "affine", "prelu", "add", "mul", "flatten")


@dataclass(frozen=True)
class ActivationPeak:
    """Bytes alive at the worst moment of one sample, as deployed and in float32."""

    bytes: int
    float_bytes: int


def activation_peak(model: nn.Module, input_size: Sequence[int]) -> ActivationPeak:
    """The peak over all operations of ``model``, run in order, for one sample.

    Element-by-element operations work in place, as each element of a layer's output is made. A value that only
    quantized layers read is stored as their codes, at their bits (once for each of them); any other value takes 4
    bytes an element, and the codes of a quantized layer are made beside it while that layer runs. So does one that a
    layer with gates reads, which squeezes all of it before it makes a code. Raises InputError for a model whose
    forward cannot be followed.
    """
    parameter = next(model.parameters(), torch.zeros(()))
    network = freeze(model, torch.zeros(1, *input_size, device=parameter.device), quantized=False)
    elements = {name: math.prod(shape) for name, shape in shapes(network, input_size).items()}
    inputs = {path: input_quantizer(layer) for path, layer in quantized_layers(model) if input_quantizer(layer)}
    bits = {path: quantizer.bits for path, quantizer in inputs.items()}
    gated = {path for path, quantizer in inputs.items() if kept_gates(quantizer) is not None}
    return ActivationPeak(_peak(network, elements, bits, gated), _peak(network, elements, {}, set()))


def kept_gates(quantizer: nn.Module | None) -> KeptGates | None:
    """The gates of a quantizer that stay at inference, if any."""
    try:
        return None if quantizer is None else quantizer.record().gate
    except ValueError:  # no static record
        return None


def _peak(network: Network, elements: Mapping[str, int], bits: Mapping[str, int], gated: set[str]) -> int:
    place = _places(network, elements)
    readers: dict[str, list[Node]] = {}
    last: dict[str, int] = {}
    for step, node in enumerate(network.nodes):
        last[place[node.name]] = step
        for name in node.inputs:
            last[place[name]] = step
            if place[node.name] != place[name]:
                readers.setdefault(place[name], []).append(node)
    stored: dict[str, int] = {}
    for node in network.nodes:
        if node.op == "constant" or place[node.name] in stored:
            continue
        reading = readers.get(place[node.name], ())
        widths = [FLOAT_BITS if _path(reader) in gated else _bits(bits, reader) for reader in reading]
        size = elements[node.name]
        if widths and max(widths) < FLOAT_BITS:
            stored[place[node.name]] = sum(-(-size * width // 8) for width in widths)
        else:
            stored[place[node.name]] = 4 * size
    last[place[network.output]] = len(network.nodes)
    peak, alive = 0, {}
    for step, node in enumerate(network.nodes):
        if node.op == "constant":
            continue
        alive[place[node.name]] = stored[place[node.name]]
        codes = 0
        if (width := _bits(bits, node)) < FLOAT_BITS and stored[place[node.inputs[0]]] == 4 * elements[node.inputs[0]]:
            codes = -(-elements[node.inputs[0]] * width // 8)
        peak = max(peak, sum(alive.values()) + codes)
        alive = {name: size for name, size in alive.items() if last[name] > step}
    return peak


def _bits(bits: Mapping[str, int], node: Node) -> int:
    return bits.get(_path(node), FLOAT_BITS)


def _path(node: Node) -> str:
    return node.name.split("@")[0]


def _places(network: Network, elements: Mapping[str, int]) -> dict[str, str]:
    """For each node the node whose memory its value takes: its own, or that of an input it can overwrite."""
    users, ops, place = network.users(), {node.name: node.op for node in network.nodes}, {}
    for node in network.nodes:
        free = [
            name
            for name in node.inputs
            if len(users[name]) == 1
            and ops[name] not in ("constant", "input")
            and elements[name] == elements[node.name]
        ]
        place[node.name] = place[free[0]] if node.op in _IN_PLACE and free else node.name
    return place
