"""Reads a model's operations, in order, from its ATen graph: layers to be frozen, and nodes for all the rest."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind, OutputKind

from ...errors import InputError
from ...quantization.surgery import quantized_layers, weight_quantizer
from ...quantizers import WeightQuantizer
from .. import aten
from ..network import Node
from .exported import QUANTIZE, WEIGHT, exported
from .names import Names, place_of
from .operations import PADDING, arguments, is_real, known_form, passed_on, zero_padding


@dataclass(frozen=True)
class Step:
    """A convolution or linear layer, to be frozen.

    path: of the module in the model. quantized: the index of the layer whose quantizer makes its input, or None.
    weight: the real weight. codes: the quantizer that makes it and what it makes it of; None where it is float.
    """

    name: str
    path: str
    kind: str
    source: str
    geometry: dict[str, Any]
    quantized: int | None
    weight: Tensor
    codes: tuple[WeightQuantizer, Tensor] | None
    bias: Tensor | None


@dataclass(frozen=True)
class Dequantized:
    """The real values that a layer's quantizer makes, for what is no integer layer."""

    name: str
    source: str
    quantized: int


_CONVOLUTIONS = ("aten.conv1d.default", "aten.conv2d.default", "aten.conv1d.padding", "aten.conv2d.padding")
_LAYERS = (*_CONVOLUTIONS, "aten.linear.default")
_ASSERTIONS = ("aten._assert", "aten.sym_constrain")


def trace(model: nn.Module, example: Tensor, quantized: bool = True) -> tuple[list[Step | Dequantized | Node], str]:
    """Layers, real values of codes, and all other operations of ``model`` in evaluation, in order; and the output.

    Raises InputError naming the first operation that cannot be carried, and where in the model it is.
    """
    reader = _Reader(model, exported(model, example, quantized))
    output = reader.read()
    return reader.made, output


class _Reader:
    """Translates the nodes of an exported program."""

    def __init__(self, model: nn.Module, program: torch.export.ExportedProgram):
        self.program = program
        self.program.graph.precision = next(model.parameters(), torch.zeros(())).dtype
        self.layers = list(quantized_layers(model))
        self.given_names = Names(model)
        self.constants: dict[fx.Node, Any] = {}  # values that do not depend on the input
        self.codes: dict[fx.Node, tuple[WeightQuantizer, Tensor]] = {}
        self.owners: dict[fx.Node, str] = {}  # parameter -> its module's path
        self.names: dict[fx.Node, str] = {}  # value -> the node that makes it
        self.quantized: dict[fx.Node, tuple[fx.Node, int]] = {}  # codes -> real input, layer
        self.padded: dict[fx.Node, dict[str, Any]] = {}  # codes that are padded -> the arguments of that
        self.norms: set[fx.Node] = set()
        self.place = ""  # of the operation that is read
        self.made: list[Step | Dequantized | Node] = []

    def read(self) -> str:
        """Fill ``made`` and return the name of the output."""
        self._inputs()
        for node in self.program.graph.nodes:
            if node.op == "call_function" and not str(node.target).startswith(_ASSERTIONS):
                self._call(node)
        output = next(node for node in self.program.graph.nodes if node.op == "output")
        specs = self.program.graph_signature.output_specs
        pairs = zip(output.args[0], specs, strict=True)
        results = [value for value, spec in pairs if spec.kind == OutputKind.USER_OUTPUT]
        if len(results) != 1 or not isinstance(results[0], fx.Node):
            raise InputError("the model returns several tensors; a network with one output can be frozen")
        if not is_real(results[0]):
            raise InputError("the model returns no real numbers; a network with one real output can be frozen")
        return self._value(results[0])

    def _inputs(self) -> None:
        specs = {spec.arg.name: spec for spec in self.program.graph_signature.input_specs}
        state, given = {**self.program.state_dict, **self.program.constants}, 0
        for node in (node for node in self.program.graph.nodes if node.op == "placeholder"):
            spec = specs[node.name]
            if spec.kind == InputKind.USER_INPUT:
                given += 1
                self.names[node] = self._add(Node("input", "input"))
            else:
                self.constants[node] = state[spec.target].detach()
                before, parametrized, _ = spec.target.partition(".parametrizations.")
                self.owners[node] = before if parametrized else spec.target.rpartition(".")[0]
        if given != 1:
            raise InputError("the model reads several inputs; a network with one input can be frozen")

    # one operation

    def _call(self, node: fx.Node) -> None:
        given, self.place = arguments(node), place_of(node)
        if node.target is WEIGHT:
            self._weight(node, given)
        elif node.target is QUANTIZE:
            self.quantized[node] = (given["x"], given["layer"])
        elif self._fold(node):
            return
        elif self._only_pads_codes(node, given):
            self.padded[node] = given
        elif str(node.target) in _LAYERS and self._constant(given["weight"]) is not None:
            self.names[node] = self._layer(node, given)
        elif (source := passed_on(node, given)) is not None:
            self.names[node] = self._value(source)
        elif node.target is operator.getitem and node.args[0] in self.norms:
            self.names[node] = self.names[node.args[0]]
        else:
            self.names[node] = self._operation(node, given)

    def _weight(self, node: fx.Node, given: dict[str, Any]) -> None:
        path, layer = self.layers[given["layer"]]
        original = self._constant(given["x"])
        if original is None:
            raise InputError(f"'{path}' cannot be frozen: its weight depends on the network's input")
        quantizer = weight_quantizer(layer)
        with torch.no_grad():
            self.constants[node] = quantizer(original)
        self.codes[node], self.owners[node] = (quantizer, original), path

    def _fold(self, node: fx.Node) -> bool:
        """Compute what does not depend on the input."""
        values = [self._constant(value) for value in node.all_input_nodes]
        random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        if random or any(value is None for value in values):
            return False
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: self.constants[n])
        with torch.no_grad():
            self.constants[node] = node.target(*args, **kwargs)
        for value in node.all_input_nodes:
            if value in self.owners:
                self.owners[node] = self.owners[value]
        return True

    def _only_pads_codes(self, node: fx.Node, given: dict[str, Any]) -> bool:
        """Whether an operation pads the codes of convolutions: they do that, or what they quantize is padded."""
        pads = str(node.target) in PADDING and given["self"] in self.quantized
        return pads and all(str(user.target) in _CONVOLUTIONS and user.args[0] is node for user in node.users)

    def _layer(self, node: fx.Node, given: dict[str, Any]) -> str:
        weight, bias = self._constant(given["weight"]), self._constant(given["bias"])
        if given["bias"] is not None and bias is None:
            raise self._refused(node, "its bias depends on the network's input")
        path = self.owners.get(given["weight"], "") or place_of(node)
        geometry = _geometry(given, weight) if str(node.target) in _CONVOLUTIONS else {}
        source, layer = self._layer_input(given["input"], weight, geometry)
        kind, codes = "conv" if geometry else "linear", self.codes.get(given["weight"])
        return self._add(
            Step(self.given_names.of_layer(path), path, kind, source, geometry, layer, weight, codes, bias)
        )

    def _layer_input(self, x: fx.Node, weight: Tensor, geometry: dict[str, Any]) -> tuple[str, int | None]:
        """The real values that a layer reads, and the index of the layer whose quantizer comes before it."""
        if x in self.quantized:
            real, layer = self.quantized[x]
            return self._value(real), layer
        if x not in self.padded:
            return self._value(x), None
        given, dims = self.padded[x], weight.dim() - 2
        real, layer = self.quantized[given["self"]]
        zeros = zero_padding(x, given)
        if zeros is None or len(zeros[0]) > dims:
            return self._operation(x, {**given, "self": real}), layer
        fill = [0] * (dims - len(zeros[0]))
        both = [*fill, *zeros[0], *fill, *zeros[1]]
        geometry["pads"] = [own + more for own, more in zip(geometry["pads"], both, strict=True)]
        return self._value(real), layer

    def _operation(self, node: fx.Node, given: dict[str, Any]) -> str:
        """Add a node for an operation on real values."""
        form = known_form(node, given, self._constant)
        if form is not None:
            if form.op == "affine":
                self.norms.add(node)
            inputs = tuple(self._value(value) for value in form.inputs)
            name = self._add(
                Node(self.given_names.of_operation(node), form.op, inputs, dict(form.attributes), dict(form.arrays))
            )
            if form.factor is None:
                return name
            return self._add(Node(self.given_names.of_operation(node), "mul", (name, self._value(form.factor))))
        if node.target is operator.getitem:
            source = self._value(node.args[0])
            return self._add(Node(self.given_names.of_operation(node), "item", (source,), {"index": node.args[1]}))
        target, values = _plain_form(node, _target(node), list(given.values()))
        if (why := aten.refusal(target, values)) is not None:
            raise self._refused(node, why)
        inputs: list[str] = []

        def place(value: Any) -> int | None:
            if not isinstance(value, fx.Node):
                return None
            inputs.append(self._value(value))
            return len(inputs) - 1

        try:
            encoded = [aten.encode(value, place) for value in values]
        except ValueError as error:
            raise self._refused(node, str(error)) from error
        attributes = {"target": target, "arguments": encoded}
        return self._add(Node(self.given_names.of_operation(node), "aten", tuple(inputs), attributes))

    # values

    def _add(self, step: Step | Dequantized | Node) -> str:
        self.made.append(step)
        return step.name

    def _constant(self, value: Any) -> Any:
        return self.constants.get(value)

    def _value(self, value: Any) -> str:
        """The name of the node that holds a value; numbers, constants and the real values of codes get one now."""
        if not isinstance(value, fx.Node):
            held = np.array(value, np.float32)
            name = self.given_names.free(f"{self.place}.constant".removeprefix("."))
            return self._add(Node(name, "constant", (), {}, {"value": held}))
        if value in self.quantized:
            real, layer = self.quantized[value]
            return self._add(Dequantized(self.given_names.of_layer(self.layers[layer][0]), self._value(real), layer))
        if value in self.padded:
            return self._operation(value, self.padded[value])
        if value not in self.names:
            held = _held(self.constants[value])
            self.names[value] = self._add(Node(self.given_names.free(value.name), "constant", (), {}, {"value": held}))
        return self.names[value]

    def _refused(self, node: fx.Node, why: str) -> InputError:
        path = place_of(node)
        return InputError(f"cannot freeze '{_target(node)}'{f' in {path!r}' if path else ''}: {why}")


def _target(node: fx.Node) -> str:
    if isinstance(node.target, torch._ops.OpOverload):
        return str(node.target)
    return f"operator.{getattr(node.target, '__name__', node.target)}"


def _plain_form(node: fx.Node, target: str, values: list) -> tuple[str, list]:
    """Views as reshapes, with one size left open where it alone is unknown, which is that of the batch; types alone."""
    if target.startswith(("aten.to.", "aten._to_copy.")):
        return "aten._to_copy.default", [values[0], node.meta["val"].dtype, None, None, None, False, None]
    if not target.startswith(("aten.view.", "aten._unsafe_view.", "aten.reshape.", "aten.squeeze.")):
        return target, values
    sizes = [size if isinstance(size, int) else -1 for size in node.meta["val"].shape]
    return "aten.reshape.default", [values[0], sizes if sizes.count(-1) <= 1 else values[1]]


def _geometry(given: dict[str, Any], weight: Tensor) -> dict[str, Any]:
    dims = weight.dim() - 2
    strides, dilations = (_each(given[key], dims) for key in ("stride", "dilation"))
    padding = given["padding"]
    if padding == "same":
        whole = [d * (k - 1) for d, k in zip(dilations, weight.shape[2:], strict=True)]
        pads = [*(p // 2 for p in whole), *(p - p // 2 for p in whole)]
    else:
        pads = [0] * (2 * dims) if padding == "valid" else _each(padding, dims) * 2
    return {"strides": strides, "pads": pads, "dilations": dilations, "groups": given["groups"]}


def _each(value: Any, dims: int) -> list[int]:
    value = [value] if isinstance(value, int) else list(value)
    return value * dims if len(value) == 1 else value


def _held(value: Any) -> np.ndarray:
    if not isinstance(value, Tensor):
        return np.array(value)
    value = value.detach().cpu()
    return np.array((value.float() if value.is_floating_point() else value).numpy())
