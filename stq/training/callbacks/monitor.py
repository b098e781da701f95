"""What the quantizers do while they train: steps, thresholds, shares of clipped and of zero codes, by layer."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn

from ...quantization.surgery import input_quantizer, quantized_layers
from ...quantizers import ActivationQuantizer, ActivationRecord


def layer_statistics(record: ActivationRecord, x: Tensor) -> dict[str, float]:
    """Numbers of one layer for one batch of its inputs; thresholds in units of the input, shares from 0 to 1."""
    code = record.encode(x)
    gain = record.on_average().gain
    relative = gain / gain.mean()
    thresholds = record.thresholds()
    return {
        "step": record.scale.item(),
        "clipped": ((code == record.high) | ((code == record.low) & (record.low < 0))).float().mean().item(),
        "zero": (code == 0).float().mean().item(),
        "threshold_min": thresholds.min().item(),
        "threshold_max": thresholds.max().item(),
        "gain_min": relative.min().item(),
        "gain_max": relative.max().item(),
    }


def code_histogram(record: ActivationRecord, x: Tensor) -> dict:
    """Shares of each code and each level's threshold (least, mean, largest over channels) for one batch of inputs."""
    codes, gain = torch.arange(record.low, record.high + 1), record.on_average().gain
    counts = torch.bincount(record.encode(x).flatten().cpu() - record.low, minlength=len(codes))
    thresholds = record.thresholds().cpu()
    spread = torch.stack([thresholds.amin(0), thresholds.mean(0), thresholds.amax(0)], 1)
    return {
        "codes": codes.tolist(),
        "share": (counts / counts.sum()).tolist(),
        "thresholds": spread.tolist(),
        "gain": (gain / gain.mean()).reshape(-1).tolist(),
    }


class InputRecorder:
    """Keeps the input that each quantizer sees in one forward pass, as a context manager."""

    def __init__(self, model: nn.Module):
        self.layers = {path: input_quantizer(layer) for path, layer in quantized_layers(model)}
        self.inputs: dict[str, Tensor] = {}

    def __enter__(self) -> InputRecorder:
        self._handles = [
            quantizer.register_forward_pre_hook(lambda _, args, path=path: self.inputs.update({path: args[0].detach()}))
            for path, quantizer in self.layers.items()
            if isinstance(quantizer, ActivationQuantizer)
        ]
        return self

    def __exit__(self, *_) -> None:
        for handle in self._handles:
            handle.remove()

    def records(self):
        """(path, record, input) of every quantizer that was reached by finite inputs and has a static record."""
        for path, x in self.inputs.items():
            try:
                record = self.layers[path].record()
            except ValueError:
                continue  # learned intervals
            if torch.isfinite(x).all() and torch.isfinite(record.gain).all():
                yield path, record, x


class QuantizerMonitor(Callback):
    """Logs ``<quantity>/<layer path>`` for each layer on the first validation batch of every epoch."""

    def __init__(self):
        self._recorder: InputRecorder | None = None

    def on_validation_batch_start(self, trainer, module, batch, index: int, dataloader_idx: int = 0) -> None:
        """Watch the first batch."""
        if index == 0 and not trainer.sanity_checking:
            self._recorder = InputRecorder(module.model).__enter__()

    def on_validation_batch_end(self, trainer, module, outputs, batch, index: int, dataloader_idx: int = 0) -> None:
        """Log what it showed."""
        if self._recorder is None:
            return
        recorder, self._recorder = self._recorder, None
        recorder.__exit__()
        for path, record, x in recorder.records():
            values = layer_statistics(record, x)
            module.log_dict({f"{name}/{path}": value for name, value in values.items()}, batch_size=1)


def write_codes(model: nn.Module, batch: Tensor, path: Path) -> None:
    """Write ``codes.json``: for each layer, the histogram of its codes on a batch and the thresholds by level."""
    parameter = next(model.parameters())
    model.eval()
    with InputRecorder(model) as recorder, torch.no_grad():
        model(batch.to(parameter.device, parameter.dtype))
    if recorder.inputs:
        path.write_text(
            json.dumps({layer: code_histogram(record, x) for layer, record, x in recorder.records()}) + "\n"
        )
