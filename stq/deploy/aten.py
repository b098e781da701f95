"""Operations of torch that have no name of their own here: called by torch's name, their arguments as plain data.

A node ``aten`` has the attributes ``target`` ("aten.layer_norm.default", or "operator.mul" for sizes) and
``arguments``: a JSON value for each argument of the target's schema, where ``{"input": i}`` is the node's i-th input,
``{"float": "inf"}`` a number that JSON lacks, ``{"dtype": "float32"}`` a type.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch

_SIZES = {name: getattr(operator, name) for name in ("add", "sub", "mul", "floordiv", "mod", "neg", "truediv")}
_DTYPES = {
    str(t).removeprefix("torch."): t for t in (torch.float32, torch.float64, torch.int32, torch.int64, torch.bool)
}
_WORDS = re.compile(
    "none|tanh|constant|reflect|replicate|circular|trunc|floor|same|valid|[a-zA-Z., ]{1,40}->[a-zA-Z. ]{0,20}"
)
_PRIVATE = ("_softmax", "_log_softmax", "_to_copy", "_unsafe_view", "_unsafe_index", "_adaptive_avg_pool2d")
_FACTORIES = ("full", "arange", "zeros", "ones", "scalar_tensor", "linspace")  # make tensors of sizes alone
_RESULTS = ("Tensor", "List[Tensor]", "int", "SymInt")


def refusal(target: str, arguments: Sequence[Any] = ()) -> str | None:
    """Why an operation cannot be carried, or None."""
    if target.startswith("operator."):
        return None if target.removeprefix("operator.") in _SIZES else "it is no arithmetic of sizes"
    parts = target.split(".")
    private = len(parts) == 3 and parts[1].startswith("_") and not parts[1].startswith("_upsample")
    if len(parts) != 3 or parts[0] != "aten" or (private and parts[1] not in _PRIVATE):
        return "it is none of torch's public functions (aten), which alone are carried"
    try:
        function = _function(target)
    except (AttributeError, RuntimeError):
        return "torch has no such function"
    if torch.Tag.nondeterministic_seeded in function.tags and not _without_dropout(function, arguments):
        return "it draws random numbers"
    schema = function._schema
    if schema.is_mutable:
        return "it changes its input"
    reads = any("Tensor" in str(argument.type) for argument in schema.arguments) or parts[1] in _FACTORIES
    if not reads or not schema.returns or any(str(result.type) not in _RESULTS for result in schema.returns):
        return "it is no function from tensors to tensors"
    if parts[1] in ("index", "_unsafe_index"):
        return None  # by numbers, not by a mask: what a mask gives has no size here
    shaped = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
    return "the size of its result depends on values" if any(tag in function.tags for tag in shaped) else None


def _without_dropout(function: Callable, arguments: Sequence[Any]) -> bool:
    """Attention and recurrent layers draw random numbers for their dropout alone, others in training alone."""
    given = dict(zip((argument.name for argument in function._schema.arguments), arguments, strict=False))
    return given.get("dropout_p", given.get("dropout")) == 0 or given.get("train", given.get("training")) is False


@cache
def _function(target: str) -> Callable:
    first, *rest = target.split(".")
    if first == "operator":
        return _SIZES[rest[0]]
    name, overload = rest
    return getattr(getattr(torch.ops.aten, name), overload)


def call(target: str, arguments: Sequence[Any], inputs: Sequence[Any]) -> Any:
    """The result of the operation."""
    given = [decode(argument, inputs) for argument in arguments]
    function = _function(target)
    if target.startswith("operator."):
        return function(*given)
    schema = function._schema.arguments
    places = [value for value, at in zip(given, schema, strict=False) if not at.kwarg_only]
    named = {at.name: value for value, at in zip(given, schema, strict=False) if at.kwarg_only and value is not None}
    return function(*places, **named)


def decode(value: Any, inputs: Sequence[Any]) -> Any:
    """An argument as torch takes it."""
    if isinstance(value, list):
        return [decode(part, inputs) for part in value]
    if isinstance(value, dict):
        ((kind, of),) = value.items()
        return inputs[of] if kind == "input" else float(of) if kind == "float" else _DTYPES[of]
    return value


def encode(value: Any, place: Callable[[Any], int | None]) -> Any:
    """An argument as plain data; ``place``: the input that a value is, None for what is none.

    Raises ValueError for what has no such form.
    """
    if (index := place(value)) is not None:
        return {"input": index}
    if isinstance(value, list | tuple):
        return [encode(part, place) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, torch.dtype):
        name = str(value).removeprefix("torch.")
        if name not in _DTYPES:
            raise ValueError(f"it computes in {name}")
        return {"dtype": name}
    if isinstance(value, torch.device | torch.layout | torch.memory_format):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"it takes a {type(value).__name__}")


def is_arguments(value: list, inputs: int, target: str) -> bool:
    """Whether a value from a file can be the arguments of an operation with so many inputs."""
    if target.startswith("operator."):
        return len(value) <= 2 and all(_is_of("int", part, inputs) for part in value)
    schema = _function(target)._schema.arguments
    return len(value) == len(schema) and all(
        _is_of(str(argument.real_type), part, inputs) for argument, part in zip(schema, value, strict=True)
    )


def _is_of(kind: str, value: Any, inputs: int) -> bool:
    """Whether a value is one of a schema's type."""
    if kind.startswith("Optional["):
        return value is None or _is_of(kind[9:-1], value, inputs)
    if kind.startswith("List["):
        single = type(value) is int and kind in ("List[int]", "List[SymInt]")
        few = isinstance(value, list) and len(value) <= 4096
        return single or (few and all(_is_of(kind[5:-1], part, inputs) for part in value))
    if isinstance(value, dict) and set(value) == {"dtype"}:
        return kind == "ScalarType" and isinstance(value["dtype"], str) and value["dtype"] in _DTYPES
    if isinstance(value, dict) and set(value) == {"input"}:
        place = value["input"]
        known = kind in ("Tensor", "int", "SymInt", "number", "Scalar")
        return known and type(place) is int and 0 <= place < inputs
    if kind in ("int", "SymInt"):
        return type(value) is int and abs(value) < 2**63
    if kind == "bool":
        return type(value) is bool
    if kind in ("float", "number", "Scalar", "Tensor"):  # a number stands for a tensor of it
        return type(value) in (int, float, bool) or (value in [{"float": name} for name in ("inf", "-inf", "nan")])
    return kind == "str" and isinstance(value, str) and _WORDS.fullmatch(value) is not None
