"""The loop for a function and operands such as these, found or made, and run."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from .compiler import compiled
from .loops import plan_of
from .source import TYPES, source_of, traced

_ALONE = 1 << 15  # fewer elements than this are not worth a second thread


def value(
    function: Callable[..., Tensor], arguments: Sequence[Any], mean: bool, dtype: torch.dtype | None = None
) -> Tensor | None:
    """``function`` of its arguments, of the shape of the first, in ``dtype`` (by default as it is computed).

    mean: its mean over the axes after the second. None where it cannot be done here: see ``_call``.
    """
    x = arguments[0]
    real = _computed_in(x)
    dtype = dtype or real
    call = _call(function, "sums" if mean else "values", (), None, arguments, real if mean else dtype)
    if call is None:
        return None
    if not mean:
        (found,) = call(arguments, [torch.empty_like(x, dtype=dtype)])
        return found
    (found,) = call(arguments, [x.new_empty(x.shape[:2], dtype=real)])
    return (found / prod(x.shape[2:])).to(dtype)


def gradients(
    function: Callable[..., Tensor], gradient: Tensor, wanted: Sequence[int], arguments: Sequence[Any], spent: bool
) -> list[Tensor] | None:
    """The gradients of the arguments at the places ``wanted``; ``spent``: what holds ``gradient`` may be overwritten.

    None where it cannot be done here.
    """
    x = arguments[0]
    if 0 in gradient.stride():  # the same for many elements
        spent = False
    elif gradient.stride() != x.stride():
        gradient, spent = torch.empty_like(x, dtype=gradient.dtype).copy_(gradient), True
    spent = spent and 0 in wanted and gradient.dtype == x.dtype
    call = _call(function, "spent" if spent else "gradients", tuple(wanted), gradient, arguments, x.dtype)
    if call is None:
        return None
    results = [torch.empty_like(arguments[place], memory_format=torch.contiguous_format) for place in wanted if place]
    if 0 in wanted:
        results.insert(list(wanted).index(0), gradient if spent else torch.empty_like(x))
    return call((*arguments, gradient), results)


def derivative(
    function: Callable[..., Tensor], place: int, arguments: Sequence[Any], dtype: torch.dtype
) -> Tensor | None:
    """Of each element of the result, its gradient to the single number at ``place``, in ``dtype``."""
    x = arguments[0]
    one = torch.ones((), dtype=x.dtype).expand_as(x)
    call = _call(function, "derivative", (place,), one, arguments, dtype)
    return None if call is None else call((*arguments, one), [torch.empty_like(x, dtype=dtype)])[0]


def _computed_in(x: Tensor) -> torch.dtype:
    return torch.float32 if x.dtype == torch.bfloat16 else x.dtype


_calls: dict[tuple, Callable | None] = {}


def _call(
    function: Callable[..., Tensor],
    kind: str,
    wanted: tuple[int, ...],
    gradient: Tensor | None,
    arguments: Sequence[Any],
    dtype: torch.dtype,
) -> Callable[[Sequence, list[Tensor]], list[Tensor]] | None:
    """What runs the loop on operands such as these, with a result in ``dtype`` (sums are in that of the loop).

    None where there is none: on another device, in float16, for an operation without a line of C, for operands that do
    not fit three loops, or without a C compiler. bfloat16 is read and written, and computed with in float32.
    """
    described = [
        (value.shape, value.stride(), value.dtype, value.device.type) if isinstance(value, Tensor) else value
        for value in (*arguments, gradient)
    ]
    key = (function, kind, wanted, dtype, *described)
    if key not in _calls:
        _calls[key] = _prepared(function, kind, wanted, gradient, arguments, dtype)
    return _calls[key]


def _prepared(
    function: Callable[..., Tensor],
    kind: str,
    wanted: tuple[int, ...],
    gradient: Tensor | None,
    arguments: Sequence[Any],
    dtype: torch.dtype,
) -> Callable[[Sequence, list[Tensor]], list[Tensor]] | None:
    x = arguments[0]
    inputs = [value for value in (*arguments, gradient) if isinstance(value, Tensor)]
    real = _computed_in(x)
    small = [value for value in arguments[1:] if isinstance(value, Tensor)]
    fit = all(value.dtype == real for value in small) and all(value.device.type == "cpu" for value in inputs)
    large = [dtype] if gradient is None else [dtype, gradient.dtype]
    if not fit or real not in TYPES or any(of not in (real, torch.bfloat16) for of in large) or x.numel() == 0:
        return None
    whole = tuple(x.shape)
    if kind == "sums":
        made = [(*x.shape[:2], *(1,) * (x.dim() - 2))]
    elif kind == "derivative" or not wanted:
        made = [None]
    else:
        made = [None if place == 0 else tuple(arguments[place].shape) for place in wanted]
    plan = plan_of(tuple((tuple(t.shape), t.stride()) for t in inputs), tuple(made), whole)
    if plan is None:
        return None
    numbers = tuple(None if isinstance(value, Tensor) else value for value in arguments)
    in_place = kind == "spent"
    types = [value.dtype for value in inputs] + [dtype if of is None else real for of in made]
    half = tuple(of == torch.bfloat16 for of in types)
    run = _loop(
        function, numbers, real, gradient is not None, wanted, plan.inner, plan.summed, plan.by_row, half, in_place
    )
    if run is None:
        return None
    places = [place for place, value in enumerate((*arguments, gradient)) if isinstance(value, Tensor)]
    pointers_to, alone, units = ctypes.c_void_p * (len(inputs) + len(made)), x.numel() < _ALONE, plan.units
    geometry = plan.geometry

    def call(operands: Sequence[Any], results: list[Tensor]) -> list[Tensor]:
        pointers = [operands[place].data_ptr() for place in places]
        pointers += [result.data_ptr() for result in results]
        run(geometry, pointers_to(*pointers), 1 if alone else min(torch.get_num_threads(), units))
        return results

    return call


@cache
def _loop(
    function: Callable[..., Tensor],
    numbers: tuple,
    dtype: torch.dtype,
    backward: bool,
    wanted: tuple[int, ...],
    inner: tuple[bool, ...],
    summed: tuple[bool, ...],
    by_row: tuple[bool, ...] | None,
    half: tuple[bool, ...],
    in_place: bool,
) -> Callable | None:
    """The compiled loop; None where an operation has no line of C, or where there is no C compiler."""
    try:
        source = source_of(
            traced(function, numbers, dtype, backward, wanted), dtype, inner, summed, by_row, half, in_place
        )
    except NotImplementedError:
        return None
    return compiled(source)
