"""Batch norm's statistics, taken anew from the network as it will be evaluated."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...errors import InputError


class BatchNormReestimation(Callback):
    """Before each validation of training, replaces batch norm's running means by the mean over whole batches.

    The running means lag behind the weights and belong to the network of training, where thresholds may differ from
    image to image; these belong to the weights and the fixed thresholds that are validated, selected and saved
    ("precise" statistics: Wu and Johnson, arXiv 2105.07576, section 3). Training itself never reads them.

    batches: of the training loader, 1 or more, at most those of one epoch. Raises InputError for another number.
    """

    def __init__(self, batches: int):
        if isinstance(batches, bool) or not isinstance(batches, int) or batches < 1:
            raise InputError(
                f"callbacks.reestimate_batch_norm={batches} is no number of batches: use 1 or more, or null"
            )
        self.batches = batches

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Lightning has put the model into evaluation by now, so quantizers are as they are at inference."""
        if trainer.state.fn != "fit":
            return  # a checkpoint that was selected has its statistics
        batches = islice(trainer.datamodule.train_dataloader(), self.batches)
        layers = reestimate(module.model, (images.to(module.device) for images, _ in batches))
        for layer in layers:  # each process has seen its own share
            for statistic in (layer.running_mean, layer.running_var):
                statistic.copy_(trainer.strategy.reduce(statistic, reduce_op="mean"))


@torch.no_grad()
def reestimate(model: nn.Module, batches: Iterable[Tensor]) -> list[_BatchNorm]:
    """Set the running mean and variance of each batch norm to the mean over ``batches`` of images; returns the layers.

    The rest of the model stays as it is, in evaluation or training. Layers without running statistics are left alone.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    before = [(layer.momentum, layer.training) for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # torch's cumulative mean
        layer.train()
    try:
        for images in batches:
            model(images)
    finally:
        for layer, (momentum, training) in zip(layers, before, strict=True):
            layer.momentum = momentum
            layer.train(training)
    return layers
