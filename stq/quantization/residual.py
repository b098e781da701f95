"""Integer residual additions: a step that is shared by both inputs of each sum of two activations.

Additions are functions in most networks, so the model is traced (``torch.fx``) and comes back as a GraphModule, whose
layers keep their paths and whose state keeps its names. A ``Rounded`` stands behind each value that goes into a sum,
and behind each sum that several layers read, before whatever else reads it: so that what a device keeps between layers
are codes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch
from torch import Tensor, fx, nn

from .modes import modes_put_back

_ADDITIONS: tuple[Callable | str, ...] = (operator.add, operator.iadd, torch.add, "add", "add_")
_KEPT = ("pretrained_cfg", "default_cfg", "num_classes", "num_features")  # what timm's models say of themselves


class Rounded(nn.Module):
    """Gives its input on; its input quantizer is put before it, as before a layer."""

    def forward(self, input: Tensor) -> Tensor:
        """The input, any shape."""
        return input


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        childless = not any(True for _ in module.children())
        norm = isinstance(module, nn.modules.batchnorm._NormBase)
        return childless or norm or super().is_leaf_module(module, path)


def with_rounded_sums(model: nn.Module) -> fx.GraphModule:
    """``model`` as a GraphModule with a ``Rounded`` for both inputs of each sum and for forks behind one.

    Their paths are BLOCK.residual.0 and .1, and BLOCK.fork, where BLOCK is the module that adds.

    Raises ValueError for a model that cannot be traced, does something else in training than in evaluation, or has no
    such addition.
    """
    graph = _trace(model)
    sums = [node for node in graph.nodes if _adds_activations(node)]
    if not sums:
        raise ValueError("residual_bits: the model has no addition of two activations")
    traced = fx.GraphModule(model, graph, type(model).__name__)
    for name in _KEPT:
        if hasattr(model, name):
            setattr(traced, name, getattr(model, name))
    for node in sums:
        path = _free_path(traced, node, "residual")
        for index, value in enumerate(node.args):
            _round(traced, value, f"{path}.{index}")
        if node.target in (operator.iadd, "add_"):
            node.target = operator.add if node.op == "call_function" else "add"
    for node in sums:
        last = _end_of_sum(node, traced)
        if len(last.users) > 1 and not any(_is_rounded(user, traced) for user in last.users):
            _round(traced, last, _free_path(traced, node, "fork"))
    traced.recompile()
    traced.training = model.training  # its modules are the model's own
    return traced


def rounded_before(model: fx.GraphModule) -> dict[str, str]:
    """The path of the ``Rounded`` that gives a layer its input, by the layer's path, where all its calls read one."""
    found: dict[str, set[str | None]] = {}
    for node in model.graph.nodes:
        if node.op == "call_module" and node.args and not _is_rounded(node, model):
            source = node.args[0]
            found.setdefault(node.target, set()).add(source.target if _is_rounded(source, model) else None)
    return {path: next(iter(sources)) for path, sources in found.items() if len(sources) == 1 and None not in sources}


def _round(model: fx.GraphModule, value: fx.Node, path: str) -> None:
    """Put a ``Rounded`` behind a value, before all that reads it."""
    model.add_submodule(path, Rounded())
    with model.graph.inserting_after(value):
        rounded = model.graph.call_module(path, (value,))
    value.replace_all_uses_with(rounded, lambda user: user is not rounded)


def _end_of_sum(node: fx.Node, model: nn.Module) -> fx.Node:
    """The sum, or the activation function that alone reads it."""
    (user, *others) = [*node.users] or [node]
    childless = user.op == "call_module" and not any(True for _ in model.get_submodule(user.target).parameters())
    is_function = user.target in (torch.relu, nn.functional.relu, "relu", "relu_") or childless
    return user if not others and is_function and not _is_rounded(user, model) else node


def _is_rounded(node: object, model: nn.Module) -> bool:
    is_call = isinstance(node, fx.Node) and node.op == "call_module"
    return is_call and isinstance(model.get_submodule(node.target), Rounded)


def _trace(model: nn.Module) -> fx.Graph:
    graphs = []
    try:
        with modes_put_back(model):
            for training in (True, False):
                model.train(training)
                graphs.append(_Tracer().trace(model))
    except Exception as error:  # tracing runs the model's own code
        raise ValueError(
            f"residual_bits needs a model that torch.fx can trace, and this one it cannot ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no reason given'})"
        ) from error
    if str(graphs[0]) != str(graphs[1]):
        raise ValueError(
            "residual_bits needs a model that does the same in training and evaluation, but for its layers"
        )
    return graphs[1]


def _adds_activations(node: fx.Node) -> bool:
    if node.target not in _ADDITIONS or len(node.args) != 2 or node.kwargs:
        return False
    return all(isinstance(value, fx.Node) and value.op != "get_attr" and not _is_size(value) for value in node.args)


def _is_size(value: fx.Node) -> bool:
    of = value.args[0] if value.target is operator.getitem else value
    return isinstance(of, fx.Node) and (of.target == "size" or (of.target is getattr and of.args[1] == "shape"))


def _free_path(model: nn.Module, node: fx.Node, name: str) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    owner = next((path for path, _ in reversed(stack.values())), "") if stack else ""
    wanted = f"{owner}.{name}".removeprefix(".")
    taken = {path for path, _ in model.named_modules()}
    return next(path for path in (wanted, *(f"{wanted}_{i}" for i in range(2, 10_000))) if path not in taken)
