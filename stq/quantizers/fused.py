"""Elementwise functions of the quantizers as one kernel each, forward and backward, where a compiler is at hand.

A method writes such a function in a few lines of torch, with the gradients of its paper, and decorates it with
``fused``. As it stands it runs operation by operation. After ``set_kernels("compiled")`` it is compiled (on a processor
to C, see ``native``; elsewhere by ``torch.compile``), and so is its backward pass, which computes everything again from
the inputs: nothing but those is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, update_wrapper
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from . import native, record
from .by_autograd import by_autograd

KERNELS = ("plain", "lean", "compiled")
_HALF = (torch.float16, torch.bfloat16)
_VARIANTS = 64  # of a kernel: types, ranks, bit widths
_mode = "plain"


def set_kernels(mode: str) -> None:
    """How quantized layers compute in training, in this process.

    "plain": as any torch module. "lean": in the memory of a float layer; what the quantizers make is computed again in
    the backward pass, with the same results bit by bit. "compiled": lean, with the quantizers' functions compiled (a
    second at the first step, more on a GPU); sums differ by roundings. Where there is no compiler this is lean.
    Raises ValueError for another mode.
    """
    global _mode
    if mode not in KERNELS:
        raise ValueError(f"kernels={mode} is unknown: there are {', '.join(KERNELS)}")
    _mode = mode


def kernels() -> str:
    """The mode in use."""
    return _mode


class Kernel:
    """A pure function of tensors and numbers, the first a tensor x; each element of the result is of one element of x.

    mean: the result is the mean of that over all axes but the first two, so of shape (N, C). x in half precision is
    taken for what it is in float32, and the result is float32.
    """

    def __init__(self, function: Callable[..., Tensor], mean: bool = False):
        self.elementwise, self.mean = function, mean
        update_wrapper(self, function)

    def function(self, *arguments: Any) -> Tensor:
        """As written, operation by operation."""
        result = self.elementwise(wide(arguments[0]), *arguments[1:])
        return result.mean(tuple(range(2, result.dim()))) if self.mean else result

    def __call__(self, *arguments: Any) -> Tensor:
        """Differentiable."""
        return _Fused.apply(self, *arguments) if runs_compiled() else self.function(*arguments)

    def recomputed(self, *arguments: Any) -> Tensor:
        """Differentiable, and nothing but the arguments is kept for that, compiled or not."""
        if torch.compiler.is_compiling():
            return checkpoint(self.function, *arguments, use_reentrant=False)
        return self.function(*arguments) if is_transformed() else _Fused.apply(self, *arguments)

    def value(self, *arguments: Any, dtype: torch.dtype | None = None) -> Tensor:
        """Without autograd; rounded to ``dtype``."""
        x = arguments[0]
        dtype = dtype or wide_type(x.dtype)
        if not runs_compiled():
            return self.function(*arguments).to(dtype)
        if x.device.type == "cpu":
            found = native.value(self.elementwise, arguments, self.mean, dtype)
            return self.function(*arguments).to(dtype) if found is None else found
        return self._forward(dtype, *arguments)

    def gradients(self, gradient: Tensor, wanted: Sequence[int], arguments: Sequence[Any], spent=False) -> list[Tensor]:
        """The gradients of the arguments at the places ``wanted``, of ``gradient`` for the result.

        spent: what holds ``gradient`` is nobody else's any more, and may be overwritten.
        """
        if not wanted:
            return []
        found = None
        if runs_compiled() and gradient.device.type == "cpu":
            x = arguments[0]
            whole = self._of_elements(gradient, x) if self.mean else gradient
            found = native.gradients(self.elementwise, whole, wanted, arguments, spent)
        elif runs_compiled():
            record.for_functions = True
            try:
                found = list(self._backward(gradient, tuple(wanted), *arguments))
            finally:
                record.for_functions = False
        if found is not None:
            return found
        return by_autograd(self.function, arguments, wanted, gradient.to(wide_type(arguments[0].dtype)))

    def derivative(self, place: int, arguments: Sequence[Any], dtype: torch.dtype) -> Tensor | None:
        """The gradient of each element of the result to the one number at ``place``; None where it takes a loop."""
        if not runs_compiled() or self.mean:
            return None
        return native.derivative(self.elementwise, place, arguments, dtype)

    @staticmethod
    def _of_elements(gradient: Tensor, x: Tensor) -> Tensor:
        positions = x.shape[2:].numel()
        return (gradient / positions).reshape(*gradient.shape, *(1,) * (x.dim() - 2)).expand_as(x)

    @cached_property
    def _forward(self) -> Callable[..., Tensor]:
        return _compiled(lambda dtype, *arguments: self.function(*arguments).to(dtype))

    @cached_property
    def _backward(self) -> Callable[..., tuple[Tensor, ...]]:
        def product(gradient: Tensor, wanted: tuple[int, ...], *arguments: Any) -> tuple[Tensor, ...]:
            def of_wanted(*values: Tensor) -> Tensor:
                given = list(arguments)
                for place, value in zip(wanted, values, strict=True):
                    given[place] = value
                return self.function(*given)

            _, pull = torch.func.vjp(of_wanted, *(arguments[place] for place in wanted))
            return pull(gradient.to(wide_type(arguments[0].dtype)))

        return _compiled(product)


def wide_type(dtype: torch.dtype) -> torch.dtype:
    """In which quantizers compute: float32 for half precision."""
    return torch.float32 if dtype in _HALF else dtype


def wide(x: Tensor) -> Tensor:
    """x in ``wide_type``."""
    return x.float() if x.dtype in _HALF else x


fused = Kernel  # as a decorator


def fused_mean(function: Callable[..., Tensor]) -> Kernel:
    """As ``fused``, for the mean over the positions of what the function gives."""
    return Kernel(function, mean=True)


def runs_compiled() -> bool:
    """Whether kernels are compiled here: not within what compiles or transforms the whole already."""
    return _mode == "compiled" and not is_transformed()


def is_transformed() -> bool:
    """Whether torch.compile or torch.func works on the whole here."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def keep(ctx: Any, values: Sequence[Any]) -> None:
    """Keep tensors and numbers for a backward pass; ``ctx.places`` are those of the tensors among them."""
    ctx.places = [place for place, value in enumerate(values) if isinstance(value, Tensor)]
    ctx.numbers = [None if isinstance(value, Tensor) else value for value in values]
    ctx.save_for_backward(*(values[place] for place in ctx.places))


def kept(ctx: Any) -> list[Any]:
    """What ``keep`` was given."""
    values = list(ctx.numbers)
    for place, value in zip(ctx.places, ctx.saved_tensors, strict=True):
        values[place] = value
    return values


def _compiled(function: Callable) -> Callable:
    limit = torch._dynamo.config
    limit.recompile_limit = max(limit.recompile_limit, _VARIANTS)
    return torch.compile(function, dynamic=True)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx, kernel: Kernel, *arguments: Any) -> Tensor:
        ctx.kernel = kernel
        keep(ctx, arguments)
        return kernel.value(*arguments)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        arguments = kept(ctx)
        wanted = [place for place in ctx.places if ctx.needs_input_grad[place + 1]]
        found = ctx.kernel.gradients(gradient, wanted, arguments)
        results: list[Tensor | None] = [None] * (len(arguments) + 1)
        for place, value in zip(wanted, found, strict=True):
            results[place + 1] = value
        return tuple(results)
