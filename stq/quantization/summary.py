"""``stq.summary(model)``: a table of the quantized layers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ..quantizers import FLOAT_BITS, ActivationQuantizer
from .policy import QUANTIZED_TYPES
from .residual import Rounded
from .surgery import float_weight, input_quantizer, weight_quantizer


@dataclass(frozen=True)
class LayerSummary:
    """One row: bits of 32 mean float; ``input`` is signed, non-negative, float, or unknown before calibration."""

    path: str
    type: str
    weight_bits: int
    activation_bits: int
    weights: str
    activations: str
    input: str
    parameters: int


class Summary(tuple):
    """Rows of ``LayerSummary``; printed as a table."""

    __slots__ = ()

    def __str__(self) -> str:
        head = ("layer", "type", "w bits", "a bits", "weights", "activations", "input", "parameters")
        rows = [
            (r.path, r.type, r.weight_bits, r.activation_bits, r.weights, r.activations, r.input, f"{r.parameters:,}")
            for r in self
        ]
        widths = [max(len(str(row[i])) for row in (head, *rows)) for i in range(len(head))]
        lines = [
            "  ".join(str(v).rjust(widths[i]) if i in (2, 3, 7) else str(v).ljust(widths[i]) for i, v in enumerate(row))
            for row in (head, ["-" * w for w in widths], *rows)
        ]
        return "\n".join(line.rstrip() for line in lines)


def summary(model: nn.Module) -> Summary:
    """Every convolution and linear layer, and the inputs of quantized additions.

    Bits, quantizers, signedness of the input, parameters (bias included).
    """
    rows, own = [], ()
    for path, module in model.named_modules():
        if isinstance(module, ActivationQuantizer):
            own += (f"{path}.",)  # the layers of an attention block belong to the quantizer
        if isinstance(module, Rounded):
            rows.append(_value_row(path, module))
        if isinstance(module, QUANTIZED_TYPES) and not (own and path.startswith(own)):
            rows.append(_row(path, module))
    return Summary(rows)


def _value_row(path: str, value: Rounded) -> LayerSummary:
    quantizer = input_quantizer(value)
    kind = {None: "unknown", True: "signed", False: "non-negative"}[quantizer.signed]
    return LayerSummary(path, "Rounded", FLOAT_BITS, quantizer.bits, "none", type(quantizer).__name__, kind, 0)


def _row(path: str, layer: nn.Module) -> LayerSummary:
    activations, weights = input_quantizer(layer), weight_quantizer(layer)
    kind = (
        "float" if activations is None else {None: "unknown", True: "signed", False: "non-negative"}[activations.signed]
    )
    bias = 0 if layer.bias is None else layer.bias.numel()
    return LayerSummary(
        path,
        type(layer).__name__.removeprefix("Parametrized"),
        FLOAT_BITS if weights is None else weights.bits,
        FLOAT_BITS if activations is None else activations.bits,
        "float" if weights is None else type(weights).__name__,
        "float" if activations is None else type(activations).__name__,
        kind,
        float_weight(layer).numel() + bias,
    )
