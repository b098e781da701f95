"""From a function of tensors to the C of a loop over their elements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.fx.experimental.proxy_tensor import make_fx

from ..by_autograd import by_autograd
from .loops import BLOCK

TYPES = {torch.float32: ("float", "f"), torch.float64: ("double", "")}
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
    "tanh": "tanh_of(({0}))",
    "tanh_backward": "{0} * (1 - {1} * {1})",
    "threshold_backward": "({1} <= {2} ? 0 : {0})",
    "where": "({0} ? {1} : {2})",
    "ones_like": "1",
    "zeros_like": "0",
}
# no loop of a C compiler has tanhf: x P(x^2) / Q(x^2), fitted to 1e-9 on [-9, 9]; in float32 within 4 roundings
_TANH = {
    torch.float32: """
static inline float tanh_of(float x) {
  const float c = x < -9 ? -9 : (x > 9 ? 9 : x), u = c * c * 0x1.948b1p-7f;
  const float p = ((((-0.042700212f * u + 1.319064f) * u + 14.89701f) * u + 25.387856f) * u + 11.081495f) * u + 1;
  const float y = c * p / ((((55.48885f * u + 209.42586f) * u + 178.78833f) * u + 38.081494f) * u + 1);
  return y < -1 ? -1 : (y > 1 ? 1 : y);
}
""",
    torch.float64: """
static inline double tanh_of(double x) { return tanh(x); }
""",
}
_BF16 = """
typedef union { uint32_t bits; float value; } WORD;
static inline float of_bf16(uint16_t x) { const WORD w = {.bits = (uint32_t)x << 16}; return w.value; }
static inline uint16_t to_bf16(float x) { /* to the nearest, of two the even one */
  const WORD w = {.value = x};
  return x != x ? 0x7fc0 : (uint16_t)((w.bits + 0x7fff + (w.bits >> 16 & 1)) >> 16);
}
"""
# which elements a unit of work has: n from ``from`` on in a row, or all of so many rows from b on
_LONG_ROWS = f"const long blocks = (d[2] + {BLOCK - 1}) / {BLOCK}, units = d[0] * d[1] * blocks;"
_LONG_UNIT = f"""const long line = unit / blocks, a = line / d[1], b = line % d[1], from = unit % blocks * {BLOCK};
    const long n = d[2] - from < {BLOCK} ? d[2] - from : {BLOCK};"""
_SHORT_ROWS = f"""const long most = {BLOCK} / d[2] < d[1] ? {BLOCK} / d[2] : d[1];
  const long blocks = (d[1] + most - 1) / most, units = d[0] * blocks;
  int row[{BLOCK}];
  for (long r = 0; r < most; r++)
    for (long i = 0; i < d[2]; i++) row[r * d[2] + i] = (int)r;"""
_SHORT_UNIT = """const long a = unit / blocks, b = unit % blocks * most, from = 0;
    const long rows = d[1] - b < most ? d[1] - b : most, n = rows * d[2];
    (void)rows;"""
_ADD_ROWS = """
static inline void add_rows(double *to, const REAL *from, long rows, long n) {
  for (long r = 0; r < rows; r++) {
    REAL sum = 0;
    for (long i = 0; i < n; i++) sum += from[r * n + i];
    to[r] += sum;
  }
}
"""
_CLIPS = ("clamp", "hardtanh")
_INERT = ("dtype", "layout", "device", "pin_memory", "memory_format")


def traced(function: Callable[..., Tensor], numbers: tuple, dtype: torch.dtype, backward: bool, wanted: tuple) -> Graph:
    """The function, or its gradients, on two elements of each operand: what it does to any."""
    places = [place for place, number in enumerate(numbers) if number is None]

    def whole(*tensors: Tensor) -> tuple[Tensor, ...]:
        arguments = list(numbers)
        for place, tensor in zip(places, tensors, strict=False):
            arguments[place] = tensor
        if not backward:
            return (function(*arguments),)
        return tuple(by_autograd(function, arguments, wanted, tensors[-1]))

    examples = [torch.ones(2, dtype=dtype) for _ in range(len(places) + backward)]
    graph = make_fx(whole)(*examples).graph
    graph.eliminate_dead_code()
    return graph


def source_of(
    graph: Graph,
    dtype: torch.dtype,
    inner: Sequence[bool],
    summed: Sequence[bool],
    by_row: Sequence[bool] | None,
    half: Sequence[bool],
    in_place: bool,
) -> str:
    """The C of a graph over two elements. Raises NotImplementedError for an operation that has no line.

    inner, summed, by_row: of the operands, see ``Plan``. half: which are in bfloat16.
    """
    kind, suffix = TYPES[dtype]
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
            stored = "uint16_t" if half[index] else "REAL"
            of = stored if index >= count or (in_place and index == count - 1) else f"const {stored}"
            qualifier = "" if in_place and index >= count - 1 else "restrict "
            outer.append(f"{of} *{qualifier}p{index} = ({of} *)p[{index}] + {strides};")
    names: dict[Node, str] = {}
    for index, node in enumerate(inputs):
        names[node] = f"x{index}"
        each = inner[index] or (by_row is not None and by_row[index])
        value = f"p{index}[{'i' if inner[index] else 'row[i]' if each else 0}]"
        value = f"of_bf16({value})" if half[index] else value
        (body if each else outer).append(f"const REAL x{index} = {value};")
    for node in graph.nodes:
        if node.op == "call_function":
            names[node] = f"v{len(names)}"
            body.append(f"const {_type(node)} {names[node]} = {_line(node, names, suffix)};")
    (found,) = (node.args[0] for node in graph.nodes if node.op == "output")
    for index, node in enumerate(found, start=count):
        result = names[node] if isinstance(node, Node) else "0"
        if not summed[index - count]:
            body.append(f"p{index}[i] = {f'to_bf16({result})' if half[index] else result};")
        elif inner[index]:
            body.append(f"p{index}[i] += {result};")
        elif by_row is not None and by_row[index]:
            outer.append(f"REAL of{index}[{BLOCK}];")
            body.append(f"of{index}[i] = {result};")
            after.append(f"add_rows(p{index}, of{index}, rows, d[2]);")
        else:
            sums.append(f"s{index}")
            body.append(f"s{index} += {result};")
            after.append(f"*p{index} += s{index};")
    reduction = f" reduction(+:{','.join(sums)})" if sums else ""
    new = "\n    "
    return f"""#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#ifdef _OPENMP
#include <omp.h>
#endif
typedef {kind} REAL;
{_ADD_ROWS if by_row else ""}
{_BF16 if any(half) else ""}
{_TANH[dtype] if any("tanh_of" in line for line in body) else ""}
void run(const long *d, void **p, int threads) {{
  {_SHORT_ROWS if by_row else _LONG_ROWS}
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
    {_SHORT_UNIT if by_row else _LONG_UNIT}
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
    operands = [None if value is None else _operand(value, names) for value in _arguments(node)]
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


def _arguments(node: Node) -> list[Any]:
    """With those that are left out where they are the default, such as the 1 of ``hardtanh``."""
    left_out = node.target._schema.arguments[len(node.args) :]
    return [*node.args, *(argument.default_value for argument in left_out if not argument.kwarg_only)]


def _operand(value: Any, names: dict[Node, str]) -> str:
    if isinstance(value, Node):
        return names[value]
    if isinstance(value, bool):
        return str(int(value))
    return f"(REAL){float(value).hex()}" if isinstance(value, int | float) else "?"
