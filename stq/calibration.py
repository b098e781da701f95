"""Calibration: the explicit step before training that sets every step, clip and signedness from one batch."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .model_summary import Summary, summary
from .surgery import float_weight, input_quantizer, quantized_layers, weight_quantizer

log = logging.getLogger(__name__)


@torch.no_grad()
def calibrate(model: nn.Module, batch: Tensor | Sequence[Tensor]) -> Summary:
    """Run one batch through a quantized model and set each quantizer from what it sees; returns ``stq.summary(model)``.

    batch: the model's input, or a sequence whose first item it is (a batch of a data loader). Each layer is calibrated
    on inputs that come through the already quantized layers before it. A layer's input is taken to be signed if the
    batch holds a negative value, unless the policy says otherwise; the choice is logged and stands in the summary.
    Batch norms whose running statistics are untouched use the statistics of the batch; nothing else of the model
    changes. Raises ValueError for a batch with NaN, or a model without quantizers.
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
        with _evaluating(model):
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
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, except that untrained batch norms use the batch; every mode and statistic is put back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    untouched = [module for module in modes if isinstance(module, nn.modules.batchnorm._BatchNorm) and _fresh(module)]
    kept = [(module.momentum, module.num_batches_tracked.clone()) for module in untouched]
    for module in untouched:
        module.train()
        module.momentum = 0.0
    try:
        yield
    finally:
        for module, (momentum, batches) in zip(untouched, kept, strict=True):
            module.momentum = momentum
            module.num_batches_tracked.copy_(batches)
        for module, mode in modes.items():
            module.training = mode


def _fresh(norm: nn.Module) -> bool:
    return norm.track_running_stats and bool((norm.running_mean == 0).all() and (norm.running_var == 1).all())
