import re
import shutil
import subprocess

import numpy as np
import pytest
import timm
import torch

import stq
import stq.models
from stq.deploy.integer.freeze import freeze
from stq.deploy.integer.inference import run
from stq.errors import InputError
from tests.small_networks import calibrated, small_network

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


def predictions(header, x):
    program = header.with_suffix("")
    flags = ["-std=c99", "-Wall", "-Werror", "-O1"]
    subprocess.run(["gcc", *flags, str(header.with_suffix(".c")), "-o", str(program)], check=True)
    done = subprocess.run([program], input=x.numpy().tobytes(), capture_output=True, check=True)
    return np.array(done.stdout.split(), dtype=int)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_trained_network_predicts_the_same(trained, digits, bits, tmp_path):
    model, images = trained(bits), digits[2]
    header = stq.export(model, images, tmp_path / "digits.h", format="c")
    with torch.no_grad():
        expected = model(images).argmax(1).numpy()
    assert np.array_equal(predictions(header, images), expected)


@pytest.mark.parametrize(("method", "bits"), [("dorefa", 8), ("lsq_plus", 3), ("pact", 1)])
def test_equals_the_reference(method, bits, tmp_path):
    torch.manual_seed(0)
    model, x = calibrated(small_network(), (1, 8, 8), method, bits), torch.randn(64, 1, 8, 8)
    network = freeze(model, x)
    header = stq.export(network, x, tmp_path / "model.h", format="c")
    assert np.array_equal(predictions(header, x), run(network, x).argmax(1))


def test_residual_network_of_ours(tmp_path):
    torch.manual_seed(0)
    model = calibrated(timm.create_model("resnet8", in_chans=1), (1, 8, 8), "double_st", 2, first_last_bits=8)
    x = torch.randn(64, 1, 8, 8)
    with torch.no_grad():
        expected = model(x).argmax(1).numpy()
    assert np.array_equal(predictions(stq.export(model, x, tmp_path / "model.h", format="c"), x), expected)


def test_inner_loops_are_integer(trained, digits, tmp_path):
    code = stq.export(trained(3), digits[2], tmp_path / "model.h", format="c").read_text()
    products = re.findall(r"acc \+= (\w+)\[.*?\] \* (\w+)\[", code)
    assert len(products) == 7
    for names in products:
        for name in names:
            assert re.search(rf"static (const )?(u?int8_t|int16_t) {name}\[", code), name
    assert set(re.findall(r"(\w+) acc = 0;", code)) == {"int32_t"}
    assert re.search(r"static const int32_t \w+_thresholds\[", code)
    assert "malloc" not in code


class _Half(torch.nn.Module):
    def forward(self, x):
        return x * 0.5


@pytest.mark.parametrize(
    ("between", "named"), [(torch.nn.SiLU, r"'1' \(silu\)"), (_Half, r"'1.constant' \(constant\)")]
)
def test_what_c_lacks_is_named(between, named, tmp_path):
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), between(), torch.nn.Conv2d(2, 2, 3))
    stq.quantize(model, "lsq", weight_bits=3, activation_bits=3)
    stq.calibrate(model, torch.randn(4, 1, 8, 8))
    with pytest.raises(InputError, match=f"{named} has no C form"):
        stq.export(model.eval(), torch.zeros(1, 1, 8, 8), tmp_path / "model.h", format="c")
