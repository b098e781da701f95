"""Networks whose additions are of codes, without real numbers: sums of codes are looked up in tables.

With ``residual_bits`` both sides of an addition are codes of one step, and what is quantized next is a function of
their sum, as codes are that of a single value. Each such function is computed for all codes by the very operations that
it stands for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from ..integer.fold import leading_to
from ..integer.inference import evaluate, shapes
from ..network import QUANTIZERS, Network, Node

_FUNCTIONS = ("relu", "clip", "add", "silu", "sigmoid", "hardswish", "hardsigmoid", "gelu", "tanh")
_MOVES = ("slice", "pad")


def with_tables(network: Network, input_size: Sequence[int]) -> Network:
    """The same function for inputs of that size; what is a table of a sum of codes is a ``table`` node."""
    return _tables(_codes_moved(_without_twins(_along_channels(_pools(network, input_size)))))


def _pools(network: Network, input_size: Sequence[int]) -> Network:
    """Pools along one axis as pools of two, of one row: the reference pools (N, C, L) as it does (C, H, W)."""
    nodes = []
    for node in network.nodes:
        source = network[node.inputs[0]] if node.inputs else node
        if node.op == "item" and node["index"] == 0 and _is_whole(source):  # the other item is where they are
            size = shapes(network, input_size)[source.inputs[0]][2:]
            kernel = [1] * (2 - len(size)) + list(size)
            window = {"kernel": kernel, "strides": kernel, "pads": [0] * 4, "dilations": [1, 1], "ceil_mode": False}
            nodes.append(Node(node.name, "max_pool", source.inputs, window))
        else:
            nodes.append(_pool(node))
    return leading_to(Network(tuple(nodes)), network.output)


def _is_whole(node: Node) -> bool:
    whole = node.attributes.get("target", "").startswith("aten.adaptive_max_pool")
    return whole and set(_listed(node["arguments"][1])) == {1}


def _pool(node: Node) -> Node:
    target = node.attributes.get("target", "")
    if target == "aten.adaptive_avg_pool1d.default":
        size = node["arguments"][1]
        return replace(node, op="adaptive_avg_pool", attributes={"size": [None, *_listed(size)]})
    if target not in _POOLS:
        return node
    given = dict(zip(_POOLS[target], node["arguments"][1:], strict=False))
    (kernel,), (pad,) = _listed(given["kernel"]), _listed(given.get("pad") or 0)
    (stride,) = _listed(given.get("stride") or kernel)
    window = {"kernel": [1, kernel], "strides": [1, stride], "pads": [0, pad, 0, pad]}
    window["ceil_mode"] = bool(given.get("ceil_mode", False))
    if "max" in target:
        (dilation,) = _listed(given.get("dilation") or 1)
        return replace(node, op="max_pool", attributes=window | {"dilations": [1, dilation]})
    return replace(node, op="avg_pool", attributes=window | {"count_include_pad": bool(given.get("counted", True))})


_POOLS = {
    "aten.max_pool1d.default": ("kernel", "stride", "pad", "dilation", "ceil_mode"),
    "aten.avg_pool1d.default": ("kernel", "stride", "pad", "ceil_mode", "counted"),
}


def _listed(value: int | list[int]) -> list[int]:
    return value if isinstance(value, list) else [value]


def _along_channels(network: Network) -> Network:
    """A quantizer with one gain has no axis: as if it were that of the channels, for layers' outputs become codes."""
    dims = {node.name: node.arrays["weight"].ndim for node in network.of("conv")}
    nodes = []
    for node in network.nodes:
        if node.op == "quantize" and all(node.arrays[key].size == 1 for key in ("gain", "shift")):
            source = node.inputs[0]
            while source not in dims and network[source].op in ("relu", "clip", "max_pool", "affine"):
                source = network[source].inputs[0]
            node = node.changed(axis=1 - dims[source]) if source in dims else node
        nodes.append(node)
    return Network(tuple(nodes))


def _without_twins(network: Network) -> Network:
    """Of nodes that compute the same, the first."""
    seen: dict[tuple, str] = {}
    renamed: dict[str, str] = {}
    nodes = []
    for node in network.nodes:
        node = replace(node, inputs=tuple(renamed.get(name, name) for name in node.inputs))
        key = (node.op, node.inputs, str(node.attributes), *((k, a.tobytes()) for k, a in sorted(node.arrays.items())))
        if node.op in ("quantize", "dequantize", *_MOVES, *_FUNCTIONS) and node.name != network.output:
            renamed[node.name] = seen.setdefault(key, node.name)
            if renamed[node.name] != node.name:
                continue
        nodes.append(node)
    return Network(tuple(nodes))


def _codes_moved(network: Network) -> Network:
    """What only moves values moves codes, where a real value is made of codes before it."""
    nodes: dict[str, Node] = {}
    for node in network.nodes:
        nodes[node.name] = node
        source = nodes[node.inputs[0]] if node.inputs else None
        zero = source is not None and source.op == "dequantize" and not source.arrays["offset"].any()
        if node.op in _MOVES and zero and (node.op == "slice" or _lowest(nodes, source.inputs[0]) <= 0):
            moved = replace(node, name=f"{node.name}.codes", inputs=source.inputs)
            del nodes[node.name]
            nodes[moved.name] = moved
            nodes[node.name] = replace(source, name=node.name, inputs=(moved.name,))
    return Network(tuple(nodes.values()))


def _lowest(nodes: dict[str, Node], name: str) -> int:
    while nodes[name].op in _MOVES:
        name = nodes[name].inputs[0]
    return nodes[name]["low"]


def _tables(network: Network) -> Network:
    nodes = [node if (found := _table(network, node)) is None else found for node in network.nodes]
    return leading_to(Network(tuple(nodes)), network.output)


def _table(network: Network, quantize: Node) -> Node | None:
    if quantize.op != "quantize" or any(quantize.arrays[key].size > 1 for key in ("gain", "shift")):
        return None
    leaves: list[str] = []
    inside: list[Node] = []
    for node in _before(network, quantize.inputs[0]):
        if node.op == "dequantize" and node.arrays["scale"].size == 1:
            leaves += [] if node.name in leaves else [node.name]
        elif node.op in _FUNCTIONS:
            inside.append(node)
        else:
            return None
    if not 1 <= len(leaves) <= 2:
        return None
    sources = [_quantizer(network, network[leaf].inputs[0]) for leaf in leaves]
    if any(source is None for source in sources):
        return None
    grids = np.meshgrid(*(np.arange(source["low"], source["high"] + 1) for source in sources), indexing="ij")
    values = {
        leaf: evaluate(network, network[leaf], [torch.from_numpy(grid.astype(np.int32))])
        for leaf, grid in zip(leaves, grids, strict=True)
    }
    for node in reversed(inside):
        if node.name not in values:
            values[node.name] = evaluate(network, node, [values[name] for name in node.inputs])
    last = values[quantize.inputs[0]]
    codes = evaluate(network, quantize.changed(axis=-1), [last]).numpy() - quantize["low"]
    sums = sum(grid - source["low"] for grid, source in zip(grids, sources, strict=True))
    table = np.full(sums.max() + 1, -1)
    table[sums] = codes
    if not np.array_equal(table[sums], codes):  # not of the sum alone
        return None
    inputs = tuple(network[leaf].inputs[0] for leaf in leaves)
    attributes = {key: quantize[key] for key in ("bits", "low", "high")}
    return Node(quantize.name, "table", inputs, attributes, {"table": table.astype(np.uint8)})


def _before(network: Network, name: str) -> Iterator[Node]:
    """The nodes that lead to a value, from it backwards as far as codes; a node after all that read it."""
    order = {node.name: place for place, node in enumerate(network.nodes)}
    pending = {name}
    while pending:
        name = max(pending, key=order.__getitem__)
        pending.remove(name)
        node = network[name]
        yield node
        if node.op in _FUNCTIONS:
            pending |= set(node.inputs)


def _quantizer(network: Network, name: str) -> Node | None:
    node = network.source_of_codes(name)
    return node if node.op in QUANTIZERS and node["high"] - node["low"] < 256 else None
