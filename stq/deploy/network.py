"""The frozen network: plain arrays and operations in order, which every export reads. No torch modules, no methods.

Operations of ``Node.op``, their attributes and their arrays:

    input                                                      the network's input, float32
    quantize    bits low high axis | gain shift                integer code = clip(round(gain x - shift), low, high)
    compare     bits low high axis | levels                    code = low + how many levels are at most x
    dequantize                     | scale offset              real value of a code, for layers that stay in float
    conv        strides pads dilations groups code_gain code_offset weight_bits weight_stride
                                   | weight multiplier bias (offset_multiplier)
    linear      as conv, without the geometry
        integer accumulator  acc = sum over weight * (code_gain * code + code_offset); padding adds nothing to it
        real output          multiplier[o] * acc + bias[o], or where there is an offset_multiplier
                             multiplier[o] * acc + (offset_multiplier[o] * sum of the weights on valid inputs + bias[o])
    float_conv, float_linear       | weight bias               the same in float32
    affine                         | multiplier bias           per channel; batch norm that no layer took up
    relu silu sigmoid hardswish hardsigmoid gelu tanh          element by element
    clip        low high           prelu | slope               relu6 is a clip
    add mul     two inputs         concat axis                 constant | value
    max_pool    kernel strides pads dilations ceil_mode
    avg_pool    kernel strides pads ceil_mode count_include_pad
    mean        axes keepdims      flatten start
    slice       steps (per axis)   pad before after (of the last axes, with zeros)
    adaptive_avg_pool size
    aten        target arguments                           an operation of torch, see ``aten.py``; it may give a size
    item        index                                      one of several values that an aten gives

    threshold   bits low high      | thresholds sign (slope intercept)
        made by ``thresholds.fuse``, which marks the layer before it ``fused`` (its output stays the accumulator):
        code = low + how many of the channel's thresholds are at most sign[o] * acc

    table       bits low high      | table                     code = low + table[sum of (code - low) of its inputs]
        made for C, where it replaces functions of codes (see ``c/integers.py``)

The axis of quantize is counted from the end (-3 in (N, C, H, W)); affine, prelu and threshold are per channel on axis
1; all others count from the front.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

INTEGER_LAYERS = ("conv", "linear")
QUANTIZERS = ("quantize", "compare")
CARRIED = ("aten", "item")  # operations of torch, called by its names


def call_name(path: str, call: int) -> str:
    """Name of a layer's node; a layer that is called again, ``call`` from 1 up, has one for each call."""
    return f"{path}@{call}" if call else path


@dataclass(frozen=True)
class Node:
    """One operation; ``inputs`` are names of nodes before it."""

    name: str
    op: str
    inputs: tuple[str, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def __getitem__(self, attribute: str) -> Any:
        return self.attributes[attribute]

    def changed(self, **attributes: Any) -> Node:
        """The same node with some attributes replaced."""
        return replace(self, attributes={**self.attributes, **attributes})


@dataclass(frozen=True)
class Network:
    """A frozen network: ``nodes`` in an order in which each comes after its inputs, the last one is the output."""

    nodes: tuple[Node, ...]

    @property
    def output(self) -> str:
        """Name of the output."""
        return self.nodes[-1].name

    @property
    def input(self) -> str:
        """Name of the input."""
        return next(node.name for node in self.nodes if node.op == "input")

    def __getitem__(self, name: str) -> Node:
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    @property
    def gated(self) -> str | None:
        """The first layer before which a gate stands: its operations are named after the layer's quantizer."""
        places = (node.name.partition(".input_quantizer.") for node in self.nodes)
        return next((path for path, found, _ in places if found), None)

    @cached_property
    def bounds(self) -> dict[str, int]:
        """The largest magnitude any partial sum of each integer layer can reach."""
        return {layer.name: _bound(self, layer) for layer in self.of(*INTEGER_LAYERS)}

    def source_of_codes(self, name: str) -> Node:
        """What has made the codes that a node gives: itself, or what lies before those that only move them."""
        node = self[name]
        while "low" not in node.attributes:
            node = self[node.inputs[0]]
        return node

    def users(self) -> dict[str, list[Node]]:
        """The nodes that read each node."""
        readers: dict[str, list[Node]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for name in node.inputs:
                readers[name].append(node)
        return readers

    def of(self, *ops: str) -> Iterator[Node]:
        """The nodes of some operations."""
        return (node for node in self.nodes if node.op in ops)


def operand_limits(network: Network, layer: Node) -> tuple[int, int]:
    """Least and largest integer an integer layer multiplies its weights with; 0 is among them where it pads."""
    quantize = network.source_of_codes(layer.inputs[0])
    ends = [layer["code_gain"] * quantize[key] + layer["code_offset"] for key in ("low", "high")]
    return (min(0, *ends), max(0, *ends)) if any(layer.attributes.get("pads", ())) else (min(ends), max(ends))


def _bound(network: Network, layer: Node) -> int:
    weights = layer.arrays["weight"].astype(np.int64).reshape(len(layer.arrays["weight"]), -1)
    ends = np.stack([weights * end for end in operand_limits(network, layer)])
    most = np.maximum(ends.max(0), 0).sum(1).max(initial=0)
    least = np.minimum(ends.min(0), 0).sum(1).min(initial=0)
    return int(max(most, -least))
