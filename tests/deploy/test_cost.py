import pytest
import timm
import torch
from omegaconf import OmegaConf
from torch import nn

import stq
import stq.models
from stq.deploy.cost import cost, model_size
from tests.composed import compose_config
from tests.small_networks import small_network


def test_size_by_hand():
    model = nn.Sequential(nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5), nn.Conv2d(5, 7, 1), nn.Linear(7, 2))
    stq.quantize(model, "lsq", weight_bits=3, activation_bits=2, first_last_bits=8)
    # weights at 8, 3 and 8 bits; a scale each; gain, shift, scale, offset each; batch norm 4 * 5; biases 7 and 2
    weights = 135 + -(-35 * 3 // 8) + 14
    size = model_size(model)
    assert size.size_bytes == weights + 4 * 3 + 4 * 4 * 3 + 4 * 20 + 4 * 9
    assert size.float_size_bytes == 4 * (135 + 35 + 14 + 20 + 9)
    assert size.parameters == 135 + 35 + 14 + 10 + 9


def test_attention_is_not_deployed_but_its_thresholds_are():
    sizes = {}
    for method in ("lsq", "double_st_frozen"):
        model = stq.quantize(small_network(), method, weight_bits=3, activation_bits=3, first_last_bits=None)
        sizes[method] = model_size(model)
    channels = 1 + 8 + 8 + 8 + 8 + 12 + 16
    layers = 7
    assert sizes["double_st_frozen"].parameters == sizes["lsq"].parameters
    assert sizes["double_st_frozen"].size_bytes - sizes["lsq"].size_bytes == 4 * 2 * (channels - layers)


def test_float_model_costs_itself():
    model = small_network()
    found = cost(model, (1, 8, 8))
    tensors = [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]
    assert found.size_bytes == found.float_size_bytes == 4 * sum(t.numel() for t in tensors)
    assert found.bops == found.float_bops == found.macs * 1024
    assert found.activation_bytes == found.float_activation_bytes


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_100", "efficientnet_b0"])
def test_macs_are_those_of_fvcore(name):
    counter = pytest.importorskip("fvcore.nn").FlopCountAnalysis
    model = timm.create_model(name).eval()
    analysis = counter(model, torch.zeros(1, 3, 64, 64)).unsupported_ops_warnings(False)
    expected = analysis.by_operator()
    stq.quantize(model, "double_st", weight_bits=2, activation_bits=4, first_last_bits=8)
    found = cost(model, (3, 64, 64))
    assert found.macs == expected["conv"] + expected["linear"]
    inner = [layer for layer in found.layers if layer.weight_bits == 2]
    assert found.bops == sum(8 * layer.macs for layer in inner) + 64 * (found.macs - sum(v.macs for v in inner))


def test_activation_peak_by_hand():
    layers = [nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1)]
    model = nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(128, 10))
    stq.quantize(model, "lsq", weight_bits=2, activation_bits=2, first_last_bits=8)
    found = cost(model, (1, 8, 8))
    assert found.float_activation_bytes == 4 * (4 * 64 + 2 * 64)  # input and output of the second convolution
    assert found.activation_bytes == 2 * 4 * 64 // 8 + 2 * 64  # the same: 2-bit codes, and codes of 8 bits


def test_residual_stays_in_float_and_codes_are_made_beside_it():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.conv, self.head = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 1, 1)

        def forward(self, x):
            x = self.stem(x)
            return self.head(x + self.conv(x))

    model = stq.quantize(Block(), "lsq", weight_bits=2, activation_bits=2, first_last_bits=8)
    # while conv runs: the stream in float, its 2-bit codes, and the sum, which goes straight to the codes of head
    assert cost(model, (1, 8, 8)).activation_bytes == 4 * 256 + 2 * 256 // 8 + 256


def test_gates_cost_what_they_multiply_and_what_they_wait_for():
    def network():
        layers = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1), nn.ReLU(), nn.Flatten()]
        return nn.Sequential(*layers, nn.Linear(128, 10))

    gates = {"range_gate": "channel", "threshold_gate": "eca", "kernel_size": 3, "inference": "dynamic"}
    gated = stq.quantize(network(), "double_st", weight_bits=2, activation_bits=2, settings=gates)
    plain = stq.quantize(network(), "lsq", weight_bits=2, activation_bits=2)
    found, without = cost(gated, (1, 8, 8)), cost(plain, (1, 8, 8))
    # channel: a weight and a bias for each of 4 channels; eca: at least one a channel; each standardized; a gain each
    assert (found.gate_macs, without.gate_macs) == ((8 + 4) + (4 + 4) + 4 * 64, 0)
    assert found.gate_bops == found.gate_macs * 8 * 32
    assert (found.macs, found.bops) == (without.macs, without.bops)
    # what the second convolution reads is kept in float until it has been squeezed, its codes beside it
    assert without.activation_bytes == 2 * 4 * 64 // 8 + 2 * 64
    assert found.activation_bytes == 4 * 4 * 64 + 2 * 4 * 64 // 8 + 2 * 64
    assert "multiplications of gates" in str(found)


def test_equal_bytes_are_reached_from_the_last_layer_backwards():
    def network(**layers):
        torch.manual_seed(0)
        shapes = [(3, 8), (8, 8), (8, 16), (16, 16), (16, 10)]
        model = nn.Sequential(*(nn.Conv2d(*shape, 3) for shape in shapes))
        return stq.quantize(model, "lsq", weight_bits=3, activation_bits=3, **layers)

    plain = model_size(network()).size_bytes
    for more in (1, 200, 500, 600, 900):
        chosen = stq.layers_for_bytes(network(), plain + more)
        assert list(chosen) == ["3", "2", "1"][: len(chosen)]
        assert model_size(network(layers=chosen)).size_bytes >= plain + more
        fewer = dict(chosen)
        path = list(chosen)[-1] if max(v["weight_bits"] for v in chosen.values()) == 4 else "3"
        fewer[path] = {"weight_bits": chosen[path]["weight_bits"] - 1}
        assert model_size(network(layers=fewer)).size_bytes < plain + more
    with pytest.raises(ValueError, match="fewer than the 100,000 wanted"):
        stq.layers_for_bytes(network(), 100_000)


@pytest.mark.parametrize("method", ["lsq", "pact", "dorefa"])
def test_the_factor_of_equal_bytes_is_what_the_gates_take(method, tmp_path):
    def network(**settings):
        cfg = compose_config(
            tmp_path, "experiment=equal_bytes", "bits=3", "seed=3", *settings.get("more", ()), quick=False
        )
        policy = OmegaConf.to_container(cfg.quantizer)
        model = timm.create_model("resnet8", num_classes=10, width=cfg.model.width)
        layers = {key: policy[key] for key in ("method", "layers", "settings")}
        return stq.quantize(model, weight_bits=3, activation_bits=3, **layers), layers["layers"]

    gated, _ = network(more=["quantizer=double_st"])
    wanted, (plain, _) = model_size(gated).size_bytes, network(more=[f"quantizer={method}"])
    more, chosen = network(more=[f"quantizer={method}", "factor=equal_bytes"])
    assert stq.layers_for_bytes(plain, wanted) == chosen
    assert model_size(more).size_bytes >= wanted > model_size(plain).size_bytes


def test_model_is_left_as_it_was():
    model = stq.quantize(small_network(), "double_st", weight_bits=3, activation_bits=3).train()
    before = {name: value.clone() for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    cost(model, (1, 8, 8))
    assert all(module.training for module in model.modules())
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    with pytest.raises(RuntimeError, match="not calibrated"):  # the quantizers are back
        model(torch.zeros(2, 1, 8, 8))


def test_wrong_input_size_is_named():
    with pytest.raises(ValueError, match=r"size \(3, 8, 8\)"):
        cost(small_network(), (3, 8, 8))
