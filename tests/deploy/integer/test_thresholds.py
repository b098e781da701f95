import numpy as np
import pytest
import torch
from torch import nn

import stq
from stq.deploy.integer.freeze import freeze
from stq.deploy.integer.inference import run
from stq.deploy.integer.requantize import fit, fit_channels
from stq.deploy.integer.thresholds import fuse, real_thresholds
from tests.small_networks import awaken, calibrated, small_network


@pytest.mark.parametrize("method", ["double_st_frozen", "dorefa", "lsq_plus"])
@pytest.mark.parametrize("bits", [1, 3, 8])
def test_fused_codes_are_the_same(method, bits):
    torch.manual_seed(bits)
    network = freeze(calibrated(small_network(), (1, 8, 8), method, bits), torch.zeros(1, 1, 8, 8))
    fused, codes, differing = fuse(network, (1, 8, 8)), {}, []
    x = torch.randn(32, 1, 8, 8)
    expected = run(network, x, lambda node, value: codes.update({node.name: value}))

    def compare(node, value):
        if node.op in ("threshold", "quantize") and not node.name.endswith(".codes"):
            differing.append(int((codes[node.name] != value).sum()))

    assert torch.equal(run(fused, x, compare), expected)
    assert sum(differing) == 0
    assert len(list(fused.of("threshold"))) >= 1


def chain(multiplier: float, bits: int = 3):
    """One fused 1 x 1 layer of a single weight, to try every accumulator; and its threshold node."""
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1), nn.ReLU6(), nn.Conv2d(1, 1, 1))
    awaken(model)
    nn.init.constant_(model[1].weight, multiplier)
    stq.quantize(model, "double_st_frozen", weight_bits=bits, activation_bits=bits, first_last_bits=None)
    stq.calibrate(model, torch.randn(512, 1, 1, 1))
    fused = fuse(freeze(model.eval(), torch.zeros(1, 1, 1, 1)), (1, 1, 1))
    (threshold,) = fused.of("threshold")
    return model, fused, threshold


@pytest.mark.parametrize("multiplier", [1.3, -0.7])
def test_every_accumulator_against_the_batch_norm_itself(multiplier):
    model, fused, threshold = chain(multiplier)
    layer = fused["0"]
    quantizer, weights = model[0].input_quantizer, model[0].parametrizations.weight
    scale = quantizer.record().scale * weights[0].record(weights.original.detach()).scale
    for accumulator in range(-fused.bounds["0"], fused.bounds["0"] + 1):
        with torch.no_grad():
            real = torch.relu(model[1]((scale * accumulator).reshape(1, 1, 1, 1))).clamp(max=6)
            expected = int(model[3].input_quantizer.record().encode(real))
        reached = threshold.arrays["sign"][0] * accumulator >= threshold.arrays["thresholds"][0]
        assert int(reached.sum()) + threshold["low"] == expected
    assert layer["fused"]


def test_thresholds_ascend_and_differ_between_channels():
    network = fuse(
        freeze(calibrated(small_network(), (1, 8, 8), "double_st_frozen", 3), torch.zeros(1, 1, 8, 8)), (1, 8, 8)
    )
    for node in network.of("threshold"):
        steps = np.diff(node.arrays["thresholds"].astype(np.int64), axis=1)
        assert (steps >= 0).all()
        assert (steps > 0).any()
        assert len(np.unique(node.arrays["thresholds"][:, 0])) > 1


@pytest.mark.parametrize("method", ["double_st_frozen", "lsq_plus", "dorefa"])
def test_real_thresholds_are_the_first_floats_of_their_codes(method):
    model = calibrated(small_network(), (1, 8, 8), method, 3)
    for node in freeze(model, torch.zeros(1, 1, 8, 8)).of("quantize"):
        record = model.get_submodule(node.name.removesuffix(".quantize")).input_quantizer.record()
        thresholds = torch.tensor(real_thresholds(node))
        for level in range(thresholds.shape[1]):
            at = thresholds[:, level]
            below = torch.nextafter(at, torch.tensor(-torch.inf))
            after = (1,) * (-node["axis"] - 1)
            channels = record.gain.numel()
            for x, code in ((at, level + 1), (below, level)):
                codes = record.encode(x.reshape(1, channels, *after)) - node["low"]
                assert bool((codes >= code).all() if x is at else (codes <= code).all())


@pytest.mark.parametrize(("bits", "lowest"), [(1, 0), (2, 0), (4, 0), (1, -1), (2, -2), (3, -3), (4, 2)])
def test_requantization_reproduces_every_accumulator(bits, lowest):
    _, fused, threshold = chain(1.1, bits)
    bound = fused.bounds["0"]
    reader = fused["3"]
    gain = 1 if lowest else reader["code_gain"]
    found = fit_channels(threshold, bound, 32, lowest) if lowest else fit(threshold, gain, bound, 32)
    accumulators = np.arange(-bound, bound + 1)
    kernel = (found.factor * accumulators + found.bias[0]).astype(np.float32) * found.multiplier[0]
    levels = threshold.arrays["thresholds"].shape[1]
    stored = np.clip(np.rint(kernel), lowest, lowest + levels * gain)
    codes = (accumulators[:, None] >= threshold.arrays["thresholds"][0]).sum(1)
    assert np.array_equal(stored, codes * gain + lowest)
