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

from ..errors import InputError
from . import known_operations as known
from .network import Node, call_name


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
        for node in self.graph.nodes:
            self._check_in_place(node)
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

    def _check_in_place(self, node: fx.Node) -> None:
        """Refuse what changes its input where that is read again later: the network's values do not change."""
        module = self.modules.get(node.target) if node.op == "call_module" else None
        in_place = getattr(module, "inplace", False) or node.kwargs.get("inplace")
        if in_place and any(node < reader for changed in node.all_input_nodes for reader in changed.users):
            raise self._refuse(node, f"the in-place operation '{node.name}', whose input is read again")

    def _inputs(self, node: fx.Node, *values: Any) -> tuple[str, ...]:
        return tuple(self.named[v] for v in (values or [a for a in node.args if isinstance(a, fx.Node)]))

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
            base = next(kind for kind in _LAYERS if isinstance(module, kind))
            if type(module).forward is not base.forward:
                raise self._refuse(node, f"the layer type {type(module).__name__} at {node.target!r}")
            return [Step(name, node.target, module, inputs)]
        if isinstance(module, _NORMS):
            return self._norm(node, module, name, inputs)
        if isinstance(module, known.NOTHING) or type(module).__name__ == "DropPath":
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
            return [Node(name, "flatten", inputs, {"start": module.start_dim})]
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
        if not plain and (act is None or (drop is not None and not isinstance(drop, known.NOTHING))):
            raise self._refuse(node, f"the batch norm type {type(norm).__name__} at {node.target!r}")
        variance = norm.running_var.detach().cpu().double().numpy()
        mean = norm.running_mean.detach().cpu().double().numpy()
        gamma = 1.0 if norm.weight is None else norm.weight.detach().cpu().double().numpy()
        beta = 0.0 if norm.bias is None else norm.bias.detach().cpu().double().numpy()
        multiplier = gamma / np.sqrt(variance + norm.eps)
        arrays = {"multiplier": np.asarray(multiplier), "bias": np.asarray(beta - mean * multiplier)}
        nodes = [Node(name, "affine", inputs, {}, arrays)]
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
        args, kwargs, name = node.args, node.kwargs, node.name
        if target in known.ELEMENTWISE_CALLS:
            return [Node(name, known.ELEMENTWISE_CALLS[target], self._inputs(node, args[0]))]
        if target in known.DROPOUT and _arguments(node, "input", "p", "training").get("training", True):
            raise self._refuse(node, f"'{node.name}', which drops in evaluation too (give training=self.training)")
        if target in known.PASS:
            return self._pass(node, args[0])
        if target in known.ADD or target in known.MUL:
            return self._arithmetic(node, "add" if target in known.ADD else "mul")
        if target is F.relu6:
            return [Node(name, "clip", self._inputs(node, args[0]), {"low": 0.0, "high": 6.0})]
        if target in (torch.flatten, "flatten"):
            start = args[1] if len(args) > 1 else kwargs.get("start_dim", 0)
            if len(args) < 3 and "end_dim" not in kwargs:
                return [Node(name, "flatten", self._inputs(node, args[0]), {"start": start})]
        if target in (torch.mean, "mean"):
            return self._mean(node)
        if target in (torch.cat, torch.concat):
            axis = args[1] if len(args) > 1 else kwargs.get("dim", 0)
            return [Node(name, "concat", self._inputs(node, *args[0]), {"axis": axis})]
        if target is F.adaptive_avg_pool2d and (args[1] if len(args) > 1 else kwargs["output_size"]) in (1, (1, 1)):
            return [Node(name, "mean", self._inputs(node, args[0]), {"axes": [2, 3], "keepdims": True})]
        if target in (F.max_pool2d, F.avg_pool2d, torch.max_pool2d):
            return [self._functional_pool(node)]
        if target is operator.getitem and (steps := known.steps_of(args[1])) is not None:
            return [Node(name, "slice", self._inputs(node, args[0]), {"steps": steps})]
        if target is F.pad:
            return [self._pad(node)]
        shown = target if isinstance(target, str) else getattr(target, "__name__", repr(target))
        raise self._refuse(node, f"the operation '{shown}'")

    def _arithmetic(self, node: fx.Node, op: str) -> list[Node]:
        if set(node.kwargs) - {"inplace"} or len(node.args) != 2:
            raise self._refuse(node, f"'{op}' with {', '.join(node.kwargs) or 'one argument'}")
        names, nodes = [], []
        for index, value in enumerate(node.args):
            if isinstance(value, fx.Node):
                names.append(self.named[value])
            else:
                nodes.append(Node(f"{node.name}.{index}", "constant", (), {}, {"value": np.array(value, np.float32)}))
                names.append(nodes[-1].name)
        return [*nodes, Node(node.name, op, tuple(names))]

    def _mean(self, node: fx.Node) -> list[Node]:
        given = _arguments(node, "input", "dim", "keepdim")
        axes, keep = given.get("dim"), given.get("keepdim", False)
        axes = [axes] if isinstance(axes, int) else list(axes or ())
        if not axes:
            raise self._refuse(node, "'mean' over everything")
        return [Node(node.name, "mean", self._inputs(node, node.args[0]), {"axes": axes, "keepdims": bool(keep)})]

    def _pad(self, node: fx.Node) -> Node:
        given = _arguments(node, "input", "pad", "mode", "value")
        pads = list(given["pad"])
        if given.get("mode", "constant") != "constant" or given.get("value") or len(pads) > 6:
            raise self._refuse(node, "padding with anything but zeros, or of the batch axis")
        missing = 4 - len(pads) // 2  # pictures (N, C, H, W); F.pad lists the last axis first
        before, after = ([0] * missing + pads[side::2][::-1] for side in (0, 1))
        return Node(node.name, "pad", self._inputs(node, given["input"]), {"before": before, "after": after})

    def _functional_pool(self, node: fx.Node) -> Node:
        average = node.target is F.avg_pool2d
        rest = ("ceil_mode", "count_include_pad", "divisor_override") if average else ("dilation", "ceil_mode")
        given = _arguments(node, "input", "kernel_size", "stride", "padding", *rest)
        inputs = self._inputs(node, given.pop("input"))
        given.pop("return_indices", None)
        cls, make = (nn.AvgPool2d, known.avg_pool) if average else (nn.MaxPool2d, known.max_pool)
        return make(node.name, inputs, cls(**given))


def _arguments(node: fx.Node, *names: str) -> dict[str, Any]:
    """The arguments of a call by name, ``names`` being those of the positional ones."""
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}
