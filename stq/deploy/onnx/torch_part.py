"""The operations of a network that only torch's own exporter translates: ATen calls, and what reads their results.

They are exported once more, by themselves: each value of ours that they read is an opaque source, each node of ours
that reads a result an opaque sink. torch's exporter (onnxscript) writes the ATen calls between them, and what a sink
reads is then written into our graph, down to the sources, whose values we have.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from ...errors import InputError
from ..graph.exported import quiet
from ..integer.inference import evaluate, shapes
from ..network import CARRIED, Network

_DOMAIN = "stq_file"
_LIBRARY = torch.library.Library(_DOMAIN, "DEF")
_LIBRARY.define("source(Tensor x, str name, int network) -> Tensor")
_LIBRARY.define("sink(Tensor[] values, str name) -> Tensor")
_SIZES: dict[int, dict[str, list[tuple[int, bool]]]] = {}  # of networks in work: (size, whether times the batch)
_SOURCE, _SINK = torch.ops.stq_file.source.default, torch.ops.stq_file.sink.default
RESULT = "<result>"


def _source(x: Tensor, name: str, network: int) -> Tensor:
    return x.new_empty([size * x.shape[0] if free else size for size, free in _SIZES[network][name]])


def _sink(values: list[Tensor], name: str) -> Tensor:
    return values[0].new_empty(())


for _name, _function in (("source", _source), ("sink", _sink)):
    _LIBRARY.impl(_name, _function, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{_DOMAIN}::{_name}", _function, lib=_LIBRARY)


class TorchPart:
    """ONNX nodes for the ATen calls of a network, written into the graph under construction as they are needed.

    ours: the tensors of our nodes, by name. append, constant: add an ONNX node, a constant array.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        ours: Mapping[str, str],
        append: Callable[[onnx.NodeProto], None],
        constant: Callable[[np.ndarray], str],
    ):
        graph = model.graph
        self.ours, self.append, self.constant = ours, append, constant
        self.makers = {output: node for node in graph.node for output in node.output}
        self.initializers = {tensor.name: tensor for tensor in graph.initializer}
        self.sinks = {_name(node): node for node in graph.node if node.domain == _DOMAIN and node.op_type == "Sink"}
        self.input, self.written = graph.input[0].name, {}

    def read_by(self, reader: str, position: int = 0) -> str:
        """The tensor that a node of ours reads at a position; of ``RESULT`` the network's output."""
        return self._write(self.sinks[reader].input[position])

    def _write(self, value: str) -> str:
        if value and value not in self.written:
            if value == self.input:
                self.written[value] = self.ours["input"]
            elif value in self.initializers:
                self.written[value] = self.constant(numpy_helper.to_array(self.initializers[value]))
            elif self.makers[value].domain == _DOMAIN:
                self.written[value] = self.ours[_name(self.makers[value])]
            else:
                self._copy(self.makers[value])
        return self.written.get(value, "")  # an optional input that is left out has no name

    def _copy(self, node: onnx.NodeProto) -> None:
        new = onnx.NodeProto()
        new.CopyFrom(node)
        del new.input[:], new.output[:]
        new.input.extend([self._write(name) for name in self._inputs(node)])
        new.output.extend([f"torch.{name}" if name else "" for name in node.output])
        new.name = new.output[0]
        self.written |= dict(zip(node.output, new.output, strict=True))
        self.append(new)

    def _inputs(self, node: onnx.NodeProto) -> list[str]:
        """Its inputs, without the zeros that torch writes for a missing bias: with three axes they are no vector."""
        names = [*node.input]
        made = self.makers.get(names[2]) if node.op_type == "Conv" and len(names) == 3 else None
        while made is not None and made.op_type in ("Expand", "CastLike"):
            made = self.makers.get(made.input[0])
        values = (
            [] if made is None or made.op_type != "Constant" else [a.t for a in made.attribute if a.name == "value"]
        )
        return names[:2] if any(not numpy_helper.to_array(value).any() for value in values) else names


class _Part(nn.Module):
    """The ATen calls of a network, from sources to sinks."""

    def __init__(self, network: Network, key: int):
        super().__init__()
        self.network, self.key, self.held = network, key, {}
        read = {name for node in network.of(*CARRIED) for name in node.inputs}
        self.sources = [node for node in network.nodes if node.name in read and node.op not in CARRIED]
        for index, node in enumerate(node for node in self.sources if node.op == "constant"):
            self.held[node.name] = f"constant_{index}"
            self.register_buffer(self.held[node.name], torch.from_numpy(node.arrays["value"]))

    def forward(self, x: Tensor) -> list[Tensor]:
        """One value for each sink, of no meaning."""
        values: dict[str, Any] = {}
        for node in self.sources:
            if node.op == "input":
                values[node.name] = x
            elif node.name in self.held:
                values[node.name] = getattr(self, self.held[node.name])
            else:
                values[node.name] = _SOURCE(x, node.name, self.key)
        sinks, carried = [], {node.name for node in self.network.of(*CARRIED)}
        for node in self.network.nodes:
            if node.op in CARRIED:
                values[node.name] = evaluate(self.network, node, [values[name] for name in node.inputs])
            elif carried & set(node.inputs):
                # a value of ours stands for itself: its place among the inputs is what counts
                sinks.append(_SINK([values[n] if n in carried else x for n in node.inputs], node.name))
        if self.network.output in carried:
            sinks.append(_SINK([values[self.network.output]], RESULT))
        return sinks


def translated(
    network: Network, input_size: tuple[int, ...], one: Mapping[str, tuple[int, ...]], opset: int
) -> onnx.ModelProto:
    """The ATen calls of a network as torch's exporter writes them, with opaque sources and sinks.

    one: the shapes of all values for a batch of one.
    """
    from onnxscript import values

    for node in network.of("aten"):
        if node["target"].startswith(("aten.avg_pool2d.", "aten.avg_pool3d.")) and node["arguments"][-1] is not None:
            raise InputError(f"'{node.name}' has no ONNX form: average pooling with a divisor and ceil_mode")
    domain, key = values.Opset(_DOMAIN, 1), id(network)
    source, sink = (values.Op(domain, name, _schema(name)) for name in ("Source", "Sink"))
    _SIZES[key] = _free_sizes(one, shapes(network, input_size, 2))
    try:
        with quiet(), torch.no_grad():
            program = torch.export.export(
                _Part(network, key),
                (torch.zeros(2, *input_size),),
                dynamic_shapes=({0: torch.export.Dim.AUTO},),
                strict=False,
            )
            table = {
                _SOURCE: lambda x, name, network: source(x, name=name),
                _SINK: lambda values, name: sink(*values, name=name),
            }
            exported = torch.onnx.export(
                program, dynamo=True, opset_version=opset, custom_translation_table=table, optimize=False, verbose=False
            )
    except InputError:
        raise
    except Exception as error:
        raise InputError(_reason(network, error)) from error
    finally:
        del _SIZES[key]
    return exported.model_proto


def _reason(network: Network, error: BaseException) -> str:
    """Which operation torch's exporter could not write."""
    told, cause = "", error
    while cause is not None:
        told, cause = told + str(cause), cause.__cause__
    targets = {node["target"]: node.name for node in network.of("aten")}
    named = [target for target in targets if re.search(rf"{re.escape(target.rpartition('.')[0])}\b", told)]
    if not named:
        return f"torch's ONNX exporter cannot write this network ({type(error).__name__}); target=packed carries it"
    return (
        f"'{targets[named[0]]}' ({named[0]}) has no ONNX form: torch's own exporter has none; target=packed carries it"
    )


def _free_sizes(
    one: Mapping[str, tuple[int, ...]], two: Mapping[str, tuple[int, ...]]
) -> dict[str, list[tuple[int, bool]]]:
    """Each size of each value for a batch of one, and whether it grows with the batch."""
    found = {}
    for name, sizes in one.items():
        pairs = [*zip(sizes, two[name], strict=False)]
        if len(sizes) != len(two[name]) or any(b not in (a, 2 * a) for a, b in pairs):
            raise InputError(f"'{name}' has a size that is no multiple of the batch's, so it has no ONNX form")
        found[name] = [(a, a != b) for a, b in pairs]
    return found


def _schema(name: str) -> onnx.defs.OpSchema:
    """What an opaque operator looks like to the exporter."""
    kind = onnx.defs.OpSchema.FormalParameter
    variadic = onnx.defs.OpSchema.FormalParameterOption.Variadic
    return onnx.defs.OpSchema(
        name,
        _DOMAIN,
        1,
        inputs=[kind("inputs", "tensor(float)", param_option=variadic, is_homogeneous=False, min_arity=0)],
        outputs=[kind("output", "tensor(float)")],
        attributes=[onnx.defs.OpSchema.Attribute("name", onnx.defs.OpSchema.AttrType.STRING)],
    )


def _name(node: onnx.NodeProto) -> str:
    return next(attribute.s.decode() for attribute in node.attribute if attribute.name == "name")
