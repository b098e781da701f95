"""In-place operations of an exported graph, as the functions that they are where nobody else sees the change.

torch's own functionalization does so for every graph, in three times the time: it is left what is not simple here.
"""

from __future__ import annotations

import torch
from torch import fx


def functional(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """A program of the same function without operations in place; ``program`` is used up."""
    graph = program.graph
    changed = [node for node in graph.nodes if _written(node)]
    if all(_is_simple(graph, node) for node in changed) and not _holds_other_graphs(graph):
        order = {node: place for place, node in enumerate(graph.nodes)}
        for node in changed:
            before = node.args[0]
            node.target = _function(node)
            before.replace_all_uses_with(node, lambda user, node=node: order[user] > order[node])
        return program
    return program.run_decompositions({})


def _written(node: fx.Node) -> list[str]:
    """Names of the arguments that an operation writes to."""
    schema = getattr(node.target, "_schema", None)
    return [a.name for a in schema.arguments if a.alias_info and a.alias_info.is_write] if schema else []


def _is_simple(graph: fx.Graph, node: fx.Node) -> bool:
    """Whether it writes to its first argument alone, a value of its own of which no view is read."""
    source = node.args[0] if node.args else None
    first = [node.target._schema.arguments[0].name]
    if _written(node) != first or not isinstance(source, fx.Node) or _function(node) is None:
        return False
    return source.op == "call_function" and not _is_view(source) and not any(_is_view(user) for user in source.users)


def _is_view(node: fx.Node) -> bool:
    """Whether a value may lie in the memory of an argument (what writes to its argument returns that itself)."""
    if node.op != "call_function":
        return False
    schema = getattr(node.target, "_schema", None)
    aliased = schema is None or any(result.alias_info for result in schema.returns)
    # reshape and contiguous have no alias in their schema, but may return a view
    unsure = schema is not None and schema.name in ("aten::reshape", "aten::contiguous", "aten::flatten", "aten::to")
    return (aliased and not _written(node)) or unsure


def _function(node: fx.Node) -> object | None:
    name, overload = node.target._schema.name, node.target._schema.overload_name or "default"
    if not name.startswith("aten::") or not name.endswith("_"):
        return None
    return getattr(getattr(torch.ops.aten, name[6:].rstrip("_"), None), overload, None)


def _holds_other_graphs(graph: fx.Graph) -> bool:
    return any(isinstance(node.target, torch._ops.HigherOrderOperator) for node in graph.nodes)
