"""Gates against their formulas in NumPy, and what of them a deployed layer keeps."""

import numpy as np
import pytest
import torch

import stq
from stq.quantizers import get_method
from stq.quantizers.attention import Standardize
from stq.quantizers.kept_gates import GAIN_GRID, SHIFT_GRID, StoredGate
from stq.quantizers.registry import get_gate

CHANNELS = 12
GATES = [name for name in stq.list_gates() if name != "none"]


def values(gate):
    return {name: p.detach().double().numpy() for name, p in gate.named_parameters()}


def by_formula(name, p, z):
    """u of z (N, C)."""
    if name == "mlp":
        return np.maximum(z @ p["0.weight"].T + p["0.bias"], 0) @ p["2.weight"].T + p["2.bias"]
    if name == "channel":
        return p["weight"] * z + p["bias"]
    if name == "low_rank":
        return p["weight"] * z + p["bias"] + z @ p["down"].T @ p["up"].T
    if name == "eca":
        reach = len(p["weight"]) // 2
        padded = np.pad(z, ((0, 0), (reach, reach)))
        return sum(w * padded[:, i : i + z.shape[1]] for i, w in enumerate(p["weight"]))
    e = p["alpha"] * z
    return 2 * (p["gamma"] * e / np.sqrt((e**2).mean(1, keepdims=True) + 1e-5) + p["beta"])


def awake(gate):
    for parameter in gate.parameters():
        torch.nn.init.normal_(parameter, 0, 0.5)
    return gate


@pytest.mark.parametrize("name", GATES)
def test_a_gate_is_its_formula_and_starts_at_zero(name):
    torch.manual_seed(0)
    z = torch.randn(5, CHANNELS)
    gate = get_gate(name)(CHANNELS)
    assert gate(z).abs().max() == 0
    np.testing.assert_allclose(awake(gate)(z).detach(), by_formula(name, values(gate), z.double().numpy()), atol=1e-5)


def test_none_is_a_gate_by_name():
    assert get_gate("none") is None
    assert "none" in stq.list_gates("n*")
    with pytest.raises(ValueError, match=r"there is no gate named 'nonne': did you mean 'none'\?"):
        get_gate("nonne")


class _Modules(stq.Gate):
    """Uses a module of its own and a buffer, in the way of torch."""

    standardized = True

    def __init__(self, channels):
        super().__init__(channels)
        self.linear = torch.nn.Linear(channels, channels)
        self.register_buffer("factor", torch.full((channels,), 0.5))

    def map(self, z, parameters):
        return self.factor * self.linear(z)


def test_a_gate_of_modules_is_deployed_in_eight_bits_and_counted():
    gate = _Modules(CHANNELS)
    stored, z = StoredGate(gate, "mean", torch.nn.Identity()), torch.randn(5, CHANNELS)
    p = in_eight_bits(values(gate))
    expected = 0.5 * (z.double().numpy() @ p["linear.weight"].T + p["linear.bias"])
    np.testing.assert_allclose(stored(z).detach(), expected, atol=1e-5)
    sizes = sum(buffer.numel() * buffer.element_size() for buffer in stored.buffers())
    assert sizes == CHANNELS**2 + CHANNELS + 2 * 4 + 4 * CHANNELS  # codes, a scale of each, the buffer


def test_a_gate_of_another_shape_is_refused():
    class Fewer(stq.Gate):
        def map(self, z, parameters):
            return z[:, :1]

    with pytest.raises(ValueError, match=r"Fewer gives \(2, 1\) for \(2, 12\): give one u for each z"):
        Fewer(CHANNELS)(torch.zeros(2, CHANNELS))


def test_statistics_are_running_and_deviations_are_from_the_running_mean():
    torch.manual_seed(0)
    standard, mean, variance = Standardize(3, momentum=0.1), np.zeros(3), np.ones(3)
    for number in range(1, 21):
        z = torch.randn(4, 3) + torch.tensor([0.0, number, 5.0]) * torch.tensor([1.0, 1.0, number % 2])
        found = standard(z)
        weight, of_batch = max(1 / number, 0.1), z.double().numpy()
        mean += weight * (of_batch.mean(0) - mean)
        variance += weight * (((of_batch - mean) ** 2).mean(0) - variance)
        expected = np.clip((of_batch - mean) / np.sqrt(variance + 1e-10), -3, 3)
        np.testing.assert_allclose(found, expected, atol=1e-3)


def test_a_channel_that_is_constant_stays_near_zero_in_training_and_as_stored():
    standard = Standardize(2, momentum=0.02)
    for _ in range(100):
        z = torch.stack([torch.randn(8), torch.full((8,), 0.1558147)], dim=1)
        assert standard(z)[:, 1].abs().max() < 0.1
    gate = get_gate("channel")(2)
    torch.nn.init.ones_(gate.weight)
    assert StoredGate(gate, "mean", standard)(z)[:, 1].abs().max() < 0.1


@pytest.mark.parametrize("method", ["double_st", "double_st_frozen"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_batch_that_is_not_finite_leaves_the_statistics(method, bad):
    torch.manual_seed(0)
    made = get_method(method).activation(bits=3, channels=4, channel_axis=-3, signed=False, anneal=0.0)
    x = torch.rand(4, 4, 5, 5)
    made.calibrate(x)
    for each in (x.index_fill(0, torch.tensor(0), bad), x):
        made.train()(each)
    assert all(value.isfinite().all() for value in made.state_dict().values())
    assert made.eval()(x).isfinite().all()


def quantizer(**settings):
    torch.manual_seed(0)
    settings = {"range_gate": "mlp", "threshold_gate": "mlp", "inference": "static"} | settings
    made = get_method("double_st").activation(bits=3, channels=CHANNELS, channel_axis=-3, signed=False, **settings)
    x = torch.rand(16, CHANNELS, 6, 6) * (0.2 + torch.rand(16, CHANNELS, 1, 1))
    made.calibrate(x)
    for gate in (made.range_gate, made.threshold_gate):
        if gate is not None:
            awake(gate)
    for _ in range(40):
        made.train()(x)
    return made.eval(), x


def in_eight_bits(parameters):
    scales = {name: np.abs(p).max() / 127 for name, p in parameters.items()}
    return {name: np.round(p / scales[name]) * scales[name] for name, p in parameters.items()}


def stage(made, which, name, statistics):
    """u of the statistics (N, C) as a deployed network computes it."""
    standard = getattr(made, f"{which}_standard")
    if isinstance(standard, torch.nn.Identity):
        z = statistics
    else:
        mean = standard.mean.half().double().numpy()
        inverse = (standard.variance + 1e-10).rsqrt().half().double().numpy()
        z = np.clip((statistics - mean) * inverse, -3, 3)
    return by_formula(name, in_eight_bits(values(getattr(made, f"{which}_gate"))), z)


@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize("inference", ["range", "dynamic"])
def test_what_stays_is_eight_bits_and_rounded(name, inference):
    made, x = quantizer(range_gate=name, threshold_gate=name, inference=inference)
    real, step = x.double().numpy(), made.bounded("step").item()
    squeeze = (lambda v: np.sqrt((v**2).mean((2, 3)) + 1e-12)) if name == "gct" else (lambda v: v.mean((2, 3)))
    z = squeeze(real)
    u = stage(made, "range", name, z / (np.abs(z).mean(1, keepdims=True) + 1e-6))
    gain = np.round(2 / (1 + np.exp(-u)) * GAIN_GRID) / GAIN_GRID
    v = gain[..., None, None] * real / step
    if inference == "dynamic":
        u = stage(made, "threshold", name, squeeze(np.clip(v, 0, 7)) / 7)
        shift = np.round(np.tanh(u) * SHIFT_GRID) / SHIFT_GRID
    else:
        shift = made.running_threshold.double().numpy()[None]
    expected = np.round(np.clip(v - shift[..., None, None], 0, 7)).astype(int)
    found = made.record().encode(x).numpy()
    assert (found == expected).mean() > 0.999  # sums of other orders, rounded
    assert np.abs(found - expected).max() <= 1
    assert torch.equal(made(x), made.record().fake_quantize(x))
    assert len(np.unique(np.round(gain, 6))) > 20  # it attends


def test_only_frozen_stages_are_annealed():
    for inference, moves in (("static", {"gain", "shift"}), ("range", {"shift"}), ("dynamic", set())):
        made, x = quantizer(inference=inference)
        made.train()
        spread = {}
        for progress in (0.0, 1.0):
            made.set_progress(progress)
            _, (ratio, shift, *_) = made.kernel(x)
            spread[progress] = {"gain": ratio.std(0).max().item(), "shift": shift.std(0).max().item()}
        assert {name for name in ("gain", "shift") if spread[1.0][name] < 1e-5} == moves
        assert all(spread[0.0][name] > 1e-3 for name in ("gain", "shift"))


def test_float_gates_are_what_is_rounded_without_rounding():
    made, x = quantizer(range_gate="channel", inference="dynamic", standardize=True)
    torch.manual_seed(0)
    float_gates = get_method("float_gates").activation(
        32, CHANNELS, -3, False, range_gate="channel", threshold_gate="mlp", standardize=True
    )
    float_gates.calibrate(x)
    float_gates.load_state_dict({k: v for k, v in made.state_dict().items() if k != "_extra_state"}, strict=False)
    gain, shift = (value.detach()[..., None, None] for value in made.eval().attend(x))
    expected = (gain * x - shift * made.bounded("step").detach()).clamp(min=0)
    torch.testing.assert_close(float_gates.eval()(x), expected)
    torch.testing.assert_close(float_gates.train()(x), expected, atol=1e-2, rtol=1e-2)  # but for the statistics


def test_the_step_of_float_gates_is_what_a_quantizer_would_start_with():
    torch.manual_seed(0)
    made = get_method("float_gates").activation(32, CHANNELS, -3, False, momentum=0.1)
    x = torch.rand(8, CHANNELS, 4, 4)
    made.calibrate(x)
    expected = 2 * x.mean().item() / 7**0.5
    for number in range(1, 5):
        torch.testing.assert_close(made.bounded("step").item(), expected)
        made.train()(number * x).sum().backward()
        expected += 0.1 * (2 * number * x.mean().item() / 7**0.5 - expected)
    assert made.raw_step.grad is None


def test_float_gates_leave_the_weights_and_need_float():
    model = torch.nn.Sequential(*(torch.nn.Conv2d(3, 3, 1) for _ in range(4)))
    stq.quantize(model, "float_gates", weight_bits=32, activation_bits=32)
    found = {
        path: (hasattr(layer, "parametrizations"), layer.input_quantizer.bits)
        for path, layer in stq.quantized_layers(model)
    }
    assert found == {"1": (False, 32), "2": (False, 32)}  # as first and last have no gates
    with pytest.raises(ValueError, match="float_gates rounds nothing"):
        model[1].input_quantizer.record()


def test_bytes_of_what_stays():
    made, _ = quantizer(range_gate="low_rank", threshold_gate="eca", inference="dynamic", rank=2, kernel_size=3)
    low_rank = 2 * CHANNELS + 2 * 2 * CHANNELS + 4 * 4  # codes; four scales
    eca = 3 + 4
    standards = 2 * 2 * 2 * CHANNELS  # mean and inverse deviation of both in two bytes
    step = 4
    assert made.record().gate.stored_bytes == low_rank + eca + standards + step


def test_thresholds_to_look_at_are_those_on_average():
    made, _x = quantizer(inference="dynamic")
    found = made.record().thresholds()
    levels = torch.arange(1, 8) - 0.5
    expected = (levels + made.running_threshold[:, None]) * made.bounded("step") / made.running_gain[:, None]
    torch.testing.assert_close(found, expected.detach())


def test_checkpoints_from_before_there_was_a_choice_load():
    made, _x = quantizer()
    state = {name.replace("_gate.", "_attention."): value for name, value in made.state_dict().items()}
    assert any("range_attention.0.weight" in name for name in state)
    other, _ = quantizer()
    awake(other.range_gate)
    other.load_state_dict(state)
    assert torch.equal(other.range_gate.get_submodule("0").weight, made.range_gate.get_submodule("0").weight)


def test_mistakes_are_told():
    for settings, sentence in (
        ({"range_gate": "chanel"}, "there is no gate named 'chanel': did you mean 'channel'"),
        ({"inference": "both"}, "inference='both' must be one of static, range, dynamic"),
        ({"threshold_gate": "eca", "kernel_size": 4}, "kernel_size=4 of the gate 'eca' must be odd"),
        ({"rank": 0}, "rank=0 must be 1 or more"),
    ):
        with pytest.raises(ValueError, match=sentence):
            quantizer(**settings)
