"""Training in low memory: the same gradients bit by bit, and fewer bytes alive before the backward pass than float."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile

import stq
import stq.models


@pytest.fixture(autouse=True)
def plain_kernels_afterwards():
    yield
    stq.set_kernels("plain")


class Odd(nn.Module):
    """Activations in place and not, functional, several in a row; a batch norm that is called twice, one frozen."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, self.act = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8, affine=False)
        self.swish, self.tanh, self.frozen = nn.Hardswish(inplace=True), nn.Tanh(), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = self.act(self.bn1(self.conv1(x)))
        y = self.tanh(self.swish(self.bn2(self.conv2(x))))
        x = F.relu(x + self.bn1(self.conv2(y)))
        return self.fc(nn.Sigmoid()(self.frozen(x)).mean((2, 3)))


NETWORKS = {
    "resnet8": (lambda: timm.create_model("resnet8", num_classes=5), 32),
    "mobilenetv2": (lambda: timm.create_model("mobilenetv2_035", num_classes=5), 32),
    "odd": (Odd, 16),
}


def trained(model, x, low):
    """Gradients and buffers after a step, and the bytes that were alive before its backward pass."""
    model.train()
    if hasattr(model, "frozen"):
        model.frozen.eval()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as found:
        if low:
            with stq.low_memory(model):
                loss = model(x).logsumexp(1).sum()
        else:
            loss = model(x).logsumexp(1).sum()
    loss.backward()
    state = {name: p.grad for name, p in model.named_parameters()} | dict(model.named_buffers())
    return state, sum(event.self_cpu_memory_usage for event in found.key_averages())


@pytest.mark.parametrize("kernels", ["plain", "lean"])
@pytest.mark.parametrize("network", NETWORKS)
def test_gradients_are_the_same_and_memory_is_less_than_floats(network, kernels):
    build, pixels = NETWORKS[network]
    torch.manual_seed(0)
    model, x = build(), torch.randn(4, 3, pixels, pixels)
    _, of_float = trained(copy.deepcopy(model), x, False)
    stq.quantize(model, "lsq", weight_bits=3, activation_bits=3)
    stq.calibrate(model, x)
    stq.set_kernels(kernels)
    usual, _ = trained(copy.deepcopy(model), x, False)
    low, alive = trained(model, x, True)
    assert usual.keys() == low.keys()
    assert all((a is b is None) or torch.equal(a, b) for a, b in zip(usual.values(), low.values(), strict=True))
    assert not any(module._forward_hooks for module in model.modules())
    if kernels == "lean":
        assert alive < 0.9 * of_float


def test_backward_twice_and_in_half_precision():
    torch.manual_seed(0)
    model, x = Odd().train(), torch.randn(2, 3, 8, 8)
    found = []
    for low in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            if low:
                with stq.low_memory(model):
                    loss = model(x).sum()
            else:
                loss = model(x).sum()
        loss.backward(retain_graph=True)
        loss.backward()
        found.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_what_is_changed_in_place_before_the_backward_pass_is_told():
    model, kept = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 1, 1)), []
    model[0].register_forward_hook(lambda module, inputs, output: kept.append(output))
    with stq.low_memory(model):
        loss = model(torch.randn(2, 1, 3, 3)).sum()
    with torch.no_grad():
        kept[0].mul_(2)
    with pytest.raises(RuntimeError, match="modified in place after the forward pass"):
        loss.backward()


class Doubling(nn.BatchNorm2d):
    """Of somebody else."""

    def forward(self, x):
        return 2 * super().forward(x)


def test_hooks_and_layers_of_others_are_kept_as_they_are():
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 4, 1),
        Doubling(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 2, 1),
    ]
    model, x = nn.Sequential(*layers), torch.randn(2, 3, 4, 4)
    model[4].register_forward_hook(lambda module, inputs, output: output + 1)
    usual, _ = trained(copy.deepcopy(model), x, False)
    low, _ = trained(model, x, True)
    assert all(torch.equal(a, b) for a, b in zip(usual.values(), low.values(), strict=True))
