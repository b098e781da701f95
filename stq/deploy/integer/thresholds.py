"""Integer thresholds: a layer, its batch norm, its ReLU and the next quantizer become comparisons of the accumulator.

Where the way from an integer accumulator to the next code is monotone and one value long (affine, ReLU, clip, pooling
by the maximum), code i is reached exactly when ``sign * acc >= thresholds[o, i]``, an integer. The thresholds are
found by bisection on the very function that the reference inference evaluates, so they are exact by construction.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..network import INTEGER_LAYERS, Network, Node
from .inference import evaluate, real_output, shapes

CURVED = ("sigmoid", "tanh", "hardsigmoid")
MONOTONE = ("relu", "clip", *CURVED)
_NEVER = 2**31 - 1  # no accumulator reaches it (freeze checks the bound), so the code is never given


def fuse(network: Network, input_size: Sequence[int], skip: Container[str] = ()) -> Network:
    """The same function with every such chain replaced by one ``threshold`` node (pooling moves behind it).

    input_size: of one sample; a linear layer over several positions has its channels on another axis, and is left.
    skip: names of layers to leave as they are. A threshold node keeps the name, bits, low and high of the quantize
    node that it replaces.
    """
    users, sizes = network.users(), shapes(network, input_size)
    replaced: dict[str, list[Node]] = {}
    dropped: set[str] = set()
    fused: set[str] = set()  # layers whose output stays an integer
    for layer in network.of(*INTEGER_LAYERS):
        positions = layer.op == "linear" and len(sizes[layer.name]) != 2
        chain = None if positions or layer.name in skip else _chain(users, layer)
        if chain is None:
            continue
        *between, quantize = chain
        pools = [node for node in between if node.op == "max_pool"]
        functions = [node for node in between if node.op != "max_pool"]
        threshold = _threshold(network, layer, functions, quantize)
        nodes = [replace(threshold, name=f"{quantize.name}.codes") if pools else threshold]
        for index, pool in enumerate(pools):
            name = quantize.name if index == len(pools) - 1 else pool.name
            nodes.append(replace(pool, name=name, inputs=(nodes[-1].name,)))
        dropped |= {node.name for node in between}
        fused.add(layer.name)
        replaced[quantize.name] = nodes
    nodes = []
    for node in network.nodes:
        if node.name in replaced:
            nodes += replaced[node.name]
        elif node.name not in dropped:
            nodes.append(node.changed(fused=True) if node.name in fused else node)
    return Network(tuple(nodes))


def _chain(users: dict[str, list[Node]], layer: Node) -> list[Node] | None:
    """Nodes after ``layer`` up to and with the next quantize, if they can become integer thresholds."""
    if "offset_multiplier" in layer.arrays:
        return None  # the border of the picture has thresholds of its own
    chain, node, pooled = [], layer, False
    falling = bool((layer.arrays["multiplier"] < 0).any())
    while len(users[node.name]) == 1:
        node = users[node.name][0]
        chain.append(node)
        if node.op == "quantize":
            spatial = 1 if layer.op == "linear" else layer.arrays["weight"].ndim - 1
            return chain if -node["axis"] == spatial and (node.arrays["gain"] > 0).all() else None
        if node.op == "max_pool":
            pooled = True
        elif node.op == "affine":
            # the largest value is no longer the largest code where the sign turns after pooling
            if pooled and (falling or bool((node.arrays["multiplier"] < 0).any())):
                return None
        elif node.op not in MONOTONE:
            return None
    return None


def _threshold(network: Network, layer: Node, functions: list[Node], quantize: Node) -> Node:
    channels, levels = len(layer.arrays["weight"]), quantize["high"] - quantize["low"]
    slope, intercept = layer.arrays["multiplier"], layer.arrays["bias"]
    for node in functions:
        if node.op == "affine":
            slope = slope * node.arrays["multiplier"]
            intercept = intercept * node.arrays["multiplier"] + node.arrays["bias"]
    sign = np.where(slope < 0, -1, 1).astype(np.int32)
    after = (1,) * (-quantize["axis"] - 1)

    def code(signed: Tensor) -> Tensor:
        """Codes of accumulators (levels, C), by the operations themselves: each level is a sample of a batch."""
        value = real_output(layer, (signed * torch.from_numpy(sign)).reshape(levels, channels, *after))
        for node in (*functions, quantize):
            value = evaluate(network, node, [value])
        return value.reshape(levels, channels)

    bound = network.bounds[layer.name] + 1
    thresholds = first_codes(code, quantize, channels, -bound, bound).numpy()
    thresholds = np.where(thresholds >= bound, _NEVER, thresholds).astype(np.int32)
    attributes = {key: quantize[key] for key in ("bits", "low", "high")}
    arrays = {"thresholds": thresholds, "sign": sign}
    if not any(node.op in CURVED for node in functions):  # then thresholds are near a straight line, cut by relu, clip
        gain, shift = (quantize.arrays[key].astype(np.float64) for key in ("gain", "shift"))
        arrays |= {"slope": np.abs(slope * gain), "intercept": intercept * gain - shift - quantize["low"]}
    return Node(quantize.name, "threshold", (layer.name,), attributes, arrays)


def first_codes(code: Callable[[Tensor], Tensor], quantize: Node, channels: int, least: int, most: int) -> Tensor:
    """The smallest integer in [least, most] that gets each code low + 1 .. high, shape (C, high - low); else ``most``.

    code: maps int64 (levels, C) to the codes of each channel, not decreasing in each. Found by bisection.
    """
    wanted = torch.arange(quantize["low"] + 1, quantize["high"] + 1).reshape(-1, 1)
    low = torch.full((len(wanted), channels), least, dtype=torch.int64)
    high = torch.full_like(low, most)
    while bool((low < high).any()):
        middle = torch.div(low + high, 2, rounding_mode="floor")
        reached = code(middle) >= wanted
        high = torch.where(reached, middle, high)
        low = torch.where(reached, low, torch.minimum(middle + 1, high))
    return low.T.contiguous()


def real_thresholds(quantize: Node) -> np.ndarray:
    """The smallest float32 inputs of each code of a ``quantize`` node, shape (C or 1, high - low); inf where none.

    Bisection over the ordered float32 numbers, so ``x >= threshold`` is exactly the rounded expression of the record.
    """
    gain, shift = (torch.from_numpy(quantize.arrays[key]).reshape(-1) for key in ("gain", "shift"))
    gain, shift = torch.broadcast_tensors(gain, shift)
    if not bool((gain > 0).all()):
        raise ValueError(f"'{quantize.name}' has a gain that is not positive, so its codes do not rise with the input")

    def code(order: Tensor) -> Tensor:
        return torch.clamp(gain * ordered_float(order) - shift, quantize["low"], quantize["high"]).round()

    infinity = int(np.float32(np.inf).view(np.int32))
    return ordered_float(first_codes(code, quantize, len(gain), 1 - infinity, infinity)).numpy()


def ordered_float(order: Tensor) -> Tensor:
    """The float32 at a place in the order of all floats: 0 is 0, each step the next float, negative below."""
    bits = order.abs().to(torch.int32).view(torch.float32)
    return torch.where(order < 0, -bits, bits)
