"""Reads the order of operations out of a model, with ``torch.fx``; layers stay whole, what is unknown is refused."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from ...errors import InputError
from ...quantization.integer_forward import is_plain
from ..network import Node, call_name
from . import known_operations as known
from .in_place import InPlaceProxy, changes_read_again
from .views import flatten_views


@dataclass(frozen=True)
class Step:
    """A convolution or linear layer of the model, to be frozen."""

    name: str
    path: str
    layer: nn.Module
    inputs: tuple[str, ...]


_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


class _Tracer(fx.Tracer):
    def proxy(self, node: fx.Node) -> fx.Proxy:
        return InPlaceProxy(node, self)

    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        if isinstance(module, (*_LAYERS, *_NORMS)):
            return True
        # timm has activation modules of its own (SiLU written out in place, for instance): leave them to our table
        return super().is_leaf_module(module, path) or known.activation(module) is not None


def trace(model: nn.Module) -> Iterator[Step | Node]:
    """Layers (``Step``) and all other operations (``Node``) of ``model`` in evaluation, in order.

    Raises InputError naming the first operation that is not known here, and where it is.
    """
    with _evaluation(model):
        try:
            graph = _Tracer().trace(model)
        except InputError:
            raise
        except Exception as error:  # tracing runs the model's own code
            raise InputError(
                f"the model's forward cannot be traced, so it cannot be frozen ({type(error).__name__}: {error}): "
                "does it branch on the values or shapes of its tensors?"
            ) from error
        yield from _Reader(model, graph).read()


@contextmanager
def _evaluation(model: nn.Module):
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


class _Reader:
    """Translates the nodes of an fx graph."""

    def __init__(self, model: nn.Module, graph: fx.Graph):
        self.modules = dict(model.named_modules())
        self.model, self.graph = model, graph
        self.named: dict[fx.Node, str] = {}  # the name under which an fx node's value is known

    def read(self) -> Iterator[Step | Node]:
        flatten_views(self.graph, self.modules)
        if (node := changes_read_again(self.graph, self.modules)) is not None:
            raise self._refuse(node, f"the in-place operation '{node.name}', whose input is read again")
        self.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
        output = next(node for node in self.graph.nodes if node.op == "output").args[0]
        if not isinstance(output, fx.Node):
            raise InputError("the model returns several tensors; a network with one output can be frozen")
        if sum(node.op == "placeholder" and bool(node.users) for node in self.graph.nodes) != 1:
            raise InputError("the model reads several inputs; a network with one input can be frozen")
        for node in self.graph.nodes:
            if node.op == "output" or not node.users:
                continue
            made = list(getattr(self, f"_{node.op}")(node))
            yield from made
            if made:
                self.named[node] = made[-1].name

    def _refuse(self, node: fx.Node, what: str) -> InputError:
        stack = node.meta.get("nn_module_stack") or {}
        path = next(reversed([v[0] if isinstance(v, tuple) else v for v in stack.values()]), "") if stack else ""
        return InputError(f"cannot freeze {what}{f' in {path!r}' if path else ''}: no exported form is known for it")

    def _pass(self, node: fx.Node, source: fx.Node) -> list[Node]:
        self.named[node] = self.named[source]
        return []

    def _placeholder(self, node: fx.Node) -> list[Node]:
        return [Node("input", "input")] if node.users else []

    def _get_attr(self, node: fx.Node) -> list[Node]:
        value = operator.attrgetter(node.target)(self.model)
        return [Node(node.name, "constant", (), {}, {"value": value.detach().cpu().float().numpy().copy()})]

    def _call_module(self, node: fx.Node) -> list[Step | Node]:
        module, name = self.modules[node.target], self._unique(node)
        source = node.args[0] if node.args else next(iter(node.kwargs.values()))
        inputs = (self.named[source],)
        if isinstance(module, _LAYERS):
            if not is_plain(module):
                name = type(module).__name__.removeprefix("Parametrized")  # so torch calls one with a quantized weight
                raise self._refuse(node, f"the layer type {name} at {node.target!r}")
            return [Step(name, node.target, module, inputs)]
        if isinstance(module, _NORMS):
            return self._norm(node, module, name, inputs)
        if known.passes(module):
            return self._pass(node, source)
        if (found := known.activation(module)) is not None:
            return [known.elementwise(name, inputs, found)]
        if isinstance(module, nn.MaxPool2d):
            return [known.max_pool(name, inputs, module)]
        if isinstance(module, nn.AvgPool2d):
            return [known.avg_pool(name, inputs, module)]
        if isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1), [1, 1]):
            return [Node(name, "mean", inputs, {"axes": [2, 3], "keepdims": True})]
        if isinstance(module, nn.AdaptiveAvgPool2d) and None not in (sizes := known.pair(module.output_size)):
            return [Node(name, "adaptive_avg_pool", inputs, {"size": sizes})]
        if isinstance(module, nn.Flatten) and module.end_dim == -1:
            return [self._flatten(node, name, inputs, module.start_dim)]
        raise self._refuse(node, f"the module {type(module).__name__} at {node.target!r}")

    def _unique(self, node: fx.Node) -> str:
        """The layer's path, or the fx name where a module is called twice."""
        calls = [n for n in self.graph.nodes if n.op == "call_module" and n.target == node.target]
        return call_name(node.target, calls.index(node))

    def _norm(self, node: fx.Node, norm: nn.Module, name: str, inputs: tuple[str, ...]) -> list[Node]:
        if norm.running_var is None:
            raise self._refuse(node, f"a batch norm without running statistics at {node.target!r}")
        act = getattr(norm, "act", None)
        drop = getattr(norm, "drop", None)
        plain = type(norm).forward in (b.forward for b in (nn.BatchNorm2d, nn.BatchNorm1d))
        if not plain and (act is None or (drop is not None and not known.passes(drop))):
            raise self._refuse(node, f"the batch norm type {type(norm).__name__} at {node.target!r}")
        nodes = [known.batch_norm(name, inputs, norm)]
        if not plain and not isinstance(act, nn.Identity):
            found = known.activation(act)
            if found is None:
                raise self._refuse(node, f"the activation {type(act).__name__} of {node.target!r}")
            nodes.append(known.elementwise(f"{name}.act", (name,), found))
        return nodes

    def _call_function(self, node: fx.Node) -> list[Node]:
        return self._call(node, node.target)

    def _call_method(self, node: fx.Node) -> list[Node]:
        return self._call(node, node.target)

    def _call(self, node: fx.Node, target: Callable | str) -> list[Node]:
        name, given = node.name, known.arguments(node)
        if target in known.ADD or target in known.MUL:
            return self._arithmetic(node, "add" if target in known.ADD else "mul")
        source = given.get("input", given.get("tensors"))
        if target in known.CAT and isinstance(source, list | tuple):
            inputs, axis = tuple(self.named[value] for value in source), given.get("dim", 0)
            self._keep_samples_apart(node, axis == 0)
            return [Node(name, "concat", inputs, {"axis": axis})]
        if not isinstance(source, fx.Node):
            raise self._refuse(node, f"the operation '{known.shown(target)}' on what is no tensor")
        inputs = (self.named[source],)
        if (found := known.functional_activation(target, given)) is not None:
            return [known.elementwise(name, inputs, found)]
        if target in known.DROPOUT and given.get("training", True):
            raise self._refuse(node, f"'{name}', which drops in evaluation too (give training=self.training)")
        if target in known.PASS:
            return self._pass(node, source)
        if target in known.FLATTEN and given.get("end_dim", -1) == -1:
            return [self._flatten(node, name, inputs, given.get("start_dim", 0))]
        if target in known.MEAN:
            return [self._mean(node, inputs, **given)]
        if target is F.adaptive_avg_pool2d and given["output_size"] in (1, (1, 1)):
            return [Node(name, "mean", inputs, {"axes": [2, 3], "keepdims": True})]
        if target in (F.max_pool2d, F.avg_pool2d, torch.max_pool2d):
            return [known.functional_pool(node.name, inputs, target, given)]
        if target is operator.getitem and (steps := known.steps_of(node.args[1])) is not None:
            self._keep_samples_apart(node, steps[0] != 1)
            return [Node(name, "slice", inputs, {"steps": steps})]
        if target is F.pad:
            return [self._pad(node, inputs, **given)]
        raise self._refuse(node, f"the operation '{known.shown(target)}'")

    def _arithmetic(self, node: fx.Node, op: str) -> list[Node]:
        given = known.arguments(node)
        if set(given) != {"input", "other"}:
            raise self._refuse(node, f"'{op}' of {', '.join(given)}")
        names, nodes = [], []
        for index, value in enumerate(given.values()):
            if isinstance(value, fx.Node):
                names.append(self.named[value])
            else:
                nodes.append(Node(f"{node.name}.{index}", "constant", (), {}, {"value": np.array(value, np.float32)}))
                names.append(nodes[-1].name)
        return [*nodes, Node(node.name, op, tuple(names))]

    def _keep_samples_apart(self, node: fx.Node, mixed: bool) -> None:
        if mixed:
            raise self._refuse(node, f"'{node.name}', which works along the batch axis")

    def _flatten(self, node: fx.Node, name: str, inputs: tuple[str, ...], start: int) -> Node:
        self._keep_samples_apart(node, start == 0)
        return Node(name, "flatten", inputs, {"start": start})

    def _mean(self, node: fx.Node, inputs: tuple[str, ...], dim: Any = None, keepdim: bool = False, **other) -> Node:
        axes = [dim] if isinstance(dim, int) else list(dim or ())
        if not axes or set(other) - {"input"}:
            raise self._refuse(
                node, f"'mean' with {', '.join({*other} - {'input'})}" if axes else "'mean' over everything"
            )
        self._keep_samples_apart(node, 0 in axes)
        return Node(node.name, "mean", inputs, {"axes": axes, "keepdims": bool(keepdim)})

    def _pad(
        self, node: fx.Node, inputs: tuple[str, ...], pad: Any, mode: str = "constant", value: float = 0, **_
    ) -> Node:
        if not all(isinstance(size, int) for size in pad):
            raise self._refuse(node, "padding by sizes that depend on the input")
        before, after = (list(pad)[side::2][::-1] for side in (0, 1))  # F.pad lists the last axis first
        if mode != "constant" or value or len(before) > 3 or min(pad) < 0:
            raise self._refuse(node, "padding with anything but zeros, of the batch axis, or by less than nothing")
        return Node(node.name, "pad", inputs, {"before": before, "after": after})
