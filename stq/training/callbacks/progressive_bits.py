"""Progressive quantization: bits that fall while a network trains."""

from __future__ import annotations

from collections.abc import Mapping

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from ...errors import InputError
from ...quantization.calibration import calibrate
from ...quantization.surgery import input_quantizer, quantized_layers, set_bits, weight_quantizer
from ...quantizers import check_bits


class ProgressiveBits(Callback):
    """Bits that fall in stages: ``{0.0: 8, 0.3: 4, 0.6: 3}`` is 8 bits at first, 4 from 30 % of the epochs, then 3.

    The last stage must have the bits of the configuration. Layers with bits of their own (first, last, overrides) keep
    them. At each change the steps are calibrated anew. Raises InputError for a schedule that makes no sense.
    """

    def __init__(self, schedule: Mapping[float, int], weight_bits: int, activation_bits: int):
        self.schedule = dict(sorted((float(part), int(bits)) for part, bits in schedule.items()))
        parts = list(self.schedule)
        if not parts or parts[0] != 0 or parts[-1] >= 1:
            raise InputError("callbacks.progressive must start at part 0.0 and stay below 1.0, as in {0.0: 8, 0.5: 3}")
        for bits in self.schedule.values():
            try:
                check_bits(bits, "callbacks.progressive")
            except ValueError as error:
                raise InputError(str(error)) from error
        self.bits = (weight_bits, activation_bits)
        if list(self.schedule.values())[-1] not in self.bits:
            raise InputError(
                f"callbacks.progressive must end at the bits of the run, {weight_bits} or {activation_bits}"
            )
        self.paths: set[str] = set()

    def bits_at(self, fraction: float) -> tuple[int, int]:
        """(weight bits, activation bits) at a part of training; never below those of the run."""
        stage = [bits for part, bits in self.schedule.items() if part <= fraction + 1e-9][-1]
        return max(stage, self.bits[0]), max(stage, self.bits[1])

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        """Remember which layers have the run's own bits."""
        if not self.paths:
            for path, layer in quantized_layers(module.model):
                found = [getattr(q, "bits", None) for q in (weight_quantizer(layer), input_quantizer(layer))]
                if all(bits in (None, wanted) for bits, wanted in zip(found, self.bits, strict=True)):
                    self.paths.add(path)

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Change the bits where a stage begins."""
        bits = self.bits_at(trainer.current_epoch / trainer.max_epochs)
        current = {
            (getattr(weight_quantizer(layer), "bits", bits[0]), getattr(input_quantizer(layer), "bits", bits[1]))
            for path, layer in quantized_layers(module.model)
            if path in self.paths
        }
        if current != {bits}:
            set_bits(module.model, *bits, only=self.paths)
            calibrate(module.model, trainer.datamodule.calibration_batch())
            for checkpoint in trainer.checkpoint_callbacks:  # only networks of the final bits may be selected
                checkpoint.best_k_models.clear()
                checkpoint.best_model_score = None
