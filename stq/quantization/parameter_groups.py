"""Optimizer groups: what decays, and which learning rate the quantizers' own parameters get."""

from __future__ import annotations

from typing import Any

from torch import nn

from .surgery import quantizers


def parameter_groups(
    model: nn.Module, lr: float, weight_decay: float = 0.0, quantizer_lr_factor: float = 1.0
) -> list[dict[str, Any]]:
    """Groups for a torch optimizer, made after ``stq.quantize`` so that the quantizers' own parameters are among them.

    Weights decay by ``weight_decay``; biases, norms and steps do not; each quantizer decays as it declares. What
    quantizers learn (steps, clips, attention) has the rate ``lr * quantizer_lr_factor``, times what each asks for.
    """
    owned: dict[int, tuple[float, float]] = {}
    for quantizer in quantizers(model):
        for name, parameter in quantizer.named_parameters():
            owned[id(parameter)] = (lr * quantizer_lr_factor * quantizer.lr_factor(name), quantizer.decay)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        if id(parameter) in owned:
            key = owned[id(parameter)]
        else:
            key = (lr, weight_decay if parameter.dim() > 1 else 0.0)
        groups.setdefault(key, []).append(parameter)
    return [{"params": p, "lr": rate, "weight_decay": decay} for (rate, decay), p in groups.items()]
