"""``stq.set_progress(model, fraction)``: tells quantizers how far training is."""

from __future__ import annotations

from torch import nn

from ..quantizers import ActivationQuantizer
from .surgery import quantizers


def set_progress(model: nn.Module, fraction: float) -> None:
    """Call it before each training step in a loop of your own: annealing hangs on it (Lightning runs do it themselves).

    fraction: of the optimizer steps of the whole training that are done, 0 to 1. Methods that do not anneal take no
    notice. Raises ValueError for a fraction out of range.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction={fraction} is not a part of training, from 0 to 1")
    for quantizer in quantizers(model):
        if isinstance(quantizer, ActivationQuantizer):
            quantizer.set_progress(fraction)
