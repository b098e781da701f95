"""The exported C, compiled with all warnings as errors and with sanitizers, against the integer reference."""

import copy
import math
import re
import shutil
import subprocess

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

import stq
import stq.models
from stq.deploy.integer.freeze import freeze
from stq.deploy.integer.inference import run
from stq.errors import InputError
from tests.small_networks import awaken, calibrated, small_network

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
FLAGS = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
METHODS = [name for name in stq.list_quantizers() if name not in ("none", "float_gates")]


def built(folder, *sources, flags=()):
    program = folder / "program"
    subprocess.run(["gcc", *FLAGS, *flags, *map(str, sources), "-o", str(program), "-lm"], check=True)
    return program


def predictions(header, x):
    program = built(header.parent, header.with_suffix(".c"), flags=["-DSTQ_MAIN"])
    done = subprocess.run([program], input=x.numpy().tobytes(), capture_output=True, check=True)
    return np.array(done.stdout.split(), dtype=int)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_trained_network_predicts_the_same(trained, digits, bits, tmp_path):
    model, images = trained(bits), digits[2]
    header = stq.export(model, images, tmp_path / "digits.h", format="c")
    with torch.no_grad():
        expected = model(images).argmax(1).numpy()
    assert np.array_equal(predictions(header, images), expected)


@pytest.mark.parametrize("bits", [1, 3, 8])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_equals_the_reference(method, bits, tmp_path):
    torch.manual_seed(0)
    model, x = calibrated(small_network(), (1, 8, 8), method, bits), torch.randn(64, 1, 8, 8)
    network = freeze(model, x)
    header = stq.export(network, x, tmp_path / "model.h", format="c")
    assert np.array_equal(predictions(header, x), run(network, x).argmax(1))


@pytest.mark.parametrize("bits", [2, 5, 6, 7])
def test_weights_and_activations_of_other_bits(bits, tmp_path):
    torch.manual_seed(0)
    policy = {"weight_bits": bits, "activation_bits": 9 - bits, "first_last_bits": None}
    model, x = stq.quantize(small_network(), "lsq", **policy), torch.randn(64, 1, 8, 8)
    stq.calibrate(model, x)
    network = freeze(model.eval(), x)
    header = stq.export(network, x, tmp_path / "model.h", format="c")
    assert np.array_equal(predictions(header, x), run(network, x).argmax(1))


class Mixed(nn.Module):
    """Groups, strides, a concatenation, squeeze-and-excitation, pools that round up and count padding, upsampling."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=4)
        self.depthwise = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
        self.squeeze, self.excite = nn.Conv2d(20, 6, 1), nn.Conv2d(6, 20, 1)
        self.wide = nn.Conv2d(20, 10, (1, 3), padding=(0, 2), dilation=(1, 2))
        self.last = nn.Linear(40, 5)

    def forward(self, x):
        x = F.hardswish(self.first(x))
        x = torch.cat([F.silu(self.grouped(x)), torch.sigmoid(self.depthwise(x))], 1)
        x = x * torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        x = F.interpolate(F.max_pool2d(x, 3, 2, ceil_mode=True), scale_factor=2.0, mode="nearest")
        x = F.leaky_relu(self.wide(F.avg_pool2d(x, 3, 2, padding=1, ceil_mode=True)))
        return self.last(F.adaptive_avg_pool2d(x, 2).flatten(1)) * 0.5


@pytest.mark.parametrize("bits", [2, 4])
def test_what_networks_are_made_of(bits, tmp_path):
    torch.manual_seed(0)
    model, x = calibrated(Mixed(), (3, 13, 9), "lsq", bits), torch.randn(64, 3, 13, 9)
    network = freeze(model, x)
    header = stq.export(network, x, tmp_path / "model.h", format="c")
    found, scores = predictions(header, x), run(network, x)
    top = scores.topk(2).values
    clear = ((top[:, 0] - top[:, 1]) > 1e-4 * scores.abs().max()).numpy()  # a sigmoid of two libraries may differ
    assert clear.mean() > 0.9
    assert np.array_equal(found[clear], scores.argmax(1).numpy()[clear])


@pytest.mark.parametrize("bits", [1, 3])
def test_additions_of_codes_need_no_real_numbers(bits, tmp_path):
    torch.manual_seed(0)
    size = (3, 16, 16)
    policy = {"weight_bits": bits, "activation_bits": bits, "residual_bits": 8}
    model = stq.quantize(awaken(timm.create_model("resnet8", num_classes=10)).eval(), "lsq", **policy)
    stq.calibrate(model, torch.randn(8, *size))
    x = torch.randn(32, *size)
    network = freeze(model.eval(), x)
    header = stq.export(network, x, tmp_path / "m.h", format="c")
    assert np.array_equal(predictions(header, x), run(network, x).argmax(1))
    (tmp_path / "whole").mkdir()
    found, scores = without_float(network, size, tmp_path / "whole")
    assert np.abs(found - scores).max() < 1e-5 * np.abs(scores).max()  # no code was another
    code = header.with_suffix(".c").read_text()
    body = code[code.index("static void stq_run") : code.index("#ifdef STQ_MAIN")]
    real = [block.split(":")[0] for block in body.split("/* ")[1:] if "float" in block or "_real(" in block]
    assert set(real) <= {"layer3.0.act2", "global_pool.pool", "global_pool.mean", "fc"}  # behind the last addition
    other = stq.export(freeze(without_residual(size), x), x, tmp_path / "other.h", format="c")
    memory = [int(re.search(r"static memory (\d+)", path.read_text())[1]) for path in (header, other)]
    assert memory[0] < 0.5 * memory[1]


def without_residual(size):
    return calibrated(timm.create_model("resnet8", num_classes=10), size, "lsq", 3)


@pytest.mark.parametrize("name", ["resnet8", "mobilenetv2_035"])
def test_residual_and_depthwise_networks(name, tmp_path):
    torch.manual_seed(0)
    size = (3, 32, 32)
    model, x = calibrated(timm.create_model(name, num_classes=10), size, "double_st_frozen", 2), torch.randn(32, *size)
    network = freeze(model, x)
    assert np.array_equal(predictions(stq.export(model, x, tmp_path / "m.h", format="c"), x), run(network, x).argmax(1))


class Reads(nn.Module):
    """What reads a picture of three channels, then two layers of which one is called c."""

    def __init__(self, first, size, channels=3):
        super().__init__()
        self.first, self.c = copy.deepcopy(first), nn.Conv2d(channels, 4, 3, padding=1)
        self.inner = nn.Conv2d(4, 4, 1)
        self.last = nn.Linear(4 * size, 5)

    def forward(self, x):
        return self.last(F.relu(self.inner(F.relu(self.c(self.first(x))))).flatten(1))


class Joined(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return torch.cat([self.conv(x) + x, x * 2 - 1], 1)


class Unflattened(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(90, 18)

    def forward(self, x):
        return F.relu(self.linear(x.flatten(1))).view(-1, 3, 2, 3)


@pytest.mark.parametrize(
    ("first", "positions", "channels"),
    [
        (nn.ReLU(), 30, 3),
        (nn.BatchNorm2d(3), 30, 3),
        (nn.ZeroPad2d((0, 1, 2, 0)), 49, 3),
        (nn.MaxPool2d(2), 6, 3),
        (nn.AvgPool2d(2), 6, 3),
        (nn.Upsample(scale_factor=2), 120, 3),
        (nn.Conv2d(3, 3, 3, padding=1), 30, 3),
        (Joined(), 30, 6),
        (Unflattened(), 6, 3),
    ],
)
@pytest.mark.parametrize("policy", [{}, {"first_last_bits": 32}, {"skip": ["first*"]}])
def test_whatever_reads_the_input_first(first, positions, channels, policy, tmp_path):
    torch.manual_seed(0)
    model, x = Reads(first, positions, channels).eval(), torch.randn(64, 3, 5, 6)
    layers = any(isinstance(module, nn.Conv2d | nn.Linear) for module in first.modules())
    if "skip" in policy and not layers:
        pytest.skip("no layer to leave out")
    network = freeze(calibrated(model, (3, 5, 6), "double_st_frozen", 3, **policy), x)
    header = stq.export(network, x, tmp_path / "model.h", format="c")
    scores = run(network, x)
    top = scores.topk(2).values
    clear = ((top[:, 0] - top[:, 1]) > 1e-4 * scores.abs().max()).numpy()
    assert clear.mean() > 0.9
    assert np.array_equal(predictions(header, x)[clear], scores.argmax(1).numpy()[clear])


def test_sums_are_integer_and_nothing_is_allocated(trained, digits, tmp_path):
    header = stq.export(trained(3), digits[2], tmp_path / "model.h", format="c")
    code = header.with_suffix(".c").read_text()
    assert re.findall(r"stq_dot_\d\(", code)
    for body in re.findall(r"static int stq_dot_\w+\(.*?\n}\n", code, re.S):
        assert "float" not in body
    assert "double" not in code
    assert "malloc" not in code
    packed = {int(n) for n in re.findall(r"static const uint8_t \w+_weight\[(\d+)\]", code)}
    wanted = {
        -(-layer.arrays["weight"][0].size // 8) * 3 * len(layer.arrays["weight"])
        for layer in freeze(trained(3), digits[2]).of("conv", "linear")
        if layer["weight_bits"] == 3 and layer.attributes.get("groups", 1) == 1
    }
    assert wanted <= packed  # three bytes for eight weights


def test_two_networks_in_one_program_and_pixels_prepared_inside(tmp_path):
    torch.manual_seed(0)
    images = torch.randint(0, 256, (16, 1, 8, 8), dtype=torch.uint8)
    x = (images.float() / 255 - 0.3) / 0.2
    expected, calls = [], ""
    for name, bits in (("a", 2), ("b", 3)):
        model = calibrated(small_network(), (1, 8, 8), "lsq", bits)
        about = stq.About(mean=[0.3], std=[0.2])
        stq.export(model, x, tmp_path / f"{name}.h", format="c", about=about, prefix=f"net_{name}")
        expected.append(run(freeze(model, x), x).argmax(1).numpy())
        calls += f"net_{name}_predict_pixels(pixels, scores); show(scores, NET_{name.upper()}_OUTPUTS);\n"
    (tmp_path / "main.c").write_text(
        '#include <stdio.h>\n#include "a.h"\n#include "b.h"\n'
        "static void show(const float *s, int n) { int best = 0;\n"
        'for (int i = 1; i < n; i++) if (s[i] > s[best]) best = i;\nprintf("%d\\n", best); }\n'
        "int main(void) { static uint8_t pixels[64]; static float scores[64];\n"
        f"while (fread(pixels, 1, 64, stdin) == 64) {{ {calls} }} return 0; }}\n"
    )
    program = built(tmp_path, tmp_path / "main.c", tmp_path / "a.c", tmp_path / "b.c")
    done = subprocess.run([program], input=images.numpy().tobytes(), capture_output=True, check=True)
    assert np.array_equal(np.array(done.stdout.split(), int).reshape(-1, 2).T, expected)


def test_a_network_that_does_not_fit_is_refused_before_anything_is_written(tmp_path):
    model = calibrated(small_network(), (1, 8, 8), "lsq", 3)
    x = torch.zeros(1, 1, 8, 8)
    for options, sentence in (
        ({"flash": 3000}, r"about 5,000 for its code, and there are 3,000: '\S+' has the most"),
        ({"ram": 500}, "of RAM, and there are 500: the largest value is that of"),
        ({"prefix": "3bits"}, "c.prefix=3bits is not a name in C"),
        (
            {"backend": "cmsis"},
            r"c.backend='cmsis' is unknown \(did you mean 'cmsis_nn'\?\): there are 'c99', 'cmsis_nn'",
        ),
        ({"flash": "256k"}, "c.flash='256k' is not a number of bytes"),
        ({"container": "4"}, "c.container='4' is unknown.*: there are 1, 2, 3, 4, 8"),
        ({"container": 5}, "c.container=5 is unknown.*: there are 1, 2, 3, 4, 8"),
        ({"float": False}, "c.float=false reads pixels: the data must have a mean"),
        ({"ramm": 1}, "format='c' has no option 'ramm' \\(did you mean 'ram'"),
    ):
        with pytest.raises(InputError, match=sentence):
            stq.export(model, x, tmp_path / "model.h", format="c", **options)
    assert not list(tmp_path.iterdir())
    stq.export(model, x, tmp_path / "model.h", format="c", flash=2**20, ram=2**20)


@pytest.mark.parametrize(
    "pool", [nn.MaxPool1d(3, 2, 1, ceil_mode=True), nn.AvgPool1d(2), nn.AdaptiveAvgPool1d(4), nn.AdaptiveMaxPool1d(1)]
)
def test_pools_along_one_axis(pool, tmp_path):
    torch.manual_seed(0)
    layers = [
        nn.Conv1d(2, 8, 3, padding=1),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        pool,
        nn.Conv1d(8, 5, 1),
        nn.AdaptiveAvgPool1d(1),
    ]
    model, x = calibrated(nn.Sequential(*layers, nn.Flatten()), (2, 15), "lsq", 3), torch.randn(64, 2, 15)
    network = freeze(model, x)
    header = stq.export(network, x, tmp_path / "model.h", format="c")
    assert np.array_equal(predictions(header, x), run(network, x).argmax(1))


CMSIS_NN = """
#include <stdint.h>
/* what CMSIS-NN's header says of the function, for matrices beside each other: adds lhs times transposed rhs to dst */
static void arm_nn_mat_mult_nt_t_s8_s32(const int8_t *lhs, const int8_t *rhs, int32_t *dst, int32_t lhs_rows,
    int32_t inner, int32_t rhs_rows, int32_t lhs_offset, int32_t stride)
{
    for (int i = 0; i < lhs_rows; i++)
        for (int j = 0; j < rhs_rows; j++)
            for (int k = 0; k < inner; k++)
                dst[(i * rhs_rows + j) * stride] += (lhs[i * inner + k] + lhs_offset) * rhs[j * inner + k];
}
"""


@pytest.mark.parametrize(("method", "bits"), [("dorefa", 8), ("pact", 1), ("lsq", 4), ("double_st", 8)])
def test_cmsis_nn_multiplies_the_same(method, bits, tmp_path):
    torch.manual_seed(0)
    model, x = calibrated(small_network(), (1, 8, 8), method, bits), torch.randn(64, 1, 8, 8)
    network = freeze(model, x)
    header = stq.export(network, x, tmp_path / "model.h", format="c", backend="cmsis_nn")
    (tmp_path / "arm_nnsupportfunctions.h").write_text(CMSIS_NN)
    program = built(tmp_path, header.with_suffix(".c"), flags=["-DSTQ_MAIN", f"-I{tmp_path}"])
    done = subprocess.run([program], input=x.numpy().tobytes(), capture_output=True, check=True)
    assert np.array_equal(np.array(done.stdout.split(), dtype=int), run(network, x).argmax(1))


@pytest.mark.parametrize(
    ("bits", "container", "dot"), [(3, 4, "stq_dot_4"), (1, 1, "stq_dot_ones"), (1, 2, "stq_dot_2")]
)
def test_weights_in_containers_and_bits_that_are_counted(bits, container, dot, tmp_path):
    torch.manual_seed(0)
    model, x = calibrated(small_network(), (1, 8, 8), "lsq", bits), torch.randn(64, 1, 8, 8)
    network = freeze(model, x)
    header = stq.export(network, x, tmp_path / "model.h", format="c", container=container)
    assert dot in header.with_suffix(".c").read_text()
    assert np.array_equal(predictions(header, x), run(network, x).argmax(1))


@pytest.mark.parametrize(
    ("method", "bits"), [("lsq", 1), ("lsq_plus", 2), ("double_st", 3), ("dorefa", 3), ("pact", 8)]
)
def test_packed_codes_are_the_same_and_take_less(method, bits, tmp_path):
    torch.manual_seed(0)
    model, x = calibrated(small_network(), (1, 8, 8), method, bits), torch.randn(64, 1, 8, 8)
    network = freeze(model, x)
    plain = stq.export(network, x, tmp_path / "plain.h", format="c")
    header = stq.export(network, x, tmp_path / "model.h", format="c", pack=True)
    assert np.array_equal(predictions(header, x), run(network, x).argmax(1))
    plain, packed = (int(re.search(r"static memory (\d+)", path.read_text())[1]) for path in (plain, header))
    assert packed < plain if bits < 8 else packed == plain


def test_packed_codes_of_pools_slices_and_concatenations(tmp_path):
    torch.manual_seed(0)
    network = awaken(timm.create_model("resnet8", num_classes=10)).eval()
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU(), nn.MaxPool2d(2), network)
    stq.quantize(model, "lsq", weight_bits=2, activation_bits=2, residual_bits=4)
    stq.calibrate(model, torch.randn(8, 3, 34, 34))
    x = torch.randn(16, 3, 34, 34)
    network = freeze(model.eval(), x)
    header = stq.export(network, x, tmp_path / "m.h", format="c", pack=True)
    assert "stq_put" in header.with_suffix(".c").read_text()
    assert np.array_equal(predictions(header, x), run(network, x).argmax(1))


PIXELS = stq.About(mean=(0.5,), std=(0.25,))


def without_float(network, size, folder):
    """Scores of 64 images of random pixels by C without floating point, and by the reference."""
    images = torch.randint(256, (64, *size), dtype=torch.uint8)
    x = (images / 255 - 0.5) / 0.25
    header = stq.export(network, x, folder / "model.h", format="c", about=PIXELS, float=False)
    source = header.with_suffix(".c").read_text()
    assert not re.search(r"float|double|[0-9]f\b", source)
    pixels, scores = math.prod(size), run(network, x)
    (folder / "main.c").write_text(
        '#include <stdio.h>\n#include "model.h"\nint main(void) {\n'
        f"static uint8_t pixels[{pixels}]; static int32_t scores[MODEL_OUTPUTS];\n"
        f"while (fread(pixels, 1, {pixels}, stdin) == {pixels}) {{ model_predict_pixels(pixels, scores);\n"
        'for (int i = 0; i < MODEL_OUTPUTS; i++) printf("%ld ", (long)scores[i]); } return 0; }\n'
    )
    program = built(folder, folder / "main.c", header.with_suffix(".c"))
    done = subprocess.run([program], input=images.numpy().tobytes(), capture_output=True, check=True)
    fraction = int(re.search(r"each times 2\^(\d+)", header.read_text())[1])
    return np.array(done.stdout.split(), dtype=int).reshape(scores.shape) / 2.0**fraction, scores.numpy()


@pytest.mark.parametrize("bits", [1, 3, 8])
@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("double_st", "double_st_dynamic")])
def test_without_floating_point_scores_are_the_same(method, bits, tmp_path):
    torch.manual_seed(0)
    network = freeze(calibrated(small_network(), (1, 8, 8), method, bits), torch.zeros(1, 1, 8, 8))
    found, scores = without_float(network, (1, 8, 8), tmp_path)
    close = np.abs(found - scores).max(1) < 1e-4 * np.abs(scores).max()
    assert close.sum() >= 60  # of 64; a code that was a tie behind the addition moves scores


def test_without_floating_point_hardswish_and_squeeze_and_excitation(tmp_path):
    torch.manual_seed(0)
    model = calibrated(awaken(timm.create_model("mobilenetv3_small_050", num_classes=10)), (3, 32, 32), "lsq", 4)
    found, scores = without_float(freeze(model, torch.zeros(1, 3, 32, 32)), (3, 32, 32), tmp_path)
    close = np.abs(found - scores).max(1) < 1e-3 * np.abs(scores).max()
    assert close.mean() > 0.8  # ties again


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.GELU(), nn.Conv2d(4, 2, 3)), r"'1' \(gelu\) needs floating point"),
        ("double_st", r"has a gate, which needs floating point: train double_st_frozen"),
    ],
)
def test_what_needs_floating_point_is_named(model, sentence, tmp_path):
    method = model if isinstance(model, str) else "lsq"
    model = calibrated(small_network() if isinstance(model, str) else model, (1, 8, 8), method, 3)
    with pytest.raises(InputError, match=sentence):
        stq.export(model, torch.zeros(1, 1, 8, 8), tmp_path / "m.h", format="c", about=PIXELS, float=False)


def test_depthwise_layers_whose_codes_have_an_offset(tmp_path):
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.ReLU6()]
    model = calibrated(nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 5)), (1, 4, 4), "lsq_plus", 4)
    model[2].input_quantizer.offset.data += 0.3
    x = torch.randn(200, 1, 4, 4)
    network = freeze(model, x)
    assert "offset_multiplier" in network["2"].arrays
    header = stq.export(network, x, tmp_path / "m.h", format="c")
    assert np.array_equal(predictions(header, x), run(network, x).argmax(1))


def test_rows_longer_than_16_bits_count_and_few_taps_of_one_channel(tmp_path):
    torch.manual_seed(0)
    long = nn.Sequential(nn.Conv2d(4096, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3, 4))
    few = nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU(), nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    for model, size, bits, pack in ((long, (4096, 3, 3), 8, False), (few, (1, 8, 8), 2, True)):
        network, x = freeze(calibrated(model, size, "lsq", bits), torch.zeros(1, *size)), torch.randn(8, *size)
        header = stq.export(network, x, tmp_path / "m.h", format="c", pack=pack)
        assert np.array_equal(predictions(header, x), run(network, x).argmax(1))
        assert ("stq_put" in header.with_suffix(".c").read_text()) is pack


def test_without_floating_point_large_values_of_hardswish_and_averages_of_padding(tmp_path):
    torch.manual_seed(0)
    first = nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.Hardswish(), nn.AvgPool2d(3, 2, padding=1)
    model = awaken(nn.Sequential(*first, nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5)))
    model[1].weight.data *= 30
    stq.quantize(model, "dorefa", weight_bits=4, activation_bits=4, first_last_bits=None)
    stq.calibrate(model, torch.randn(8, 1, 4, 4))
    found, scores = without_float(freeze(model.eval(), torch.zeros(1, 1, 4, 4)), (1, 4, 4), tmp_path)
    assert (np.abs(found - scores).max(1) < 1e-3 * np.abs(scores).max()).sum() >= 60


def test_pixels_of_signals_with_codes_by_channel(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6, 3))
    model = calibrated(model, (2, 4), "double_st_frozen", 3, first_last_bits=None)
    found, scores = without_float(freeze(model, torch.zeros(1, 2, 4)), (2, 4), tmp_path)
    assert (np.abs(found - scores).max(1) < 1e-4 * np.abs(scores).max()).sum() >= 60


@pytest.mark.parametrize(("between", "named"), [(nn.PixelShuffle(1), "pixel_shuffle"), (nn.Softmax(1), "softmax")])
def test_what_c_lacks_is_named(between, named, tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), between, nn.Conv2d(2, 2, 3))
    stq.quantize(model, "lsq", weight_bits=3, activation_bits=3)
    stq.calibrate(model, torch.randn(4, 1, 8, 8))
    with pytest.raises(InputError, match=rf"'1'? \(?.*{named}.*has no C form"):
        stq.export(model.eval(), torch.zeros(1, 1, 8, 8), tmp_path / "model.h", format="c")
