"""What a packed file may say: the attributes and arrays of each operation, and what must hold between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import aten
from ..network import INTEGER_LAYERS, QUANTIZERS, Node

ANY = -2
MOST = 2**24  # elements of an input or an array; sizes, strides and pads are far below


def is_number(value: Any) -> bool:
    """Whether a value is a number that float32 can hold."""
    return type(value) in (int, float) and abs(value) < 2.0**128


def is_whole(value: Any, least: int = -(2**15), most: int = MOST) -> bool:
    return type(value) is int and least <= value <= most


def is_sizes(value: Any) -> bool:
    return isinstance(value, list) and 1 <= len(value) <= 4 and all(is_whole(v, 1) for v in value)


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 2.0**128  # float32; NaN is not below


def _flag(value: Any) -> bool:
    return type(value) is bool


def _between(least: int, most: int) -> Callable[[Any], bool]:
    return lambda value: is_whole(value, least, most)


def _list(least: int, most: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and len(value) <= 8 and all(is_whole(v, least, most) for v in value)


def _target(value: Any) -> bool:
    return isinstance(value, str) and len(value) < 80


_POSITIVE, _PADS = _list(1, 4096), _list(0, 4096)
_GEOMETRY = {"strides": _POSITIVE, "pads": _PADS, "dilations": _POSITIVE, "groups": _between(1, 2**20)}
_INTEGER = {
    "code_gain": _between(1, 2),
    "code_offset": _between(-255, 0),
    "weight_bits": _between(1, 8),
    "weight_low": _between(-255, 255),
    "weight_stride": _between(1, 2),
}
_WEIGHTS = ("weight", "multiplier", "bias")
_POOL = {"kernel": _POSITIVE, "strides": _POSITIVE, "pads": _PADS, "ceil_mode": _flag}
# inputs (-1: one or more, ANY: as its arguments say), attributes with their checks, arrays
SCHEMA: dict[str, tuple[int, dict[str, Callable[[Any], bool]], tuple[str, ...]]] = {
    "input": (0, {}, ()),
    "constant": (0, {}, ("value",)),
    "quantize": (
        1,
        {"bits": _between(1, 8), "low": _between(-256, 255), "high": _between(-256, 255), "axis": _between(-4, -1)},
        ("gain", "shift"),
    ),
    "compare": (
        1,
        {"bits": _between(1, 8), "low": _between(-256, 255), "high": _between(-256, 255), "axis": _between(-4, -1)},
        ("levels",),
    ),
    "dequantize": (1, {}, ("scale", "offset")),
    "conv": (1, {**_INTEGER, **_GEOMETRY}, _WEIGHTS),
    "linear": (1, _INTEGER, _WEIGHTS),
    "float_conv": (1, _GEOMETRY, ("weight", "bias")),
    "float_linear": (1, {}, ("weight", "bias")),
    "affine": (1, {}, ("multiplier", "bias")),
    "prelu": (1, {}, ("slope",)),
    "clip": (1, {"low": _number, "high": _number}, ()),
    **{op: (1, {}, ()) for op in ("relu", "silu", "sigmoid", "hardswish", "hardsigmoid", "gelu", "tanh")},
    **{op: (2, {}, ()) for op in ("add", "mul")},
    "concat": (-1, {"axis": _between(-4, 4)}, ()),
    "max_pool": (1, {**_POOL, "dilations": _POSITIVE}, ()),
    "avg_pool": (1, {**_POOL, "count_include_pad": _flag}, ()),
    "adaptive_avg_pool": (1, {"size": _POSITIVE}, ()),
    "mean": (1, {"axes": _list(-4, 4), "keepdims": _flag}, ()),
    "flatten": (1, {"start": _between(-4, 4)}, ()),
    "slice": (1, {"steps": _POSITIVE}, ()),
    "pad": (1, {"before": _PADS, "after": _PADS}, ()),
    "aten": (ANY, {"target": _target, "arguments": lambda value: isinstance(value, list)}, ()),
    "item": (1, {"index": _between(0, 64)}, ()),
}


def check_consistent(node: Node, before: dict[str, Node]) -> None:
    """Raise ValueError for what no single attribute shows, such as codes that go where none are wanted."""
    source = before[node.inputs[0]] if node.inputs else None
    if (node.op in (*INTEGER_LAYERS, "dequantize")) != (source is not None and source.op in QUANTIZERS):
        wrong = "codes go to an integer layer or dequantize, and only codes do"
    else:
        wrong = _RULES[node.op](node) if node.op in _RULES else None
    if wrong:
        raise ValueError(f"node '{node.name}' ({node.op}): {wrong}")


def _quantize(node: Node) -> str | None:
    if not (-256 <= node["low"] < node["high"] <= 255 and node["high"] - node["low"] < 2 ** node["bits"]):
        return "low and high do not fit the bits"
    return "gain and shift are one number or one a channel" if any(a.ndim > 1 for a in node.arrays.values()) else None


def _compare(node: Node) -> str | None:
    levels = node.arrays["levels"]
    if not (-256 <= node["low"] < node["high"] <= 255 and node["high"] - node["low"] < 2 ** node["bits"]):
        return "low and high do not fit the bits"
    fits = (
        levels.ndim == 2 and levels.shape[1] == node["high"] - node["low"] and (levels[:, 1:] >= levels[:, :-1]).all()
    )
    return None if fits else "its levels are not ascending, one for each code above the lowest"


def _layer(node: Node) -> str | None:
    weight = node.arrays["weight"]
    dims = 0 if node.op.endswith("linear") else weight.ndim - 2
    if (weight.ndim != 2) if node.op.endswith("linear") else dims not in (1, 2):
        return "its weight has the wrong number of axes"
    if dims and (_lengths(node) != [dims, 2 * dims, dims] or len(weight) % node["groups"]):
        return "its geometry does not fit its weight"
    wrong = any(a.shape != (len(weight),) for key, a in node.arrays.items() if key != "weight")
    return "its scales or bias are not one for each output channel" if wrong else None


def _pool(node: Node) -> str | None:
    if _lengths(node) != {"adaptive_avg_pool": [2], "avg_pool": [2, 2, 4], "max_pool": [2, 2, 4, 2]}[node.op]:
        return "its geometry is not that of two axes"
    pads = node.attributes.get("pads", [])
    return "its padding differs between the two sides" if pads[:2] != pads[2:] else None


def _lengths(node: Node) -> list[int]:
    """Of the attributes that are lists, in the order of the schema."""
    return [len(node[key]) for key in SCHEMA[node.op][1] if isinstance(node[key], list)]


def _mean(node: Node) -> str | None:
    axes = node["axes"]
    wrong = not axes or 0 in axes or len(set(axes)) < len(axes)
    return "its axes are none, one of them twice, or the batch's" if wrong else None


_RULES: dict[str, Callable[[Node], str | None]] = {
    "quantize": _quantize,
    "compare": _compare,
    **dict.fromkeys(("conv", "linear", "float_conv", "float_linear"), _layer),
    **dict.fromkeys(("max_pool", "avg_pool", "adaptive_avg_pool"), _pool),
    "mean": _mean,
    "clip": lambda node: "low is above high" if node["low"] > node["high"] else None,
    "concat": lambda node: None if node["axis"] else "it joins the samples of a batch",
    "flatten": lambda node: None if node["start"] else "it joins the samples of a batch",
    "slice": lambda node: "it leaves out samples of a batch" if node["steps"][:1] != [1] else None,
    "aten": lambda node: (
        None
        if aten.refusal(node["target"], node["arguments"]) is None
        and aten.is_arguments(node["arguments"], len(node.inputs), node["target"])
        else "its target or its arguments are none that a file can have"
    ),
    "pad": lambda node: None if 0 < len(node["before"]) == len(node["after"]) < 4 else "it is not of 1 to 3 axes",
}
