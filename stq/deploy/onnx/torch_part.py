"""The operations of a network that only torch's own exporter translates: ATen calls, and what reads their results.

The whole network is exported once more, each node that is ours as one opaque call; torch's exporter (onnxscript) writes
the ATen calls between them. The result is then read backwards from each opaque call: what it reads is written into our
graph, down to the opaque calls before it, whose values we have.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from contextlib import contextmanager

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from ...errors import InputError
from ..integer.inference import evaluate
from ..network import Network

CARRIED = ("aten", "item")
_DOMAIN = "stq_file"
_LIBRARY = torch.library.Library(_DOMAIN, "DEF")
_LIBRARY.define("node(Tensor[] inputs, str name, int network) -> Tensor")
_NETWORKS: dict[int, Network] = {}  # those that are being exported
_CALL = torch.ops.stq_file.node.default
RESULT = "<result>"


def _computed(inputs: list[Tensor], name: str, network: int) -> Tensor:
    if name == RESULT:
        return inputs[0].clone()
    return evaluate(_NETWORKS[network], _NETWORKS[network][name], inputs)


_LIBRARY.impl("node", _computed, "CompositeExplicitAutograd")
torch.library.register_fake("stq_file::node", _computed, lib=_LIBRARY)


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
        self.calls = {_name(node): node for node in graph.node if node.domain == _DOMAIN}
        self.input, self.written = graph.input[0].name, {}

    def read_by(self, reader: str, position: int = 0) -> str:
        """The tensor that a node of ours reads at a position; of ``RESULT`` the network's output."""
        return self._write(self.calls[reader].input[position])

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
        new.input.extend([self._write(name) for name in node.input])
        new.output.extend([f"torch.{name}" if name else "" for name in node.output])
        new.name = new.output[0]
        self.written |= dict(zip(node.output, new.output, strict=True))
        self.append(new)


class _Opaque(nn.Module):
    """A network with its own nodes as opaque calls."""

    def __init__(self, network: Network, key: int):
        super().__init__()
        self.network, self.key = network, key
        for index, node in enumerate(network.of("constant")):
            self.register_buffer(f"constant_{index}", torch.from_numpy(node.arrays["value"]))
        self.held = {node.name: f"constant_{index}" for index, node in enumerate(network.of("constant"))}

    def forward(self, x: Tensor) -> Tensor:
        """The network's output."""
        values = {}
        for node in self.network.nodes:
            inputs = [values[name] for name in node.inputs]
            if node.op == "input":
                value = x
            elif node.op == "constant":
                value = getattr(self, self.held[node.name])
            elif node.op in CARRIED:
                value = evaluate(self.network, node, inputs)
            else:
                value = _CALL(inputs, node.name, self.key)
            values[node.name] = value
        return _CALL([values[self.network.output]], RESULT, self.key)


def translated(network: Network, input_size: tuple[int, ...], opset: int) -> onnx.ModelProto:
    """The network as torch's exporter writes it, with an opaque node for each node that is ours."""
    from onnxscript import values

    operator = values.Op(values.Opset(_DOMAIN, 1), "Node", _schema())

    def call(inputs: list, name: str, network: int) -> object:
        return operator(*inputs, name=name)

    key = id(network)
    _NETWORKS[key] = network
    try:
        with _quiet(), torch.no_grad():
            program = torch.export.export(
                _Opaque(network, key),
                (torch.zeros(2, *input_size),),
                dynamic_shapes=({0: torch.export.Dim.AUTO},),
                strict=False,
            )
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=opset,
                custom_translation_table={_CALL: call},
                optimize=False,
                verbose=False,
            )
    except Exception as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(f"torch's ONNX exporter cannot write this network: {reason}") from error
    finally:
        del _NETWORKS[key]
    return exported.model_proto


def _schema() -> onnx.defs.OpSchema:
    """What an opaque call looks like to the exporter."""
    kind = onnx.defs.OpSchema.FormalParameter
    variadic = onnx.defs.OpSchema.FormalParameterOption.Variadic
    return onnx.defs.OpSchema(
        "Node",
        _DOMAIN,
        1,
        inputs=[kind("inputs", "tensor(float)", param_option=variadic, is_homogeneous=False, min_arity=0)],
        outputs=[kind("output", "tensor(float)")],
        attributes=[onnx.defs.OpSchema.Attribute("name", onnx.defs.OpSchema.AttrType.STRING)],
    )


def _name(node: onnx.NodeProto) -> str:
    return next(attribute.s.decode() for attribute in node.attribute if attribute.name == "name")


@contextmanager
def _quiet():
    previous = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
