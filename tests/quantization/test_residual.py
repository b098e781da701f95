"""Residual additions on few bits: one step for both summands, learned; paths, state and results as before."""

import pytest
import timm
import torch
from torch import nn

import stq
from tests.small_networks import Residual, awaken, small_network


def test_paths_and_state_stay_and_values_are_the_two_rounded_summands():
    torch.manual_seed(0)
    model = awaken(small_network()).eval()
    before, x = dict(model.state_dict()), torch.randn(16, 1, 8, 8)
    found = stq.quantize(model, "lsq", weight_bits=32, activation_bits=32, first_last_bits=32, residual_bits=4)
    assert set(before) <= set(found.state_dict())
    assert {name.split(".input_quantizer")[0] for name in set(found.state_dict()) - set(before)} == {
        "3.residual.0",
        "3.residual.1",
    }
    stq.calibrate(found, x)
    quantizers = [found.get_submodule(f"3.residual.{index}").input_quantizer for index in (0, 1)]
    assert quantizers[0].raw_step is quantizers[1].raw_step
    assert [quantizer.signed for quantizer in quantizers] == [False, True]
    step, block = quantizers[0].record().scale, model[3]
    shortcut = step * (model[:3](x) / step).clamp(0, 15).round()  # which the block's own layers read too
    branch = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(shortcut)))))
    rounded = step * (branch / step).clamp(-8, 7).round()
    assert torch.allclose(found(x), model[4:](torch.relu(shortcut + rounded)), atol=1e-4)


def test_the_step_learns_from_both_summands():
    found = stq.quantize(small_network(), "lsq", residual_bits=3)
    stq.calibrate(found, torch.randn(16, 1, 8, 8))
    found.train()(torch.randn(16, 1, 8, 8)).square().sum().backward()
    assert found.get_submodule("3.residual.1").input_quantizer.raw_step.grad.abs() > 0
    rows = {row.path: row for row in stq.summary(found)}
    assert (rows["3.residual.1"].activation_bits, rows["3.residual.1"].input) == (3, "signed")


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_100", "convnext_atto"])
def test_networks_of_timm_in_integers(name):
    torch.manual_seed(0)
    model = stq.quantize(awaken(timm.create_model(name, num_classes=7)), "lsq", residual_bits=8)
    assert (model.num_classes, model.pretrained_cfg["classifier"]) == (
        7,
        timm.create_model(name).pretrained_cfg["classifier"],
    )
    x = torch.randn(4, 3, 32, 32)
    stq.calibrate(model, x)
    network = stq.freeze(model.eval(), x)
    found = stq.verify(model, network, [x])
    assert found.ties <= 2
    assert found.same_top1 == 4


def test_layers_of_as_many_bits_take_the_values_as_they_are():
    model = stq.quantize(
        awaken(timm.create_model("resnet18")), "lsq", weight_bits=3, activation_bits=8, residual_bits=8
    )
    stq.calibrate(model, torch.randn(2, 3, 32, 32))
    shared = model.get_submodule("layer1.0.residual.1").input_quantizer
    assert model.get_submodule("layer1.0.conv1").input_quantizer is shared
    fork = model.get_submodule("layer1.1.fork").input_quantizer
    assert model.get_submodule("layer2.0.conv1").input_quantizer is fork
    assert model.get_submodule("layer2.0.downsample.0").input_quantizer is fork
    assert model.get_submodule("layer2.0.conv2").input_quantizer is not fork


class _Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Residual(4)

    def forward(self, x):
        return nn.functional.dropout(self.block(x), 0.5, self.training)


class _Deciding(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return x + self.conv(x) if x.sum() > 0 else x


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (_Dropping, "does the same in training and evaluation"),
        (_Deciding, "a model that torch.fx can trace"),
        (lambda: nn.Sequential(nn.Conv2d(4, 4, 1)), "has no addition of two activations"),
    ],
)
def test_refusals_leave_the_model_as_it_was(model, message):
    model = model()
    names = list(model.state_dict())
    with pytest.raises(ValueError, match=message):
        stq.quantize(model, "lsq", residual_bits=8)
    assert list(model.state_dict()) == names
