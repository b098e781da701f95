"""PACT against its equations in NumPy."""

import numpy as np
import pytest
import torch

from .harness import activation, close, inputs, run


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_clip_and_gradients_with_an_input_exactly_at_the_clip(bits):
    alpha = 0.75
    x = inputs(signed=True)
    x[0, 0, 0, :2] = alpha
    y, upstream, dx, gradients = run(activation("pact", bits, batch=x, initial_clip=alpha).double(), x)
    x, levels = x.numpy(), 2**bits - 1
    close(y, np.rint(np.clip(x, 0, alpha) * levels / alpha) * alpha / levels)
    close(dx, upstream * ((x > 0) & (x < alpha)))
    close(gradients["raw_clip"], (upstream * (x >= alpha)).sum())


def test_signed_inputs_are_clipped_on_both_sides():
    alpha, high = 0.75, 3  # 3 bits: symmetric codes -3..3
    x = inputs(signed=True)
    y, upstream, dx, gradients = run(activation("pact", 3, signed=True, batch=x, initial_clip=alpha).double(), x)
    x = x.numpy()
    close(y, np.rint(np.clip(x, -alpha, alpha) * high / alpha) * alpha / high)
    close(dx, upstream * (np.abs(x) < alpha))
    close(gradients["raw_clip"], (upstream * ((x >= alpha) * 1.0 - (x <= -alpha))).sum())


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_calibrated_clip_is_near_the_one_of_smallest_squared_error(bits):
    x = inputs(signed=False, shape=(8, 4, 16, 16)).float()
    levels = 2**bits - 1

    def error(alpha):
        return np.square(np.rint(np.clip(x.numpy(), 0, alpha) * levels / alpha) * alpha / levels - x.numpy()).mean()

    calibrated = activation("pact", bits, batch=x).raw_clip.item()
    assert error(calibrated) < 1.05 * min(error(alpha) for alpha in np.linspace(0.1, float(x.max()), 300))


def test_alpha_has_a_weight_decay_of_its_own_and_a_positive_start():
    assert activation("pact", 3, clip_decay=1e-3).decay == 1e-3
    assert activation("pact", 3, batch=torch.rand(2, 4, 3, 3), initial_clip=10).raw_clip == 10
    with pytest.raises(ValueError, match=r"initial_clip=0 must be above 0"):
        activation("pact", 3, initial_clip=0)
