"""LSQ against brevitas' integer quantizer, where it is installed (pip install brevitas)."""

import math

import pytest
import torch

from .harness import activation, close, inputs, run

quant = pytest.importorskip("brevitas.core.quant.int_base", reason="needs brevitas")


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 8])
def test_codes_and_gradients_are_those_of_a_learned_scale(bits, signed):
    from brevitas.core.function_wrapper import Identity, RoundSte, TensorClamp

    x = inputs(signed=True)
    ours = activation("lsq", bits, signed=signed, batch=x).double()
    low, high = ours.low, ours.high
    step = ours.raw_step.detach()
    v = x / step
    # brevitas clips codes, LSQ values: between the last code and half a step behind it their gradients differ
    x = torch.where(((v >= high) & (v <= high + 0.5)) | ((v <= low) & (v >= low - 0.5)), 0.9 * step, x)
    y, upstream, dx, gradients = run(ours, x)

    theirs, scale = x.clone().requires_grad_(), step.clone().requires_grad_()
    parts = {"float_to_int_impl": RoundSte(), "tensor_clamp_impl": TensorClamp(), "input_view_impl": Identity()}
    integers = quant.IntQuant(narrow_range=False, signed=signed, **parts)
    result = integers(scale, torch.tensor(0.0), torch.tensor(float(bits)), theirs)
    result.backward(torch.as_tensor(upstream))
    close(y, result.detach(), 1e-12)
    close(dx, theirs.grad, 1e-12)
    close(gradients["raw_step"], scale.grad / math.sqrt(x[0].numel() * high), 1e-9)
