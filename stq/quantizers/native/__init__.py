"""Elementwise functions on a processor: one loop in C each, written from their graph and compiled by the C compiler.

torch.compile makes loops of such functions too, but calls them through some 0.1 ms of checks, and its sums over all
elements are slow; a quantized layer calls six of them in a step. Here a function is traced on two elements, each of its
operations becomes one line of C (without contraction to fused multiply-adds, so values are torch's own bit by bit),
and gradients of what is shared by many elements are summed in the same loop, 4096 at a time, then in double precision.
"""

from .calls import derivative, gradients, value
from .compiler import compiler

__all__ = ["compiler", "derivative", "gradients", "value"]
