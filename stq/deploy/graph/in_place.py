"""Operations of a traced graph that change a tensor which is read again later: the network's values never change."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping

from torch import fx, nn

from . import known_operations as known

_OPERATORS = tuple(
    getattr(operator, name)
    for name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "imatmul", "iand", "ior", "ixor")
)


class InPlaceProxy(fx.Proxy):
    """A value under trace for which ``x += y`` is that, and not the ``x = x + y`` that a plain one makes of it."""


def _traced(function: Callable) -> Callable:
    return lambda self, other: self.tracer.create_proxy("call_function", function, (self, other), {})


for _function in _OPERATORS:
    setattr(InPlaceProxy, f"__{_function.__name__}__", _traced(_function))


def changes_read_again(graph: fx.Graph, modules: Mapping[str, nn.Module]) -> fx.Node | None:
    """The first operation that writes to a tensor of which something is read after it; None where all is well."""
    memory: dict[fx.Node, fx.Node] = {}  # value -> the value in whose memory it lies
    for node in graph.nodes:
        module = modules.get(node.target) if node.op == "call_module" else None
        writes = _writes(node, module)
        source = next(iter(node.all_input_nodes), None)
        memory[node] = memory[source] if source is not None and (writes or _is_view(node, module)) else node
        if writes:
            same = (value for value, place in memory.items() if place is memory[node] and value is not node)
            if any(node < reader for value in same for reader in value.users):
                return node
    return None


def _writes(node: fx.Node, module: nn.Module | None) -> bool:
    if module is not None:
        return bool(getattr(module, "inplace", False))
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    by_name = name.endswith("_") and not name.endswith("__") and node.op in ("call_method", "call_function")
    return by_name or node.target in _OPERATORS or bool(known.arguments(node).get("inplace"))


def _is_view(node: fx.Node, module: nn.Module | None) -> bool:
    if module is not None:
        return known.passes(module) or isinstance(module, nn.Flatten)
    return node.target in known.VIEWS
