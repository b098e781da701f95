"""Elementwise functions of the quantizers as one kernel each, forward and backward, where a compiler is at hand.

A method writes such a function in a few lines of torch, with the gradients of its paper, and decorates it with
``fused``. As it stands it runs operation by operation. After ``set_kernels("compiled")`` it is compiled
(``torch.compile``: C++ on a processor, Triton on a GPU), and so is its backward pass, which computes everything again
from the inputs: nothing but those is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, update_wrapper
from typing import Any

import torch
from torch import Tensor

from . import record

KERNELS = ("plain", "lean", "compiled")
_VARIANTS = 64  # of a kernel: types, ranks, bit widths
_mode = "plain"


def set_kernels(mode: str) -> None:
    """How quantized layers compute in training, in this process.

    "plain": as any torch module. "lean": in the memory of a float layer; what the quantizers make is computed again in
    the backward pass, with the same results bit by bit. "compiled": lean, with the quantizers' functions compiled (some
    seconds at the first step); results differ by roundings. Raises ValueError for another mode.
    """
    global _mode
    if mode not in KERNELS:
        raise ValueError(f"kernels={mode} is unknown: there are {', '.join(KERNELS)}")
    _mode = mode


def kernels() -> str:
    """The mode in use."""
    return _mode


class Kernel:
    """A pure function of tensors and numbers, the first a tensor; the result has its shape, or a smaller one."""

    def __init__(self, function: Callable[..., Tensor]):
        self.function = function
        update_wrapper(self, function)

    def __call__(self, *arguments: Any) -> Tensor:
        """Differentiable."""
        if not runs_compiled():
            return self.function(*arguments)
        return _Fused.apply(self, *arguments)

    def recomputed(self, *arguments: Any) -> Tensor:
        """Differentiable, and nothing but the arguments is kept for that, compiled or not."""
        return self.function(*arguments) if is_transformed() else _Fused.apply(self, *arguments)

    def value(self, *arguments: Any) -> Tensor:
        """Without autograd."""
        if not runs_compiled():
            return self.function(*arguments)
        given, like = _flat(arguments)
        return _shaped(self._forward(*given), like)

    def gradients(self, gradient: Tensor, wanted: Sequence[int], *arguments: Any) -> list[Tensor]:
        """The gradients of the arguments at the places ``wanted``, of ``gradient`` for the result."""
        if not wanted:
            return []
        if not runs_compiled():
            return self._by_autograd(gradient, wanted, arguments)
        given, like = _flat(arguments)
        if like is not None:
            gradient = _flattened(gradient.contiguous(memory_format=_format(like)))
        record.for_functions = True
        try:
            found = self._backward(gradient, tuple(wanted), *given)
        finally:
            record.for_functions = False
        return [_shaped(value, like) if place == 0 else value for place, value in zip(wanted, found, strict=True)]

    def _by_autograd(self, gradient: Tensor, wanted: Sequence[int], arguments: Sequence[Any]) -> list[Tensor]:
        given = list(arguments)
        for place in wanted:
            given[place] = given[place].detach().requires_grad_()
        with torch.enable_grad():
            result = self.function(*given)
        return list(torch.autograd.grad(result, [given[place] for place in wanted], gradient))

    @cached_property
    def _forward(self) -> Callable[..., Tensor]:
        return _compiled(self.function)

    @cached_property
    def _backward(self) -> Callable[..., tuple[Tensor, ...]]:
        def product(gradient: Tensor, wanted: tuple[int, ...], *arguments: Any) -> tuple[Tensor, ...]:
            def of_wanted(*values: Tensor) -> Tensor:
                given = list(arguments)
                for place, value in zip(wanted, values, strict=True):
                    given[place] = value
                return self.function(*given)

            _, pull = torch.func.vjp(of_wanted, *(arguments[place] for place in wanted))
            return pull(gradient)

        return _compiled(product)


fused = Kernel  # as a decorator


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
        found = ctx.kernel.gradients(gradient, wanted, *arguments)
        results: list[Tensor | None] = [None] * (len(arguments) + 1)
        for place, value in zip(wanted, found, strict=True):
            results[place + 1] = value
        return tuple(results)


def _flat(arguments: Sequence[Any]) -> tuple[list[Any], Tensor | None]:
    """The arguments with the first one in one axis, where all others are single numbers: one kernel for all ranks."""
    first, *others = arguments
    single = all(value.dim() == 0 for value in others if isinstance(value, Tensor))
    if single and first.dim() > 1 and first.is_contiguous(memory_format=_format(first)):
        return [_flattened(first), *others], first
    return list(arguments), None


def _format(x: Tensor) -> torch.memory_format:
    if x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def _flattened(x: Tensor) -> Tensor:
    return x.detach().as_strided((x.numel(),), (1,), x.storage_offset())


def _shaped(result: Tensor, like: Tensor | None) -> Tensor:
    return result if like is None or result.dim() == 0 else result.as_strided(like.shape, like.stride())
