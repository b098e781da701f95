"""Warns where an optimizer trains a quantized model's weights and nobody its steps: it was made before ``quantize``."""

from __future__ import annotations

import warnings
import weakref
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from ..quantizers import ActivationQuantizer, WeightQuantizer


@dataclass
class _Seen:
    """Of one model: the optimizers that stepped, and the parameters that they hold."""

    optimizers: set[int] = field(default_factory=set)
    held: set[int] = field(default_factory=set)


_watched: weakref.WeakKeyDictionary[nn.Module, _Seen] = weakref.WeakKeyDictionary()
_hook: list[Any] = []  # torch's handle, while a model is watched


def watch_optimizers(model: nn.Module) -> None:
    """Look at the optimizers of this model until one has stepped twice: by then all have, and the watch ends."""
    _watched[model] = _Seen()
    if not _hook:
        _hook.append(register_optimizer_step_pre_hook(_look))


def _look(optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for model, seen in list(_watched.items()):
        steps, others = _parameters(model)
        if not held & (steps | others):
            continue
        seen.held |= held
        if id(optimizer) not in seen.optimizers:
            seen.optimizers.add(id(optimizer))
            continue
        del _watched[model]
        if (missing := len(steps - seen.held)) and others & seen.held:
            warnings.warn(
                f"{missing} of {len(steps)} learned steps of the quantized model are in no optimizer, so they are not "
                "trained: make the optimizer after stq.quantize, for instance from stq.parameter_groups(model, lr)",
                stacklevel=3,
            )
    if not _watched and _hook:
        _hook.pop().remove()


def _parameters(model: nn.Module) -> tuple[set[int], set[int]]:
    """(those of quantizers, all others) that are trained."""
    quantizers = [module for module in model.modules() if isinstance(module, ActivationQuantizer | WeightQuantizer)]
    steps = {id(p) for module in quantizers for p in module.parameters() if p.requires_grad}
    return steps, {id(p) for p in model.parameters() if p.requires_grad} - steps
