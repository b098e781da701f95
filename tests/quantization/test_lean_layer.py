"""Lean training: gradients and buffers are those of the plain form bit by bit, the memory is that of float."""

import copy

import pytest
import timm
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import stq
import stq.models
from stq.quantizers import registry
from stq.quantizers.base import ActivationQuantizer
from stq.quantizers.fused import set_kernels
from tests.small_networks import awaken, small_network

METHODS = [
    name for name in stq.list_quantizers() if name not in ("none", "float_gates", "double_st", "double_st_dynamic")
]


@pytest.fixture(autouse=True)
def plain_afterwards():
    yield
    set_kernels("plain")


def step(model, x, mode, autocast=False):
    """Loss, gradients and state of a copy of the model after one step in a mode."""
    model, x = copy.deepcopy(model).train(), x.clone().requires_grad_()
    set_kernels(mode)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = model(x).float().square().sum()
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), "x": x.grad, **gradients}, model.state_dict()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bits", [1, 3])
def test_lean_equals_plain_bit_by_bit(method, bits):
    torch.manual_seed(0)
    model = stq.quantize(awaken(small_network()), method, weight_bits=bits, activation_bits=bits)
    x = torch.randn(8, 1, 8, 8)
    stq.calibrate(model, x)
    stq.set_progress(model, 0.3)
    for name, parameter in model.named_parameters():
        if "gate" in name:
            nn.init.normal_(parameter, 0, 0.3)
    (plain, state), (lean, other) = (step(model, x, mode) for mode in ("plain", "lean"))
    assert plain.keys() == lean.keys()
    assert all(torch.equal(plain[name], lean[name]) for name in plain)
    assert all(torch.equal(state[name], other[name]) for name in state)


def test_lean_under_autocast_and_double():
    torch.manual_seed(0)
    model = stq.quantize(awaken(small_network()), "double_st_frozen")
    x = torch.randn(8, 1, 8, 8)
    stq.calibrate(model, x)
    (plain, _), (lean, _) = (step(model, x, mode, autocast=True) for mode in ("plain", "lean"))
    assert torch.equal(plain["loss"], lean["loss"])
    flat = [torch.cat([gradients[name].flatten() for name in plain if name != "loss"]) for gradients in (plain, lean)]
    assert torch.cosine_similarity(*flat, dim=0) > 0.98
    (plain, _), (lean, _) = (step(model.double(), x.double(), mode) for mode in ("plain", "lean"))
    assert all(torch.equal(plain[name], lean[name]) for name in plain)


@pytest.mark.parametrize("method", ["lsq", "double_st_frozen"])
@pytest.mark.parametrize("shape", [(5,), (2, 3, 5)])
def test_linear_layers_take_single_samples_and_sequences(method, shape):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    stq.calibrate(stq.quantize(model, method), torch.randn(4, 5))
    (plain, _), (lean, _) = (step(model, torch.randn(shape), mode) for mode in ("plain", "lean"))
    assert plain.keys() == lean.keys()


@pytest.mark.parametrize("method", METHODS)
def test_double_precision_is_left_by_autocast(method):
    torch.manual_seed(0)
    model = stq.quantize(awaken(small_network()), method)
    x = torch.randn(8, 1, 8, 8).double()
    stq.calibrate(model, x.float())
    (plain, _), (lean, _) = (step(model.double(), x, mode, autocast=True) for mode in ("plain", "lean"))
    assert all(torch.equal(plain[name], lean[name]) for name in plain)


@pytest.mark.parametrize("method", ["lsq", "double_st", "pact"])
def test_a_batch_without_samples(method):
    model = stq.quantize(awaken(small_network()), method)
    stq.calibrate(model, torch.randn(8, 1, 8, 8))
    for mode in ("plain", "lean", "compiled"):
        found, _ = step(model, torch.randn(0, 1, 8, 8), mode)
        assert found["x"].shape == (0, 1, 8, 8)


def test_statistics_that_do_not_vary_are_no_trouble_in_half_precision():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    stq.calibrate(stq.quantize(model, "double_st"), torch.randn(3, 4))
    assert torch.isfinite(model.train().half()(torch.randn(1, 4).half())).all()


def kept(model, x, half: bool) -> int:
    """Bytes alive after the forward pass and before the backward pass, by the allocator's count."""
    for _ in range(2):
        counted = profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True)
        with counted as found, torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = model(x).float().logsumexp(1).sum()
        total = sum(event.self_cpu_memory_usage for event in found.key_averages())
        loss.backward()
        del loss
    return total


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("method", ["lsq", "pact", "dorefa", "double_st_frozen", "double_st"])
def test_memory_is_that_of_float(method, half):
    x = torch.randn(4, 3, 32, 32)
    float_bytes = kept(timm.create_model("resnet8").train(), x, half)
    model = stq.quantize(timm.create_model("resnet8"), method, weight_bits=3, activation_bits=3)
    stq.calibrate(model, x)
    set_kernels("lean")
    assert kept(model.train(), x, half) < 1.12 * float_bytes


class Drifting(ActivationQuantizer):
    """A quantizer of one's own that changes its buffer at each call, and computes with it."""

    def __init__(self, *args, **common):
        super().__init__(*args, **common)
        self.register_buffer("largest", torch.ones(()))

    def initialize(self, x):
        self.largest.copy_(x.abs().max())

    def fake_quantize(self, x):
        with torch.no_grad():
            self.largest.mul_(0.9).add_(0.1 * x.abs().max())
        return self.round(x * (self.high / self.largest)) * (self.largest / self.high)

    def record(self):
        return self.make_record(self.high / self.largest, torch.zeros_like(self.largest), self.largest / self.high)


def test_ones_own_quantizer_that_changes_its_buffers_counts_once():
    stq.register_quantizer("drifting", weights="lsq")(Drifting)
    try:
        torch.manual_seed(0)
        model = stq.quantize(awaken(small_network()), "drifting")
        x = torch.randn(8, 1, 8, 8)
        stq.calibrate(model, x)
        for _ in range(2):  # the first time it is found out, then known
            (plain, state), (lean, other) = (step(model, x, mode) for mode in ("plain", "lean"))
            assert all(torch.equal(plain[name], lean[name]) for name in plain)
            assert all(torch.equal(state[name], other[name]) for name in state)
    finally:
        del registry._methods.entries["drifting"]


@pytest.mark.parametrize("bits", [1, 2, 3])
@pytest.mark.parametrize("method", ["lsq", "lsq_plus", "pact", "dorefa", "st", "double_st_frozen"])
def test_compiled_values_are_plain_and_gradients_differ_by_roundings(method, bits):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(4 * 8 * 8, 5)
    model = stq.quantize(nn.Sequential(*layers), method, weight_bits=bits, activation_bits=bits)
    x = torch.randn(8, 3, 12, 12)
    stq.calibrate(model, x)
    (plain, _), (compiled, _) = (step(model, x, mode) for mode in ("plain", "compiled"))
    assert plain.keys() == compiled.keys()
    if method not in ("st", "double_st_frozen"):  # whose means are sums
        assert torch.equal(plain["loss"], compiled["loss"])
    for name in plain:
        assert torch.allclose(plain[name], compiled[name], rtol=1e-3, atol=1e-5 * plain[name].abs().max()), name


def test_a_first_layer_learns_its_step_without_the_gradient_to_its_input():
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 8, 3, stride=2, padding=1)
    model = stq.quantize(nn.Sequential(layer), "lsq", activation_bits=4, first_last_bits=None).double()
    x = torch.randn(4, 3, 9, 9, dtype=torch.float64)
    stq.calibrate(model, x)
    found = {}
    for mode in ("plain", "compiled"):
        set_kernels(mode)
        model.zero_grad()
        model(x).square().sum().backward()
        found[mode] = model[0].input_quantizer.raw_step.grad.clone()
    assert found["compiled"].abs() > 0
    torch.testing.assert_close(found["compiled"], found["plain"], rtol=1e-10, atol=0)


def test_the_command_line_knows_the_modes():
    from stq.cli.setting_types import _KERNELS
    from stq.quantizers.fused import KERNELS

    assert _KERNELS == KERNELS


def test_an_unknown_mode_is_told():
    with pytest.raises(ValueError, match="there are plain, lean, compiled"):
        set_kernels("fast")
