"""What runs is in the file: hooks, branches, parametrizations put on after quantizing; the rest is refused by name."""

import numpy as np
import pytest
import timm
import torch
from timm.layers import std_conv
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

import stq
from stq.errors import InputError
from stq.quantization.surgery import quantized_layers
from tests.deploy.runtimes import onnx_scores
from tests.small_networks import awaken, calibrated, small_network


def scale(module, args, output):
    return 3 * output


def shift(module, args):
    return (args[0] - 1,)


class Halved(nn.Module):
    def forward(self, weight):
        return weight / 2


AFTER = {
    "a hook on a layer": lambda m: m[0].register_forward_hook(scale),
    "a pre-hook on a layer": lambda m: m[9].register_forward_pre_hook(shift),
    "a hook on the model": lambda m: m.register_forward_pre_hook(shift),
    "a parametrization": lambda m: parametrize.register_parametrization(m[0], "weight", Halved()),
    "pruning": lambda m: prune.l1_unstructured(m[-1], "bias", 0.5),
    "spectral norm": lambda m: parametrizations.spectral_norm(m[10]).eval(),
}


@pytest.mark.parametrize("change", AFTER)
def test_put_on_after_quantizing(change, tmp_path):
    torch.manual_seed(0)
    model, x = calibrated(small_network(), (1, 8, 8), "lsq", 3), torch.randn(16, 1, 8, 8)
    with torch.no_grad():
        before = model(x)
        AFTER[change](model)
        expected = model(x).numpy()
    assert not np.allclose(before, expected, atol=1e-3)
    path = stq.export(model, x[:1], tmp_path / "model.onnx")
    assert np.allclose(onnx_scores(path, x), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.to(torch.bfloat16), "is in bfloat16, whose sums no file repeats"),
        (lambda m: m[1].bias.data.fill_(float("nan")), r"'1\.bias' holds NaN or infinity"),
        (lambda m: m[0].register_forward_hook(lambda m, a, o: o if float(o.sum()) else -o), "cannot be followed"),
    ],
)
@pytest.mark.parametrize("format", ["onnx", "packed"])
def test_what_no_file_can_repeat(change, message, format, tmp_path):
    model = calibrated(small_network(), (1, 8, 8), "lsq", 3)
    change(model)
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


def test_parametrizations_before_quantizing_compose(tmp_path):
    """The quantizer gets what they make of the weight."""
    torch.manual_seed(0)
    model, x = small_network(), torch.randn(16, 1, 8, 8)
    parametrizations.spectral_norm(model[7])
    model = calibrated(model.eval(), (1, 8, 8), "lsq", 3)
    normed, quantizer = model[7].parametrizations.weight
    with torch.no_grad():
        assert torch.equal(model[7].weight, quantizer(normed(model[7].parametrizations.weight.original)))
        expected = model(x).numpy()
    assert np.allclose(onnx_scores(stq.export(model, x, tmp_path / "model.onnx"), x), expected, atol=1e-5)


@pytest.mark.parametrize("kind", [std_conv.StdConv2d, std_conv.ScaledStdConv2d, std_conv.ScaledStdConv2dSame])
def test_standardized_convolutions(kind):
    """The codes are those of the standardized weight, and the gain learns."""
    torch.manual_seed(0)
    model, x = (
        nn.Sequential(nn.Conv2d(1, 4, 1), kind(4, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 2, 1)),
        torch.randn(8, 1, 8, 8),
    )
    weight = model[1].weight.detach().flatten(1)
    standardized = (weight - weight.mean(1, keepdim=True)) / (
        weight.var(1, keepdim=True, unbiased=False) + model[1].eps
    ).sqrt()
    scaled = standardized * (model[1].gain.detach().flatten(1) * model[1].scale if hasattr(model[1], "gain") else 1)
    calibrated(model, (1, 8, 8), "lsq", 4)
    step = model[1].parametrizations.weight[-1].record(scaled).scale
    codes = (scaled / step).clamp(-8, 7).round()
    assert torch.allclose(model[1].weight.flatten(1), step * codes, atol=1e-6)
    network = stq.freeze(model, x)
    assert np.array_equal(network["1"].arrays["weight"].reshape(8, -1), codes)
    assert stq.verify(model, network, [x]).ties == 0
    model.train()(x).square().sum().backward()
    assert model[1].parametrizations.weight.original.grad.abs().sum() > 0
    if hasattr(model[1], "gain"):
        assert model[1].gain.grad.abs().sum() > 0


class Branch(nn.Module):
    """A classifier, unless features are asked for."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 8, 3), nn.Linear(8, 5)

    def forward(self, x, features_only=None):
        x = self.conv(x).mean((2, 3))
        return x if features_only is not None else self.fc(x)


def test_the_branch_that_runs(tmp_path):
    model, x = calibrated(Branch(), (1, 8, 8), "lsq", 3), torch.randn(16, 1, 8, 8)
    with torch.no_grad():
        expected = model(x).numpy()
    assert expected.shape == (16, 5)
    assert np.allclose(onnx_scores(stq.export(model, x, tmp_path / "model.onnx"), x), expected, atol=1e-5)


def padded(mode: str) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=(1, 2), padding_mode=mode), nn.ReLU(), nn.Conv2d(4, 2, 3))


@pytest.mark.parametrize("mode", ["reflect", "circular", "replicate"])
@pytest.mark.parametrize("method", ["lsq", "lsq_plus"])
def test_padding_modes_stay_integer(mode, method, tmp_path):
    torch.manual_seed(0)
    model, x = calibrated(padded(mode), (1, 8, 8), method, 3), torch.randn(16, 1, 8, 8)
    network = stq.freeze(model, x)
    assert [node.op for node in network.nodes].count("conv") == 2
    found = stq.verify(model, network, [x])
    assert found.ties == found.exact_ties == 0
    with torch.no_grad():
        expected = model(x).numpy()
    assert np.allclose(onnx_scores(stq.export(network, x, tmp_path / "model.onnx"), x), expected, atol=1e-5)


def test_reparameterized_after_quantizing():
    """timm's merging of branches replaces quantized layers by float ones."""
    from timm.utils.model import reparameterize_model

    model = timm.create_model("repvgg_a0", num_classes=4)
    stq.quantize(awaken(model), "lsq")
    stq.calibrate(model, torch.randn(2, 3, 32, 32))
    merged = reparameterize_model(model)
    with pytest.raises(InputError, match=r"44 of the 45 layers that were quantized are gone.*quantize the merged one"):
        stq.freeze(merged, torch.randn(1, 3, 32, 32))


def test_sync_batch_norm_and_transposed_convolutions(tmp_path):
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.ConvTranspose2d(4, 2, 3, 2), nn.Conv2d(2, 2, 3)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(*layers))
    model, x = calibrated(model, (1, 8, 8), "lsq", 4), torch.randn(16, 1, 8, 8)
    with torch.no_grad():
        expected = model(x).numpy()
    assert np.allclose(onnx_scores(stq.export(model, x, tmp_path / "model.onnx"), x), expected, atol=1e-5)


def test_one_dimension(tmp_path):
    torch.manual_seed(0)
    first = nn.Conv1d(2, 8, 3, padding=1), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(8, 8, 3)
    last = nn.AvgPool1d(2), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 3)
    model, x = calibrated(nn.Sequential(*first, *last), (2, 16), "lsq", 3), torch.randn(8, 2, 16)
    with torch.no_grad():
        expected = model(x).numpy()
    assert np.allclose(onnx_scores(stq.export(model, x, tmp_path / "model.onnx"), x), expected, atol=1e-5)


@pytest.mark.parametrize("pool", [nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.AvgPool2d(3, 2, 1, ceil_mode=True)])
@pytest.mark.parametrize("size", [(6, 4), (7, 5), (8, 9)])
def test_pooling_drops_windows_that_begin_in_the_padding(pool, size, tmp_path):
    torch.manual_seed(0)
    model, x = calibrated(nn.Sequential(nn.Conv2d(1, 3, 1), pool), (1, *size), "lsq", 4), torch.randn(2, 1, *size)
    with torch.no_grad():
        expected = model(x).numpy()
    assert np.allclose(onnx_scores(stq.export(model, x, tmp_path / "model.onnx"), x), expected, atol=1e-5)
