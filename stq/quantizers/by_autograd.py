"""Gradients of a function at chosen arguments, where no graph of it is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def by_autograd(
    function: Callable[..., Tensor], arguments: Sequence[Any], wanted: Sequence[int], gradient: Tensor
) -> list[Tensor]:
    """The gradients of the arguments at the places ``wanted``, of ``gradient`` for the result."""
    given = list(arguments)
    for place in wanted:
        given[place] = given[place].detach().requires_grad_()
    with torch.enable_grad():
        result = function(*given)
    return list(torch.autograd.grad(result, [given[place] for place in wanted], gradient))
