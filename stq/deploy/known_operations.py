"""The torch modules and functions that have an exported form, and the nodes that they become."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..errors import InputError
from .network import Node

NOTHING = (nn.Identity, nn.Dropout, nn.Dropout2d)
_ELEMENTWISE: dict[type, str] = {
    nn.ReLU: "relu",
    nn.SiLU: "silu",
    nn.Sigmoid: "sigmoid",
    nn.Hardswish: "hardswish",
    nn.Hardsigmoid: "hardsigmoid",
    nn.Tanh: "tanh",
}
ELEMENTWISE_CALLS: dict[Any, str] = {
    F.relu: "relu",
    torch.relu: "relu",
    torch.relu_: "relu",
    "relu": "relu",
    "relu_": "relu",
    F.silu: "silu",
    F.sigmoid: "sigmoid",
    torch.sigmoid: "sigmoid",
    "sigmoid": "sigmoid",
    F.hardswish: "hardswish",
    F.hardsigmoid: "hardsigmoid",
    torch.tanh: "tanh",
}
ADD = (operator.add, operator.iadd, torch.add, "add", "add_")
MUL = (operator.mul, operator.imul, torch.mul, "mul", "mul_")
DROPOUT = (F.dropout, F.dropout2d)
PASS = (*DROPOUT, "contiguous", "clone", "detach")  # what changes nothing in evaluation


def activation(module: nn.Module) -> tuple[str, dict, dict] | None:
    """(op, attributes, arrays) of an activation module, torch's or timm's of the same name; None for other modules."""
    if isinstance(module, nn.PReLU):
        slope = module.weight.detach().cpu().float().numpy().copy()
        return "prelu", {}, {"slope": slope.reshape(()) if slope.size == 1 else slope}
    if isinstance(module, nn.LeakyReLU):
        return "prelu", {}, {"slope": np.array(module.negative_slope, np.float32)}
    if isinstance(module, nn.ReLU6):
        return "clip", {"low": 0.0, "high": 6.0}, {}
    if isinstance(module, nn.Hardtanh):
        return "clip", {"low": float(module.min_val), "high": float(module.max_val)}, {}
    if isinstance(module, nn.GELU):
        return ("gelu", {}, {}) if module.approximate == "none" else None
    for kind, op in _ELEMENTWISE.items():
        if isinstance(module, kind):
            return op, {}, {}
    if type(module).__module__.startswith("timm.layers.activations"):
        return {
            "Swish": ("silu", {}, {}),
            "Sigmoid": ("sigmoid", {}, {}),
            "Tanh": ("tanh", {}, {}),
            "HardSwish": ("hardswish", {}, {}),
            "HardSigmoid": ("hardsigmoid", {}, {}),
        }.get(type(module).__name__)
    return None


def steps_of(index: Any) -> list[int] | None:
    """The steps of ``x[:, :, ::2, ::2]``; None for an index that is anything else."""
    if not isinstance(index, tuple) or not all(isinstance(i, slice) and i.start is i.stop is None for i in index):
        return None
    return [1 if i.step is None else i.step for i in index]


def elementwise(name: str, inputs: tuple[str, ...], found: tuple[str, dict, dict]) -> Node:
    return Node(name, found[0], inputs, found[1], found[2])


def pair(value: int | tuple[int, ...] | list[int]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def max_pool(name: str, inputs: tuple[str, ...], pool: nn.MaxPool2d) -> Node:
    return Node(name, "max_pool", inputs, _window(pool) | {"dilations": pair(pool.dilation)})


def avg_pool(name: str, inputs: tuple[str, ...], pool: nn.AvgPool2d) -> Node:
    if pool.divisor_override:
        raise InputError(f"cannot freeze '{name}': average pooling with divisor_override has no exported form")
    return Node(name, "avg_pool", inputs, _window(pool) | {"count_include_pad": bool(pool.count_include_pad)})


def _window(pool: nn.MaxPool2d | nn.AvgPool2d) -> dict[str, Any]:
    return {
        "kernel": pair(pool.kernel_size),
        "strides": pair(pool.stride),
        "pads": pair(pool.padding) * 2,
        "ceil_mode": bool(pool.ceil_mode),
    }
