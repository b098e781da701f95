"""Gates that stay at inference are in the deployed network: predictions of every format that carries them are equal."""

import pytest
import torch

import stq
from stq.errors import InputError
from tests.small_networks import awaken, small_network

FORMATS = ["onnxruntime", "qdq", "openvino", "packed", "c"]


def network(gate, inference, bits=3):
    torch.manual_seed(0)
    settings = {"range_gate": gate, "threshold_gate": gate, "inference": inference, "anneal": 0.0}
    model = stq.quantize(
        awaken(small_network()), "double_st", weight_bits=bits, activation_bits=bits, settings=settings
    )
    x = torch.randn(300, 1, 8, 8)
    stq.calibrate(model, x)
    for name, parameter in model.named_parameters():
        if "_gate." in name:
            torch.nn.init.normal_(parameter, 0, 0.3)
    model.train()
    with torch.no_grad():
        for _ in range(10):  # running statistics
            model(x)
    return model.eval(), x


@pytest.mark.parametrize("gate", [name for name in stq.list_gates() if name != "none"])
@pytest.mark.parametrize("inference", ["range", "dynamic"])
def test_predictions_are_the_models(gate, inference, tmp_path):
    model, x = network(gate, inference)
    with torch.no_grad():
        logits = model(x)
    frozen = stq.freeze(model, x[:1])
    for format in FORMATS:
        path = stq.export(frozen, x, tmp_path / format, format=format)
        found = torch.as_tensor(stq.predict(path, format, x.numpy()))
        top = logits.topk(2).values
        clear = top[:, 0] - top[:, 1] > 1e-3 * logits.abs().max()
        assert clear.sum() > 250
        assert (found == logits.argmax(1))[clear].float().mean() > 0.99, format


def test_the_gate_attends_in_the_file(tmp_path):
    """An input twice as bright in one channel changes gains; without a gate the file would not know."""
    model, x = network("channel", "range")
    frozen = stq.freeze(model, x[:1])
    assert frozen.gated is not None
    assert any(node.op == "aten" or node.op == "mul" for node in frozen.nodes if ".input_quantizer." in node.name)
    other, _ = network("channel", "static")
    assert stq.freeze(other, x[:1]).gated is None


@pytest.mark.parametrize("format", ["finn", "hls4ml", "qonnx"])
def test_what_carries_no_gate_refuses_and_names_the_method_that_goes(format, tmp_path):
    model, x = network("channel", "range")
    with pytest.raises(InputError, match="double_st_frozen"):
        stq.export(model, x, tmp_path / "file", format=format)
    assert not list(tmp_path.iterdir())


def test_gates_cost_what_they_store():
    kept, _ = network("channel", "dynamic")
    frozen, _ = network("channel", "static")
    quantizers = [module for module in kept.modules() if hasattr(module, "threshold_gate")]
    stored = sum(quantizer.record().gate.stored_bytes for quantizer in quantizers)
    assert stored > 0
    # a frozen layer stores gain and shift of each channel, a gated one neither
    less = sum(4 * (2 * quantizer.channels - 2) for quantizer in quantizers)
    assert stq.cost(kept, (1, 8, 8)).size_bytes - stq.cost(frozen, (1, 8, 8)).size_bytes == stored - less


def test_frozen_is_frozen():
    with pytest.raises(ValueError, match="double_st keeps stages"):
        stq.quantize(small_network(), "double_st_frozen", settings={"inference": "dynamic"})
