"""Linear layers over several positions, (N, T, C): outputs on the last axis, what follows perhaps on axis 1."""

import numpy as np
import pytest
import torch
from torch import nn

import stq
from stq.deploy.integer.freeze import freeze
from stq.deploy.integer.inference import run
from stq.errors import InputError
from tests.small_networks import calibrated

pytest.importorskip("onnxruntime")
pytest.importorskip("qonnx")
from tests.deploy.runtimes import onnx_scores as scores
from tests.deploy.runtimes import qonnx_scores


def positions(tokens: int, channels: int, norm: bool, first: bool) -> nn.Module:
    """Linear layers over (N, tokens, 6), with a batch norm over the tokens between, behind a convolution or not."""
    begin = [nn.Conv1d(tokens, tokens, 1)] if first else []
    middle = [nn.BatchNorm1d(tokens)] if norm else []
    return nn.Sequential(*begin, nn.Linear(6, channels), *middle, nn.ReLU(), nn.Linear(channels, 3), nn.Flatten())


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("channels", [4, 5])
def test_equal_the_model_in_every_format(channels, norm, first, tmp_path):
    torch.manual_seed(0)
    model, x = calibrated(positions(4, channels, norm, first), (4, 6), "double_st_frozen", 3), torch.randn(1, 4, 6)
    network = freeze(model, x)
    with torch.no_grad():
        expected = model(x).numpy()
    assert np.allclose(run(network, x), expected, atol=1e-5)
    path = stq.export(model, x, tmp_path / "model.onnx")
    assert np.allclose(scores(path, x), expected, atol=1e-5)
    path = stq.export(model, x, tmp_path / "model.qonnx.onnx", format="qonnx")
    assert np.allclose(qonnx_scores(path, x)[1], expected, atol=1e-5)
    with pytest.raises(InputError, match="has no C form"):
        stq.export(model, x, tmp_path / "model.h", format="c")


@pytest.mark.parametrize("flat", [False, True])
def test_a_batch_norm_of_a_plain_linear_layer_still_becomes_thresholds(flat, tmp_path):
    torch.manual_seed(0)
    layers = [nn.Linear(6, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)]
    model = calibrated(nn.Sequential(*[nn.Flatten()] * flat, *layers), (6,), "double_st_frozen", 3)
    x = torch.randn(16, 6)
    network = freeze(model, x)
    assert not any(node.op == "affine" for node in network.nodes)
    with torch.no_grad():
        assert np.allclose(run(network, x), model(x), atol=1e-5)
    code = stq.export(model, x, tmp_path / "model.h", format="c").with_suffix(".c").read_text()
    assert code.count("_factor[") == 1


def test_padding_beside_four_axes(tmp_path):
    class Padded(nn.Sequential):
        def forward(self, x):
            return nn.functional.pad(self[0](x), (0, 1, 2, 0)).flatten(1)

    torch.manual_seed(0)
    model, x = calibrated(Padded(nn.Conv1d(2, 4, 3), nn.ReLU()), (2, 8), "lsq", 3), torch.randn(2, 2, 8)
    with torch.no_grad():
        expected = model(x).numpy()
    assert np.allclose(run(freeze(model, x), x), expected, atol=1e-5)
    path = stq.export(model, x, tmp_path / "model.onnx")
    assert np.allclose(scores(path, x), expected, atol=1e-5)
