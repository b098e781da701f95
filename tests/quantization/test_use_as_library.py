"""Slips in a training loop of one's own: each works, or says what would be right."""

import copy
import warnings

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn
from torch.utils.checkpoint import checkpoint

import stq
from stq.quantization.surgery import input_quantizer


def network() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(8 * 16, 4)),
    )


def quantized(method: str = "lsq", **policy) -> nn.Sequential:
    model = stq.quantize(network(), method, weight_bits=3, activation_bits=3, **policy)
    stq.calibrate(model, torch.randn(8, 3, 4, 4))
    return model


def step(model: nn.Module, *optimizers) -> None:
    model(torch.randn(4, 3, 4, 4)).square().mean().backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


# the optimizer


def test_an_optimizer_made_before_is_told():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    stq.quantize(model, "lsq", weight_bits=3, activation_bits=3)
    stq.calibrate(model, torch.randn(8, 3, 4, 4))
    step(model, optimizer)
    with pytest.warns(UserWarning, match="6 of 6 learned steps of the quantized model are in no optimizer"):
        step(model, optimizer)
    with warnings.catch_warnings():  # once
        warnings.simplefilter("error")
        step(model, optimizer)


@pytest.mark.parametrize("split", [False, True])
def test_an_optimizer_made_after_is_not(split):
    model = quantized()
    groups = stq.parameter_groups(model, lr=0.1)
    optimizers = [torch.optim.SGD([group], 0.1) for group in groups] if split else [torch.optim.SGD(groups, 0.1)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            step(model, *optimizers)


# the weight


IN_PLACE = {
    "nn.init": lambda layer: nn.init.kaiming_normal_(layer.weight),
    "clamp_ of the data": lambda layer: layer.weight.data.clamp_(-1, 1),
    "copy_": lambda layer: layer.weight.copy_(torch.zeros(8, 8, 3, 3)),
    "an item": lambda layer: layer.weight.__setitem__(0, 0.0),
    "a row": lambda layer: layer.weight[0].zero_(),
    "detached": lambda layer: layer.weight.detach().mul_(2),
    "the data replaced": lambda layer: setattr(layer.weight, "data", torch.zeros(8, 8, 3, 3)),
    "out": lambda layer: torch.add(torch.zeros(8, 8, 3, 3), 1, out=layer.weight),
}


@pytest.mark.parametrize("change", IN_PLACE)
def test_a_change_that_would_be_lost_names_the_float_weight(change):
    layer = quantized()[3]
    before = layer.weight.clone()
    with torch.no_grad(), pytest.raises(RuntimeError, match=r"layer\.parametrizations\.weight\.original"):
        IN_PLACE[change](layer)
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize("value", [nn.Parameter, torch.Tensor.clone])
def test_assigning_changes_the_float_weight(value):
    layer = quantized()[3]
    wanted = torch.randn(8, 8, 3, 3)
    layer.weight = value(wanted)
    assert torch.equal(layer.parametrizations.weight.original, wanted)
    with pytest.raises(ValueError, match=r"the weight of this layer is \(8, 8, 3, 3\), not \(2,\)"):
        layer.weight = nn.Parameter(torch.zeros(2))


def test_the_weight_can_be_read_and_copied_as_any_tensor():
    layer = quantized()[3]
    weight = layer.weight
    assert type(weight + 1) is torch.Tensor
    assert torch.equal(torch.zeros(8, 8, 3, 3).copy_(weight), weight.clone())
    assert weight.numpy(force=True).shape == (8, 8, 3, 3)
    (weight.sum() + weight.flatten()[0]).backward()
    assert layer.parametrizations.weight.original.grad is not None
    twin = copy.deepcopy(layer)
    assert torch.equal(twin.weight, weight)
    with torch.no_grad(), pytest.raises(RuntimeError, match="would be lost"):
        twin.weight.zero_()


def test_a_float_state_is_loaded_whole_or_not_at_all():
    donor, model = network(), quantized()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"the float state has no '3\.weight'"):
        stq.load_float(model, {key: value for key, value in donor.state_dict().items() if key != "3.weight"})
    with pytest.raises(ValueError, match=r"'7\.weight' is \(9, 9\) in the float state and \(4, 128\) in the model"):
        stq.load_float(model, donor.state_dict() | {"7.weight": torch.zeros(9, 9)})
    with pytest.raises(ValueError, match="the float state holds 'x', which the model has not"):
        stq.load_float(model, donor.state_dict() | {"x": torch.zeros(1)})
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    stq.load_float(model, donor.state_dict())
    assert torch.equal(model[3].parametrizations.weight.original, donor[3].weight)
    assert torch.equal(model[0].bias, donor[0].bias)


# calibration


def test_batch_norms_that_the_user_froze_are_calibrated_frozen():
    torch.manual_seed(0)
    model = stq.quantize(network(), "lsq", weight_bits=8, activation_bits=3)
    for norm in (model[1], model[4]):
        norm.running_mean.normal_()
        norm.running_var.uniform_(3, 9)
    model.train()
    model[1].eval()  # and only this one
    x = torch.randn(16, 3, 4, 4)
    stq.calibrate(model, x)
    seen = {}
    model[3].register_forward_pre_hook(lambda _, args: seen.update(x=args[0]), prepend=True)
    model(x)  # as training sees it
    from stq.quantizers.lsq import initial_step

    step_of = input_quantizer(model[3]).bounded("step")
    assert step_of.item() == pytest.approx(initial_step(seen["x"], 7, False).item(), rel=1e-5)
    assert (model[1].training, model[4].training) == (False, True)


def test_a_layer_called_twice_is_calibrated_on_both_inputs():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.conv = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            return self.conv(self.conv(self.first(x).relu()))

    model = stq.quantize(Twice(), "lsq", weight_bits=8, activation_bits=8, first_last_bits=None)
    x = torch.randn(8, 3, 4, 4)
    rows = {row.path: row.input for row in stq.calibrate(model, x)}
    assert rows["conv"] == "signed"
    assert input_quantizer(model.conv).requested_signed is None
    with torch.no_grad():
        model.eval()
        full = copy.deepcopy(model)
        for layer in (full.first, full.conv):
            layer._forward_pre_hooks.clear()
        assert (model(x) - full(x)).abs().max() < 0.05 * full(x).abs().max()


@pytest.mark.parametrize("form", [tuple, list, dict])
def test_several_inputs(form):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

        def forward(self, x, y):
            return self.a(x) + self.b(y)

    model = stq.quantize(Two(), "lsq", first_last_bits=None)
    x, y = torch.rand(4, 3, 2, 2), -torch.rand(4, 3, 2, 2)
    rows = {row.path: row.input for row in stq.calibrate(model, {"x": x, "y": y} if form is dict else form((x, y)))}
    assert rows == {"a": "non-negative", "b": "signed"}


# gradient checkpointing, annealing, processes


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpointed_layer_counts_once(reentrant):
    torch.manual_seed(0)
    model = quantized("double_st_frozen")
    input_quantizer(model[3]).range_gate.get_submodule("2").bias.data.fill_(0.5)
    x = torch.randn(4, 3, 4, 4)
    ends = []
    for through in (False, True):
        twin = copy.deepcopy(model).train()
        features = twin[:3](x)
        block = twin[3]
        y = checkpoint(block, features, use_reentrant=reentrant) if through else block(features)
        y.square().mean().backward()
        ends.append((block.input_quantizer.running_gain.clone(), block.parametrizations.weight.original.grad))
    assert not torch.equal(ends[0][0], torch.ones(8))
    assert torch.equal(ends[0][0], ends[1][0])
    assert torch.allclose(ends[0][1], ends[1][1])


def test_a_loop_that_never_anneals_is_told_and_one_that_does_is_not():
    model = quantized("double_st_frozen")
    optimizer = torch.optim.SGD(stq.parameter_groups(model, lr=0.5), momentum=0.9)
    for _ in range(3):
        step(model.train(), optimizer)
    with pytest.warns(UserWarning, match=r"nobody called stq\.set_progress"):
        model.eval()
    model = quantized("double_st_frozen")
    optimizer = torch.optim.SGD(stq.parameter_groups(model, lr=0.5), momentum=0.9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(3):
            stq.set_progress(model, number / 2)
            step(model.train(), optimizer)
        model.eval()
    assert input_quantizer(model[3]).mix == 1
    with pytest.raises(ValueError, match=r"fraction=2 is not a part of training, from 0 to 1"):
        stq.set_progress(model, 2)


def _process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = stq.quantize(nn.Sequential(nn.Conv2d(1, 2, 1)), "lsq_plus", first_last_bits=None)
    x = torch.rand(4, 1, 3, 3) + rank
    x = x - 1.5 if rank == 1 else x  # only this process sees negatives
    stq.calibrate(model, x)
    quantizer = input_quantizer(model[0])
    torch.save({"signed": quantizer.signed, "step": quantizer.raw_step, "offset": quantizer.offset}, f"{folder}/{rank}")
    torch.distributed.destroy_process_group()


def test_processes_agree(tmp_path):
    mp.start_processes(_process, (str(tmp_path),), nprocs=2, start_method="spawn")
    first, second = (torch.load(tmp_path / str(rank)) for rank in range(2))
    assert first["signed"] is second["signed"] is True
    assert torch.equal(first["step"], second["step"])
    assert torch.equal(first["offset"], second["offset"])


@pytest.mark.parametrize("signed", [False, True])
def test_every_parameter_of_lsq_plus_takes_part(signed):
    """Data-parallel training waits for the gradient of each."""
    model = stq.quantize(nn.Sequential(nn.Conv2d(1, 2, 1)), "lsq_plus", first_last_bits=None)
    stq.calibrate(model, torch.randn(4, 1, 3, 3) if signed else torch.rand(4, 1, 3, 3))
    fresh = stq.quantize(nn.Sequential(nn.Conv2d(1, 2, 1)), "lsq_plus", first_last_bits=None)
    fresh.load_state_dict(model.state_dict())
    for each in (model, fresh):
        each(torch.randn(4, 1, 3, 3)).sum().backward()
        missing = [name for name, p in each.named_parameters() if p.requires_grad and p.grad is None]
        assert missing == []
        assert input_quantizer(each[0]).offset.requires_grad is signed
