"""Evaluation on codes against the same layer on real values, and against integers in NumPy."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import stq
from stq.quantization.integer_forward import plain_forward
from stq.quantization.surgery import float_weight, weight_quantizer

LAYERS = {
    "conv2d": (lambda: nn.Conv2d(6, 8, (3, 2), 2, (1, 0), groups=2), (5, 6, 9, 8)),
    "conv1d": (lambda: nn.Conv1d(6, 8, 3, padding="same", bias=False), (5, 6, 9)),
    "reflect": (lambda: nn.Conv2d(6, 8, 3, padding=1, padding_mode="reflect"), (5, 6, 9, 8)),
    "linear": (lambda: nn.Linear(6, 8), (5, 6)),
    "positions": (lambda: nn.Linear(6, 8), (5, 7, 6)),
}


def quantized(name: str, method: str, bits: int, signed: bool) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    x = torch.randn(shape) if signed else torch.rand(shape)
    model = nn.Sequential(make())
    stq.quantize(model, method, weight_bits=bits, activation_bits=bits, first_last_bits=None)
    stq.calibrate(model, x)
    return model.eval(), x


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    "method",
    [name for name in stq.list_quantizers() if name not in ("none", "float_gates", "double_st", "double_st_dynamic")],
)
@pytest.mark.parametrize("bits", [1, 3, 8])
@pytest.mark.parametrize("name", LAYERS)
def test_equals_the_layer_on_real_values(name, bits, method, signed):
    model, x = quantized(name, method, bits, signed)
    (layer,) = model
    with torch.no_grad():
        found = model(x)
        expected = plain_forward(layer)(layer, layer.input_quantizer(x))
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max())


def test_sums_are_integers():
    model, x = quantized("linear", "lsq", 8, signed=True)
    (layer,) = model
    inputs, weights = layer.input_quantizer.record(), weight_quantizer(layer).record(float_weight(layer).detach())
    sums = inputs.encode(x).numpy().astype(np.int64) @ weights.codes.numpy().astype(np.int64).T
    scale = np.float32(weights.scale) * np.float32(inputs.scale)
    with torch.no_grad():
        expected = scale * sums.astype(np.float32) + layer.bias.numpy()
        assert np.array_equal(model(x).numpy(), expected)  # float32, to the last bit


def test_order_of_the_sum_does_not_matter():
    """Permuted inputs and weights give the same numbers, as they do not in a float sum of many terms."""
    torch.manual_seed(0)
    model, x, order = nn.Sequential(nn.Linear(4096, 64, bias=False)), torch.randn(32, 4096), torch.randperm(4096)
    stq.quantize(model, "lsq", weight_bits=4, activation_bits=8, first_last_bits=None)
    stq.calibrate(model, x)
    model.eval()
    other = copy.deepcopy(model)
    other[0].parametrizations.weight.original.data = float_weight(model[0]).data[:, order]
    with torch.no_grad():
        plain = [plain_forward(m[0])(m[0], m[0].input_quantizer(y)) for m, y in ((model, x), (other, x[:, order]))]
        assert not torch.equal(*plain)
        assert torch.equal(model(x), other(x[:, order]))


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_those_of_real_values(name):
    model, x = quantized(name, "lsq", 3, signed=True)
    (layer,), gradients = model, []
    for forward in (model, lambda x: plain_forward(layer)(layer, layer.input_quantizer(x))):
        given = x.clone().requires_grad_()
        model.zero_grad()
        forward(given).square().sum().backward()
        gradients.append([given.grad, *(p.grad for p in (float_weight(layer), layer.bias) if p is not None)])
    for found, expected in zip(*gradients, strict=True):
        assert expected.abs().sum() > 0
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max())


def test_training_autocast_half_precision_and_float_sides_are_left_alone():
    model, x = quantized("conv2d", "double_st_frozen", 3, signed=True)
    (layer,) = model
    model.train()
    out = model(x)
    out.sum().backward()
    assert float_weight(layer).grad.abs().sum() > 0
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        inside = model(x)
    with torch.no_grad():
        assert torch.equal(inside, model(x))  # integers, whatever the precision around them
        assert model.bfloat16()(x.bfloat16()).dtype == torch.bfloat16
    parametrize.remove_parametrizations(layer, "weight")
    assert type(layer) is nn.Conv2d
    assert torch.isfinite(model(x.bfloat16())).all()


def test_replicas_use_their_own_weights():
    """As DataParallel makes them: a shallow copy with tensors of its own."""
    model, x = quantized("linear", "lsq", 3, signed=True)
    (layer,) = model
    replica = layer._replicate_for_data_parallel()
    replica.bias = layer.bias.detach() + 1
    with torch.no_grad():
        assert torch.allclose(replica(x), model(x) + 1)
