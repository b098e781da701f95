"""The torch modules and functions that have an exported form, and the nodes that they become."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from ...errors import InputError
from ..network import Node

_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout2d)
_POOL = ("input", "kernel_size", "stride", "padding")
_ELEMENTWISE: dict[type, str] = {
    nn.ReLU: "relu",
    nn.SiLU: "silu",
    nn.Sigmoid: "sigmoid",
    nn.Hardswish: "hardswish",
    nn.Hardsigmoid: "hardsigmoid",
    nn.Tanh: "tanh",
}
_ELEMENTWISE_CALLS: dict[Any, str] = {
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
    F.tanh: "tanh",
    "tanh": "tanh",
}
_CLAMP = (torch.clamp, torch.clip, "clamp", "clip")
ADD = (operator.add, operator.iadd, torch.add, "add", "add_")
MUL = (operator.mul, operator.imul, torch.mul, "mul", "mul_")
DROPOUT = (F.dropout, F.dropout2d)
FLATTEN = (torch.flatten, "flatten")
MEAN = (torch.mean, "mean")
CAT = (torch.cat, torch.concat)
PASS = (*DROPOUT, "contiguous", "clone", "detach")  # what changes nothing in evaluation
VIEWS = (*DROPOUT, *FLATTEN, "contiguous", "detach", operator.getitem)  # what may lie in the memory of its input
_POSITIONAL: dict[Any, tuple[str, ...]] = {
    **dict.fromkeys((*ADD, *MUL), ("input", "other")),
    **dict.fromkeys(FLATTEN, ("input", "start_dim", "end_dim")),
    **dict.fromkeys(MEAN, ("input", "dim", "keepdim")),
    **dict.fromkeys(CAT, ("tensors", "dim")),
    **dict.fromkeys(DROPOUT, ("input", "p", "training", "inplace")),
    **dict.fromkeys(_CLAMP, ("input", "min", "max")),
    F.hardtanh: ("input", "min_val", "max_val", "inplace"),
    F.leaky_relu: ("input", "negative_slope", "inplace"),
    **dict.fromkeys((F.relu, F.relu6, F.silu, F.hardswish, F.hardsigmoid), ("input", "inplace")),
    F.adaptive_avg_pool2d: ("input", "output_size"),
    F.pad: ("input", "pad", "mode", "value"),
    F.avg_pool2d: (*_POOL, "ceil_mode", "count_include_pad", "divisor_override"),
    **dict.fromkeys((F.max_pool2d, torch.max_pool2d), (*_POOL, "dilation", "ceil_mode")),
}


def arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments of a call of a function or method by name; of one that is not known here, those named there."""
    return {**dict(zip(_POSITIONAL.get(node.target, ("input",)), node.args, strict=False)), **node.kwargs}


def shown(target: Any) -> str:
    """The name of a function or method, for messages."""
    return target if isinstance(target, str) else getattr(target, "__name__", repr(target))


def passes(module: nn.Module) -> bool:
    """Whether a module returns its input in evaluation."""
    return isinstance(module, _NOTHING) or type(module).__name__ == "DropPath"


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


def functional_activation(target: Any, given: dict[str, Any]) -> tuple[str, dict, dict] | None:
    """``activation`` of a call with the arguments ``given``; None for one that has no exported form."""
    if target in _ELEMENTWISE_CALLS:
        return _ELEMENTWISE_CALLS[target], {}, {}
    if target is F.gelu:
        return ("gelu", {}, {}) if given.get("approximate", "none") == "none" else None
    if target is F.leaky_relu:
        return "prelu", {}, {"slope": np.array(given.get("negative_slope", 0.01), np.float32)}
    limits = {
        F.relu6: (0.0, 6.0),
        F.hardtanh: (given.get("min_val", -1.0), given.get("max_val", 1.0)),
        **dict.fromkeys(_CLAMP, (given.get("min"), given.get("max"))),
    }.get(target, ())
    if limits and all(isinstance(limit, int | float) for limit in limits):
        return "clip", {"low": float(limits[0]), "high": float(limits[1])}, {}
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


def batch_norm(name: str, inputs: tuple[str, ...], norm: nn.BatchNorm1d | nn.BatchNorm2d) -> Node:
    variance = norm.running_var.detach().cpu().double().numpy()
    mean = norm.running_mean.detach().cpu().double().numpy()
    gamma = 1.0 if norm.weight is None else norm.weight.detach().cpu().double().numpy()
    beta = 0.0 if norm.bias is None else norm.bias.detach().cpu().double().numpy()
    multiplier = gamma / np.sqrt(variance + norm.eps)
    return Node(name, "affine", inputs, {}, {"multiplier": multiplier, "bias": np.asarray(beta - mean * multiplier)})


def functional_pool(name: str, inputs: tuple[str, ...], function: Any, given: dict[str, Any]) -> Node:
    settings = {key: value for key, value in given.items() if key not in ("input", "return_indices")}
    if function is F.avg_pool2d:
        return avg_pool(name, inputs, nn.AvgPool2d(**settings))
    return max_pool(name, inputs, nn.MaxPool2d(**settings))


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
