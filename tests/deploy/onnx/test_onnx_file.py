import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from torch import nn

import stq
import stq.models
from stq.deploy.integer.freeze import freeze
from stq.deploy.integer.inference import run
from stq.deploy.network import Network
from stq.errors import InputError
from tests.deploy.runtimes import onnx_scores as scores
from tests.small_networks import Residual, awaken, calibrated, small_network

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_trained_network_predicts_the_same(trained, digits, bits, tmp_path):
    model, images = trained(bits), digits[2]
    path = stq.export(model, images, tmp_path / "model.onnx", format="onnx")
    with torch.no_grad():
        expected = model(images)
    found = scores(path, images)
    assert np.array_equal(found.argmax(1), expected.argmax(1).numpy())
    assert np.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("method", ["double_st_frozen", "dorefa", "lsq_plus", "pact"])
@pytest.mark.parametrize("bits", [1, 3, 5, 8])
def test_equals_the_reference(method, bits, tmp_path):
    torch.manual_seed(bits)
    model, x = calibrated(small_network(), (1, 8, 8), method, bits), torch.randn(16, 1, 8, 8)
    network = freeze(model, x)
    path = stq.export(network, x, tmp_path / "model.onnx")
    assert np.allclose(scores(path, x), run(network, x), atol=1e-6)


_MIXED = [(8, 4), (4, 8), (2, 8), (8, 1), (1, 8)]


@pytest.mark.parametrize("prepare", [lambda model: model, awaken], ids=["fresh", "awakened"])
@pytest.mark.parametrize(("weight_bits", "activation_bits"), [*((bits, bits) for bits in range(1, 9)), *_MIXED])
def test_residual_network_at_every_bit_width(weight_bits, activation_bits, prepare, tmp_path):
    torch.manual_seed(weight_bits)
    model, x = prepare(timm.create_model("resnet8")), torch.randn(4, 3, 32, 32)
    bits = {"weight_bits": weight_bits, "activation_bits": activation_bits, "first_last_bits": 8}
    stq.quantize(model, "double_st_frozen", **bits)
    stq.calibrate(model, x)
    network = freeze(model.eval(), x)
    assert np.array_equal(scores(stq.export(network, x, tmp_path / "model.onnx"), x), run(network, x))


def test_kernels_are_integer_and_types_small(trained, digits, tmp_path):
    path = stq.export(trained(3), digits[2], tmp_path / "model.onnx")
    model = onnx.load(path)
    assert model.opset_import[0].version >= 21
    assert {entry.domain for entry in model.opset_import} == {""}
    types = {tensor.name.split(".weight")[0]: tensor.data_type for tensor in model.graph.initializer}
    assert types["3.conv1"] == onnx.TensorProto.INT4
    clips = [node for node in model.graph.node if node.op_type == "Clip"]
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert sum(int(values[node.input[2]]) - int(values[node.input[1]]) == 7 for node in clips) == 5  # all 3-bit inputs
    scores(path, digits[2], tmp_path / "optimized.onnx")
    used = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert used.count("QLinearConv") >= 3
    assert used.count("QLinearConv") + used.count("ConvInteger") + used.count("MatMulInteger") >= 6


def test_extreme_8_bit_codes_do_not_saturate(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(8, 4, 3), nn.Conv2d(4, 4, 1))
    for conv in model[:2]:
        conv.weight.data = conv.weight.sign() * torch.where(torch.rand_like(conv.weight) < 0.9, 0.1, 0.05)
    stq.quantize(model, "dorefa", weight_method="lsq", weight_bits=8, activation_bits=8, first_last_bits=None)
    x = torch.where(torch.rand(4, 16, 9, 9) < 0.9, 1.0, 0.2)
    stq.calibrate(model, x)
    for conv in model[:2]:
        weights = conv.parametrizations.weight[0]
        weights.raw_step.data.fill_(0.0937 / 127)
        weights.step_floor.fill_(1e-6)
    network = freeze(model.eval(), x)
    assert max(abs(node.arrays["weight"]).max() for node in network.of("conv")) >= 127
    path = stq.export(network, x, tmp_path / "model.onnx")
    assert np.allclose(scores(path, x), run(network, x), atol=1e-4)


@pytest.mark.parametrize(("spread", "kind"), [(127, np.int8), (128, np.uint8)])
def test_signed_codes_only_where_no_kernel_saturates(spread, kind, tmp_path):
    """All inputs at the ends of 8 bits, all weights at the ends of their range, on a picture that is not gathered."""
    torch.manual_seed(0)
    model = stq.quantize(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1)), "lsq", first_last_bits=8)
    x = torch.rand(2, 3, 12, 12).round() * 200 - 100
    stq.calibrate(model, x / 100)
    step = stq.freeze(model.eval(), x)["0"].arrays["multiplier"][0] / model[0].input_quantizer.record().scale
    weight = model[0].parametrizations.weight.original
    weight.data = torch.where(torch.rand_like(weight) < 0.8, 60.0, 60.0 - spread) * step
    network = freeze(model, x)
    assert np.ptp(network["0"].arrays["weight"]) == spread
    path = stq.export(network, x, tmp_path / "model.onnx")
    assert np.array_equal(scores(path, x), run(network, x))
    graph = onnx.load(path).graph
    sums = next(node for node in graph.node if node.op_type == "ConvInteger")
    point = next(tensor for tensor in graph.initializer if tensor.name == sums.input[2])
    assert onnx.numpy_helper.to_array(point).dtype == kind


@pytest.mark.parametrize("method", ["dorefa", "pact"])
@pytest.mark.parametrize("size", [1, 3])
def test_signed_8_bit_codes_of_254_levels_go_into_conv_integer(method, size, tmp_path):
    torch.manual_seed(0)
    last = [nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
    model = nn.Sequential(nn.Conv2d(4, 4, size, padding=size // 2), *last)
    stq.quantize(model, method, weight_bits=4, activation_bits=8, first_last_bits=None)
    x = torch.randn(4, 4, 9, 9)
    stq.calibrate(model, x)
    network = freeze(model.eval(), x)
    path = stq.export(network, x, tmp_path / "model.onnx")
    assert "ConvInteger" in {node.op_type for node in onnx.load(path).graph.node}
    np.testing.assert_allclose(scores(path, 9 * x), run(network, 9 * x), atol=1e-5)


def test_sums_have_channels_first_where_means_are_taken_of_them(tmp_path):
    """A mean over positions, or a constant a channel, is slow in ONNX Runtime where channels come last."""
    torch.manual_seed(0)
    x, transposed = torch.rand(2, 8, 6, 6), {}
    for name, last in {"means": nn.AdaptiveAvgPool2d(1), "none": nn.Identity()}.items():
        model = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.SiLU(), last, nn.Flatten(), nn.LazyLinear(3))
        model(x)
        stq.quantize(model, "lsq", first_last_bits=None)
        stq.calibrate(model, x)
        network = freeze(model.eval(), x)
        path = stq.export(network, x, tmp_path / f"{name}.onnx")
        np.testing.assert_allclose(scores(path, x), run(network, x), atol=1e-5)
        graph = onnx.load(path).graph
        transposed[name] = [len(node.attribute[0].ints) for node in graph.node if node.op_type == "Transpose"]
    assert transposed == {"means": [4, 3], "none": [4, 4]}  # axes: the second before the Reshape that gives it two more


def test_a_float_convolution_of_three_axes_without_bias(tmp_path):
    model = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5))
    stq.quantize(model, "lsq", first_last_bits=8)
    x = torch.randn(3, 1, 4, 4, 4)
    stq.calibrate(model, x)
    network = freeze(model.eval(), x)
    path = stq.export(network, x, tmp_path / "model.onnx")
    np.testing.assert_allclose(scores(path, x), run(network, x), atol=1e-5)


def test_odd_8_bit_weights_beyond_int8(tmp_path):
    torch.manual_seed(0)
    model = awaken(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)))
    stq.quantize(model, "dorefa", weight_bits=8, activation_bits=8, first_last_bits=None)
    x = torch.rand(4, 3, 8, 8)
    stq.calibrate(model, x)
    network = freeze(model.eval(), x)
    assert network["0"].arrays["weight"].max() == 255
    path = stq.export(network, x, tmp_path / "model.onnx")
    assert np.allclose(scores(path, x), run(network, x), atol=1e-4)


def test_grouped_sums_beyond_float32(tmp_path):
    """Odd 8-bit weights of one sign in groups so wide that float32 does not hold their sums."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(64, 6, 3, padding=1, groups=2), nn.Conv2d(6, 4, 1))
    model[0].weight.data = torch.where(torch.rand_like(model[0].weight) < 0.9, 1.0, 0.9)
    stq.quantize(model, "dorefa", weight_bits=8, activation_bits=8, first_last_bits=None)
    x = torch.where(torch.rand(2, 64, 6, 6) < 0.9, 1.0, 0.7)
    stq.calibrate(model, x)
    network = freeze(model.eval(), x)
    assert network.bounds["0"] > 2**24
    sums = {}
    run(network, x, lambda node, value: sums.update({node.name: value}))
    first = Network(tuple(node for node in network.nodes if not node.name.startswith("1")))
    path = stq.export(first, x, tmp_path / "model.onnx")
    assert np.array_equal(scores(path, x), sums["0"])


@pytest.mark.parametrize("prepare", [lambda model: model, awaken], ids=["rising", "some falling"])
def test_pooling_moves_before_the_scale_only_where_it_rises(prepare, tmp_path):
    torch.manual_seed(0)
    stem = [nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    model = prepare(nn.Sequential(*stem, Residual(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)))
    stq.quantize(model, "lsq", weight_bits=3, activation_bits=3, first_last_bits=8)
    x = torch.randn(4, 3, 24, 24)
    stq.calibrate(model, x)
    network = freeze(model.eval(), x)
    assert bool((network["0"].arrays["multiplier"] < 0).any()) == (prepare is awaken)
    path = stq.export(network, x, tmp_path / "model.onnx")
    assert np.allclose(scores(path, x), run(network, x), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "method", "bits"),
    [("resnet18", "double_st_frozen", 3), ("mobilenetv2_100", "lsq", 4), ("efficientnet_b0", "lsq_plus", 4)],
)
def test_timm_networks(name, method, bits, tmp_path):
    torch.manual_seed(0)
    model = calibrated(timm.create_model(name), (3, 64, 64), method, bits, first_last_bits=8)
    x = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        assert np.allclose(scores(stq.export(model, x, tmp_path / "model.onnx"), x), model(x), atol=1e-5)


def test_fresh_process_with_onnxruntime_and_numpy_only(trained, digits, tmp_path):
    model, images = trained(2), digits[2]
    stq.export(model, images, tmp_path / "model.onnx")
    np.save(tmp_path / "images.npy", images.numpy())
    program = (
        "import sys; sys.modules['torch'] = sys.modules['stq'] = sys.modules['onnx'] = None\n"
        "import numpy, onnxruntime\n"
        "session = onnxruntime.InferenceSession('model.onnx', providers=['CPUExecutionProvider'])\n"
        "print(*session.run(None, {'input': numpy.load('images.npy')})[0].argmax(1))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    with torch.no_grad():
        assert done.stdout.split() == [str(int(v)) for v in model(images).argmax(1)]


def test_latency_is_measured_in_turns(trained, digits, tmp_path):
    from stq.deploy.benchmark import time_both

    integer = stq.export(trained(2), digits[2], tmp_path / "integer.onnx")
    full = stq.export(freeze(trained(2), digits[2], quantized=False), digits[2], tmp_path / "float.onnx")
    found = time_both(full, integer, (1, 8, 8), rounds=3)
    assert found.float_ms > 0
    assert found.ratio == found.float_ms / found.integer_ms
    assert ort.__version__ in str(found)


def test_refusals(trained, digits, tmp_path, caplog):
    with pytest.raises(InputError, match=r"format='onx' is unknown \(did you mean 'onnx'\?\)"):
        stq.export(trained(2), digits[2], tmp_path / "model.onnx", format="onx")
    with pytest.raises(InputError, match=r"followed with an input of size \(3, 8, 8\).*weight of size \[8, 1, 3, 3\]"):
        stq.export(trained(2), torch.zeros(1, 3, 8, 8), tmp_path / "model.onnx")
    with pytest.raises(InputError, match=r"followed with an input of size \(3,\)"):
        stq.export(torch.nn.Sequential(torch.nn.Linear(4, 2)), torch.zeros(1, 3), tmp_path / "model.onnx")
    assert not [record for record in caplog.records if record.levelname != "DEBUG"]  # no traceback of torch's own
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        stq.export(trained(2), digits[2], tmp_path / "file" / "model.onnx")
