"""The explicit step before training: signedness, starts near the float model, and nothing else touched."""

import copy
import logging

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import stq


def network():
    """Inputs of the four layers: signed, non-negative, signed (SiLU), non-negative."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.SiLU(),
        nn.Dropout(0.5),
        nn.Conv2d(8, 4, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(144, 3),
    )


BATCH = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_signed_and_non_negative_inputs_are_found_and_reported(caplog):
    caplog.set_level(logging.DEBUG, "stq")
    model = stq.quantize(network(), "lsq")
    summary = stq.calibrate(model, BATCH)
    assert [row.input for row in summary] == ["signed", "non-negative", "signed", "non-negative"]
    assert "3: input non-negative (found)" in caplog.text
    assert "6: input signed (found)" in caplog.text


def test_a_given_signedness_is_kept_and_reported_as_given(caplog):
    caplog.set_level(logging.DEBUG, "stq")
    model = stq.quantize(network(), "lsq", layers={"3": {"signed": True}, "6": {"signed": False}})
    summary = stq.calibrate(model, BATCH)
    assert [row.input for row in summary] == ["signed", "signed", "non-negative", "non-negative"]
    assert "3: input signed (given)" in caplog.text


def test_each_layer_is_calibrated_on_what_the_quantized_layers_before_it_give():
    model = stq.quantize(network(), "lsq", activation_bits=2, weight_bits=2)
    stq.calibrate(model, BATCH)
    model.eval()
    model[1].train()  # calibration used the statistics of the batch
    x = model[:3](BATCH)
    assert torch.isclose(model[3].input_quantizer.raw_step, 2 * x.mean() / 3**0.5, rtol=1e-4)


def test_batch_norms_use_the_batch_whatever_their_running_statistics():
    model = network()
    model[1].running_mean.fill_(-4.0)
    stq.quantize(model, "lsq")
    stq.calibrate(model, BATCH)
    x = model.train()[:3](BATCH)  # as training sees it
    assert torch.isclose(model[3].input_quantizer.raw_step, 2 * x.mean() / 7**0.5, rtol=1e-4)


def test_one_sample_has_no_statistics_so_batch_norms_use_their_own():
    model = network()
    model[1].running_mean.fill_(-4.0)
    stq.quantize(model, "lsq")
    stq.calibrate(model, BATCH[:1])
    x = model.eval()[:3](BATCH[:1])
    assert torch.isclose(model[3].input_quantizer.raw_step, 2 * x.mean() / 7**0.5, rtol=1e-4)


def test_weights_that_grow_by_quantization_do_not_blow_up_the_steps_of_later_layers():
    model = network()
    with torch.no_grad():
        for layer in (model[0], model[3], model[6]):
            layer.weight *= 0.01 / layer.weight.std()
    stq.quantize(model, "pact", weight_method="dorefa", first_last_bits=None)  # DoReFa's weights reach up to 1
    stq.calibrate(model, BATCH)
    x = model.train()[:3](BATCH)
    assert model[3].input_quantizer.raw_clip <= x.max()


@pytest.mark.parametrize("training", [False, True])
def test_nothing_else_of_the_model_changes(training):
    model = stq.quantize(network(), "double_st_frozen").train(training)
    model[5].eval()  # one module in another mode than the rest
    before = copy.deepcopy(model)
    stq.calibrate(model, BATCH)
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert [len(m._forward_pre_hooks) for m in model.modules()] == [len(m._forward_pre_hooks) for m in before.modules()]
    old, new = before.state_dict(), model.state_dict()
    assert old.keys() == new.keys()
    changed = {name.split(".")[-1] for name in old if not torch.equal(old[name], new[name])}
    assert changed == {"raw_step", "step_floor", "_extra_state"}
    assert model[1].momentum == before[1].momentum
    assert all(p.grad is None for p in model.parameters())


def test_calibrating_twice_is_calibrating_once():
    model = stq.quantize(network(), "lsq")
    stq.calibrate(model, 3 * BATCH)
    stq.calibrate(model, BATCH)
    once = stq.quantize(copy.deepcopy(network()), "lsq")
    once.load_state_dict(model.state_dict())
    stq.calibrate(once, BATCH)
    for mine, other in zip(model.parameters(), once.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_weight_steps_follow_weights_that_changed_since_the_surgery():
    model = stq.quantize(network(), "lsq")
    layer = model[3]
    step = layer.parametrizations.weight[0].raw_step.item()
    layer.parametrizations.weight.original.data.mul_(10)
    stq.calibrate(model, BATCH)
    assert layer.parametrizations.weight[0].raw_step.item() == pytest.approx(10 * step)


def test_a_batch_of_a_data_loader_is_inputs_and_targets():
    one, other = (stq.quantize(network(), "lsq") for _ in range(2))
    other.load_state_dict(one.state_dict())
    stq.calibrate(one, BATCH)
    stq.calibrate(other, [BATCH, torch.zeros(16)])
    assert torch.equal(one.eval()(BATCH), other.eval()(BATCH))


@pytest.mark.parametrize("policy", [{}, {"activation_bits": 32}])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_batch_with_nan_or_infinity_is_refused_and_leaves_the_model_as_it_was(policy, value):
    batch = BATCH.clone()
    batch[3, 0, 2, 2] = value
    model = stq.quantize(network(), "lsq", **policy).train()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="cannot calibrate on a batch that holds NaN or infinity"):
        stq.calibrate(model, batch)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())


def test_a_float_model_is_refused():
    with pytest.raises(ValueError, match=r"no quantizers: call stq\.quantize"):
        stq.calibrate(network(), BATCH)


def test_a_layer_that_the_batch_does_not_reach_is_named():
    model = network()
    model[3].spare = nn.Conv2d(2, 2, 1)
    stq.quantize(model, "lsq")
    with pytest.warns(UserWarning, match=r"did not reach 1 layers, not calibrated: 3\.spare"):
        stq.calibrate(model, BATCH)


@pytest.fixture(scope="module")
def digits():
    """A small float network fitted to scikit-learn's digits, a calibration batch, and the test images and labels."""
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    y = torch.tensor(np.asarray(labels))
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.SiLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(5):
        for part in torch.randperm(1200).split(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[part]), y[part]).backward()
            optimizer.step()
    return model.eval(), x[:256], x[1200:], y[1200:]


@pytest.mark.parametrize("bits", [4, 6, 8])
@pytest.mark.parametrize("method", ["double_st_frozen", "st", "lsq", "lsq_plus", "pact"])
def test_a_calibrated_float_model_starts_near_its_float_accuracy(digits, method, bits):
    model, batch, x, y = digits

    def accuracy(network):
        with torch.no_grad():
            return (network(x).argmax(1) == y).float().mean().item() * 100

    assert accuracy(model) > 90
    quantized = copy.deepcopy(model)
    stq.quantize(quantized, method, weight_bits=bits, activation_bits=bits, weight_method="lsq")
    stq.calibrate(quantized, batch)
    assert accuracy(quantized) > accuracy(model) - {4: 4, 6: 1.5, 8: 1}[bits]


class _WithHead(nn.Module):
    """An auxiliary head that only training runs, behind dropout, with a batch norm of its own."""

    def __init__(self):
        super().__init__()
        self.body, self.drop, self.norm = nn.Linear(6, 8), nn.Dropout(0.5), nn.BatchNorm1d(8)
        self.head, self.fc = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x):
        x = self.body(x)
        return (self.fc(x), self.head(self.norm(self.drop(x)))) if self.training else self.fc(x)


@pytest.mark.parametrize("training", [False, True])
def test_auxiliary_heads_are_calibrated_as_training_runs_them(training):
    torch.manual_seed(0)
    model = stq.quantize(_WithHead(), "lsq").train(training)
    x, state = torch.randn(16, 6), torch.random.get_rng_state()
    stq.calibrate(model, x)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.head.input_quantizer.calibrated
    assert torch.equal(model.norm.running_mean, torch.zeros(8))
    assert model.norm.num_batches_tracked == 0
    assert {module.training for module in model.modules()} == {training}
    scores, others = model.train()(torch.randn(4, 6))
    (scores.sum() + others.sum()).backward()
