"""Training of a quantized layer in the memory of a float one: what the quantizers make is not kept, but made again.

A float layer keeps its input and its weight until its backward pass. Here the same two are kept, from which the
quantized ones are computed in the backward pass as they were in the forward pass, by the quantizers' own code. So
gradients are those of that code, bit by bit, for every method and for one's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..quantizers import ActivationQuantizer
from ..quantizers.base import own_kernel, recomputing
from ..quantizers.fused import Kernel, is_transformed, keep, kept, wide


class KernelLayer(torch.autograd.Function):
    """A layer whose quantizers are kernels (see ``quantizers.fused``): both of them and the layer in one operation."""

    @staticmethod
    def forward(ctx, layer: nn.Module, both: tuple[Kernel, Kernel], counts: int, *values: Any) -> Tensor:
        """values: x, weight, bias, then the ``counts`` arguments of the input's kernel, then those of the weight's."""
        ctx.layer, ctx.kernels, ctx.counts = layer, both, counts
        keep(ctx, values)
        x, _, bias = values[:3]
        ctx.dtype = _layer_type(x)
        operand, rounded = _operands(ctx, values)
        return _layer(layer, operand, rounded, None if bias is None else bias.to(ctx.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values = kept(ctx)
        wanted = [place for place in ctx.places if ctx.needs_input_grad[place + 3]]
        of_x = [0, *range(3, 3 + ctx.counts)]  # the places of each kernel's arguments among the values
        of_weight = [1, *range(3 + ctx.counts, len(values))]
        operand, rounded = _operands(ctx, values)
        results: list[Tensor | None] = [None] * (len(values) + 3)
        with _exact(gradient):
            gradient = gradient.to(ctx.dtype)
            alone = _step_alone(ctx, values, of_x, wanted, gradient, rounded)
            if alone is not None:
                results[alone[0] + 3] = alone[1]
                wanted.remove(alone[0])
            needs = (*(any(place in wanted for place in places) for places in (of_x, of_weight)), 2 in wanted)
            found = _through_layer(ctx.layer, gradient, operand, rounded, needs)
        del operand, rounded
        if 2 in wanted:
            results[5] = found[2].to(values[2].dtype)
        for kernel, places, of in zip(ctx.kernels, (of_x, of_weight), found, strict=False):
            mine = [index for index, place in enumerate(places) if place in wanted]
            if not mine:
                continue
            given = [values[place] for place in places]
            got = kernel.gradients(of, mine, given, spent=True)
            for index, value in zip(mine, got, strict=True):
                results[places[index] + 3] = value
        return tuple(results)


def _step_alone(
    ctx, values: Sequence[Any], of_x: Sequence[int], wanted: Sequence[int], gradient: Tensor, weight: Tensor
) -> tuple[int, Tensor] | None:
    """(place, gradient) of the one number that the input's kernel learns, where the input itself needs no gradient.

    So it is in a first layer, whose gradient to its input takes several times as long as one to its weight. The layer
    is linear in its input: with d the derivative of the operand to the number, <g, layer(d, w)> = <w, gradient to w of
    a layer whose operand is d>.
    """
    mine = [place for place in of_x if place in wanted]
    if len(mine) != 1 or mine[0] == 0 or values[mine[0]].dim() > 0:
        return None
    derivative = ctx.kernels[0].derivative(of_x.index(mine[0]), [values[place] for place in of_x], ctx.dtype)
    if derivative is None:
        return None
    of_weight = _through_layer(ctx.layer, gradient, derivative, weight, (False, True, False))[1]
    return mine[0], (wide(of_weight) * wide(weight)).sum().to(values[mine[0]].dtype)


def _operands(ctx, values: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """The quantized input and weight."""
    (of_x, of_weight), end = ctx.kernels, 3 + ctx.counts
    with torch.no_grad(), _exact(values[0]):
        operand = of_x.value(values[0], *values[3:end], dtype=ctx.dtype)
        return operand, of_weight.value(values[1], *values[end:], dtype=ctx.dtype)


def _layer_type(x: Tensor) -> torch.dtype:
    """In which the layer computes; autocast leaves float64."""
    kind = x.device.type
    cast = torch.is_autocast_enabled(kind) and x.dtype != torch.float64
    return torch.get_autocast_dtype(kind) if cast else x.dtype


def _layer(layer: nn.Module, operand: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    with _exact(operand):
        if isinstance(layer, nn.Linear):
            return F.linear(operand, weight, bias)
        return layer._conv_forward(operand, weight, bias)


def lean(layer: nn.Module, x: Tensor) -> Tensor | None:
    """The layer's output of its float input; ask ``is_lean`` before. None where its quantizers cannot be run again."""
    quantizer, weights = layer.input_quantizer, layer.parametrizations.weight
    if len(weights) == 1 and (of_weight := own_kernel(weights[0], wide(weights.original))) is not None:
        with _exact(x):
            of_x = own_kernel(quantizer, x)
        if of_x is not None:
            (first, arguments), (second, others) = of_x, of_weight
            values = (x, weights.original, layer.bias, *arguments, *others)
            return KernelLayer.apply(layer, (first, second), len(arguments), *values)
    return None if quantizer.lean is False else LeanLayer.apply(layer, x, *layer.parameters())


class LeanLayer(torch.autograd.Function):
    """A layer whose quantizers are any code; ``parameters`` are all of the layer's, its quantizers' among them."""

    @staticmethod
    def forward(ctx, layer: nn.Module, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.before = _first_time(layer.input_quantizer)
        operand, weight = _quantized(layer, x)
        _find_out(layer.input_quantizer, ctx.before)
        ctx.layer, ctx.dtype = layer, _layer_type(x)
        ctx.save_for_backward(x, *parameters)
        bias = None if layer.bias is None else layer.bias.to(ctx.dtype)
        return _layer(layer, operand.to(ctx.dtype), weight.to(ctx.dtype), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        layer, (x, *parameters) = ctx.layer, ctx.saved_tensors
        _, wants_x, *wants = ctx.needs_input_grad
        with torch.enable_grad(), recomputing(), _as_before(layer.input_quantizer, ctx.before), _exact(x):
            x = x.detach().requires_grad_(wants_x)
            operand, weight = _quantized(layer, x)
        with _exact(x):
            values = (value.detach().to(ctx.dtype) for value in (gradient, operand, weight))
            needs = (operand.requires_grad, weight.requires_grad, layer.bias is not None)
            of_operand, of_weight, of_bias = _through_layer(layer, *values, needs)
        pairs = [(operand, of_operand), (weight, of_weight)]
        pairs = [(value, of.to(value.dtype)) for value, of in pairs if value.requires_grad]
        inputs = [p for p, wanted in zip(parameters, wants, strict=True) if wanted and p is not layer.bias]
        inputs += [x] if wants_x else []
        outputs, gradients = zip(*pairs, strict=True) if pairs else ((), ())
        got = torch.autograd.grad(outputs, inputs, gradients, allow_unused=True) if pairs and inputs else ()
        by_input: dict[int, Any] = {id(value): of for value, of in zip(inputs, got, strict=True)}
        if layer.bias is not None:
            by_input[id(layer.bias)] = of_bias.to(layer.bias.dtype)
        return (None, by_input.get(id(x)) if wants_x else None, *(by_input.get(id(p)) for p in parameters))


def _exact(x: Tensor) -> AbstractContextManager:
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def _first_time(quantizer: ActivationQuantizer) -> list[Tensor] | None:
    """The buffers as they are, where it is not known yet whether the quantizer changes them."""
    return [buffer.clone() for buffer in quantizer.buffers()] if quantizer.lean is None else None


def _find_out(quantizer: ActivationQuantizer, before: list[Tensor] | None) -> None:
    if before is not None:
        pairs = zip(quantizer.buffers(), before, strict=True)
        quantizer.lean = all(torch.equal(now, then) for now, then in pairs)


@contextmanager
def _as_before(quantizer: ActivationQuantizer, before: list[Tensor] | None) -> Iterator[None]:
    """For a quantizer that changes its buffers: compute from what they were, and leave them as they are."""
    if before is None or quantizer.lean:
        yield
        return
    now = [buffer.clone() for buffer in quantizer.buffers()]
    _set(quantizer, before)
    try:
        yield
    finally:
        _set(quantizer, now)


@torch.no_grad()
def _set(quantizer: ActivationQuantizer, values: list[Tensor]) -> None:
    for buffer, value in zip(quantizer.buffers(), values, strict=True):
        buffer.copy_(value)


def _quantized(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    return layer.input_quantizer(x), layer.plain_weight


def _through_layer(
    layer: nn.Module, gradient: Tensor, operand: Tensor, weight: Tensor, needs: tuple[bool, bool, bool]
) -> tuple[Tensor | None, ...]:
    """Gradients of operand, weight and bias, those that are needed."""
    if isinstance(layer, nn.Linear):
        flat = gradient.flatten(0, -2)
        of_operand = gradient @ weight if needs[0] else None
        of_weight = flat.T @ operand.flatten(0, -2) if needs[1] else None
        return of_operand, of_weight, flat.sum(0) if needs[2] else None
    zeros = [0] * len(layer.kernel_size)
    geometry = (list(layer.stride), list(layer.padding), list(layer.dilation), False, zeros, layer.groups)
    return torch.ops.aten.convolution_backward(gradient, operand, weight, [len(weight)], *geometry, needs)


def is_lean(layer: nn.Module, x: Tensor) -> bool:
    """Whether a layer in training takes this form: where autograd records it, and nothing unusual is asked of it."""
    if not (layer.training and torch.is_grad_enabled() and isinstance(x, Tensor) and x.is_floating_point()):
        return False
    if is_transformed():
        return False
    quantizer = getattr(layer, "input_quantizer", None)
    known = isinstance(quantizer, ActivationQuantizer) and quantizer.training
    if not known or getattr(layer, "padding_mode", "zeros") != "zeros" or isinstance(getattr(layer, "padding", 0), str):
        return False
    return x.dim() >= 2 if isinstance(layer, nn.Linear) else x.dim() == len(layer.kernel_size) + 2
