"""What the trace does not see is refused by name, never left out of the file."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import stq
from stq.errors import InputError
from stq.quantization.surgery import quantized_layers
from tests.small_networks import calibrated, small_network


def scale(module, args, output):
    return 3 * output


def shift(module, args):
    return (args[0] - 1,)


AFTER = {
    "a hook on a layer": (lambda m: m[0].register_forward_hook(scale), "'0' has a forward hook, scale"),
    "a hook on the model": (
        lambda m: m.register_forward_pre_hook(shift),
        "the model has a forward hook, shift",
    ),
    "weight norm": (lambda m: parametrizations.weight_norm(m[0]), r"the weight of '0' has parametrizations \("),
    "pruning": (lambda m: prune.l1_unstructured(m[-1], "bias", 0.5), "has a forward hook, "),
    "bfloat16": (lambda m: m.to(torch.bfloat16), "is in bfloat16, whose sums no file repeats"),
    "NaN": (lambda m: m[1].bias.data.fill_(float("nan")), r"'1\.bias' holds NaN or infinity"),
}


@pytest.mark.parametrize("change", AFTER)
@pytest.mark.parametrize("format", ["onnx", "packed"])
def test_put_on_after_quantizing(change, format, tmp_path):
    model = calibrated(small_network(), (1, 8, 8), "lsq", 3)
    act, message = AFTER[change]
    act(model)
    with pytest.raises(InputError, match=message) as told:
        stq.export(model, torch.randn(2, 1, 8, 8), tmp_path / "model", format=format)
    assert "\n" not in str(told.value)
    assert not any(tmp_path.iterdir())


BEFORE = {
    "the old weight norm": lambda m: weight_norm(m[7]),
    "weight norm": lambda m: parametrizations.weight_norm(m[7]),
    "pruning": lambda m: prune.l1_unstructured(m[7], "weight", 0.5),
    "the old spectral norm": lambda m: spectral_norm(m[7]),
}


@pytest.mark.parametrize("change", BEFORE)
def test_put_on_before_quantizing(change):
    """The layer stays float, which is said, and the others are quantized."""
    model = small_network()
    BEFORE[change](model)
    assert isinstance(model[7], nn.Conv2d)
    with pytest.warns(UserWarning, match="1 layers stay in float.*: 7"):
        stq.quantize(model, "lsq")
    assert "7" not in dict(quantized_layers(model))
    assert len(dict(quantized_layers(model))) == 6
    stq.calibrate(model, torch.randn(4, 1, 8, 8))
    model.eval()(torch.randn(2, 1, 8, 8))
