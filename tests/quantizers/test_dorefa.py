"""DoReFa against its equations in NumPy."""

import numpy as np
import pytest
import torch

from .harness import activation, close, inputs, run, weights


def q_k(r, bits):
    return np.rint((2**bits - 1) * r) / (2**bits - 1)


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
def test_activations_are_rounded_on_the_unit_interval_and_differentiated_inside_it(bits):
    x = inputs(signed=True, spread=0.8)
    y, upstream, dx, gradients = run(activation("dorefa", bits, batch=x).double(), x)
    x = x.numpy()
    close(y, q_k(np.clip(x, 0, 1), bits))
    close(dx, upstream * ((x > 0) & (x < 1)))
    assert gradients == {}


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_weights_and_their_gradient_through_tanh_and_maximum(bits):
    w = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    y, upstream, dw, _ = run(weights("dorefa", bits, w), w)
    t = np.tanh(w.numpy())
    largest = np.abs(t).max()
    close(y, 2 * q_k(t / (2 * largest) + 0.5, bits) - 1)
    # y = t / M with M = max|t|: dt_i = u_i / M, and for the largest also - sign(t_i) sum(u t) / M^2
    dt = upstream / largest - (np.abs(t) == largest) * np.sign(t) * (upstream * t).sum() / largest**2
    close(dw, dt * (1 - t**2))


def test_one_bit_weights_are_signs_times_the_mean_magnitude_with_gradient_one():
    w = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    w[0, 0, 0, 0] = 0.0
    y, upstream, dw, _ = run(weights("dorefa", 1, w), w)
    w = w.numpy()
    close(y, np.where(w >= 0, 1, -1) * np.abs(w).mean())
    close(dw, upstream)


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_an_all_zero_weight_has_finite_values_and_gradients(bits):
    w = torch.zeros(2, 3)
    y, _, dw, _ = run(weights("dorefa", bits, w), w)
    assert np.isfinite(y).all()
    assert np.abs(dw).max() < 100
