"""What the tests of the quantizers share: methods to run over, and running one with its gradients."""

import numpy as np
import torch

from stq.quantizers import get_method, get_weight_quantizer, list_quantizers, list_weight_quantizers

METHODS = [name for name in list_quantizers() if name not in ("none", "float_gates", "double_st", "double_st_dynamic")]
WEIGHT_METHODS = list_weight_quantizers()
CHANNELS = 4


def activation(method, bits, signed=False, batch=None, channels=CHANNELS, axis=-3, **settings):
    """An activation quantizer, calibrated if a batch is given; double_st with MLPs, frozen, unless told otherwise."""
    if method == "double_st":
        frozen = {"range_gate": "mlp", "threshold_gate": "mlp", "inference": "static", "attention_lr_factor": 1.0}
        settings = frozen | settings
    quantizer = get_method(method).activation(
        bits=bits, channels=channels, channel_axis=axis, signed=signed, **settings
    )
    if batch is not None:
        quantizer.calibrate(batch)
    return quantizer


def weights(method, bits, weight, **settings):
    """A weight quantizer calibrated on ``weight``."""
    quantizer = get_weight_quantizer(method)(bits=bits, channels=len(weight), **settings)
    quantizer.calibrate(weight)
    return quantizer


def inputs(signed, shape=(3, CHANNELS, 5, 5), spread=1.0):
    """Normal numbers, or their magnitudes, in double precision."""
    x = torch.randn(shape, dtype=torch.float64) * spread
    return x if signed else x.abs()


def run(quantizer, x):
    """Output and gradients of a random linear loss: (y, upstream, dx, {parameter: gradient}); arrays but the last."""
    x = x.detach().clone().requires_grad_()
    quantizer.zero_grad()
    y = quantizer(x)
    upstream = torch.randn_like(y)
    y.backward(upstream)
    gradients = {name: p.grad for name, p in quantizer.named_parameters() if p.grad is not None}
    return y.detach().numpy(), upstream.numpy(), x.grad.numpy(), gradients


def close(actual, expected, tolerance=1e-9):
    """Compare in double precision; shapes must agree."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)
