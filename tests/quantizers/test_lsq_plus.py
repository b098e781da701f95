"""LSQ+ against its equations in NumPy."""

import math

import numpy as np
import pytest
import torch

from .harness import activation, close, inputs, run


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_signed_inputs_have_a_learned_offset_whose_gradient_is_one_outside_the_range(bits):
    x = inputs(signed=True) + 0.3
    quantizer = activation("lsq_plus", bits, signed=True, batch=x).double()
    with torch.no_grad():  # a range that clips on both sides
        quantizer.raw_step.copy_(2.0 / (2**bits - 1))
        quantizer.offset.copy_(-0.8)
    s, b, high = quantizer.raw_step.item(), -0.8, 2**bits - 1
    y, upstream, dx, gradients = run(quantizer, x)
    v = (x.numpy() - b) / s
    inside, outside_code = (v > 0) & (v < high), np.where(v <= 0, 0, high)
    scale = 1 / math.sqrt(x[0].numel() * high)
    close(y, s * np.rint(np.clip(v, 0, high)) + b, 1e-7)
    close(dx, upstream * inside, 1e-7)
    close(gradients["raw_step"], scale * (upstream * np.where(inside, np.rint(v) - v, outside_code)).sum(), 1e-7)
    close(gradients["offset"], scale * (upstream * ~inside).sum(), 1e-7)


def test_non_negative_inputs_are_plain_lsq():
    x = inputs(signed=False)
    plus, plain = activation("lsq_plus", 3, batch=x).double(), activation("lsq", 3, batch=x).double()
    torch.manual_seed(1)
    y, _, dx, gradients = run(plus, x)
    torch.manual_seed(1)
    expected, _, expected_dx, expected_gradients = run(plain, x)
    close(y, expected, 0)
    close(dx, expected_dx, 0)
    close(gradients["raw_step"], expected_gradients["raw_step"], 0)
    assert gradients.get("offset", torch.zeros(())) == 0


@pytest.mark.parametrize("bits", [2, 4])
def test_calibration_fits_the_skewed_range_of_a_silu_better_than_symmetric_codes(bits):
    x = torch.nn.functional.silu(torch.randn(8, 4, 16, 16) * 2)

    def error(method):
        return (activation(method, bits, signed=True, batch=x).eval()(x) - x).square().mean().item()

    assert error("lsq_plus") < 0.5 * error("lsq")
