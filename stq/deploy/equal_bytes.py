"""Bit widths at which a network is no smaller than another: for comparisons of methods at equal bytes."""

from __future__ import annotations

from torch import nn

from ..quantization.surgery import float_weight, quantized_layers, weight_quantizer
from .cost import model_size


def layers_for_bytes(model: nn.Module, size_bytes: int) -> dict[str, dict[str, int]]:
    """``layers`` of a policy with which ``model`` takes at least ``size_bytes``, and less with any of them left out.

    The weights of the model's layers get one bit more, from the last layer backwards, until it is no smaller; where all
    have one, they get another. First and last layer, which have bits of their own, stay. Sizes are those of
    ``stq.model_size``: packed weights, scales, records and gates. Raises ValueError for a model without quantized
    weights, or one that is smaller at 8 bits.
    """
    weights = {path: weight_quantizer(layer) for path, layer in quantized_layers(model)}
    bits = {path: quantizer.bits for path, quantizer in weights.items() if quantizer is not None}
    if not bits:
        raise ValueError("the model has no quantized weights: call stq.quantize(model, ...) first")
    least = min(bits.values())
    own = [path for path, width in bits.items() if width == least]
    elements = {path: float_weight(layer).numel() for path, layer in quantized_layers(model) if path in own}
    size, chosen = model_size(model).size_bytes, {}
    for width in range(least + 1, 9):
        for path in reversed(own):
            if size >= size_bytes:
                return chosen
            size += -(-elements[path] * width // 8) + (-elements[path] * (width - 1) // 8)
            chosen[path] = {"weight_bits": width}
    if size < size_bytes:
        raise ValueError(f"the model takes {size:,} bytes with weights of 8 bits, fewer than the {size_bytes:,} wanted")
    return chosen
