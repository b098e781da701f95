"""Every method at every bit width on four families of networks: ONNX Runtime gives what the integer reference gives."""

from functools import cache

import numpy as np
import pytest
import timm
import torch

import stq
from stq.deploy.integer.freeze import freeze
from stq.deploy.integer.inference import run
from stq.deploy.network import Network, Node
from tests.deploy.runtimes import onnx_scores as scores
from tests.small_networks import calibrated

pytest.importorskip("onnxruntime")

# basic and bottleneck blocks; depthwise and signed inputs; SiLU and squeeze-and-excitation
NETWORKS = ("resnet18", "resnet26", "mobilenetv2_050", "efficientnet_b0")
SIZE = (3, 64, 64)
_ROUNDED_BY_LIBRARY = ("silu", "sigmoid")  # of which two libraries differ in the last bit


@cache
def session(op: str):
    """ONNX Runtime's own function of one operation."""
    from onnx import TensorProto, helper
    from onnxruntime import InferenceSession

    nodes = [helper.make_node("Sigmoid", ["x"], ["s" if op == "silu" else "y"])]
    if op == "silu":
        nodes.append(helper.make_node("Mul", ["x", "s"], ["y"]))
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, None)] for name in "xy"]
    model = helper.make_model(helper.make_graph(nodes, op, *ends), opset_imports=[helper.make_opsetid("", 21)])
    model.ir_version = 10
    return InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def reference(network: Network, x: torch.Tensor) -> np.ndarray:
    """The integer reference with the sigmoids of ONNX Runtime."""
    values: dict[str, torch.Tensor] = {}

    def observe(node: Node, value: torch.Tensor) -> torch.Tensor:
        if node.op in _ROUNDED_BY_LIBRARY:
            value = torch.from_numpy(session(node.op).run(None, {"x": values[node.inputs[0]].numpy()})[0])
        values[node.name] = value
        return value

    return run(network, x, observe).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize(
    "method",
    [name for name in stq.list_quantizers() if name not in ("none", "float_gates", "double_st", "double_st_dynamic")],
)
@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_equals_the_reference(name, method, bits, tmp_path):
    torch.manual_seed(bits)
    model, x = calibrated(timm.create_model(name), SIZE, method, bits, first_last_bits=8), torch.randn(4, *SIZE)
    network = freeze(model, x)
    path = stq.export(network, x, tmp_path / "model.onnx")
    assert np.array_equal(scores(path, x), reference(network, x))
