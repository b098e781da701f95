"""What no exact file can be made of, whatever its operations: half precision, NaN, layers gone since quantizing."""

from __future__ import annotations

import torch
from torch import nn

from ...errors import InputError
from ...quantization.surgery import quantized_layers

_HALF = (torch.float16, torch.bfloat16)


def check_model(model: nn.Module) -> None:
    """Raise InputError for half precision, NaN or infinity, and quantized layers that are gone."""
    left, before = len(dict(quantized_layers(model))), getattr(model, "quantized_layer_count", 0)
    if left < before:
        raise InputError(
            f"{before - left} of the {before} layers that were quantized are gone (merged by a re-parameterization, or "
            "replaced): merge the branches of the float model first, and quantize the merged one"
        )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.dtype in _HALF:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise InputError(f"'{name}' is in {kind}, whose sums no file repeats: export model.float() and verify that")
        masked = not isinstance(tensor, nn.Parameter)  # a mask of attention may well hold infinity
        if tensor.is_floating_point() and (tensor.isnan().any() or (not masked and tensor.isinf().any())):
            remedy = "" if tensor.isnan().any() else " (a mask that holds it is no parameter: register it as a buffer)"
            raise InputError(f"'{name}' holds NaN or infinity{remedy}")
