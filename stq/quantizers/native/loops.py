"""How at most three nested loops run over operands that broadcast, whatever their layout."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

BLOCK = 4096  # elements that are summed in the precision of the elements
_SHORT = 16  # elements of an innermost loop that is not worth to be one


@dataclass(frozen=True)
class Plan:
    """How three nested loops run over all operands: sizes, then for each operand its two outer strides; see ``source``.

    inner: for each operand whether it has a value for each step of the innermost loop. summed: which results are sums.
    by_row: where the innermost loop is short, and its steps and those around it are one loop, for each operand whether
    it has a value for each of those around it; None where the innermost loop is a loop of its own.
    """

    geometry: Any
    inner: tuple[bool, ...]
    summed: tuple[bool, ...]
    by_row: tuple[bool, ...] | None
    units: int


def plan_of(inputs: tuple, results: tuple, shape: tuple[int, ...]) -> Plan | None:
    """results: None, or the shape of sums. None where operands do not fit three loops, or the first is not dense."""
    stride = inputs[0][1]
    axes = sorted((axis for axis in range(len(shape)) if shape[axis] > 1), key=lambda axis: -stride[axis])
    dense, expected = True, 1
    for axis in reversed(axes):
        dense, expected = dense and stride[axis] == expected, expected * shape[axis]
    if not dense:
        return None
    operands = [_broadcast(*of, shape) for of in inputs]
    operands += [stride if of is None else _broadcast(of, _contiguous(of), shape) for of in results]
    sizes: list[int] = []
    strides: list[list[int]] = [[] for _ in operands]
    for axis in axes:
        here = [operand[axis] for operand in operands]
        if sizes and all(rows[-1] == one * shape[axis] for rows, one in zip(strides, here, strict=True)):
            sizes[-1] *= shape[axis]
            for rows, one in zip(strides, here, strict=True):
                rows[-1] = one
        else:
            sizes.append(shape[axis])
            for rows, one in zip(strides, here, strict=True):
                rows.append(one)
    while len(sizes) < 3:
        sizes.insert(0, 1)
        for rows in strides:
            rows.insert(0, 0)
    if len(sizes) > 3 or any(rows[2] not in (0, 1) for rows in strides):
        return None
    summed = tuple(of is not None and prod(of) < prod(shape) for of in results)
    sums = [0] * len(inputs) + [0 if of is None else prod(of) for of in results]
    flat = [*sizes, *(number for rows, size in zip(strides, sums, strict=True) for number in (*rows[:2], size))]
    inner = tuple(rows[2] == 1 for rows in strides)
    even = all(rows[1] == sizes[2] if each else rows[1] < 2 for rows, each in zip(strides, inner, strict=True))
    by_row = tuple(rows[1] != 0 for rows in strides) if even and 1 < sizes[2] < _SHORT else None
    row = sizes[2] if by_row is None else sizes[1] * sizes[2]
    units = sizes[0] * sizes[1] * sizes[2] // row * -(-row // BLOCK)
    return Plan((ctypes.c_long * len(flat))(*flat), inner, summed, by_row, units)


def _contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _broadcast(shape: Sequence[int], stride: Sequence[int], to: Sequence[int]) -> list[int]:
    """The strides of an operand that broadcasts."""
    missing = len(to) - len(shape)
    return [0] * missing + [0 if size == 1 else step for size, step in zip(shape, stride, strict=True)]
