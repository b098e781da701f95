"""Progressive quantization: bits that fall while a network trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from ...errors import InputError
from ...quantization.calibration import calibrate
from ...quantization.surgery import input_quantizer, quantized_layers, set_bits, weight_quantizer
from ...quantizers import check_bits
from .averaging import restart_averages


def stages(schedule: str | Mapping[float, int] | None) -> dict[float, int] | None:
    """Bits by the part of training at which they begin, in order.

    schedule: ``"8-4@0.3-3@0.6"``, which every shell leaves alone (8 bits at first, 4 from 30 % of the epochs, 3 from
    60 %; without @ a stage begins where stages of equal length would), or ``{0.0: 8, 0.3: 4, 0.6: 3}``. Raises
    InputError for another form.
    """
    if schedule is None:
        return None
    try:
        if isinstance(schedule, str):
            parts = [part.partition("@") for part in schedule.split("-")]
            places = [float(at) if at else number / len(parts) for number, (_, _, at) in enumerate(parts)]
            schedule = dict(zip(places, (int(bits) for bits, _, _ in parts), strict=True))
        return dict(sorted((float(part), int(bits)) for part, bits in schedule.items()))
    except (ValueError, TypeError, AttributeError):
        raise InputError(
            f"callbacks.progressive={schedule} is not bits by stage such as 8-4-3 or 8-4@0.3-3@0.6"
        ) from None


class ProgressiveBits(Callback):
    """Bits that fall in stages, as ``stages`` gives them.

    The last stage must have the bits of the configuration. Layers with bits of their own (first, last, overrides) keep
    them. At each change the steps are calibrated anew. Raises InputError for a schedule that makes no sense.
    """

    def __init__(self, schedule: Mapping[float, int], weight_bits: int, activation_bits: int):
        self.schedule = dict(schedule)
        parts = list(self.schedule)
        if not parts or parts[0] != 0 or parts[-1] >= 1:
            raise InputError("callbacks.progressive must start at part 0.0 and stay below 1.0, as in 8-4@0.3-3@0.6")
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

    def check_reached(self, begins: Sequence[float]) -> None:
        """Raise InputError for a stage that never begins: epochs begin at the parts of training ``begins``."""
        parts = [*self.schedule, 1.0]
        for part, following in pairwise(parts):
            if not any(part <= begin + 1e-9 < following + 1e-9 for begin in begins):
                raise InputError(
                    f"callbacks.progressive: the stage from {part:g} never begins: none of the {len(begins)} epochs "
                    f"begins between {part:g} and {following:g} of training; the last one begins at {begins[-1]:.2g}"
                )

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

    @staticmethod
    def _fraction(trainer: pl.Trainer) -> float:
        """Of training that is done: by epochs, or by steps where those are the length."""
        if trainer.max_steps > 0:
            return trainer.global_step / trainer.max_steps
        return trainer.current_epoch / max(1, trainer.max_epochs)

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Change the bits where a stage begins."""
        bits = self.bits_at(self._fraction(trainer))
        current = {
            (getattr(weight_quantizer(layer), "bits", bits[0]), getattr(input_quantizer(layer), "bits", bits[1]))
            for path, layer in quantized_layers(module.model)
            if path in self.paths
        }
        if current != {bits}:
            set_bits(module.model, *bits, only=self.paths)
            calibrate(module.model, trainer.datamodule.calibration_batch())
            restart_averages(trainer, module)
            for checkpoint in trainer.checkpoint_callbacks:  # only networks of the final bits may be selected
                checkpoint.best_k_models.clear()
                checkpoint.best_model_score = None
