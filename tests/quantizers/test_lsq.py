"""LSQ against its equations 1 to 5 in NumPy."""

import math

import numpy as np
import pytest
import torch

from .harness import activation, close, inputs, run, weights


def lsq(x, s, low, high, upstream):
    """Output, gradient to x (eq. 5), gradient to s before its scale (eq. 3), element by element."""
    v = x / s
    inside = (v > low) & (v < high)
    ds = np.where(inside, np.rint(v) - v, np.where(v <= low, low, high))
    return s * np.clip(np.rint(v), low, high), upstream * inside, upstream * ds


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
def test_activations_and_gradients(bits):
    x = inputs(signed=True)
    quantizer = activation("lsq", bits, batch=x).double()
    s = quantizer.raw_step.item()
    y, upstream, dx, gradients = run(quantizer, x)
    high = 2**bits - 1
    expected, expected_dx, ds = lsq(x.numpy(), s, 0, high, upstream)
    close(y, expected, 1e-7)
    close(dx, expected_dx, 1e-7)
    close(gradients["raw_step"], ds.sum() / math.sqrt(x[0].numel() * high), 1e-7)


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_signed_activations_have_one_more_negative_code(bits):
    x = inputs(signed=True)
    quantizer = activation("lsq", bits, signed=True, batch=x).double()
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    y, upstream, dx, gradients = run(quantizer, x)
    expected, expected_dx, ds = lsq(x.numpy(), quantizer.raw_step.item(), low, high, upstream)
    close(y, expected, 1e-7)
    close(dx, expected_dx, 1e-7)
    close(gradients["raw_step"], ds.sum() / math.sqrt(x[0].numel() * high), 1e-7)


def test_one_bit_signed_codes_are_minus_and_plus_one():
    x = inputs(signed=True)
    x[0, 0, 0, 0] = 0.0  # sign(0) = +1
    quantizer = activation("lsq", 1, signed=True, batch=x).double()
    s = quantizer.raw_step.item()
    close(s, x.abs().mean(), 1e-6)
    y, upstream, dx, gradients = run(quantizer, x)
    x = x.numpy()
    sign, inside = np.where(x >= 0, 1.0, -1.0), np.abs(x) < s
    close(y, s * sign, 1e-7)
    close(dx, upstream * inside, 1e-7)
    close(gradients["raw_step"], (upstream * (sign - inside * x / s)).sum() / math.sqrt(x[0].size), 1e-7)
    close(quantizer.eval()(torch.as_tensor(x)).numpy(), y)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_steps_start_at_the_papers_value(bits):
    x = torch.rand(3, 4, 5, 5)
    close(activation("lsq", bits, batch=x).raw_step.item(), 2 * x.mean().item() / math.sqrt(2**bits - 1), 1e-6)
    if bits > 1:
        close(
            activation("lsq", bits, signed=True, batch=x - 0.5).raw_step.item(),
            2 * (x - 0.5).abs().mean().item() / math.sqrt(2 ** (bits - 1) - 1),
            1e-6,
        )


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 3, 8])
def test_weights_and_gradients(bits, per_channel):
    w = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    quantizer = weights("lsq", bits, w, per_channel=per_channel).double()
    low, high = -(2 ** (bits - 1)), max(1, 2 ** (bits - 1) - 1)

    magnitude = w.abs().mean((1, 2, 3)) if per_channel else w.abs().mean()
    start = magnitude if bits == 1 else 2 * magnitude / math.sqrt(high)
    close(quantizer.raw_step.detach(), start, 1e-6)

    s = quantizer.raw_step.detach().numpy().reshape(-1, 1, 1, 1)
    y, upstream, dw, gradients = run(quantizer, w)
    w = w.numpy()
    expected, expected_dw, ds = lsq(w, s, low, high, upstream)
    if bits == 1:  # no zero among the codes
        expected = s * np.sign(w)
        ds = upstream * (np.sign(w) - (np.abs(w) < s) * w / s)
    close(y, expected, 1e-7)
    close(dw, expected_dw, 1e-7)
    if per_channel:
        close(gradients["raw_step"], ds.sum((1, 2, 3)) / math.sqrt(w[0].size * high), 1e-7)
    else:
        close(gradients["raw_step"], ds.sum() / math.sqrt(w.size * high), 1e-7)


def test_an_input_exactly_at_the_clip_counts_as_outside_as_in_equations_3_and_5():
    x = torch.tensor([0.75, 0.5, 0.25, 0.0], dtype=torch.float64).reshape(1, 4, 1, 1)
    quantizer = activation("lsq", 2, batch=x).double()
    with torch.no_grad():
        quantizer.raw_step.fill_(0.25)  # codes 3, 2, 1, 0: the first and the last are at a clip
    y, upstream, dx, gradients = run(quantizer, x)
    close(y, x)
    close(dx, upstream * np.array([0, 1, 1, 0]).reshape(1, 4, 1, 1))
    close(gradients["raw_step"], 3 * upstream[0, 0, 0, 0] / math.sqrt(4 * 3))


def test_a_one_bit_weight_exactly_at_the_step_still_learns():
    w = torch.full((2, 2), 0.5, dtype=torch.float64)  # equal magnitudes: v = w / s = 1 everywhere
    _, upstream, dw, _ = run(weights("lsq", 1, w).double(), w)
    close(dw, upstream)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 8])
def test_symmetric_weights_and_gradients(bits, per_channel):
    w = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    quantizer = weights("lsq_symmetric", bits, w, per_channel=per_channel).double()
    s = quantizer.raw_step.detach().numpy().reshape(-1, 1, 1, 1)
    y, upstream, dw, gradients = run(quantizer, w)
    w, half = w.numpy(), 2 ** (bits - 1)
    levels = (np.arange(2**bits) - half + 0.5)[:, None, None, None, None] * s  # evenly around zero, none of them zero
    nearest = np.take_along_axis(levels * np.ones_like(w), np.abs(levels - w).argmin(0)[None], 0)[0]
    inside = np.abs(w) < (half - 0.5) * s
    close(y, nearest, 1e-7)
    close(dw, upstream * inside, 1e-7)
    ds = upstream * np.where(inside, (nearest - w) / s, np.sign(w) * (half - 0.5))  # LSQ's equation 3 on this grid
    shared = w[0].size if per_channel else w.size
    expected = ds.sum((1, 2, 3)) if per_channel else ds.sum()
    close(gradients["raw_step"], expected / math.sqrt(shared * (2**bits - 1)), 1e-7)


def test_symmetric_step_starts_where_the_squared_error_is_smallest():
    w = torch.randn(4, 3, 3, 3)
    chosen = weights("lsq_symmetric", 2, w).raw_step.item()

    def error(step):
        return float((w - step * (torch.round(w / step - 0.5).clamp(-2, 1) + 0.5)).square().mean())

    coarse = 2 * float(w.abs().max()) / 3 / 64  # the distance of two candidates
    assert error(chosen) <= min(error(chosen - coarse), error(chosen + coarse))
