"""Views that only flatten, as hand-written networks have them: ``x.view(x.size(0), -1)`` is ``torch.flatten(x, 1)``."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

VIEWS = ("view", "reshape", torch.reshape)


def flatten_views(graph: fx.Graph, modules: Mapping[str, nn.Module]) -> None:
    """Write such views as flatten, and take out the sizes that nothing reads any more; others stay, to be refused."""
    for node in graph.nodes:
        if node.target in VIEWS and _flattens(node, modules):
            with graph.inserting_before(node):
                flat = graph.call_function(torch.flatten, (node.args[0], 1))
            flat.meta = dict(node.meta)
            node.replace_all_uses_with(flat)
            graph.erase_node(node)
    for node in reversed(graph.nodes):
        if _is_size(node) and not node.users:
            graph.erase_node(node)


def _flattens(view: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    sizes = view.args[1:]
    sizes = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], tuple | list) else sizes
    if len(sizes) != 2:
        return False
    samples, features = sizes
    if _is_batch_size(samples):
        return True
    # (-1, features) leaves the batch alone where a linear layer that follows takes just that many features
    layers = [modules.get(user.target) if user.op == "call_module" else None for user in view.users]
    return samples == -1 and all(isinstance(at, nn.Linear) and at.in_features == features for at in layers)


def _is_batch_size(value: Any) -> bool:
    if not isinstance(value, fx.Node):
        return False
    if value.target == "size":
        return value.args[1:] == (0,)
    return value.target is operator.getitem and _is_size(value.args[0]) and value.args[1] == 0


def _is_size(value: Any) -> bool:
    """``x.size(...)``, ``x.shape``, or a number of it."""
    if not isinstance(value, fx.Node):
        return False
    if value.target is operator.getitem:
        return _is_size(value.args[0])
    return value.target == "size" or (value.target is getattr and value.args[1] == "shape")
