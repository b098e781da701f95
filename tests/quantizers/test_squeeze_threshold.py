"""Single- and double-stage ST against the equations, written plainly with the parameters of the attention blocks."""

import math

import pytest
import torch

from .harness import CHANNELS, activation, close, inputs, run

STAGES = {"st": ("range_gate",), "double_st": ("range_gate", "threshold_gate")}


def awake(method, bits, signed, x, **settings):
    """Calibrated, in double precision, with attention that differs between samples and channels."""
    quantizer = activation(method, bits, signed, x, **settings).double()
    with torch.no_grad():
        for name in STAGES[method]:
            for p in getattr(quantizer, name).parameters():
                p.copy_(torch.randn_like(p) * 0.4)
    return quantizer


def straight_through_round(v):
    return v + (v.round() - v).detach()


def mlp(parameters, name, z):
    w1, b1, w2, b2 = (parameters[f"{name}.{p}"] for p in ("0.weight", "0.bias", "2.weight", "2.bias"))
    return (z @ w1.T + b1).clamp(min=0) @ w2.T + b2


def st(x, s, parameters, bits, signed, mix=0.0, t_max=1.0, fixed=None):
    """y, g, t of x (N, C, H, W); ``parameters`` by name, t = 0 without a second block; fixed: (g, t) of inference."""
    levels = 2**bits - 1
    low, high = (-(2 ** (bits - 1)), max(1, 2 ** (bits - 1) - 1)) if signed else (0, levels)
    if fixed is None:
        z1 = x.mean((2, 3))
        z1 = z1 / (z1.abs().mean(1, keepdim=True) + 1e-6)  # the plain mean over channels where x is non-negative
        g = 2 / (1 + torch.exp(-mlp(parameters, "range_gate", z1)))
        g = (1 - mix) * g + mix * g.mean(0)
    else:
        g = fixed[0].expand(len(x), -1)
    v = g[:, :, None, None] * x / s
    if fixed is not None:
        t = fixed[1].expand(len(x), -1)
    elif "threshold_gate.0.weight" in parameters:
        z2 = v.clamp(low, high).mean((2, 3)) / levels
        t = t_max * torch.tanh(mlp(parameters, "threshold_gate", z2))
        t = (1 - mix) * t + mix * t.mean(0)
    else:
        t = torch.zeros_like(g)
    u = v - t[:, :, None, None]
    if signed and bits == 1:
        clipped = u.clamp(-1, 1)
        q = clipped + (torch.where(u >= 0, 1.0, -1.0) - clipped).detach()
    else:
        q = straight_through_round(u.clamp(low, high))
    return s * q, g, t


def leaves(quantizer):
    return {name: p.detach().clone().requires_grad_() for name, p in quantizer.named_parameters()}


@pytest.mark.parametrize("mix", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("bits", "signed"), [(1, False), (1, True), (3, False), (3, True)])
@pytest.mark.parametrize("method", STAGES)
def test_forward_and_all_gradients_follow_the_equations(method, bits, signed, mix):
    x = inputs(signed)
    quantizer = awake(method, bits, signed, x, anneal=0.7)
    quantizer.set_progress(0.7 * mix)
    parameters = leaves(quantizer)
    expected_x = x.clone().requires_grad_()
    expected, g, _ = st(expected_x, parameters["raw_step"], parameters, bits, signed, mix)

    y, upstream, dx, gradients = run(quantizer, x)
    expected.backward(torch.as_tensor(upstream))
    high = max(1, 2 ** (bits - 1) - 1) if signed else 2**bits - 1
    parameters["raw_step"].grad /= math.sqrt(x[0].numel() * high)

    assert mix == 1 or g.std(0).min() > 1e-3  # the samples do differ
    close(y, expected.detach(), 1e-6)
    close(dx, expected_x.grad, 1e-6)
    assert gradients.keys() == parameters.keys()
    for name, gradient in gradients.items():
        close(gradient, parameters[name].grad, 1e-6)
        assert gradient.abs().max() > 0


@pytest.mark.parametrize("method", STAGES)
def test_running_means_follow_the_batch_means_and_are_what_evaluation_uses(method):
    x = inputs(signed=False)
    quantizer = awake(method, 3, False, x, momentum=0.1)
    gain, threshold = torch.ones(CHANNELS).double(), torch.zeros(CHANNELS).double()
    for _ in range(3):
        batch = inputs(signed=False)
        quantizer(batch)
        parameters = leaves(quantizer)
        _, g, t = st(batch, parameters["raw_step"], parameters, 3, False)
        gain, threshold = 0.9 * gain + 0.1 * g.mean(0), 0.9 * threshold + 0.1 * t.mean(0)
    close(quantizer.running_gain, gain.detach(), 1e-6)
    close(quantizer.running_threshold, threshold.detach(), 1e-6)

    quantizer.eval()
    expected, _, _ = st(x, parameters["raw_step"], parameters, 3, False, fixed=(gain, threshold))
    close(quantizer(x).detach(), expected.detach(), 1e-6)
    close(quantizer.running_gain, gain.detach(), 1e-6)  # evaluation does not move them

    # comparators: code i where x crosses s (i - 1/2 + t_c) / g_c
    i = torch.arange(1, 8).double()
    close(
        quantizer.record().thresholds(),
        (parameters["raw_step"] * (i - 0.5 + threshold[:, None]) / gain[:, None]).detach(),
        1e-6,
    )


def test_the_default_momentum_is_two_hundredths():
    x = inputs(signed=False)
    quantizer = awake("double_st", 3, False, x)
    parameters = leaves(quantizer)
    _, g, _ = st(x, parameters["raw_step"], parameters, 3, False)
    quantizer(x)
    close(quantizer.running_gain, (0.98 + 0.02 * g.mean(0)).detach(), 1e-6)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [1, 3, 8])
@pytest.mark.parametrize("method", STAGES)
def test_training_starts_exactly_at_lsq(method, bits, signed):
    x = inputs(signed).float()
    attention, plain = activation(method, bits, signed, x), activation("lsq", bits, signed, x)
    torch.manual_seed(1)
    y, _, dx, gradients = run(attention, x)
    torch.manual_seed(1)
    expected, _, expected_dx, expected_gradients = run(plain, x)
    close(y, expected, 0)
    close(dx, expected_dx, 0)
    close(gradients["raw_step"], expected_gradients["raw_step"], 1e-6)
    close(attention.eval()(x).detach(), plain.eval()(x).detach(), 0)


def test_annealing_rises_linearly_over_the_first_part_of_training_and_stays():
    quantizer = activation("double_st", 3, anneal=0.5)
    shares = []
    for fraction in (0.0, 0.125, 0.25, 0.5, 1.0):
        quantizer.set_progress(fraction)
        shares.append(quantizer.mix.item())
    assert shares == [0.0, 0.25, 0.5, 1.0, 1.0]
    never = activation("double_st", 3, anneal=0.0)
    never.set_progress(1.0)
    assert never.mix == 0


def test_the_hidden_width_is_channels_over_reduction_and_at_least_eight():
    widths = [
        activation("double_st", 3, channels=channels, reduction=reduction).range_gate.get_submodule("0").out_features
        for channels, reduction in ((64, 4), (64, 2), (16, 4))
    ]
    assert widths == [16, 32, 8]


@pytest.mark.parametrize(
    ("squeeze", "statistics"),
    [("mean", (-2.0, 1.0)), ("abs", (3.5, 1.0)), ("max", (3.0, 1.0)), ("rms", (math.sqrt(13.5), 1.0))],
)
def test_each_squeeze_reaches_the_attention_divided_by_its_mean_magnitude(squeeze, statistics):
    x = torch.tensor([[3.0, -4.0, -2.0, -5.0], [1.0, 1.0, 1.0, 1.0]]).double().reshape(1, 2, 2, 2)
    quantizer = activation("double_st", 3, True, x, channels=2, squeeze=squeeze).double()
    seen = []
    quantizer.range_gate.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    quantizer(x)
    statistics = torch.tensor([statistics]).double()
    close(seen[0], statistics / statistics.abs().mean(), 1e-5)


@pytest.mark.parametrize(
    ("axis", "from_image"),
    [
        (-1, lambda x: x.movedim(1, -1)),  # (N, H, W, C), ConvNeXt
        (-1, lambda x: x.movedim(1, -1).flatten(1, 2)),  # (N, T, C), ViT
        (-2, lambda x: x.flatten(2)),  # (N, C, L), Conv1d
    ],
)
def test_layouts_of_linear_and_conv1d_give_what_the_image_gives(axis, from_image):
    x = inputs(signed=True)
    image = awake("double_st", 3, True, x)
    other = activation("double_st", 3, True, from_image(x), axis=axis).double()
    other.load_state_dict(image.state_dict())
    close(other(from_image(x)).detach(), from_image(image(x).detach()))
    close(other.running_threshold, image.running_threshold)
    close(other.eval()(from_image(x)).detach(), from_image(image.eval()(x).detach()))


def test_attend_tells_gain_and_threshold_of_each_sample():
    x = inputs(signed=True)
    quantizer = awake("double_st", 3, True, x)
    quantizer.set_progress(1.0)  # annealing does not change what the attention says
    _, gain, threshold = st(x, quantizer.raw_step.detach(), leaves(quantizer), 3, True)
    for found, expected in zip(quantizer.attend(x), (gain, threshold), strict=True):
        close(found.detach(), expected.detach(), 1e-6)
        assert found.std(0).min() > 1e-3


def test_a_linear_input_without_positions_is_one_position():
    x = inputs(signed=True, shape=(6, CHANNELS))
    flat = activation("double_st", 3, True, x, axis=-1).double()
    image = awake("double_st", 3, True, x[:, :, None, None])
    flat.load_state_dict(image.state_dict())
    close(flat(x).detach(), image(x[:, :, None, None]).detach()[:, :, 0, 0])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"inference": "frozen"}, "inference='frozen' must be"),
        ({"squeeze": "median"}, "squeeze='median' must be one of"),
        ({"momentum": 0}, "momentum=0 must be"),
        ({"reduction": 0}, "reduction=0 must be"),
        ({"anneal": 1.5}, "anneal=1.5 must be"),
        ({"t_max": -1}, "t_max=-1 must be"),
        ({"attention_lr_factor": float("nan")}, "attention_lr_factor=nan must be"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        activation("double_st", 3, **setting)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 3])
def test_learned_intervals_have_their_thresholds_in_the_middle_of_the_segments(bits, signed):
    x = inputs(signed)
    quantizer = awake("double_st", bits, signed, x, intervals=True, momentum=1.0)
    uniform = awake("double_st", bits, signed, x)
    uniform.load_state_dict(quantizer.state_dict(), strict=False)
    close(quantizer(x).detach(), uniform(x).detach(), 1e-6)  # all widths are one step at the start
    if bits == 1 and signed:
        return  # one comparator: there is no interval
    with torch.no_grad():
        quantizer.raw_widths.copy_(torch.rand(2**bits - 1) + 0.5)
    quantizer.set_progress(1.0)
    y, upstream, _, gradients = run(quantizer, x)
    s, low = quantizer.raw_step.item(), -(2 ** (bits - 1)) if signed else 0
    ends = torch.cat([torch.zeros(1), quantizer.raw_widths.detach().cumsum(0)]).double() + low
    thresholds = (ends[1:] + ends[:-1]) / 2
    g, t = (b[:, None, None].double() for b in (quantizer.running_gain, quantizer.running_threshold))
    u = g * x / s - t
    expected = s * (low + (u[..., None] > thresholds).sum(-1))
    close(y, expected, 1e-6)
    close(quantizer.eval()(x).detach(), expected, 1e-6)
    widths = quantizer.raw_widths.detach().double().requires_grad_()
    ends = torch.cat([torch.zeros(1), widths.cumsum(0)]).double() + low
    surrogate = sum(((u - ends[i]) / widths[i]).clamp(0, 1) for i in range(2**bits - 1))
    (s * surrogate * torch.as_tensor(upstream)).sum().backward()
    high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    close(gradients["raw_widths"], widths.grad / math.sqrt(x[0].numel() * high), 1e-6)


def test_learned_intervals_have_no_static_record_yet():
    with pytest.raises(ValueError, match="intervals=True has no static record yet"):
        activation("double_st", 3, batch=inputs(False), intervals=True).record()


def test_standardized_squeeze_has_no_mean_and_unit_deviation_over_the_samples():
    batches = [inputs(False, (200, CHANNELS, 4, 4), 1 + torch.rand(200, CHANNELS, 1, 1)) for _ in range(3)]
    quantizer = awake("double_st", 3, False, batches[0], standardize=True, momentum=0.01, inference="dynamic")
    for batch in batches:
        quantizer(batch)
    means = torch.cat(batches).mean((2, 3)).numpy()
    squeezed = means / means.mean(1, keepdims=True)
    close(quantizer.range_standard.mean, squeezed.mean(0), 1e-4)
    close(quantizer.range_standard.variance, squeezed.var(0), 0.05)  # each batch about its own mean
    z = (squeezed[:200] - quantizer.range_standard.mean.numpy()) / quantizer.range_standard.variance.sqrt().numpy()
    parameters = {name: p.detach() for name, p in quantizer.named_parameters()}
    gain = 2 * torch.sigmoid(mlp(parameters, "range_gate", torch.as_tensor(z).clamp(-3, 3)))
    x = batches[0]
    levels = quantizer.eval()(x).float() / quantizer.raw_step.detach()
    close(quantizer._gain(x).detach(), gain, 1e-6)
    assert levels.unique().numel() == 8
