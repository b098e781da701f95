"""ATen operations that fold, fuse or have integer forms, and the nodes that they become; all others stay ATen calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, fx

PADDING = ("aten.pad.default", "aten.constant_pad_nd.default")
_END = 2**63 - 1


class Form(NamedTuple):
    """What an operation becomes: the node's operation, the values that it reads, attributes and arrays."""

    op: str
    inputs: Sequence[Any]
    attributes: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    factor: float | None = None  # what the result is multiplied with


def known_form(node: fx.Node, given: dict[str, Any], constant: Callable[[Any], Tensor | None]) -> Form | None:
    """The form of a call with the arguments ``given``, None where it has none of its own here.

    constant: the tensor behind a value that does not depend on the network's input, else None.
    """
    name = aten_name(node)
    real = isinstance(node.meta["val"], tuple | list) or is_real(node)  # the forms here are of one type, float32
    return _FORMS[name](node, given, constant) if name in _FORMS and real else None


def aten_name(node: fx.Node) -> str:
    """ "relu" of aten.relu.default; nothing for what is no ATen call."""
    target = str(node.target)
    return target.split(".")[1] if target.startswith("aten.") else ""


def arguments(node: fx.Node) -> dict[str, Any]:
    """All arguments of a call by name, defaults included; of arithmetic of sizes, by position."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return {str(index): value for index, value in enumerate(node.args)}
    given = {}
    for index, argument in enumerate(node.target._schema.arguments):
        value = node.args[index] if index < len(node.args) else node.kwargs.get(argument.name, argument.default_value)
        given[argument.name] = value
    return given


def passed_on(node: fx.Node, given: dict[str, Any]) -> fx.Node | None:
    """The value that an operation returns as it is, or None."""
    name = aten_name(node)
    if name in ("clone", "contiguous", "detach", "alias", "lift_fresh_copy") or (
        name.endswith("dropout") and given.get("train") is False
    ):
        return given.get("self", given.get("input"))
    source = given.get("self")
    if name in ("_to_copy", "to") and source.meta["val"].dtype == node.meta["val"].dtype:
        return source
    if name == "slice" and _slice_steps(node, given) == 1:
        return source
    if name == "expand" and source.meta["val"].shape == node.meta["val"].shape:
        return source
    return None


def _elementwise(op: str) -> Callable:
    return lambda node, given, constant: Form(op, [given["self"]])


def _gelu(node: fx.Node, given: dict, constant: Callable) -> Form | None:
    return Form("gelu", [given["self"]]) if given["approximate"] == "none" else None


def _clip(low: str, high: str) -> Callable:
    def form(node: fx.Node, given: dict, constant: Callable) -> Form | None:
        least, most = given[low], given[high]
        if least == 0 and most is None:
            return Form("relu", [given["self"]])
        if not all(isinstance(limit, int | float) for limit in (least, most)) or least > most:
            return None
        return Form("clip", [given["self"]], {"low": float(least), "high": float(most)})

    return form


def _relu6(node: fx.Node, given: dict, constant: Callable) -> Form:
    return Form("clip", [given["self"]], {"low": 0.0, "high": 6.0})


def _prelu(node: fx.Node, given: dict, constant: Callable) -> Form | None:
    slope = constant(given["weight"])
    if slope is None:
        return None
    slope = _array(slope)
    return Form("prelu", [given["self"]], {}, {"slope": slope.reshape(()) if slope.size == 1 else slope})


def _leaky_relu(node: fx.Node, given: dict, constant: Callable) -> Form:
    return Form("prelu", [given["self"]], {}, {"slope": np.array(given["negative_slope"], np.float32)})


def _arithmetic(op: str) -> Callable:
    def form(node: fx.Node, given: dict, constant: Callable) -> Form | None:
        plain = given.get("alpha", 1) == 1 and is_real(node)
        pair = [given["self"], given["other"]]
        if not plain or any(isinstance(value, fx.Node) and not is_real(value) for value in pair):
            return None
        return Form(op, pair)

    return form


def _cat(node: fx.Node, given: dict, constant: Callable) -> Form | None:
    axis = _axis(node, given["dim"])
    return Form("concat", given["tensors"], {"axis": axis}) if axis and is_real(node) else None


def _max_pool(node: fx.Node, given: dict, constant: Callable) -> Form:
    return Form("max_pool", [given["self"]], _window(given) | {"dilations": _pair(given["dilation"])})


def _avg_pool(node: fx.Node, given: dict, constant: Callable) -> Form | None:
    window, divisor = _window(given), given["divisor_override"]
    if divisor is None:
        return Form("avg_pool", [given["self"]], window | {"count_include_pad": bool(given["count_include_pad"])})
    if window["ceil_mode"]:
        return None
    factor = window["kernel"][0] * window["kernel"][1] / divisor
    return Form("avg_pool", [given["self"]], window | {"count_include_pad": True}, {}, factor)


def _adaptive_avg_pool(node: fx.Node, given: dict, constant: Callable) -> Form | None:
    size = _pair(given["output_size"])
    if _rank(node) != 4 or not all(isinstance(side, int) for side in size):
        return None
    if size == [1, 1]:
        return Form("mean", [given["self"]], {"axes": [2, 3], "keepdims": True})
    return Form("adaptive_avg_pool", [given["self"]], {"size": size})


def _mean(node: fx.Node, given: dict, constant: Callable) -> Form | None:
    source = given["self"]
    axes = sorted(_axis(source, dim) for dim in given.get("dim") or ())
    if not axes or axes[0] == 0 or given.get("dtype") is not None:
        return None
    return Form("mean", [source], {"axes": axes, "keepdims": bool(given["keepdim"])})


def _reshape(node: fx.Node, given: dict, constant: Callable) -> Form | None:
    """Flattening, where everything from some axis on becomes one."""
    before, after = given["self"].meta["val"].shape, node.meta["val"].shape
    start = len(after) - 1
    if not 0 < start < len(before) or [str(size) for size in before[:start]] != [str(size) for size in after[:start]]:
        return None
    return Form("flatten", [given["self"]], {"start": start})


def _slice(node: fx.Node, given: dict, constant: Callable) -> Form | None:
    axis, step = _axis(node, given["dim"]), _slice_steps(node, given)
    return Form("slice", [given["self"]], {"steps": [1] * axis + [step]}) if axis and step else None


def _slice_steps(node: fx.Node, given: dict) -> int | None:
    """The step of a slice that goes from the first to the last, else None."""
    whole = given["start"] in (None, 0) and (given["end"] is None or given["end"] == _END)
    return given["step"] if whole else None


def _pad(node: fx.Node, given: dict, constant: Callable) -> Form | None:
    sizes = zero_padding(node, given)
    if sizes is None or len(sizes[0]) > 3 or len(sizes[0]) >= _rank(node):
        return None
    return Form("pad", [given["self"]], {"before": sizes[0], "after": sizes[1]})


def zero_padding(node: fx.Node, given: dict[str, Any]) -> tuple[list[int], list[int]] | None:
    """(before, after) of the last axes, where an operation pads them with zeros; else None."""
    if str(node.target) not in PADDING:
        return None
    pad = given["pad"]
    if given.get("mode", "constant") != "constant" or given.get("value") or not all(isinstance(p, int) for p in pad):
        return None
    before, after = (list(pad)[side::2][::-1] for side in (0, 1))  # the last axis is listed first
    return None if not pad or min(pad) < 0 else (before, after)


def _norm(node: fx.Node, given: dict, constant: Callable) -> Form | None:
    """Batch norm with running statistics: one multiplier and bias a channel, in float64."""
    if given.get("training"):
        return None
    mean, variance = (constant(given[key]) for key in ("running_mean", "running_var"))
    if mean is None or variance is None:
        return None
    weight, bias = (None if given[key] is None else constant(given[key]) for key in ("weight", "bias"))
    gamma = 1.0 if weight is None else _array(weight, np.float64)
    beta = 0.0 if bias is None else _array(bias, np.float64)
    multiplier = gamma / np.sqrt(_array(variance, np.float64) + given["eps"])
    arrays = {"multiplier": multiplier, "bias": np.asarray(beta - _array(mean, np.float64) * multiplier)}
    return Form("affine", [given["input"]], {}, arrays)


def _rank(node: fx.Node) -> int:
    return node.meta["val"].dim()


def is_real(node: fx.Node) -> bool:
    """Whether a value is a tensor of real numbers in the network's precision."""
    value = node.meta["val"]
    return isinstance(value, Tensor) and value.is_floating_point() and value.dtype == node.graph.precision


def _axis(node: fx.Node, dim: int) -> int:
    return dim % _rank(node)


def _pair(value: int | Sequence[int]) -> list[int]:
    value = [value] if isinstance(value, int) else list(value)
    return value * 2 if len(value) == 1 else value


def _window(given: dict[str, Any]) -> dict[str, Any]:
    return {
        "kernel": _pair(given["kernel_size"]),
        "strides": _pair(given["stride"] or given["kernel_size"]),
        "pads": _pair(given["padding"]) * 2,
        "ceil_mode": bool(given["ceil_mode"]),
    }


def _array(tensor: Tensor, dtype: type = np.float32) -> np.ndarray:
    return np.array(tensor.detach().cpu().numpy(), dtype=dtype)


_FORMS: dict[str, Callable[[fx.Node, dict, Callable], Form | None]] = {
    **{op: _elementwise(op) for op in ("relu", "silu", "sigmoid", "tanh", "hardswish", "hardsigmoid")},
    "gelu": _gelu,
    "relu6": _relu6,
    "hardtanh": _clip("min_val", "max_val"),
    "clamp": _clip("min", "max"),
    "prelu": _prelu,
    "leaky_relu": _leaky_relu,
    "add": _arithmetic("add"),
    "mul": _arithmetic("mul"),
    "cat": _cat,
    "max_pool2d": _max_pool,
    "avg_pool2d": _avg_pool,
    "adaptive_avg_pool2d": _adaptive_avg_pool,
    "mean": _mean,
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "flatten", "squeeze"), _reshape),
    "slice": _slice,
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    **dict.fromkeys(("batch_norm", "_native_batch_norm_legit_no_training"), _norm),
}
