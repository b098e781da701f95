"""Loops in C: the values of torch bit by bit, the gradients of autograd in double precision."""

import pytest
import torch

from stq.quantizers import native
from stq.quantizers.dorefa import largest_tanh, weight_through_tanh
from stq.quantizers.fused import set_kernels
from stq.quantizers.lsq import rounded_to_steps, weight_to_steps
from stq.quantizers.squeeze_threshold import mean_of_clipped, rounded_at_thresholds

pytestmark = pytest.mark.skipif(native.compiler() is None, reason="no C compiler")

SHAPES = [(6, 5, 7, 3), (2, 3), (40, 16, 8, 9), (3, 70, 2), (3, 4, 40, 40), (5, 300, 3, 3), (6, 4, 1, 1)]


def operands(shape, layout=torch.contiguous_format):
    x = torch.randn(shape)
    x = x.to(memory_format=layout) if x.dim() == 4 else x
    per_sample = torch.rand(*shape[:2], *(1,) * (len(shape) - 2)) + 1
    return x, per_sample, per_sample - 1.5, torch.tensor(0.37)


def by_autograd(function, arguments, gradient):
    """Gradients of all tensors among the arguments, in double precision."""
    given = [a.double().requires_grad_() if isinstance(a, torch.Tensor) else a for a in arguments]
    tensors = [a for a in given if isinstance(a, torch.Tensor)]
    return torch.autograd.grad(function(*given), tensors, gradient.double())


def near(found, expected):
    scale = expected.abs().max().clamp(min=1)
    return found.shape == expected.shape and ((found - expected).abs().max() / scale) < 1e-5


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients(shape, layout):
    torch.manual_seed(0)
    x, ratio, shift, step = operands(shape, layout)
    cases = [
        (rounded_to_steps, (x, step, -4, 3)),
        (weight_to_steps, (x, torch.rand(shape[0], *(1,) * (len(shape) - 1)) + 0.1, -4, 3)),
        (rounded_at_thresholds, (x, ratio, shift, step, 0, 7, False)),
        (rounded_at_thresholds, (x, ratio, shift, step, -1, 1, True)),
    ]
    for kernel, arguments in cases:
        expected = kernel.function(*arguments)
        found = native.value(kernel.elementwise, arguments, False)
        assert torch.equal(found, expected)
        assert found.stride() == x.stride()
        gradient = torch.randn_like(x)
        wanted = [place for place, value in enumerate(arguments) if isinstance(value, torch.Tensor)]
        exact = by_autograd(kernel.function, arguments, gradient)
        for spent in (False, True):
            held = gradient.clone(memory_format=torch.preserve_format)
            got = native.gradients(kernel.elementwise, held, wanted, arguments, spent)
            assert all(near(one, other) for one, other in zip(got, exact, strict=True))
            assert spent or torch.equal(held, gradient)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if len(shape) == 4])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_bfloat16_is_read_and_written_and_computed_with_in_float32(shape, layout):
    torch.manual_seed(0)
    x, ratio, shift, step = operands(shape, layout)
    x[0, 0, 0], x[0, 1, 0] = float("nan"), float("inf")
    for wide, arguments in ((x, (ratio, shift, step, 0, 7, False)), (x.bfloat16(), (ratio, shift, step, 0, 7, False))):
        function = rounded_at_thresholds.elementwise
        expected = function(wide.float(), *arguments)
        assert torch.equal(native.value(function, (wide, *arguments), False).nan_to_num(9), expected.nan_to_num(9))
        found = native.value(function, (wide, *arguments), False, torch.bfloat16)
        assert torch.equal(found.nan_to_num(9), expected.bfloat16().nan_to_num(9))
    x = torch.randn_like(x).bfloat16()
    arguments, gradient = (ratio, shift, step, 0, 7, False), torch.randn_like(x)
    exact = by_autograd(function, (x.float(), *arguments), gradient)
    for spent in (False, True):
        of_x, *others = native.gradients(function, gradient.clone(), [0, 1, 2, 3], (x, *arguments), spent)
        assert of_x.dtype == torch.bfloat16
        assert ((of_x - exact[0]).abs() <= exact[0].abs() / 256).all()
        assert all(near(one, other) for one, other in zip(others, exact[1:], strict=True))
    of_other_layout = gradient.float().contiguous(memory_format=torch.channels_last)
    got = native.gradients(function, of_other_layout, [3], (x, *arguments), False)
    assert near(got[0], by_autograd(function, (x.float(), *arguments), of_other_layout)[3])
    found = native.value(mean_of_clipped.elementwise, (x, ratio, 0, 7), True, torch.bfloat16)
    assert torch.equal(found, native.value(mean_of_clipped.elementwise, (x, ratio, 0, 7), True).bfloat16())
    weight = torch.randn(shape)  # float32, its gradient comes from a layer in bfloat16
    got = native.gradients(weight_to_steps.elementwise, gradient, [0, 1], (weight, step, -4, 3), True)
    exact = by_autograd(weight_to_steps.function, (weight, step, -4, 3), gradient)
    assert all(near(one, other) for one, other in zip(got, exact, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_through_tanh(dtype):
    torch.manual_seed(0)
    weight = torch.cat([torch.randn(40, 3, 3, 3), torch.linspace(-20, 20, 270).reshape(10, 3, 3, 3)]).to(dtype)
    for arguments in ((weight, largest_tanh(weight), 7), (weight, torch.tensor(0.7, dtype=dtype), 255)):
        expected = weight_through_tanh.function(*arguments)
        found = native.value(weight_through_tanh.elementwise, arguments, False)
        assert (found != expected).float().mean() < 0.01  # a tie may be another code: tanh is within 4 roundings
        gradient = torch.randn_like(weight)
        got = native.gradients(weight_through_tanh.elementwise, gradient, (0, 1), arguments, False)
        exact = by_autograd(weight_through_tanh.function, arguments, gradient)
        assert all(near(one, other) for one, other in zip(got, exact, strict=True))


def test_the_largest_magnitude_and_its_gradient():
    for weight in (torch.randn(4, 3, 3, 3), torch.tensor([[0.5, -2.0], [2.0, 1.0]]), torch.zeros(2, 2)):
        found = []
        for mode in ("plain", "lean"):
            set_kernels(mode)
            w = weight.clone().requires_grad_()
            (3 * largest_tanh(w)).backward()
            found.append((largest_tanh(w), w.grad))
        set_kernels("plain")
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("ends", [(0, 1), (-1, 1), (-2, 1), (0, 3), (-1, 0), (0, 255)])
def test_ends_that_an_operation_has_by_default(ends):
    """Traced operations leave out arguments that are their defaults: those of hardtanh are -1 and 1."""
    torch.manual_seed(0)
    x, ratio, shift, step = operands((6, 5, 7, 3))
    for kernel, arguments in (
        (rounded_to_steps, (x, step, *ends)),
        (weight_to_steps, (x, step, *ends)),
        (rounded_at_thresholds, (x, ratio, shift, step, *ends, False)),
    ):
        assert torch.equal(native.value(kernel.elementwise, arguments, False), kernel.function(*arguments))
        gradient = torch.randn_like(x)
        wanted = [place for place, value in enumerate(arguments) if isinstance(value, torch.Tensor)]
        got = native.gradients(kernel.elementwise, gradient, wanted, arguments, False)
        exact = by_autograd(kernel.function, arguments, gradient)
        assert all(near(one, other) for one, other in zip(got, exact, strict=True))
    found = native.value(mean_of_clipped.elementwise, (x, ratio, *ends), True)
    assert near(found, mean_of_clipped.function(x.double(), ratio.double(), *ends))


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if len(shape) > 2])
def test_mean_over_positions(shape):
    torch.manual_seed(0)
    x, ratio, _, _ = operands(shape)
    found = native.value(mean_of_clipped.elementwise, (x, ratio, 0, 7), True)
    assert near(found, mean_of_clipped.function(x.double(), ratio.double(), 0, 7))
    gradient = torch.randn(shape[:2])
    whole = mean_of_clipped._of_elements(gradient, x)
    got = native.gradients(mean_of_clipped.elementwise, whole, [0, 1], (x, ratio, 0, 7), False)
    exact = by_autograd(mean_of_clipped.function, (x, ratio, 0, 7), gradient)
    assert all(near(one, other) for one, other in zip(got, exact, strict=True))


def test_threads_make_no_difference():
    torch.manual_seed(0)
    x, step, gradient = torch.randn(100_003), torch.tensor(0.2), torch.randn(100_003)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            value = native.value(rounded_to_steps.elementwise, (x, step, 0, 7), False)
            found.append(
                (value, *native.gradients(rounded_to_steps.elementwise, gradient, [0, 1], (x, step, 0, 7), False))
            )
    finally:
        torch.set_num_threads(before)
    (one, gx, gs), (two, hx, hs) = found
    assert torch.equal(one, two)
    assert torch.equal(gx, hx)
    assert near(gs, hs)


def test_nan_and_infinity_are_torchs():
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.5, -0.0])
    arguments = (x, torch.tensor(0.5), 0, 7)
    found = native.value(rounded_to_steps.elementwise, arguments, False)
    assert torch.equal(found.nan_to_num(9.0), rounded_to_steps.function(*arguments).nan_to_num(9.0))
    assert found.isnan().sum() == 1


def test_what_has_no_loop_is_told():
    x = torch.randn(4, 3)
    assert native.value(lambda x: x - x.max(), (x,), False) is None  # not of one element alone
    assert native.value(torch.erfinv, (x,), False) is None
    assert native.value(rounded_to_steps.elementwise, (x.half(), torch.tensor(0.5).half(), 0, 7), False) is None
    assert (
        native.value(rounded_to_steps.elementwise, (torch.randn(4, 4)[:, ::2], torch.tensor(0.5), 0, 7), False) is None
    )
