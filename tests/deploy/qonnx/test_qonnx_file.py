import numpy as np
import pytest
import torch

import stq
from stq.deploy.about import About
from stq.deploy.integer.freeze import freeze
from stq.deploy.integer.inference import run
from stq.errors import InputError
from tests.deploy.runtimes import qonnx_scores as scores
from tests.small_networks import calibrated, small_network

pytest.importorskip("qonnx")

from stq.deploy.qonnx.qonnx_file import export_qonnx


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_trained_network_predicts_the_same(trained, digits, bits, tmp_path):
    model, images = trained(bits), digits[2]
    path = export_qonnx(freeze(model, images), (1, 8, 8), tmp_path / "model.onnx", About(), batch=len(images))
    with torch.no_grad():
        expected = model(images).argmax(1).numpy()
    graph, found = scores(path, images)
    assert np.array_equal(found.argmax(1), expected)
    nodes = [node for node in graph.graph.node if node.op_type == "MultiThreshold"]
    assert len(nodes) == 7
    for node in nodes:
        thresholds = graph.get_initializer(node.input[1])
        assert (np.diff(thresholds, axis=1) >= 0).all()
    weights = sum(node.op_type in ("Quant", "BipolarQuant") for node in graph.graph.node)
    assert weights == 7


@pytest.mark.parametrize("method", ["dorefa", "lsq_plus"])
def test_equals_the_reference(method, tmp_path):
    model, x = calibrated(small_network(), (1, 8, 8), method, 3), torch.randn(1, 1, 8, 8)
    network = freeze(model, x)
    _, found = scores(stq.export(network, x, tmp_path / "model.onnx", format="qonnx"), x)
    assert np.allclose(found, run(network, x), atol=1e-5)


def test_sums_beyond_float32_are_refused(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(2048, 4), torch.nn.Linear(4, 2))
    model[0].weight.data.fill_(0.1)
    stq.quantize(model, "dorefa", weight_bits=8, activation_bits=8, first_last_bits=None)
    stq.calibrate(model, torch.rand(4, 2048))
    with pytest.raises(InputError, match=r"'0' has no QONNX form: its integer sums can exceed"):
        stq.export(model.eval(), torch.rand(1, 2048), tmp_path / "model.onnx", format="qonnx")
