import operator

import numpy as np
import pytest
import timm
import torch
from torch import nn

import stq
from stq.deploy.integer.freeze import freeze
from stq.deploy.integer.inference import run
from stq.deploy.network import Network
from stq.deploy.packed.packed_file import load_packed
from stq.deploy.verify import verify
from stq.errors import InputError
from tests.deploy.runtimes import onnx_scores as scores
from tests.small_networks import awaken, calibrated, small_network

CODES = 64 + 3 * 512 + 128 + 12 * 16 + 16  # a sample's, in the small network
METHODS = [
    name for name in stq.list_quantizers() if name not in ("none", "float_gates", "double_st", "double_st_dynamic")
]


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_trained_network_as_integers(trained, digits, bits):
    model, images = trained(bits), digits[2]
    found = verify(model, freeze(model, images), [images])
    assert found.codes == 500 * CODES
    assert max(found.ties, found.exact_ties) <= 1  # how the processor adds in float32 decides a tie
    assert found.same_top1 == found.samples == 500


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_every_method_and_width(method, bits):
    torch.manual_seed(bits)
    model = calibrated(small_network(), (1, 8, 8), method, bits)
    x = torch.randn(64, 1, 8, 8)
    found = verify(model, freeze(model, x), [x])
    assert found.ties <= 1e-6 * found.codes
    assert found.codes == 64 * CODES


@pytest.mark.parametrize(
    ("name", "method", "bits"),
    [
        ("resnet18", "double_st_frozen", 3),
        ("resnet50", "lsq", 2),
        ("mobilenetv2_100", "lsq_plus", 4),
        ("efficientnet_b0", "double_st_frozen", 4),
        ("mobilenetv3_small_050", "pact", 4),
    ],
)
def test_timm_networks(name, method, bits):
    torch.manual_seed(0)
    model = calibrated(timm.create_model(name), (3, 32, 32), method, bits, first_last_bits=8)
    x = torch.randn(4, 3, 32, 32)
    found = verify(model, freeze(model, x), [x])
    assert found.codes > 90_000
    assert found.ties <= 2


def test_eight_bits_differ_in_less_than_one_code_in_a_million():
    """Both sum integers; float32 is left in batch norm and scales, which the two round differently."""
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=10, zero_init_last=False)
    calibrated(model, (3, 64, 64), "double_st_frozen", 8)
    batches = [torch.randn(8, 3, 64, 64) for _ in range(4)]
    found = verify(model, freeze(model, batches[0]), batches)
    assert found.codes > 5_000_000
    assert found.ties <= 1e-6 * found.codes
    assert found.exact_ties <= 2e-6 * found.codes


def test_differences_are_counted():
    model = calibrated(small_network(), (1, 8, 8), "lsq", 2)
    network = freeze(model, torch.zeros(1, 1, 8, 8))
    network["0.quantize"].arrays["shift"][...] += 0.25
    found = verify(model, network, [torch.randn(16, 1, 8, 8)])
    assert found.ties == found.exact_ties > 0
    assert list(found.layers) == ["0"]  # the others get the model's own codes
    assert found.cascaded > found.ties


def test_accumulator_against_numpy():
    model = awaken(nn.Sequential(nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0), dilation=(1, 2), groups=2), nn.ReLU()))
    stq.quantize(model, "lsq", weight_bits=3, activation_bits=3, first_last_bits=None)
    x = torch.randn(2, 4, 9, 7)
    stq.calibrate(model, x)
    network = freeze(model, x)
    layer, values = network["0"], {}
    run(network, x, lambda node, value: values.update({node.name: value.numpy()}))
    codes = np.pad(values["0.quantize"], ((0, 0), (0, 0), (1, 1), (0, 0)))
    expected = np.zeros(values["0"].shape, dtype=np.int64)
    for n, o, y, z in np.ndindex(expected.shape):
        for i, ky, kx in np.ndindex(2, 3, 2):
            expected[n, o, y, z] += (
                layer.arrays["weight"][o, i, ky, kx] * codes[n, o // 3 * 2 + i, 2 * y + ky, z + 2 * kx]
            )
    scale = layer.arrays["multiplier"].reshape(-1, 1, 1)
    assert np.array_equal(np.rint((values["0"] - layer.arrays["bias"].reshape(-1, 1, 1)) / scale), expected)


def test_thresholds_are_constants_of_the_frozen_network():
    model = calibrated(small_network(), (1, 8, 8), "double_st_frozen", 3)
    x = torch.randn(4, 1, 8, 8)
    network = freeze(model, x)
    before = run(network, x)
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data.fill_(0)  # the network holds copies
    assert torch.equal(run(network, x), before)
    assert isinstance(network, Network)
    assert network["3.conv1.quantize"].arrays["gain"].shape == (8,)


def test_float_twin_is_the_model_without_quantizers():
    torch.manual_seed(0)
    model = awaken(small_network()).eval()
    x = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        expected = model(x)
    stq.quantize(model, "lsq", weight_bits=2, activation_bits=2)
    assert torch.allclose(run(freeze(model, x, quantized=False), x), expected, atol=1e-5)


def test_partly_quantized_layers():
    for bits in ({"weight_bits": 32, "activation_bits": 3}, {"weight_bits": 3, "activation_bits": 32}):
        model = stq.quantize(awaken(small_network()), "lsq", first_last_bits=32, **bits).eval()
        x = torch.randn(8, 1, 8, 8)
        stq.calibrate(model, x)
        with torch.no_grad():
            assert torch.allclose(run(freeze(model, x), x), model(x), atol=1e-4)


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)

    def forward(self, x):
        return self.conv(x) if x.sum() > 0 else x


class Counting(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 2, 3))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Branching, "cannot be followed"),
        (Counting, "changes its buffer 'calls'"),
    ],
)
def test_refusals_name_the_reason(model, message):
    model = stq.quantize(model(), "lsq", weight_bits=3, activation_bits=3)
    stq.calibrate(model, torch.rand(2, 1, 8, 8))
    with pytest.raises(InputError, match=message):
        freeze(model, torch.rand(2, 1, 8, 8))


def test_learned_intervals_and_missing_calibration_are_refused():
    model = stq.quantize(small_network(), "double_st_frozen", settings={"intervals": True}, first_last_bits=None)
    with pytest.raises(InputError, match=r"'0.input_quantizer' is not calibrated"):
        freeze(model, torch.rand(2, 1, 8, 8))
    stq.calibrate(model, torch.randn(4, 1, 8, 8))
    with pytest.raises(InputError, match=r"'0' cannot be frozen: intervals=True"):
        freeze(model, torch.rand(2, 1, 8, 8))


def test_nan_has_no_code():
    network = freeze(calibrated(small_network(), (1, 8, 8), "lsq", 2), torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="NaN"):
        run(network, torch.full((1, 1, 8, 8), torch.nan))


class _Branches(nn.Module):
    """A head that nothing uses after the one that is returned, constants, and an activation in place."""

    def __init__(self, read_again: bool):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)
        self.act, self.leaky, self.read_again = nn.ReLU(inplace=True), nn.LeakyReLU(0.1), read_again

    def forward(self, x):
        h = self.a(x)
        r = self.act(h)
        y = self.leaky(self.b(r + h if self.read_again else r)) * 0.5 + 1
        _ = self.c(r).sigmoid()
        return y.mean((2, 3))


def test_only_what_leads_to_the_output_and_constants():
    torch.manual_seed(0)
    model, x = calibrated(_Branches(read_again=False), (1, 8, 8), "lsq", 4), torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        assert np.allclose(run(freeze(model, x), x), model(x), atol=1e-5)


def test_in_place_operations_whose_input_is_read_again():
    model, x = calibrated(_Branches(read_again=True), (1, 8, 8), "lsq", 4), torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        assert np.allclose(run(freeze(model, x), x), model(x), atol=1e-5)


class _Twice(nn.Module):
    """``change(h)`` of a convolution's output, and whether something of the output is read after it."""

    def __init__(self, change, read_again: bool):
        super().__init__()
        self.a, self.b, self.change, self.read_again = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), change, read_again

    def forward(self, x):
        h = self.a(x)
        seen = h[:, :, ::1, ::1]  # a view: what is written to h is seen in it
        r = self.change(h)
        r = self.b(r if r is not None else h)
        return (r + seen[:, :, ::2, ::2].mean((2, 3), True) if self.read_again else r).flatten(1)


def _clamp(h):
    h.clamp_(0, 1)


IN_PLACE = {
    "relu_": lambda h: h.relu_(),
    "torch.relu_": torch.relu_,
    "add_": lambda h: h.add_(1.0),
    "mul_": lambda h: h.mul_(0.5),
    "iadd": lambda h: operator.iadd(h, 1.0),
    "positional": lambda h: nn.functional.relu(h, True),
    "keyword": lambda h: nn.functional.silu(h, inplace=True),
    "dropped": _clamp,
}


@pytest.mark.parametrize("read_again", [False, True])
@pytest.mark.parametrize("name", IN_PLACE)
def test_functions_in_place(name, read_again):
    torch.manual_seed(0)
    model, x = calibrated(_Twice(IN_PLACE[name], read_again), (1, 8, 8), "lsq", 4), torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        assert np.allclose(run(freeze(model, x), x), model(x), atol=1e-5)


class _Keywords(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(1, 4, 3), nn.Conv2d(8, 4, 3), nn.Linear(4, 3)

    def forward(self, x):
        h = self.a(x)
        h = torch.cat(tensors=[nn.functional.relu(input=h), torch.mul(input=h, other=h)], dim=1)
        h = torch.mean(input=self.b(h), dim=(2, 3), keepdim=True)
        return self.c(torch.flatten(input=h, start_dim=1))


def test_arguments_may_have_their_names():
    torch.manual_seed(0)
    model, x = calibrated(_Keywords(), (1, 8, 8), "lsq", 4), torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        assert np.allclose(run(freeze(model, x), x), model(x), atol=1e-5)


@pytest.mark.parametrize(
    "view",
    [
        lambda h: h.view(h.size(0), -1),
        lambda h: h.view(h.size(0), 36 * 4),
        lambda h: h.reshape(h.shape[0], -1),
        lambda h: torch.reshape(h, (h.size()[0], -1)),
        lambda h: h.relu_().view(h.size(0), -1),
        lambda h: h.view(-1, 144),
    ],
)
def test_views_that_flatten(view):
    class Viewing(nn.Sequential):
        def forward(self, x):
            return self[1](view(self[0](x)))

    torch.manual_seed(0)
    model, x = calibrated(Viewing(nn.Conv2d(1, 4, 3), nn.Linear(144, 3)), (1, 8, 8), "lsq", 4), torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        assert np.allclose(run(freeze(model, x), x), model(x), atol=1e-5)


ACTIVATIONS = [
    lambda h: nn.functional.leaky_relu(h, 0.2),
    lambda h: nn.functional.leaky_relu(h, inplace=True),
    nn.functional.gelu,
    nn.functional.relu6,
    lambda h: nn.functional.hardtanh(h, -0.5, max_val=0.25),
    lambda h: h.clamp(0, 1),
    lambda h: torch.clip(h, min=-0.3, max=0.3),
    lambda h: h.tanh(),
]


@pytest.mark.parametrize("function", ACTIVATIONS)
def test_activations_as_functions(function):
    torch.manual_seed(0)
    model, x = calibrated(_Function(function), (1, 8, 8), "lsq", 4), torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        assert np.allclose(run(freeze(model, x), x), model(x), atol=1e-5)


class _Function(nn.Sequential):
    """A convolution, and a function of its output."""

    def __init__(self, function):
        super().__init__(nn.Conv2d(1, 4, 3))
        self.function = function

    def forward(self, x):
        return self.function(super().forward(x))


CARRIED = {
    "along the batch": lambda h: torch.cat([h, h]),
    "mean of the batch": lambda h: h.mean(0),
    "a view": lambda h: h.view(-1, 72),
    "channels first": lambda h: h.view(h.size(1), -1),
    "a size": lambda h: h * h.size(2),
    "clamp": lambda h: h.clamp(min=0.1),
    "gelu": lambda h: nn.functional.gelu(h, approximate="tanh"),
    "cropped": lambda h: nn.functional.pad(h, (0, -1)),
    "softplus": nn.functional.softplus,
    "group norm": lambda h: nn.functional.group_norm(h, 2),
    "split": lambda h: h.split(2, 1)[1],
    "softmax": lambda h: h.flatten(2).softmax(-1) @ h.flatten(2).transpose(1, 2),
    "upsampled": lambda h: nn.functional.interpolate(h, scale_factor=2, mode="bilinear"),
    "rolled": lambda h: torch.roll(h, 1, 2),
    "a divisor": lambda h: nn.functional.avg_pool2d(h, 3, 2, divisor_override=4),
    "integers": lambda h: torch.eye(10)[(h.mean((2, 3)) * 3).long().clamp(0, 9)],
    "double": lambda h: (h.double() * 1.1).float(),
    "squeezed": lambda h: nn.functional.adaptive_avg_pool2d(h, 1).squeeze(),
    "another type": lambda h: h + torch.arange(6).to(h.device, h.dtype),
    "infinity": lambda h: h.masked_fill(h < 0, float("-inf")).amax((2, 3)),
    "shuffled": lambda h: h.view(h.size(0), 2, 2, 6, 6).transpose(1, 2).reshape(h.size()),
}


@pytest.mark.parametrize("name", CARRIED)
def test_functions_of_torch_are_carried(name, tmp_path):
    torch.manual_seed(0)
    model, x = calibrated(_Function(CARRIED[name]), (1, 8, 8), "lsq", 4), torch.randn(6, 1, 8, 8)
    network = freeze(model, x)
    with torch.no_grad():
        expected = model(x)
    assert np.allclose(run(network, x), expected, atol=1e-5)
    assert np.allclose(scores(stq.export(network, x, tmp_path / "model.onnx"), x), expected, atol=1e-5)
    loaded, _ = load_packed(stq.export(network, x, tmp_path / "model.safetensors", format="packed"))
    assert torch.equal(run(loaded, x), run(network, x))


def test_layers_that_nothing_reads_need_no_calibration():
    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.aux = nn.Conv2d(1, 4, 3), nn.Linear(4, 2)

        def forward(self, x):
            return self.used(x)

    model = stq.quantize(Spare(), "lsq")
    with pytest.warns(UserWarning, match="did not reach 1 layers, not calibrated: aux"):
        stq.calibrate(model, torch.randn(4, 1, 8, 8))
    assert freeze(model.eval(), torch.zeros(1, 1, 8, 8))["used"].op == "conv"


def test_a_branch_on_the_size_of_the_batch_is_refused():
    for function, message in (
        (lambda h: 2 * h if h.size(0) > 3 else h, "branches on the size of the batch"),
        (lambda h: h[::2], "for a fixed number"),
        (lambda h: 2 * h if len(h) > 3 else h, r"for a fixed number, as len\(x\) does"),
    ):
        with pytest.raises(InputError, match=message):
            freeze(calibrated(_Function(function), (1, 8, 8), "lsq", 4), torch.zeros(1, 1, 8, 8))


def test_random_numbers_are_refused():
    with pytest.raises(InputError, match=r"cannot freeze 'aten\.rand_like.default': it draws random numbers"):
        freeze(calibrated(_Function(lambda h: h + torch.rand_like(h)), (1, 8, 8), "lsq", 4), torch.zeros(1, 1, 8, 8))


@pytest.mark.parametrize("training", [False, True])
def test_dropout_that_stays_in_evaluation_is_refused(training):
    class Dropping(nn.Sequential):
        def forward(self, x):
            return nn.functional.dropout(super().forward(x), 0.5, training)

    model = calibrated(Dropping(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3)), (1, 8, 8), "lsq", 4)
    if training:
        with pytest.raises(InputError, match="random numbers"):
            freeze(model, torch.rand(2, 1, 8, 8))
    else:
        x = torch.randn(2, 1, 8, 8)
        with torch.no_grad():
            assert np.allclose(run(freeze(model, x), x), model(x), atol=1e-5)


def test_in_place_operations_count_where_their_result_is_dropped():
    class Dropping(nn.Sequential):
        def forward(self, x):
            h = self[0](x)
            self[1](h)
            return self[2](h)

    layers = nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3)
    model = calibrated(Dropping(*layers), (1, 8, 8), "lsq", 4)
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert np.allclose(run(freeze(model, x), x), model(x), atol=1e-5)
