"""Elementwise functions on a processor: one loop in C each, written from their graph and compiled by the C compiler.

torch.compile makes loops of such functions too, but calls them through some 0.1 ms of checks, and its sums over all
elements are slow; a quantized layer calls six of them in a step. Here a function is traced on two elements, each of its
operations becomes one line of C (without contraction to fused multiply-adds, so values are torch's own bit by bit),
and gradients of what is shared by many elements are summed in the same loop, 4096 at a time, then in double precision.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.fx.experimental.proxy_tensor import make_fx

_BLOCK = 4096  # elements that are summed in the precision of the elements
_ALONE = 1 << 15  # fewer elements than this are not worth a second thread
_TYPES = {torch.float32: ("float", "f"), torch.float64: ("double", "")}
# what one line of C computes of the operands {0}, {1}, ...; REAL is the type and f its suffix in math.h
_OPERATIONS = {
    "abs": "fabs{f}({0})",
    "add": "{0} + {1}",
    "alias": "{0}",
    "bitwise_and": "{0} & {1}",
    "bitwise_not": "!{0}",
    "bitwise_or": "{0} | {1}",
    "clone": "{0}",
    "detach": "{0}",
    "div": "{0} / {1}",
    "eq": "{0} == {1}",
    "ge": "{0} >= {1}",
    "gt": "{0} > {1}",
    "le": "{0} <= {1}",
    "logical_and": "{0} & {1}",
    "logical_not": "!{0}",
    "logical_or": "{0} | {1}",
    "lt": "{0} < {1}",
    "mul": "{0} * {1}",
    "ne": "{0} != {1}",
    "neg": "-{0}",
    "reciprocal": "1 / {0}",
    "relu": "({0} < 0 ? 0 : {0})",
    "round": "rint{f}({0})",
    "scalar_tensor": "{0}",
    "sub": "{0} - {1}",
    "threshold_backward": "({1} <= {2} ? 0 : {0})",
    "where": "({0} ? {1} : {2})",
    "ones_like": "1",
    "zeros_like": "0",
}
_CLIPS = ("clamp", "hardtanh")
_INERT = ("dtype", "layout", "device", "pin_memory", "memory_format")


def value(function: Callable[..., Tensor], arguments: Sequence[Any], mean: bool) -> Tensor | None:
    """``function`` of its arguments, of the shape of the first; ``mean``: its mean over the axes after the second.

    None where it cannot be done here: see ``_call``.
    """
    call = _call(function, "sums" if mean else "values", (), None, arguments)
    if call is None:
        return None
    x = arguments[0]
    if not mean:
        (found,) = call(arguments, [torch.empty_like(x)])
        return found
    (found,) = call(arguments, [x.new_empty(x.shape[:2])])
    return found / prod(x.shape[2:])


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
        gradient, spent = torch.empty_like(x).copy_(gradient), True
    spent = spent and 0 in wanted
    call = _call(function, "spent" if spent else "gradients", tuple(wanted), gradient, arguments)
    if call is None:
        return None
    results = [torch.empty_like(arguments[place], memory_format=torch.contiguous_format) for place in wanted if place]
    if 0 in wanted:
        results.insert(list(wanted).index(0), gradient if spent else torch.empty_like(x))
    return call((*arguments, gradient), results)


def derivative(function: Callable[..., Tensor], place: int, arguments: Sequence[Any]) -> Tensor | None:
    """Of each element of the result, its gradient to the single number at ``place``."""
    x = arguments[0]
    one = torch.ones((), dtype=x.dtype).expand_as(x)
    call = _call(function, "derivative", (place,), one, arguments)
    return None if call is None else call((*arguments, one), [torch.empty_like(x)])[0]


_calls: dict[tuple, Callable | None] = {}


def _call(
    function: Callable[..., Tensor], kind: str, wanted: tuple[int, ...], gradient: Tensor | None, arguments: Sequence
) -> Callable[[Sequence, list[Tensor]], list[Tensor]] | None:
    """What runs the loop on operands such as these. None where there is none: on another device, in half precision,
    for an operation without a line of C, for operands that do not fit three loops, or without a C compiler.
    """
    described = [
        (value.shape, value.stride(), value.dtype, value.device.type) if isinstance(value, Tensor) else value
        for value in (*arguments, gradient)
    ]
    key = (function, kind, wanted, *described)
    if key not in _calls:
        _calls[key] = _prepared(function, kind, wanted, gradient, arguments)
    return _calls[key]


def _prepared(
    function: Callable[..., Tensor], kind: str, wanted: tuple[int, ...], gradient: Tensor | None, arguments: Sequence
) -> Callable[[Sequence, list[Tensor]], list[Tensor]] | None:
    x = arguments[0]
    inputs = [value for value in (*arguments, gradient) if isinstance(value, Tensor)]
    same = all(value.dtype == x.dtype and value.device.type == "cpu" for value in inputs)
    if not same or x.dtype not in _TYPES or x.numel() == 0:
        return None
    whole = tuple(x.shape)
    if kind == "sums":
        made = [(*x.shape[:2], *(1,) * (x.dim() - 2))]
    elif kind == "derivative" or not wanted:
        made = [None]
    else:
        made = [None if place == 0 else tuple(arguments[place].shape) for place in wanted]
    plan = _plan(tuple((tuple(t.shape), t.stride()) for t in inputs), tuple(made), whole)
    if plan is None:
        return None
    numbers = tuple(None if isinstance(value, Tensor) else value for value in arguments)
    in_place = kind == "spent"
    run = _loop(function, numbers, x.dtype, gradient is not None, wanted, plan.inner, plan.summed, in_place)
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


@dataclass(frozen=True)
class _Plan:
    """How three nested loops run over all operands: sizes, then for each operand its two outer strides; see ``_loop``.

    inner: for each operand whether it has a value for each step of the innermost loop. summed: which results are sums.
    """

    geometry: Any
    inner: tuple[bool, ...]
    summed: tuple[bool, ...]
    units: int


def _plan(inputs: tuple, results: tuple, shape: tuple[int, ...]) -> _Plan | None:
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
    summed = tuple(of is not None for of in results)
    sums = [0] * len(inputs) + [0 if of is None else prod(of) for of in results]
    flat = [*sizes, *(number for rows, size in zip(strides, sums, strict=True) for number in (*rows[:2], size))]
    units = sizes[0] * sizes[1] * -(-sizes[2] // _BLOCK)
    return _Plan((ctypes.c_long * len(flat))(*flat), tuple(rows[2] == 1 for rows in strides), summed, units)


def _contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _broadcast(shape: Sequence[int], stride: Sequence[int], to: Sequence[int]) -> list[int]:
    """The strides of an operand that broadcasts."""
    missing = len(to) - len(shape)
    return [0] * missing + [0 if size == 1 else step for size, step in zip(shape, stride, strict=True)]


@cache
def _loop(
    function: Callable[..., Tensor],
    numbers: tuple,
    dtype: torch.dtype,
    backward: bool,
    wanted: tuple[int, ...],
    inner: tuple[bool, ...],
    summed: tuple[bool, ...],
    in_place: bool,
) -> Callable | None:
    """The compiled loop; None where an operation has no line of C, or where there is no C compiler."""
    try:
        source = _source(_traced(function, numbers, dtype, backward, wanted), dtype, inner, summed, in_place)
    except NotImplementedError:
        return None
    return _compiled(source)


def _traced(
    function: Callable[..., Tensor], numbers: tuple, dtype: torch.dtype, backward: bool, wanted: tuple
) -> Graph:
    """The function, or its gradients, on two elements of each operand: what it does to any."""
    places = [place for place, number in enumerate(numbers) if number is None]

    def whole(*tensors: Tensor) -> tuple[Tensor, ...]:
        arguments = list(numbers)
        for place, tensor in zip(places, tensors, strict=False):
            arguments[place] = tensor
        if not backward:
            return (function(*arguments),)
        for place in wanted:
            arguments[place] = arguments[place].detach().requires_grad_()
        with torch.enable_grad():
            result = function(*arguments)
        return torch.autograd.grad(result, [arguments[place] for place in wanted], tensors[-1])

    examples = [torch.ones(2, dtype=dtype) for _ in range(len(places) + backward)]
    graph = make_fx(whole)(*examples).graph
    graph.eliminate_dead_code()
    return graph


def _source(graph: Graph, dtype: torch.dtype, inner: Sequence[bool], summed: Sequence[bool], in_place: bool) -> str:
    """The C of a graph over two elements. Raises NotImplementedError for an operation that has no line."""
    kind, suffix = _TYPES[dtype]
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    count = len(inputs)
    before, outer, body, sums, after, last = [], [], [], [], [], []
    for index in range(len(inner)):
        is_sum = index >= count and summed[index - count]
        strides = f"a * d[{3 + 3 * index}] + b * d[{4 + 3 * index}]" + (" + from" if inner[index] else "")
        if is_sum:
            size = f"d[{5 + 3 * index}]"
            before.append(f"double *t{index} = calloc(threads * {size}, sizeof(double));")
            outer.append(f"double *restrict p{index} = t{index} + thread * {size} + {strides};")
            last.append(
                f"for (long i = 0; i < {size}; i++) {{ double sum = 0; for (int t = 0; t < threads; t++) "
                f"sum += t{index}[t * {size} + i]; ((REAL *)p[{index}])[i] = (REAL)sum; }}\n  free(t{index});"
            )
        else:
            of = "REAL" if index >= count or (in_place and index == count - 1) else "const REAL"
            qualifier = "" if in_place and index >= count - 1 else "restrict "
            outer.append(f"{of} *{qualifier}p{index} = ({of} *)p[{index}] + {strides};")
    names: dict[Node, str] = {}
    for index, node in enumerate(inputs):
        names[node] = f"x{index}"
        (body if inner[index] else outer).append(f"const REAL x{index} = p{index}[{'i' if inner[index] else 0}];")
    for node in graph.nodes:
        if node.op == "call_function":
            names[node] = f"v{len(names)}"
            body.append(f"const {_type(node)} {names[node]} = {_line(node, names, suffix)};")
    (found,) = (node.args[0] for node in graph.nodes if node.op == "output")
    for index, node in enumerate(found, start=count):
        result = names[node] if isinstance(node, Node) else "0"
        if not summed[index - count]:
            body.append(f"p{index}[i] = {result};")
        elif inner[index]:
            body.append(f"p{index}[i] += {result};")
        else:
            sums.append(f"s{index}")
            body.append(f"s{index} += {result};")
            after.append(f"*p{index} += s{index};")
    reduction = f" reduction(+:{','.join(sums)})" if sums else ""
    new = "\n    "
    return f"""#include <math.h>
#include <stdlib.h>
#ifdef _OPENMP
#include <omp.h>
#endif
typedef {kind} REAL;
void run(const long *d, void **p, int threads) {{
  const long blocks = (d[2] + {_BLOCK - 1}) / {_BLOCK}, units = d[0] * d[1] * blocks;
  {(new[:-2]).join(before)}
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) schedule(static) if(threads > 1)
#endif
  for (long unit = 0; unit < units; unit++) {{
#ifdef _OPENMP
    const long thread = omp_get_thread_num();
#else
    const long thread = 0;
#endif
    const long row = unit / blocks, a = row / d[1], b = row % d[1], from = unit % blocks * {_BLOCK};
    const long n = d[2] - from < {_BLOCK} ? d[2] - from : {_BLOCK};
    (void)thread;
    {new.join(outer)}
    {new.join(f"REAL {name} = 0;" for name in sums)}
#pragma omp simd{reduction}
    for (long i = 0; i < n; i++) {{
      {(new + "  ").join(body)}
    }}
    {new.join(after)}
  }}
  {(new[:-2]).join(last)}
}}
"""


def _type(node: Node) -> str:
    return "int" if node.meta["val"].dtype == torch.bool else "REAL"


def _line(node: Node, names: dict[Node, str], suffix: str) -> str:
    """What computes the node. Raises NotImplementedError where no line does."""
    name = getattr(node.target, "__name__", str(node.target)).split(".")[0]
    shape = tuple(node.meta["val"].shape)
    if any(key not in _INERT for key in node.kwargs) or shape not in ((2,), ()):
        raise NotImplementedError(node)
    operands = [None if value is None else _operand(value, names) for value in node.args]
    if name in _CLIPS:
        x, low, high = [*operands, None, None][:3]
        low_first = x if low is None else f"({x} < {low} ? {low} : {x})"
        return low_first if high is None else f"({low_first} > {high} ? {high} : {low_first})"
    if name == "hardtanh_backward":
        gradient, x, low, high = operands
        return f"(({x} > {low}) & ({x} < {high}) ? {gradient} : 0)"
    if name in ("full_like", "full"):
        return operands[1]
    if name == "_to_copy":
        return operands[0]
    if name not in _OPERATIONS or any(operand is None for operand in operands):
        raise NotImplementedError(node)
    return _OPERATIONS[name].format(*operands, f=suffix)


def _operand(value: Any, names: dict[Node, str]) -> str:
    if isinstance(value, Node):
        return names[value]
    if isinstance(value, bool):
        return str(int(value))
    return f"(REAL){float(value).hex()}" if isinstance(value, int | float) else "?"


@cache
def _compiler() -> list[str] | None:
    """The C compiler with what it is to do: as fast as this processor allows, with torch's values."""
    found = shutil.which(os.environ.get("CC", "cc"))
    if found is None or os.name != "posix":
        return None
    exact = ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
    for machine in (["-march=native"], ["-mcpu=native"], []):
        for threads in (["-fopenmp"], ["-fopenmp-simd"], []):
            command = [found, "-O3", "-shared", "-fPIC", *exact, *machine, *threads, "-x", "c"]
            if _built("void run(void) {}", command) is not None:
                return command
    return None


def _compiled(source: str) -> Callable | None:
    command = _compiler()
    found = None if command is None else _built(source, command)
    if found is None:
        return None
    run = found.run
    run.argtypes, run.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int], None
    return run


def _built(source: str, command: Sequence[str]) -> ctypes.CDLL | None:
    """The loaded library; its files are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="stq-kernel-") as folder:
        result = Path(folder) / "kernel.so"
        done = subprocess.run(
            [*command, "-", "-o", str(result)], input=source, text=True, capture_output=True, check=False
        )
        if done.returncode != 0:
            return None
        try:
            return ctypes.CDLL(str(result))
        except OSError:
            return None
