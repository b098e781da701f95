"""Which layer gets how many bits, and by which method: the one place where bit widths are decided."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from ..errors import nearest
from ..quantizers import FLOAT_BITS, check_bits, get_method, get_weight_quantizer

QUANTIZED_TYPES = (nn.Conv1d, nn.Conv2d, nn.Linear)


@dataclass(frozen=True)
class LayerPlan:
    """What is decided for one layer. Bits of 32 leave that side in floating point; signed None: find out."""

    path: str
    weight_bits: int
    activation_bits: int
    method: str
    weight_method: str
    signed: bool | None = None


OVERRIDES = ("weight_bits", "activation_bits", "method", "weight_method", "signed")


@dataclass(frozen=True)
class Policy:
    """Bit widths and methods for a whole network.

    method: activation quantizer (``stq.list_quantizers()``). weight_method: None for the one paired with it.
    weight_bits, activation_bits: 1 to 8, or 32 for float. first_last_bits: both sides of the first and the last layer
    (8; 32 leaves them float; None treats them as any other), by ``first_last_method``, the same for all methods so
    that methods compare. residual_bits: both inputs of each residual addition, by LSQ with one step (None leaves
    additions in float). layers: {path pattern: {any of OVERRIDES}}, later patterns win. skip: path patterns of layers
    left in float. Patterns are shell wildcards on module paths (``layer1.*.conv2``).

    Raises ValueError for an unknown method, a bit width out of range, or a pattern that matches no layer.
    """

    method: str = "double_st"
    weight_bits: int = 3
    activation_bits: int = 3
    first_last_bits: int | None = 8
    first_last_method: str = "lsq"
    residual_bits: int | None = None
    weight_method: str | None = None
    layers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    skip: Sequence[str] = ()

    def __post_init__(self):
        for name in ("weight_bits", "activation_bits", "first_last_bits", "residual_bits"):
            if getattr(self, name) is not None:
                check_bits(getattr(self, name), name)
        get_method(self.method)
        get_method(self.first_last_method)
        if self.weight_method is not None:
            get_weight_quantizer(self.weight_method)
        if isinstance(self.skip, str):
            raise ValueError(f"skip is a list of patterns, as in skip=['{self.skip}']")
        for pattern, override in self.layers.items():
            for key, value in override.items():
                if key not in OVERRIDES:
                    raise ValueError(f"layers.'{pattern}' has no setting '{key}'{nearest(key, OVERRIDES)}")
                if key == "weight_method":
                    get_weight_quantizer(value)
                if key == "signed" and value not in (True, False, None):
                    raise ValueError(f"layers.'{pattern}'.signed={value} is not true, false or null")
                if key.endswith("bits"):
                    check_bits(value, f"layers.'{pattern}'.{key}")

    def plan(self, model: nn.Module) -> list[LayerPlan]:
        """One plan for each convolution and linear layer that gets quantized, in the model's order."""
        paths = quantizable_layers(model)
        for pattern in (*self.layers, *self.skip):
            if not any(fnmatch(path, pattern) for path in paths):
                raise ValueError(f"no layer matches '{pattern}'{nearest(pattern, paths)}")
        edges = set() if self.first_last_bits is None else set(first_and_last(model, paths))
        plans = [self._plan(path, path in edges) for path in paths if not any(fnmatch(path, p) for p in self.skip)]
        return [
            plan
            for plan in plans
            if min(plan.weight_bits, plan.activation_bits) < FLOAT_BITS or not get_method(plan.method).rounds
        ]

    def _plan(self, path: str, edge: bool) -> LayerPlan:
        plan = LayerPlan(path, self.weight_bits, self.activation_bits, self.method, self.weight_method or "")
        rest = None if get_method(self.method).rounds else FLOAT_BITS
        if edge and get_method(self.method).activation is not None:
            plan = replace(
                plan,
                # a side that is float in the whole network is float here too
                weight_bits=FLOAT_BITS if FLOAT_BITS in (self.weight_bits, rest) else self.first_last_bits,
                activation_bits=FLOAT_BITS if FLOAT_BITS in (self.activation_bits, rest) else self.first_last_bits,
                method=self.first_last_method,
                weight_method="",
            )
        for pattern, override in self.layers.items():
            if fnmatch(path, pattern):
                plan = replace(plan, **override)
        method = get_method(plan.method)
        if method.activation is None or not method.rounds:
            plan = replace(plan, weight_bits=FLOAT_BITS, activation_bits=FLOAT_BITS)
        return replace(plan, weight_method=plan.weight_method or method.weights)


def quantizable_layers(model: nn.Module) -> list[str]:
    """Paths of the convolutions and linear layers of ``model``; warns of those that cannot be quantized."""
    paths, refused = [], []
    inside_attention = tuple(
        f"{name}." for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)
    )
    for path, module in model.named_modules():
        if not isinstance(module, QUANTIZED_TYPES):
            continue
        if parametrize.is_parametrized(module, "weight"):
            own_weight = hasattr(module.parametrizations.weight, "original")  # weight_norm makes it of two
        else:  # the old weight_norm, spectral_norm and pruning compute the weight in a hook: it is no parameter then
            own_weight = "weight" in module._parameters
        if not own_weight or (inside_attention and path.startswith(inside_attention)):
            refused.append(path)
        else:
            paths.append(path)
    if refused:
        warnings.warn(
            f"{len(refused)} layers stay in float, because their module does not use its weight and input as they are "
            "(weights that a hook computes, as in pruning, weight_norm, nn.MultiheadAttention): "
            f"{', '.join(refused[:3])}{', ...' * (len(refused) > 3)}",
            stacklevel=2,
        )
    if not paths:
        raise ValueError("the model has no convolution or linear layer that can be quantized")
    return paths


def first_and_last(model: nn.Module, paths: Sequence[str]) -> list[str]:
    """The first and the last layer: as timm's pretrained_cfg names them, else by the order of the modules."""
    cfg = getattr(model, "pretrained_cfg", None) or {}
    edges = []
    for key, fallback in (("first_conv", paths[0]), ("classifier", paths[-1])):
        names = cfg.get(key) or ()
        found = [name for name in ((names,) if isinstance(names, str) else names) if name in paths]
        edges += found or [fallback]
    return edges
