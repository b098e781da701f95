"""``layer.weight`` of a quantized layer is computed anew at each access: a change to it would be lost without a word.

So what is given is guarded: whatever would change it in place raises an error that names the float weight behind it.
Assigning to ``layer.weight`` changes the float weight.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

_SETTERS = {"__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__ipow__", "__imod__", "__set__"}


class QuantizedWeight(Tensor):
    """A weight that cannot be changed in place; what is computed from it is a plain tensor."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Raises RuntimeError for what changes the weight in place."""
        kwargs = kwargs or {}
        changed = args[0] if args else kwargs.get("tensor")
        name = getattr(func, "__name__", "")
        in_place = (name.endswith("_") and not name.endswith("__")) or name in _SETTERS
        in_place = in_place and func is not Tensor.grad.__set__
        if (in_place and isinstance(changed, cls)) or isinstance(kwargs.get("out"), cls):
            raise RuntimeError(
                "the weight of a quantized layer is computed from its float weight, so this change would be lost: "
                "change layer.parametrizations.weight.original instead, or assign to layer.weight"
            )
        plain_args, plain_kwargs = tree_map(_plain, (tuple(args), kwargs))
        result = func(*plain_args, **plain_kwargs)
        if isinstance(changed, cls) and type(result) is Tensor and _same_memory(result, changed):
            return result.as_subclass(cls)  # .data, .detach(), a view: changes to it would be lost as well
        return result


def _plain(value: Any) -> Any:
    return value.as_subclass(Tensor) if isinstance(value, QuantizedWeight) else value


def _same_memory(a: Tensor, b: Tensor) -> bool:
    try:
        return a.untyped_storage().data_ptr() == _plain(b).untyped_storage().data_ptr() != 0
    except (RuntimeError, NotImplementedError):  # tensors without memory of their own
        return False


def guard_weight(layer: nn.Module) -> None:
    """Guard the weight of a layer that has just been parametrized: its class is its own, and its copies' then."""
    cls = type(layer)
    cls.plain_weight = cls.weight  # torch's property, which computes the weight
    cls.weight = property(_guarded_weight, _set_weight)
    cls.__setattr__ = _setattr


def _guarded_weight(layer: nn.Module) -> Tensor:
    weight = layer.plain_weight
    return weight if torch.compiler.is_compiling() else weight.as_subclass(QuantizedWeight)


def _setattr(layer: nn.Module, name: str, value: Any) -> None:
    if name == "weight":
        _set_weight(layer, value)
    else:
        nn.Module.__setattr__(layer, name, value)


@torch.no_grad()
def _set_weight(layer: nn.Module, value: Tensor) -> None:
    original = layer.parametrizations.weight.original
    if not isinstance(value, Tensor) or value.shape != original.shape:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"the weight of this layer is {tuple(original.shape)}, not {shape}")
    original.copy_(_plain(value))
