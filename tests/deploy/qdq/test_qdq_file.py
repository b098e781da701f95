"""Standard QDQ files: in ONNX Runtime and OpenVINO they predict what the integers do; what int8 lacks is refused."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import timm
import torch
from torch import nn

import stq
import stq.models
from stq.deploy.integer.gains import gains_into_layers
from stq.deploy.integer.inference import run
from stq.deploy.integer.thresholds import fuse
from stq.deploy.qdq.whole_biases import largest_factor, whole_biases
from stq.deploy.sessions import compiled_for_openvino
from stq.errors import InputError
from tests.deploy.runtimes import onnx_scores
from tests.small_networks import awaken, calibrated, small_network

SIZE = (1, 8, 8)


def as_written(path, x) -> np.ndarray:
    """ONNX Runtime's output without its own optimizations."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": x.numpy()})[0]


def operators(path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("format", ["qdq", "openvino", "tensorrt"])
def test_trained_network_predicts_the_same(trained, digits, bits, format, tmp_path):
    model, images = trained(bits), digits[2]
    with torch.no_grad():
        expected = model(images).argmax(1).numpy()
    # tensorrt: the classifier's input has 8 bits and is not negative
    if format == "tensorrt":
        with pytest.raises(InputError, match=r"activation_bits: 7\}\} it does"):
            stq.export(model, images, tmp_path / "model.onnx", format=format)
        return
    path = stq.export(model, images, tmp_path / "model.onnx", format=format)
    assert np.array_equal(stq.predict(path, format, images.numpy()), expected)


@pytest.mark.parametrize("method", ["lsq", "double_st_frozen", "st", "pact", "dorefa"])
@pytest.mark.parametrize("bits", [2, 3, 5, 8])
def test_equals_the_reference_but_for_ties(method, bits, tmp_path):
    torch.manual_seed(bits)
    model = calibrated(small_network(), SIZE, method, bits, weight_method="lsq")
    x = torch.randn(256, *SIZE)
    network = stq.freeze(model, x)
    path, expected = stq.export(network, x, tmp_path / "model.onnx", format="qdq"), run(network, x).numpy()
    far = np.abs(as_written(path, x) - expected).max(1) > 1e-4
    assert far.mean() <= 0.005  # a tie changes a code, and the layers after it


@pytest.mark.parametrize(
    ("method", "bits", "signed"),
    [("lsq", 1, False), ("lsq", 3, False), ("lsq", 4, False), ("lsq", 2, True), ("lsq", 3, True), ("st", 3, False)],
)
def test_biases_rounded_to_products_of_scales_change_no_code(method, bits, signed, tmp_path):
    """ONNX Runtime makes int32 of the biases before a quantizer: 0.01 to 0.16 of the outputs would differ by that."""
    torch.manual_seed(bits)
    layers = []
    for channels in (1, 16, 16, 16):
        layers += [nn.Conv2d(channels, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Identity() if signed else nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))
    model, x = calibrated(model, SIZE, method, bits), torch.randn(512, *SIZE)
    for _, layer in stq.quantized_layers(model):
        if hasattr(layer.input_quantizer, "running_threshold"):  # gains, but no shifts
            layer.input_quantizer.running_threshold.zero_()
    network = gains_into_layers(stq.freeze(model, x))
    whole, expected = whole_biases(network, SIZE), run(network, x).numpy()
    for before, after in zip(fuse(network, SIZE).of("threshold"), fuse(whole, SIZE).of("threshold"), strict=True):
        assert np.array_equal(before.arrays["thresholds"], after.arrays["thresholds"])
        layer = whole[after.inputs[0]]
        unit = np.abs(layer.arrays["multiplier"].astype(np.float64)) / largest_factor(whole, layer)
        units = layer.arrays["bias"] / unit
        assert np.abs(units - np.rint(units)).max() < 0.01
    path = stq.export(network, x, tmp_path / "model.onnx", format="qdq")
    assert np.mean(np.abs(onnx_scores(path, x) - expected).max(1) > 1e-4) <= 0.005


class OverPositions(nn.Module):
    """The largest or smallest values over rows, columns or both."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.amax((2, 3), keepdim=True),
        lambda x: (-x).amin((2, 3))[:, :, None, None],
        lambda x: x.amax(2, keepdim=True),
        lambda x: nn.functional.adaptive_max_pool2d(x, 1),
    ],
)
def test_openvino_takes_maxima_over_positions(function, tmp_path):
    torch.manual_seed(0)
    first, last = (nn.Conv2d(1, 8, 3), nn.ReLU()), (nn.Conv2d(8, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model, x = calibrated(nn.Sequential(*first, OverPositions(function), *last), SIZE, "lsq", 3), torch.randn(64, *SIZE)
    network = stq.freeze(model, x)
    path = stq.export(network, x, tmp_path / "model.onnx", format="openvino")
    assert np.array_equal(stq.predict(path, "openvino", x.numpy()), run(network, x).argmax(1).numpy())


@pytest.mark.parametrize("before", [nn.Identity(), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.ReLU6()])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("constant", ["running_gain", "running_threshold"])
def test_openvino_takes_a_factor_or_a_shift_a_channel(before, groups, constant, tmp_path):
    torch.manual_seed(0)
    layers = [before, nn.Conv2d(4, 8, 3, groups=groups), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)]
    model = calibrated(nn.Sequential(*layers), (4, 12, 12), "double_st_frozen", 3, first_last_bits=None)
    nn.init.ones_(model[1].input_quantizer.running_gain)
    nn.init.zeros_(model[1].input_quantizer.running_threshold)
    nn.init.uniform_(getattr(model[1].input_quantizer, constant), 0.5, 1.5)
    x = torch.randn(64, 4, 12, 12)
    network = stq.freeze(model, x)
    scores = compiled_for_openvino(stq.export(network, x, tmp_path / "m.onnx", format="openvino"))(x.numpy())[0]
    assert np.mean(np.abs(scores - run(network, x).numpy()).max(1) > 1e-3) < 0.1  # one in ten has a tie at most


@pytest.mark.parametrize("shape", [(6,), (7, 6), (4, 6)])
def test_openvino_takes_gates_of_linear_and_one_dimensional_layers(shape, tmp_path):
    """A mean of one position, of tokens and of a Conv1d, before constants of each channel."""
    torch.manual_seed(0)
    first, second = (nn.Conv1d(4, 8, 3), nn.Conv1d(8, 8, 3)) if shape == (4, 6) else (nn.Linear(6, 8), nn.Linear(8, 8))
    model = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))
    model(torch.randn(2, *shape))
    model, x = calibrated(model, shape, "double_st", 4, first_last_bits=None), torch.randn(64, *shape)
    for name, parameter in model.named_parameters():
        if "_gate." in name:
            nn.init.normal_(parameter, 0, 0.3)
    with torch.no_grad():
        model.train()(x)  # statistics of the gates' inputs
    network = stq.freeze(model.eval(), x)
    scores = compiled_for_openvino(stq.export(network, x, tmp_path / "m.onnx", format="openvino"))(x.numpy())[0]
    assert np.mean(np.abs(scores - run(network, x).numpy()).max(1) > 1e-3) < 0.1


def test_only_what_every_runtime_fuses(tmp_path):
    """Convolutions between dequantized tensors, nothing between the pair, int8 per-channel weights."""
    model = calibrated(small_network(), SIZE, "lsq", 8)
    path = stq.export(model, torch.zeros(1, *SIZE), tmp_path / "model.onnx", format="qdq")
    graph = onnx.load(path).graph
    makers = {output: node for node in graph.node for output in node.output}
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    assert {"ConvInteger", "MatMulInteger", "Gather", "Transpose"} & set(operators(path)) == set()
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(layers) == 7
    for layer in layers:
        for operand in layer.input[:2]:
            assert makers[operand].op_type == "DequantizeLinear"
        stored, scales, zeros = makers[layer.input[1]].input
        assert values[stored].dtype == np.int8
        assert len(values[scales]) == len(values[stored])
        assert not values[zeros].any()
        assert makers[makers[layer.input[0]].input[0]].op_type == "QuantizeLinear"
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            assert values[node.input[2]] in (0, 128)  # 128: negative codes as uint8


def test_three_bits_are_kept_by_a_clip_of_real_values(tmp_path):
    model = calibrated(small_network(), SIZE, "lsq", 3, first_last_bits=None)
    graph = onnx.load(stq.export(model, torch.zeros(1, *SIZE), tmp_path / "m.onnx", format="qdq")).graph
    makers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            assert makers[node.input[0]].op_type == "Clip"


def test_gains_stand_in_the_layer_before(tmp_path):
    """A gain a channel needs no Mul where a convolution makes the input alone; a shift stands as a Sub."""
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)
    model, x = (
        calibrated(
            nn.Sequential(*layers), SIZE, "double_st_frozen", 4, first_last_bits=None, layers={"0": {"method": "lsq"}}
        ),
        torch.randn(64, *SIZE),
    )
    network = stq.freeze(model, x)
    assert network["3.quantize"].arrays["gain"].shape == (8,)
    path = stq.export(network, x, tmp_path / "model.onnx", format="qdq")
    assert operators(path).count("Mul") == 0
    assert operators(path).count("Sub") == 1
    assert np.mean(np.abs(as_written(path, x) - run(network, x).numpy()) > 1e-4) < 0.002


def tensorrt_rules(graph) -> list[str]:
    """What TensorRT would not take: types but int8, zero points, quantized biases, scales that are no constants."""
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    broken = []
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale, zero = values.get(node.input[1]), values.get(node.input[2])
            if scale is None or not (scale > 0).all():
                broken.append(f"{node.name}: scale")
            if zero is None or zero.dtype != np.int8 or zero.any():
                broken.append(f"{node.name}: zero point")
        if node.op_type in ("Conv", "Gemm") and len(node.input) > 2 and node.input[2] in makers:
            broken.append(f"{node.name}: bias")
    return broken


def test_tensorrt(tmp_path):
    torch.manual_seed(0)
    model = calibrated(small_network(), SIZE, "lsq", 4, layers={"15": {"activation_bits": 7}})
    x = torch.randn(64, *SIZE)
    path = stq.export(model, x, tmp_path / "model.onnx", format="tensorrt")
    assert tensorrt_rules(onnx.load(path).graph) == []
    with torch.no_grad():
        assert (stq.predict(path, "tensorrt", x.numpy()) == model(x).argmax(1).numpy()).mean() >= 0.99
    ordinary = stq.export(model, x, tmp_path / "qdq.onnx", format="qdq")
    assert any("zero point" in rule for rule in tensorrt_rules(onnx.load(ordinary).graph))  # uint8


REFUSED = {
    "odd weights": (
        {"method": "dorefa", "bits": 8},
        "qdq",
        r"'0' has no QDQ form: its 8-bit weights are odd.*weight_method=lsq",
    ),
    "pact's default": ({"method": "pact", "bits": 8}, "openvino", r"weight_method=lsq fits int8"),
    "an offset": ({"method": "lsq_plus", "bits": 4}, "qdq", r"an offset that is no whole number of codes.*method=lsq"),
    "signed, one bit": (
        {"method": "lsq", "bits": 1},
        "qdq",
        r"its codes lie between those of int8; use 2 bits or more",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_int8_cannot_express_is_refused_with_the_remedy(case, tmp_path):
    how, format, message = REFUSED[case]
    model = calibrated(small_network(), SIZE, how["method"], how["bits"], first_last_bits=None)
    with pytest.raises(InputError, match=message):
        stq.export(model, torch.zeros(1, *SIZE), tmp_path / "model.onnx", format=format)


def test_residual_additions_on_eight_bits_become_integer_additions(tmp_path):
    torch.manual_seed(0)
    model = awaken(timm.create_model("resnet8", num_classes=10))
    model = stq.quantize(model, "lsq", weight_bits=8, activation_bits=8, residual_bits=8)
    x = torch.randn(64, 3, 32, 32)
    stq.calibrate(model, x)
    network = stq.freeze(model.eval(), x)
    path = stq.export(network, x, tmp_path / "model.onnx", format="qdq")
    scores = onnx_scores(path, x, tmp_path / "optimized.onnx")
    used = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert used.count("QLinearAdd") == 2  # the last sum goes to the mean, in float
    assert used.count("QLinearConv") == 7
    assert (scores.argmax(1) == run(network, x).argmax(1).numpy()).mean() >= 0.98
