"""What a file would leave out without a word, because the trace does not see it: refused by name instead."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrize

from ...errors import InputError
from ...quantization.surgery import is_quantizing_hook, weight_quantizer

_HALF = (torch.float16, torch.bfloat16)


def refuse_what_would_be_left_out(model: nn.Module) -> None:
    """Raise InputError for hooks, parametrizations put on after quantizing, half precision, and NaN."""
    for path, module in model.named_modules():
        where = f"'{path}'" if path else "the model"
        for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values()):
            if not is_quantizing_hook(hook):
                name = getattr(hook, "__qualname__", type(hook).__name__)
                raise InputError(
                    f"{where} has a forward hook, {name}, which the file would leave out: put what it does into the "
                    "model's forward, or remove it (weight_norm, spectral_norm and pruning have functions for that)"
                )
        if parametrize.is_parametrized(module):
            _refuse_parametrizations(where, module)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.dtype in _HALF:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise InputError(f"'{name}' is in {kind}, whose sums no file repeats: export model.float() and verify that")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(f"'{name}' holds NaN or infinity")


def _refuse_parametrizations(where: str, module: nn.Module) -> None:
    quantized = weight_quantizer(module) is not None
    for name, parametrizations in module.parametrizations.items():
        if not quantized:
            continue  # a float layer's weight is computed once
        if name != "weight" or len(parametrizations) > 1:
            kinds = ", ".join(type(each).__name__ for each in parametrizations)
            raise InputError(
                f"the {name} of {where} has parametrizations ({kinds}) beside its quantizer, which the file would "
                "leave out: remove them (torch.nn.utils.parametrize.remove_parametrizations) and quantize again"
            )
