"""Quantizers whose thresholds are no even ladder (as N2UQ's): carried where a format can, refused by name elsewhere."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import stq
from stq.deploy.integer.freeze import freeze
from stq.errors import InputError
from stq.quantizers import registry
from stq.quantizers.lsq import LSQActivation
from tests.deploy.runtimes import onnx_scores, qonnx_scores
from tests.small_networks import calibrated, small_network

SIZE = (1, 8, 8)


class Uneven(LSQActivation):
    """LSQ's levels, with thresholds moved at random, one ladder a channel or one for all."""

    def __init__(self, *args, each: bool = False, **common):
        super().__init__(*args, **common)
        self.each = each

    def record(self):
        plain = super().record()
        torch.manual_seed(self.channels)
        rows = self.channels if self.each else 1
        ladder = plain.thresholds()
        moved = (ladder + (torch.rand(rows, ladder.shape[1]) - 0.5) * plain.scale).sort(1).values
        return replace(plain, levels=moved)


@pytest.fixture(scope="module")
def method():
    name = "uneven_levels_of_a_test"
    stq.register_quantizer(name, weights="lsq")(Uneven)
    yield name
    del registry._methods.entries[name]


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("bits", [2, 4])
def test_codes_and_files(method, bits, each, tmp_path):
    model = calibrated(small_network(), SIZE, method, bits, settings={"each": each})
    x = torch.randn(64, *SIZE)
    network = freeze(model, x)
    levels = network["3.conv1.quantize"].arrays["levels"]
    assert levels.shape == (8 if each else 1, 2**bits - 1)
    quantizer = model[3].conv1.input_quantizer
    values = torch.randn(2, 8, 3, 3)
    counted = (values.numpy()[..., None] >= levels[:, None, None, :]).sum(-1)
    assert np.array_equal(quantizer.record().encode(values), counted)
    found = stq.verify(model, network, [x])
    assert found.ties <= 2
    expected = stq.run(network, x).numpy()
    assert np.allclose(onnx_scores(stq.export(network, x, tmp_path / "m.onnx"), x), expected, atol=1e-5)
    loaded, _ = stq.load_packed(stq.export(network, x, tmp_path / "m.safetensors", format="packed"))
    assert np.array_equal(stq.run(loaded, x), expected)
    path = stq.export(network, x, tmp_path / "q.onnx", format="qonnx")
    assert np.allclose(qonnx_scores(path, x[:1])[1], expected[:1], atol=1e-5)
    header = stq.export(network, x, tmp_path / "c.h", format="c")
    assert np.array_equal(stq.predict(header, "c", x.numpy()), expected.argmax(1))


@pytest.mark.parametrize("format", ["qdq", "openvino", "tensorrt", "finn", "hls4ml"])
def test_formats_that_cannot_carry_them_say_so(method, format, tmp_path):
    model = calibrated(small_network(), SIZE, method, 4)
    with pytest.raises(InputError, match=r"'3.conv1.*thresholds are no even ladder"):
        stq.export(model, torch.zeros(1, *SIZE), tmp_path / "m", format=format)
