"""stq-benchmark: every row beside float, memory by the allocator's count, mistakes in one sentence."""

import json

import pytest
import timm
import torch

import stq.models  # noqa: F401
from stq.cli.benchmark import main
from stq.quantizers.fused import set_kernels
from stq.training.benchmark.peers import TorchLayer, with_torch


@pytest.fixture(autouse=True)
def plain_afterwards():
    yield
    set_kernels("plain")


def test_a_small_network(tmp_path, capsys):
    files = ["--json", str(tmp_path / "b.json"), "--markdown", str(tmp_path / "b.md")]
    main(["resnet8:4:32", "--methods", "lsq,torch", "--forms", "plain,lean", "--rounds", "2", *files])
    made = json.loads((tmp_path / "b.json").read_text())
    rows = {(row["method"], row["form"]): row for row in made["rows"]}
    assert list(rows) == [("float", ""), ("lsq", "plain"), ("lsq", "lean"), ("torch", "")]
    assert rows["float", ""]["step"] == rows["float", ""]["memory"] == 1
    # what ReLU and batch norm keep of ResNet-8 in float: counted by hand from its shapes, see below
    assert rows["float", ""]["bytes"] == pytest.approx(by_hand(4, 32), rel=0.05)
    assert rows["lsq", "lean"]["memory"] < 1.12 < rows["lsq", "plain"]["memory"]
    assert all(row["low"] <= row["high"] and row["ms"] > 0 for row in made["rows"])
    assert made["git_commit"] is None or len(made["git_commit"]) >= 40
    assert (tmp_path / "b.md").read_text() == capsys.readouterr().out


def by_hand(batch: int, pixels: int) -> int:
    """Bytes that a float ResNet-8 keeps: the output of each convolution (for batch norm) and of each ReLU."""
    sizes = []
    model = timm.create_model("resnet8")
    for module in model.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.ReLU)):
            module.register_forward_hook(lambda _, __, y: sizes.append(y.numel()))
    model(torch.zeros(batch, 3, pixels, pixels))
    return 4 * sum(sizes)


def test_torchs_layer_is_its_fake_quantization():
    torch.manual_seed(0)
    model = with_torch(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1)), 3)
    (layer,) = model
    assert isinstance(layer, TorchLayer)
    x, step = torch.rand(2, 3, 5, 5), 0.3
    levels = torch.clamp(torch.round(x / step), 0, 7) * step
    s = layer.weight_step.item()
    weight = torch.clamp(torch.round(layer.layer.weight / s), -4, 3) * s
    expected = torch.nn.functional.conv2d(levels, weight, layer.layer.bias, padding=1)
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["resnet2O"], "timm has no network 'resnet2O' (did you mean"),
        (["resnet20:64"], "write NAME or NAME:BATCH:PIXELS"),
        (["--methods", "lqs"], "there is no method 'lqs' (did you mean 'lsq'?)"),
        (["--forms", "fast"], "there is no form 'fast'"),
        (["--rounds", "0"], "--rounds 0 must be 1 or more"),
    ],
)
def test_mistakes_are_told(arguments, sentence, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert sentence in capsys.readouterr().err
