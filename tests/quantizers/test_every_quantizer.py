"""What holds for every registered quantizer, whatever the method: records, layouts, precisions, NaN, learning rates."""

import math

import pytest
import torch

from stq.quantizers import get_method

from .harness import CHANNELS, METHODS, WEIGHT_METHODS, activation, inputs, weights

ATTENTION = [name for name in METHODS if "running_gain" in dict(activation(name, 3).named_buffers())]


def trained(method, bits, signed, x):
    """Calibrated, with every parameter away from its start, and the running means those of ``x`` (double precision)."""
    settings = {"momentum": 1.0} if method in ATTENTION else {}
    quantizer = activation(method, bits, signed, x, **settings).double()
    quantizer.set_progress(1.0)
    with torch.no_grad():
        for p in quantizer.parameters():
            p += 0.2 * torch.randn_like(p) if p.dim() else 0.2 * p
    quantizer(x)
    return quantizer


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bits", range(1, 9))
def test_static_record_gives_the_codes_of_the_module(method, bits, signed):
    x = inputs(signed, shape=(8, CHANNELS, 6, 6))
    quantizer = trained(method, bits, signed, x)
    formula = quantizer(x)  # the training arithmetic; annealed to its end it is that of inference
    record = quantizer.eval().record()
    code = record.encode(x)
    assert torch.equal(quantizer(x), record.decode(code))
    assert torch.equal(quantizer(x), record.fake_quantize(x))
    apart = (formula - quantizer(x)).abs() > 1e-3 * record.scale
    assert apart.float().mean() < 0.005  # the record is in single precision, so an input on a threshold may differ

    assert record.low <= code.min()
    assert code.max() <= record.high
    assert record.high - record.low < 2**bits
    assert record.gain.shape in ((), (CHANNELS,))
    assert record.scale.shape == record.offset.shape == ()


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bits", range(1, 9))
def test_thresholds_are_where_the_codes_step(method, bits, signed):
    quantizer = trained(method, bits, signed, inputs(signed, shape=(8, CHANNELS, 6, 6))).eval()
    record = quantizer.float().record()
    thresholds = record.thresholds().expand(CHANNELS, -1)
    assert thresholds.shape[1] == record.high - record.low
    assert (thresholds.diff() > 0).all()
    # between two thresholds lies one code: probe a thousandth of an interval on either side of each
    step = 1e-3 * (thresholds.diff().min() if thresholds.shape[1] > 1 else thresholds.abs().max() + record.scale)
    upper = torch.arange(record.low + 1, record.high + 1)[None, :, None, None]

    def codes_at(x):
        return record.encode(x.reshape(1, CHANNELS, -1, 1)).movedim(1, 2)

    assert torch.equal(codes_at(thresholds + step), upper.expand(1, -1, CHANNELS, 1).to(torch.int32))
    assert torch.equal(codes_at(thresholds - step), upper.expand(1, -1, CHANNELS, 1).to(torch.int32) - 1)


@pytest.mark.parametrize(
    ("method", "settings"), [*((name, {}) for name in WEIGHT_METHODS), ("lsq", {"per_channel": True})]
)
@pytest.mark.parametrize("bits", range(1, 9))
def test_weight_record_decodes_to_the_weight_in_use(method, settings, bits):
    w = torch.randn(16, 8, 3, 3) * torch.logspace(-1, 0, 16).reshape(-1, 1, 1, 1)
    quantizer = weights(method, bits, w, **settings)
    record = quantizer.record(w)
    assert torch.equal(record.decode(), quantizer.eval()(w))
    assert torch.equal(record.decode(), quantizer.train()(w))
    assert record.scale.shape == ((16,) if settings else ())
    assert record.codes.dtype == torch.int32
    assert record.low <= record.codes.min()
    assert record.codes.max() <= record.high
    assert not ((record.codes - record.low) % record.stride).any()
    assert (record.high - record.low) // record.stride < 2**bits


@pytest.mark.parametrize("method", METHODS)
def test_memory_layouts_and_missing_batch_dimension_change_nothing(method):
    x = inputs(signed=True).float()
    for training in (False, True):
        quantizer = activation(method, 3, True, x).train(training)
        y = quantizer(x)
        last = quantizer(x.to(memory_format=torch.channels_last))
        assert torch.equal(last, y)
        assert last.is_contiguous(memory_format=torch.channels_last)
        strided = torch.stack([x, x], -1).flatten(-2)[..., ::2]
        assert not strided.is_contiguous()
        assert torch.equal(quantizer(strided), y)
        one = quantizer(x[:1])
        assert one.shape == x[:1].shape
        assert torch.equal(quantizer(x[0]), one[0])


@pytest.mark.parametrize(("axis", "shape"), [(-1, (5, CHANNELS)), (-1, (2, 7, CHANNELS)), (-2, (2, CHANNELS, 7))])
@pytest.mark.parametrize("method", METHODS)
def test_linear_and_conv1d_inputs(method, axis, shape):
    x = inputs(signed=True, shape=shape).float()
    quantizer = activation(method, 3, True, x, axis=axis)
    y = quantizer(x)
    assert y.shape == shape
    assert len(y.unique()) <= 8
    assert torch.allclose(quantizer.eval()(x), y)  # where training starts, training and evaluation agree
    assert quantizer(x[0]).shape == shape[1:]


@pytest.mark.parametrize("signed", [None, False, True])
@pytest.mark.parametrize("bits", [1, 3])
@pytest.mark.parametrize("x", [torch.zeros(2, 1, 3, 3), torch.full((1, 1, 1, 1), 0.7)], ids=["zeros", "one"])
@pytest.mark.parametrize("method", METHODS)
def test_all_zeros_and_a_single_element_are_finite_in_both_passes(method, x, bits, signed):
    quantizer = activation(method, bits, signed, x, channels=1)
    x = x.clone().requires_grad_()
    y = quantizer(x)
    y.sum().backward()
    gradients = [x.grad, *(p.grad for p in quantizer.parameters() if p.grad is not None)]
    assert all(torch.isfinite(g).all() for g in (y, quantizer.eval()(x), *gradients))
    if not x.any() and not quantizer.binary:
        assert not y.any()


@pytest.mark.parametrize("bits", [1, 2, 8])
@pytest.mark.parametrize("w", [torch.zeros(3, 2), torch.full((1, 1), -0.3)], ids=["zeros", "one"])
@pytest.mark.parametrize("method", WEIGHT_METHODS)
def test_weights_all_zero_or_of_one_element_are_finite_in_both_passes(method, w, bits):
    quantizer = weights(method, bits, w)
    w = w.clone().requires_grad_()
    y = quantizer(w)
    y.sum().backward()
    assert torch.isfinite(y).all()
    assert torch.isfinite(w.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_half_precision_in_and_out_is_computed_in_single_precision(method, dtype):
    x = inputs(signed=True).to(dtype)
    for training in (False, True):
        quantizer = activation(method, 3, True, x).train(training)
        assert quantizer(x).dtype == dtype
        assert torch.equal(quantizer(x), quantizer(x.float()).to(dtype))
        y = quantizer.to(torch.bfloat16)(x)  # the whole model in half precision
        assert y.dtype == dtype
        assert torch.isfinite(y).all()


@pytest.mark.parametrize("method", METHODS)
def test_autocast_changes_no_code(method):
    x = inputs(signed=False)
    quantizer = trained(method, 8, False, x).float()
    x = x.float()
    expected = quantizer(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer(x), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", WEIGHT_METHODS)
def test_half_precision_weights(method, dtype):
    w = torch.randn(4, 8).to(dtype)
    for bits in (1, 4):
        quantizer = weights(method, bits, w)
        assert quantizer(w).dtype == dtype
        assert torch.equal(quantizer(w), quantizer(w.float()).to(dtype))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [1, 4])
@pytest.mark.parametrize("method", METHODS)
def test_nan_in_the_input_stays_nan_and_has_no_code(method, bits, signed):
    x = inputs(signed).float()
    quantizer = activation(method, bits, signed, x)
    x[0, 1, 2, 3] = math.nan
    for training in (True, False):
        assert quantizer.train(training)(x)[0, 1, 2, 3].isnan()
    with pytest.raises(ValueError, match="NaN"):
        quantizer.record().encode(x)
    with pytest.raises(ValueError, match="NaN"):
        quantizer.calibrate(x)


@pytest.mark.parametrize("bits", [1, 4])
@pytest.mark.parametrize("method", WEIGHT_METHODS)
def test_nan_in_a_weight_stays_nan_and_has_no_code(method, bits):
    w = torch.randn(4, 8)
    quantizer = weights(method, bits, w)
    w[1, 2] = math.nan
    assert quantizer(w)[1, 2].isnan()
    with pytest.raises(ValueError, match="NaN"):
        quantizer.record(w)
    with pytest.raises(ValueError, match="NaN"):
        quantizer.calibrate(w)


def test_bits_out_of_range_and_use_before_calibration_are_refused():
    for bits in (0, 9, True, 2.0, "3"):
        with pytest.raises(ValueError, match="is not a bit width: use 1 to 8"):
            activation("lsq", bits)
    with pytest.raises(ValueError, match="leave the layer alone for float"):
        activation("lsq", 32)
    with pytest.raises(RuntimeError, match=r"not calibrated: call stq\.calibrate"):
        activation("lsq", 3)(torch.ones(1, CHANNELS, 2, 2))


@pytest.mark.parametrize("method", METHODS)
def test_calibration_finds_signedness_unless_it_is_given(method):
    positive, negative = torch.rand(2, CHANNELS, 3, 3), torch.randn(2, CHANNELS, 3, 3)
    for given, batch, expected in (
        (None, positive, False),
        (None, negative, True),
        (True, positive, True),
        (False, negative, False),
    ):
        quantizer = get_method(method).activation(bits=3, channels=CHANNELS, signed=given)
        quantizer.calibrate(batch)
        assert quantizer.signed is expected
