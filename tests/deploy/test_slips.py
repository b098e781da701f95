"""Bad input to the public functions of deployment: one sentence each."""

import pytest
import torch

import stq
from tests.small_networks import calibrated, small_network

NEAREST = r"format='onx' is unknown \(did you mean 'onnx'\?\)"
SLIPS = {
    "no tensor": (lambda m, x: stq.export(m, [1, 2], "x.onnx"), r"must be a batch as the model takes it, .* not list"),
    "no batch": (
        lambda m, x: stq.export(m, x[0, 0, 0], "x.onnx"),
        r"must be a batch .* not torch.float32 of shape \(8,\)",
    ),
    "other channels": (
        lambda m, x: stq.export(m, x.expand(-1, 3, -1, -1), "x.onnx"),
        r"cannot be followed with an input of size \(3, 8, 8\)",
    ),
    "unknown format": (
        lambda m, x: stq.export(m, x, "x.onnx", format="onx"),
        r"format='onx' is unknown \(did you mean 'onnx'\?\)",
    ),
    "unknown format to run": (
        lambda m, x: stq.predict("x", "onx", x.numpy()),
        r"format='onx' is unknown \(did you mean 'onnx'\?\)",
    ),
    "nothing to run": (lambda m, x: stq.predict("absent.onnx", "onnx", x.numpy()), "absent.onnx is not a file"),
    "no packed file": (lambda m, x: stq.load_packed("absent"), "absent does not exist"),
    "a folder": (
        lambda m, x: stq.export(m, x, "."),
        "cannot be written: Is a directory",
    ),
    "no run folder": (lambda m, x: stq.load_run("absent"), "is not a run folder"),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_one_sentence(slip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    act, message = SLIPS[slip]
    with pytest.raises(stq.InputError, match=message) as told:
        act(calibrated(small_network(), (1, 8, 8), "lsq", 3), torch.randn(2, 1, 8, 8))
    assert "\n" not in str(told.value)
    assert not any(path.is_file() for path in tmp_path.iterdir())
