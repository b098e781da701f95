"""Quantizers by name: a decorator to register, wildcards to list, entry points to find other packages' quantizers."""

from __future__ import annotations

import difflib
import fnmatch
import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points

from .base import ActivationQuantizer, WeightQuantizer

ENTRY_POINT_GROUP = "stq.quantizers"


@dataclass(frozen=True)
class Method:
    """A registered activation quantizer and the weight quantizer that is paired with it unless one is named.

    activation: None for the method that leaves activations in floating point.
    """

    name: str
    activation: Callable[..., ActivationQuantizer] | None
    weights: str

    @property
    def rounds(self) -> bool:
        """Whether its layers have codes: not those of a method that only puts gates into a float network."""
        return getattr(self.activation, "rounds", True)


@dataclass
class _Table:
    kind: str
    entries: dict = field(default_factory=dict)

    def add(self, name: str, entry: object) -> None:
        if name in self.entries and _defined_at(self.entries[name]) != _defined_at(entry):
            raise ValueError(f"a {self.kind} named '{name}' is registered already; choose another name")
        self.entries[name] = entry

    def get(self, name: str) -> object:
        _load_entry_points()
        if name not in self.entries:
            near = difflib.get_close_matches(str(name), self.entries, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(sorted(self.entries))}."
            raise ValueError(f"there is no {self.kind} named '{name}': {hint}")
        return self.entries[name]

    def names(self, pattern: str) -> list[str]:
        _load_entry_points()
        return sorted(fnmatch.filter(self.entries, pattern))


def _defined_at(entry: object) -> object:
    """The place of the class in the source: a cell of a notebook that is run again defines the same one again."""
    cls = getattr(entry, "activation", entry)
    return getattr(cls, "__module__", None), getattr(cls, "__qualname__", cls)


def _decorator(table: _Table, name: str, entry: Callable[[type], object] = lambda cls: cls) -> Callable[[type], type]:
    if not isinstance(name, str):
        raise ValueError(
            f'a {table.kind} is registered with its name in quotes, @stq.register_…("NAME"): {name!r} is none'
        )

    def decorate(cls: type) -> type:
        table.add(name, entry(cls))
        return cls

    return decorate


_methods = _Table("quantizer")
_weights = _Table("weight quantizer")
_gates = _Table("gate")


@cache
def _load_entry_points() -> None:
    """Import what other installed packages offer; importing is enough, because their decorators register."""
    for point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            point.load()
        except Exception as error:  # somebody else's package must not take ours down
            warnings.warn(f"the quantizers of {point.value} are not available: {error}", stacklevel=4)


def register_quantizer(name: str, weights: str = "lsq") -> Callable[[type], type]:
    """Class decorator: make an ``ActivationQuantizer`` available as ``name``, paired with the weight quantizer named.

    Raises ValueError if the name is taken by another class.
    """
    return _decorator(_methods, name, lambda cls: Method(name, cls, weights))


def register_weight_quantizer(name: str) -> Callable[[type], type]:
    """Class decorator: make a ``WeightQuantizer`` available as ``name``. Raises ValueError if the name is taken."""
    return _decorator(_weights, name)


def register_gate(name: str) -> Callable[[type], type]:
    """Class decorator: make a ``Gate`` available as ``name`` to double-stage ST. Raises ValueError if it is taken."""
    return _decorator(_gates, name, _checked_gate)


def _checked_gate(cls: type) -> type:
    if not hasattr(cls, "map") or inspect.isabstract(cls):
        raise ValueError(f"a gate is a class that inherits stq.Gate and writes map(z, parameters), not {cls!r}")
    return cls


def list_gates(pattern: str = "*") -> list[str]:
    """Names of the registered gates that match a wildcard; ``none`` leaves a stage out."""
    return _gates.names(pattern)


def list_quantizers(pattern: str = "*") -> list[str]:
    """Names of the registered methods that match a wildcard, for instance ``"*st"``."""
    return _methods.names(pattern)


def list_weight_quantizers(pattern: str = "*") -> list[str]:
    """Names of the registered weight quantizers that match a wildcard."""
    return _weights.names(pattern)


def get_method(name: str) -> Method:
    """The method of that name; raises ValueError that names the nearest one if there is none."""
    return _methods.get(name)


def get_weight_quantizer(name: str) -> Callable[..., WeightQuantizer]:
    """The weight quantizer of that name; raises ValueError that names the nearest one if there is none."""
    return _weights.get(name)


def get_gate(name: str) -> Callable | None:
    """The gate of that name, None for ``none``; raises ValueError that names the nearest one if there is none."""
    return _gates.get(name)


_gates.add("none", None)
_methods.add("none", Method("none", None, "lsq"))
