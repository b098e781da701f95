"""QONNX's Quant dialect: the qonnx executor and hls4ml's own emulation give what the integers give."""

import numpy as np
import pytest
import torch
from torch import nn

import stq
from stq.errors import InputError
from tests.small_networks import calibrated, small_network

pytest.importorskip("qonnx")
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.util.cleanup import cleanup_model
from qonnx.util.inference_cost import inference_cost

SIZE = (1, 8, 8)


@pytest.mark.parametrize("format", ["finn", "hls4ml"])
@pytest.mark.parametrize(
    ("method", "bits"), [("lsq", 1), ("lsq", 3), ("double_st_frozen", 2), ("pact", 4), ("dorefa", 1)]
)
def test_equals_the_reference(method, bits, format, tmp_path):
    torch.manual_seed(bits)
    weights = {"weight_method": "lsq"} if bits > 1 else {}
    network = stq.freeze(calibrated(small_network(), SIZE, method, bits, **weights), torch.zeros(1, *SIZE))
    path = stq.export(network, torch.zeros(1, *SIZE), tmp_path / "model.onnx", format=format)
    cleaned = cleanup_model(ModelWrapper(str(path)))  # with qonnx's own shape inference
    for _ in range(8):
        x = torch.randn(1, *SIZE)
        (found,) = execute_onnx(cleaned, {cleaned.graph.input[0].name: x.numpy()}).values()
        assert np.allclose(found, stq.run(network, x), atol=1e-5)


def test_qonnx_counts_the_bit_operations_that_we_count(tmp_path):
    model = calibrated(small_network(), SIZE, "lsq", 3, first_last_bits=None)
    path = stq.export(model, torch.zeros(1, *SIZE), tmp_path / "model.onnx", format="finn")
    cleanup_model(ModelWrapper(str(path))).save(str(tmp_path / "clean.onnx"))
    found = inference_cost(str(tmp_path / "clean.onnx"), discount_sparsity=False)
    assert found.get("total_cost", found)["total_bops"] == stq.cost(model, SIZE).bops


def test_integer_thresholds_have_an_integer_type(tmp_path):
    model = calibrated(small_network(), SIZE, "lsq", 3)
    path = stq.export(model, torch.zeros(1, *SIZE), tmp_path / "model.onnx", format="qonnx")
    graph = ModelWrapper(str(path))
    kinds = [
        (graph.get_tensor_datatype(node.input[1]).is_integer(), graph.get_initializer(node.input[1]))
        for node in graph.graph.node
        if node.op_type == "MultiThreshold"
    ]
    assert sum(integer for integer, _ in kinds) == 3
    assert all(np.array_equal(values, np.rint(values)) for integer, values in kinds if integer)


def plain() -> nn.Module:
    first = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()
    second = nn.Conv2d(4, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(16, 10))


def test_hls4ml_converts_and_computes_it(tmp_path):
    hls4ml = pytest.importorskip("hls4ml")
    from qonnx.transformation.channels_last import ConvertToChannelsLastAndClean
    from qonnx.transformation.gemm_to_matmul import GemmToMatMul

    torch.manual_seed(0)
    model, x = calibrated(plain(), SIZE, "lsq", 4), torch.randn(32, *SIZE)
    path = stq.export(model, x, tmp_path / "model.onnx", format="hls4ml")
    graph = cleanup_model(ModelWrapper(str(path))).transform(ConvertToChannelsLastAndClean())
    graph = cleanup_model(graph.transform(GemmToMatMul()))
    settings = hls4ml.utils.config.config_from_onnx_model(
        graph, granularity="name", default_precision="fixed<32,16>", backend="Vitis"
    )
    made = hls4ml.converters.convert_from_onnx_model(
        graph, output_dir=str(tmp_path / "hls"), io_type="io_parallel", backend="Vitis", hls_config=settings
    )
    made.compile()
    found = made.predict(np.ascontiguousarray(x.numpy().transpose(0, 2, 3, 1)))
    with torch.no_grad():
        expected = model(x).numpy()
    assert (found.argmax(1) == expected.argmax(1)).sum() >= 30  # its fixed-point scales decide what is nearly equal
    assert np.abs(found - expected).max() < 0.15 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("method", "bits", "between", "message"),
    [
        ("dorefa", 3, nn.ReLU(), r"'0' has no FINN form: its weights are odd codes.*use weight_method=lsq"),
        ("lsq_plus", 3, nn.ReLU(), "an offset that is no whole number of codes"),
        ("lsq", 3, nn.SiLU(), r"'1' has no FINN form"),
        ("lsq", 3, nn.GroupNorm(2, 4), r"'1' has no FINN form: it is one of torch's own operations"),
    ],
)
def test_refusals(method, bits, between, message, tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), between, nn.Conv2d(4, 2, 3))
    model = calibrated(model, SIZE, method, bits, first_last_bits=None)
    with pytest.raises(InputError, match=message):
        stq.export(model, torch.zeros(1, *SIZE), tmp_path / "model.onnx", format="finn")
