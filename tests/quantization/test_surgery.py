"""Quantizers put into any module: it keeps its type, its paths and its state."""

import copy
import io

import pytest
import timm
import torch
from timm.layers import Conv2dSame
from torch import nn

import stq
from stq.models import resnet8
from stq.quantization.surgery import float_weight, input_quantizer, weight_quantizer
from stq.quantizers import ActivationQuantizer

METHODS = [
    name for name in stq.list_quantizers() if name not in ("none", "float_gates", "double_st", "double_st_dynamic")
]


def network():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8, stride=2),
        nn.SiLU(),
        nn.Conv2d(8, 4, 1),
        nn.Flatten(),
        nn.Linear(36, 3),
    )


def trained(method, **policy):
    """A quantized network a few steps into training, so that nothing has its start value."""
    model = stq.quantize(network(), method, **policy)
    x = torch.rand(6, 3, 8, 8)
    stq.calibrate(model, x)
    optimizer = torch.optim.SGD(model.train().parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    return model, x


def test_the_layer_keeps_its_path_type_and_attributes_and_sees_quantized_input_and_weight():
    model = network()
    names, weight = [name for name, _ in model.named_modules()], model[3].weight
    stq.quantize(model, "lsq", weight_bits=2, activation_bits=3, layers={"3": {"signed": False}})
    layer = model[3]
    assert isinstance(layer, nn.Conv2d)
    assert (layer.groups, layer.stride, layer.in_channels) == (8, (2, 2), 8)
    assert set(names) <= {name for name, _ in model.named_modules()}
    assert float_weight(layer) is weight
    assert layer.weight.unique().numel() <= 4

    stq.calibrate(model, torch.rand(2, 3, 8, 8))
    seen = []
    layer.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    y = model[3](torch.rand(2, 8, 8, 8))
    assert seen[0].unique().numel() <= 8
    assert torch.equal(y, nn.functional.conv2d(seen[0], layer.weight, layer.bias, stride=2, groups=8))


def test_gradients_reach_the_float_weights_and_every_quantizer_parameter():
    model = stq.quantize(network(), "double_st")
    stq.calibrate(model, torch.rand(4, 3, 8, 8))
    for module in model.modules():  # awake attention: its last layer is zero at the start
        if isinstance(module, ActivationQuantizer):
            for p in module.parameters():
                p.data += 0.1 * torch.rand_like(p)
    model(torch.rand(4, 3, 8, 8)).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert all(float_weight(layer).grad.any() for _, layer in stq.quantized_layers(model))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("tf_efficientnet_b0", {}),  # Conv2dSame, depthwise, squeeze-and-excite
        ("mobilenetv2_050", {}),
        ("mobilenetv3_small_050", {}),
        ("convnext_atto", {}),
        ("regnetx_002", {}),  # grouped
        ("vit_tiny_patch16_224", {"img_size": 32, "depth": 2}),
        ("resnet18", {}),
    ],
)
def test_timm_families(name, arguments):
    model = timm.create_model(name, num_classes=3, **arguments)
    layers = {p: type(m) for p, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    stq.quantize(model, "double_st")
    x = torch.randn(2, 3, 32, 32)
    summary = stq.calibrate(model, x)
    assert {row.path for row in summary} == layers.keys()
    assert all(row.weight_bits in (3, 8) and row.activation_bits in (3, 8) for row in summary)
    assert sum(row.weight_bits == 8 for row in summary) == 2
    assert all(isinstance(model.get_submodule(path), cls) for path, cls in layers.items())
    assert Conv2dSame in layers.values() or not name.startswith("tf_")
    assert torch.isfinite(model.eval()(x)).all()
    model.train()(x).sum().backward()


def test_layers_that_compute_their_own_weight_stay_float_with_a_warning():
    attention = nn.Sequential(nn.Linear(8, 8), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Linear(8, 2))
    with pytest.warns(UserWarning, match="1 layers stay in float.*MultiheadAttention.*self_attn"):
        stq.quantize(attention, "lsq")
    x = torch.randn(2, 5, 8)
    stq.calibrate(attention, x)
    assert [path for path, _ in stq.quantized_layers(attention)] == ["0", "1.linear1", "1.linear2", "2"]
    assert torch.isfinite(attention(x)).all()


def test_conv1d_linear_sequences_and_inputs_given_by_keyword():
    model = nn.Sequential(nn.Conv1d(3, 6, 3), nn.ReLU(), nn.Conv1d(6, 6, 3), nn.Flatten(), nn.Linear(24, 2))
    stq.quantize(model, "double_st", first_last_bits=None)
    x = torch.rand(2, 3, 8)
    stq.calibrate(model, x)
    assert model[2].input_quantizer.channels == 6
    assert torch.equal(model[0](input=x), model[0](x))
    assert model.eval()(x).shape == (2, 2)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("training", [False, True])
def test_torch_compile_takes_it_without_a_graph_break(method, training):
    torch.compiler.reset()
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3))
    stq.quantize(model, method, first_last_bits=None)
    x = torch.rand(2, 2, 6, 6)
    stq.calibrate(model, x)
    twin = copy.deepcopy(model.train(training))
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    # compiled, evaluation stays on real values: the same sums to rounding
    assert torch.equal(compiled(x), twin(x)) if training else torch.allclose(compiled(x), twin(x), rtol=1e-5, atol=1e-6)
    for mine, other in zip(model.buffers(), twin.buffers(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("method", ["lsq", "double_st"])
def test_torch_compile_takes_blocks_of_a_network_without_a_graph_break(method):
    torch.compiler.reset()
    model = stq.quantize(resnet8(width=4), method)
    x = torch.rand(2, 3, 8, 8)
    stq.calibrate(model, x)
    found = torch.compile(model.train(), fullgraph=True, backend="eager")(x)
    assert found.shape == (2, 10)


@pytest.mark.parametrize("method", METHODS)
def test_a_checkpoint_restores_everything_without_calibration(method):
    model, x = trained(method)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    fresh = stq.quantize(network(), method)
    with pytest.raises(RuntimeError, match="not calibrated"):
        fresh(x)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    restored = {**dict(fresh.named_parameters()), **dict(fresh.named_buffers())}
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        assert torch.equal(restored[name], value), name
    assert torch.equal(fresh.eval()(x), model.eval()(x))
    assert torch.equal(fresh.train()(x), model.train()(x))
    assert str(stq.summary(fresh)) == str(stq.summary(model))


def test_a_checkpoint_of_other_bits_is_refused():
    model, _ = trained("double_st")
    for other in ({"weight_bits": 2}, {"activation_bits": 2}):
        with pytest.raises(ValueError, match="the checkpoint holds a 3-bit quantizer where the model has 2 bits"):
            stq.quantize(network(), "double_st", **other).load_state_dict(model.state_dict())


@pytest.mark.parametrize("method", METHODS)
def test_a_deep_copy_is_equal_and_apart(method):
    model, x = trained(method)
    twin = copy.deepcopy(model)
    before = model.eval()(x)
    assert torch.equal(twin.eval()(x), before)
    for p in twin.parameters():
        p.data.mul_(1.5)
    assert not torch.equal(twin(x), before)
    assert torch.equal(model(x), before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "lsqq"}, "did you mean 'lsq'"),
        ({"weigth_bits": 2}, r"quantize has no argument 'weigth_bits' \(did you mean 'weight_bits'\?\)"),
        ({"settings": "t_max=1"}, "are names and values"),
        ({"settings": {"channels": 1}}, "channels of quantizer 'double_st' is no setting"),
        ({"method": "st", "settings": {"threshold_gate": "mlp"}}, "st has no stage two"),
        ({"method": "double_st_dynamic", "settings": {"inference": "static"}}, "double_st_dynamic is 'dynamic'"),
        ({"settings": {"tmax": 1}}, "'double_st' has no setting 'tmax'.*t_max"),
        ({"weight_settings": {"per_chanel": True}}, "'lsq' has no setting 'per_chanel'.*per_channel"),
        ({"layers": {"5": {"method": "lsqq"}}}, "did you mean 'lsq'"),
        ({"layers": {"5": {"weight_method": "lsqq"}}}, "did you mean 'lsq'"),
    ],
)
def test_what_is_refused_leaves_the_model_as_it_was(arguments, message):
    model = network()
    with pytest.raises(ValueError, match=message):
        stq.quantize(model, **arguments)
    assert not list(stq.quantized_layers(model))
    assert all(row.weight_bits == row.activation_bits == 32 for row in stq.summary(model))


def test_a_model_that_holds_nan_or_is_quantized_already_is_refused():
    model = network()
    model[5].weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match="holds NaN"):
        stq.quantize(model, "lsq")
    assert not list(stq.quantized_layers(model))
    model = stq.quantize(network(), "lsq")
    with pytest.raises(ValueError, match="quantized already"):
        stq.quantize(model, "lsq")


def test_settings_reach_the_layers_of_the_method_and_of_its_weight_quantizer_only():
    model = stq.quantize(
        network(),
        "double_st",
        settings={"momentum": 0.5},
        weight_settings={"per_channel": True},
        layers={"5": {"weight_method": "sawb"}},
    )
    assert model[3].input_quantizer.momentum == model[5].input_quantizer.momentum == 0.5
    assert weight_quantizer(model[3]).per_channel
    assert type(weight_quantizer(model[5])).__name__ == "SAWBWeight"
    assert type(model[0].input_quantizer).__name__ == "LSQActivation"


def test_bits_can_be_lowered_during_training():
    model, x = trained("lsq", weight_bits=4, activation_bits=4)
    stq.set_bits(model, 2, 3, only={"3"})
    stq.calibrate(model, x)
    assert (weight_quantizer(model[3]).bits, input_quantizer(model[3]).bits) == (2, 3)
    assert (weight_quantizer(model[5]).bits, input_quantizer(model[5]).bits) == (4, 4)
    assert model[3].weight.unique().numel() <= 4
    with pytest.raises(ValueError, match="is not a bit width"):
        stq.set_bits(model, 9, None, only={"3"})


def test_summary_lists_every_layer_and_not_the_attention_blocks():
    model = stq.quantize(network(), "double_st", weight_bits=2, activation_bits=3, skip=["5"])
    rows = {row.path: row for row in stq.summary(model)}
    assert rows.keys() == {"0", "3", "5", "7"}
    assert (rows["3"].type, rows["3"].weight_bits, rows["3"].activation_bits) == ("Conv2d", 2, 3)
    assert (rows["3"].weights, rows["3"].activations, rows["3"].input) == ("LSQWeight", "DoubleStageST", "unknown")
    assert (rows["5"].weight_bits, rows["5"].activation_bits, rows["5"].input) == (32, 32, "float")
    assert [rows[path].parameters for path in "0357"] == [224, 80, 36, 111]
    table = str(stq.calibrate(model, torch.rand(2, 3, 8, 8))).splitlines()
    assert table[0].replace(" bits", "_bits").split()[:4] == ["layer", "type", "w_bits", "a_bits"]
    assert table[2].index("LSQActivation") == table[3].index("DoubleStageST")  # columns line up
    assert table[3].split() == ["3", "Conv2d", "2", "3", "LSQWeight", "DoubleStageST", "non-negative", "80"]
