"""Calibration: the explicit step before training that sets every step, clip and signedness from one batch."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .summary import Summary, summary
from .surgery import float_weight, input_quantizer, quantized_layers, weight_quantizer

log = logging.getLogger(__name__)


@torch.no_grad()
def calibrate(model: nn.Module, batch: Tensor | Sequence[Tensor]) -> Summary:
    """Run one batch through a quantized model and set each quantizer from what it sees; returns ``stq.summary(model)``.

    batch: the model's input, or a sequence whose first item it is (a batch of a data loader). Each layer is calibrated
    on inputs that come through the already quantized layers before it. A layer's input is taken to be signed if the
    batch holds a negative value, unless the policy says otherwise; the summary says which it was.
    Batch norms use the statistics of the batch, as they will in training; their running statistics and all else of the
    model stay as they are. Raises ValueError for a batch with NaN, or a model without quantizers.
    """
    inputs = batch if isinstance(batch, Tensor) else batch[0]
    layers = list(quantized_layers(model))
    if not layers:
        raise ValueError("the model has no quantizers: call stq.quantize(model, ...) before stq.calibrate")
    if not torch.isfinite(inputs).all():
        raise ValueError("cannot calibrate on a batch that holds NaN or infinity")
    parameter = next(model.parameters())
    seen: set[str] = set()
    handles = []
    for path, layer in layers:
        if (quantizer := weight_quantizer(layer)) is not None:
            quantizer.calibrate(float_weight(layer))
        if input_quantizer(layer) is not None:
            hook = _calibration_hook(path, seen)
            handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True, prepend=True))
    try:
        with _as_training_sees(model, len(inputs)):
            model(inputs.to(parameter.device))
    finally:
        for handle in handles:
            handle.remove()
    unseen = [path for path, layer in layers if input_quantizer(layer) is not None and path not in seen]
    if unseen:
        warnings.warn(
            f"the batch did not reach {len(unseen)} layers, not calibrated: {', '.join(unseen)}", stacklevel=2
        )
    return summary(model)


def _calibration_hook(path: str, seen: set[str]):
    def hook(layer: nn.Module, args: tuple, kwargs: dict) -> None:
        if path in seen:
            return
        seen.add(path)
        quantizer = input_quantizer(layer)
        quantizer.calibrate(args[0] if args else kwargs["input"])
        found = "given" if quantizer.requested_signed is not None else "found"
        log.debug("%s: input %s (%s)", path, "signed" if quantizer.signed else "non-negative", found)

    return hook


@contextmanager
def _as_training_sees(model: nn.Module, samples: int) -> Iterator[None]:
    """Evaluation mode, but batch norms use the batch and layers sum as in training; every mode is put back.

    With running statistics, a weight quantizer that changes the size of the weights (DoReFa's do) would blow up the
    activations from layer to layer, and the steps with them, while training normalises them away.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    norms = [module for module in modes if isinstance(module, nn.modules.batchnorm._BatchNorm)] if samples > 1 else []
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for _, layer in quantized_layers(model):
        layer.training = True  # of the layer itself, not of its quantizers
    for norm in norms:
        norm.train()
        norm.momentum = 0.0
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches
        for module, mode in modes.items():
            module.training = mode
