"""A learned step or clip stays above zero, whatever the learning rate."""

import pytest
import torch

from .harness import METHODS, activation, inputs, weights

LEARNED = [name for name in METHODS if any(True for _ in activation(name, 3).parameters())]


def raw(quantizer):
    """The parameter behind the learned step or clip."""
    return next(p for name, p in quantizer.named_parameters() if name.startswith("raw_"))


@pytest.mark.parametrize("bits", [1, 3])
@pytest.mark.parametrize("method", LEARNED)
def test_no_learning_rate_makes_a_learned_step_or_clip_zero_or_negative(method, bits):
    x = 3 * inputs(signed=False).float()
    reached = []
    for direction in (1, -1):
        quantizer = activation(method, bits, False, x)
        optimizer = torch.optim.SGD(quantizer.parameters(), lr=1e3)
        for _ in range(3):
            optimizer.zero_grad()
            (direction * quantizer(x).sum()).backward()
            optimizer.step()
            reached.append(raw(quantizer).item())
            record = quantizer.record()
            assert record.scale > 0
            assert torch.isfinite(record.gain).all()
            assert torch.isfinite(quantizer(x)).all()
    assert min(reached) < -1  # the parameter itself was driven far below zero


@pytest.mark.parametrize("method", LEARNED)
def test_below_its_bound_a_step_or_clip_can_only_come_back(method):
    x = 3 * inputs(signed=False).float()
    quantizer = activation(method, 3, False, x)
    with torch.no_grad():
        raw(quantizer).fill_(-1.0)
    quantizer(x).sum().backward()  # downhill is a smaller step
    assert raw(quantizer).grad == 0
    (-quantizer(x).sum()).backward()
    assert raw(quantizer).grad < 0


@pytest.mark.parametrize("per_channel", [False, True])
def test_no_learning_rate_makes_a_weight_step_zero_or_negative(per_channel):
    w = torch.randn(4, 8)
    quantizer = weights("lsq", 2, w, per_channel=per_channel)
    optimizer = torch.optim.SGD(quantizer.parameters(), lr=1e3)
    quantizer(w).square().sum().backward()
    optimizer.step()
    assert (raw(quantizer) < 0).all()
    assert (quantizer.record(w).scale > 0).all()
