"""Folding: batch norm into the layer before it, a constant input offset into the bias, unused nodes away."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..network import CARRIED, INTEGER_LAYERS, Network, Node


def fold(network: Network, input_axes: int) -> Network:
    """The same function with fewer nodes; folding is done in float64 and rounded once, to float32.

    input_axes: how many axes a batch of inputs has.
    """
    return _single_precision(_offset_into_bias(_affine_into_layer(network, input_axes)))


def leading_to(network: Network, output: str) -> Network:
    """The nodes that lead to ``output`` (and the input), which comes last then."""
    needed = {output}
    for node in reversed(network.nodes):
        if node.name in needed:
            needed |= set(node.inputs)
    return Network(tuple(node for node in network.nodes if node.name in needed or node.op == "input"))


def _single_precision(network: Network) -> Network:
    """What is deployed is float32, so that every export computes the same numbers."""
    return Network(
        tuple(
            replace(
                node, arrays={k: a.astype(np.float32) if a.dtype == np.float64 else a for k, a in node.arrays.items()}
            )
            for node in network.nodes
        )
    )


def _affine_into_layer(network: Network, input_axes: int) -> Network:
    users, axes, nodes, renamed = network.users(), _axes(network, input_axes), [], {}
    kept: dict[str, int] = {}
    for node in network.nodes:
        node = replace(node, inputs=tuple(renamed.get(name, name) for name in node.inputs))
        source = nodes[kept[node.inputs[0]]] if node.inputs else None
        if (
            node.op == "affine"
            and (source.op.endswith("conv") or (source.op.endswith("linear") and axes[source.name] == 2))
            and len(users[source.name]) == 1
        ):
            nodes[kept[source.name]] = _with_affine(source, node)
            renamed[node.name] = source.name
            users[source.name] = users[node.name]
            continue
        kept[node.name] = len(nodes)
        nodes.append(node)
    return Network(tuple(nodes))


def _axes(network: Network, input_axes: int) -> dict[str, int | None]:
    """How many axes the value of each node has; None behind operations of torch that are only called here.

    An affine is along axis 1, the outputs of a linear layer along the last: one and the same only in (N, C).
    """
    axes: dict[str, int | None] = {}
    for node in network.nodes:
        given = [axes[name] for name in node.inputs]
        before = None if None in given else max(given, default=None)
        if node.op == "input":
            axes[node.name] = input_axes
        elif node.op in CARRIED:
            axes[node.name] = None
        elif node.op.endswith("conv"):
            axes[node.name] = node.arrays["weight"].ndim
        elif node.op == "constant":
            axes[node.name] = node.arrays["value"].ndim
        elif node.op == "flatten":
            axes[node.name] = node["start"] + 1
        elif node.op == "mean" and not node["keepdims"]:
            axes[node.name] = before and before - len(node["axes"])
        elif node.op in ("max_pool", "avg_pool", "adaptive_avg_pool"):
            axes[node.name] = 4
        else:
            axes[node.name] = before
    return axes


def _with_affine(layer: Node, affine: Node) -> Node:
    multiplier, bias = affine.arrays["multiplier"], affine.arrays["bias"]
    arrays = dict(layer.arrays)
    arrays["bias"] = layer.arrays["bias"] * multiplier + bias
    if layer.op in INTEGER_LAYERS:
        for key in ("multiplier", "offset_multiplier"):
            if key in arrays:
                arrays[key] = arrays[key] * multiplier
    else:
        weight = arrays["weight"]
        arrays["weight"] = (weight * multiplier.reshape(-1, *(1,) * (weight.ndim - 1))).astype(np.float32)
        arrays["bias"] = arrays["bias"].astype(np.float32)
    return replace(layer, arrays=arrays)


def _offset_into_bias(network: Network) -> Network:
    """Without padding every output sees all weights, so the offset of the input is one constant a channel."""
    nodes = []
    for node in network.nodes:
        if "offset_multiplier" in node.arrays and not any(node.attributes.get("pads", ())):
            arrays = dict(node.arrays)
            sums = arrays["weight"].reshape(len(arrays["weight"]), -1).sum(1, dtype=np.float64)
            arrays["bias"] = arrays["bias"] + arrays.pop("offset_multiplier") * sums
            node = replace(node, arrays=arrays)
        nodes.append(node)
    return Network(tuple(nodes))
