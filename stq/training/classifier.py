"""The LightningModule: a classifier, its loss, its optimizer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from timm.data import Mixup
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ..errors import InputError, TrainingFailed
from ..quantization.low_memory import low_memory
from ..quantization.parameter_groups import parameter_groups
from ..quantization.surgery import adopt_bits
from .callbacks.averaging import adopt_bits_in_averages


@contextmanager
def _settings_of(section: str) -> Iterator[None]:
    """What timm's factories say of a wrong name or argument is a mistake in that section of the configuration."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise InputError(f"{section}: {str(error).splitlines()[0]}") from error


class Classifier(pl.LightningModule):
    """Trains ``model`` (images to logits) with cross-entropy, optionally mixup and distillation from a float teacher.

    optimizer: arguments of ``timm.optim.create_optimizer_v2`` plus quantizer_lr_factor. scheduler: of
    ``timm.scheduler.create_scheduler_v2``, stepped after every batch. loss: label_smoothing, mixup, cutmix (alphas),
    distillation_weight (0 to 1), distillation_temperature. compile: train through ``torch.compile``; evaluation never
    is, so that what is measured is what is deployed. channels_last: the layout of images and weights. Accuracies are in
    percent, counted, not averaged. memory: "low" trains in ``stq.low_memory``.
    """

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        optimizer: Mapping[str, Any],
        scheduler: Mapping[str, Any],
        loss: Mapping[str, Any],
        teacher: nn.Module | None = None,
        compile: bool = False,
        channels_last: bool = False,
        memory: str | None = None,
    ):
        super().__init__()
        self._layout = torch.channels_last if channels_last else torch.preserve_format
        if channels_last:
            model.to(memory_format=torch.channels_last)
        self.model, self.num_classes = model, num_classes
        self._around = low_memory if memory == "low" else nullcontext
        self._train_forward = torch.compile(lambda images: model(images)) if compile else model.__call__
        self.optimizer_config, self.scheduler_config, self.loss_config = dict(optimizer), dict(scheduler), dict(loss)
        self._teacher = [] if teacher is None else [teacher.eval().requires_grad_(False)]  # a list: not in state_dict
        self._counts: dict[str, list] = {}
        self.accuracy: dict[
            str, float
        ] = {}  # percent, of the last pass over each split; exact, as logged values are not
        self.mixup = None
        if loss["mixup"] or loss["cutmix"]:
            self.mixup = Mixup(
                loss["mixup"], loss["cutmix"], label_smoothing=loss["label_smoothing"], num_classes=num_classes
            )

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) to logits (N, num_classes)."""
        return self.model(images)

    def on_fit_start(self) -> None:
        """Bring the teacher to the device."""
        for teacher in self._teacher:
            teacher.to(self.device)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A run that is resumed while its bits are still falling goes on with the bits that it had."""
        adopt_bits(self, checkpoint["state_dict"])
        adopt_bits_in_averages(self.trainer, checkpoint["state_dict"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The numbers of the epoch go with it: a kill may come before they are in metrics.csv."""
        metrics = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
        checkpoint["metrics"] = metrics | {"epoch": self.current_epoch, "step": self.global_step - 1}

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """The loss of one batch."""
        images, labels = batch
        images = images.to(memory_format=self._layout)
        targets = labels
        if self.mixup is not None:
            images, targets = self.mixup(images, labels)
        with self._around(self.model):
            logits = self._train_forward(images)
        smoothing = 0.0 if self.mixup is not None else self.loss_config["label_smoothing"]
        loss = F.cross_entropy(logits, targets, label_smoothing=smoothing)
        if self._teacher:
            loss = self._distill(loss, logits, images)
        self._count("train", logits, labels, loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Count one validation batch."""
        self._evaluate("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Count one test batch."""
        self._evaluate("test", batch)

    def on_train_epoch_end(self) -> None:
        """Log the epoch; raises TrainingFailed if its loss is not finite."""
        loss = self._log_counts("train")
        self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        if not torch.isfinite(torch.tensor(loss)):
            raise TrainingFailed(
                f"the training loss became {loss} in epoch {self.current_epoch}: lower the learning rate"
            )

    def on_validation_epoch_end(self) -> None:
        """Log the validation accuracy, and the score that selects: ties in accuracy go to the smaller loss."""
        loss = self._log_counts("val")
        self.log("val_score", self.accuracy["val"] - 1e-3 * min(loss, 1.0))

    def on_test_epoch_end(self) -> None:
        """Log the test accuracy."""
        self._log_counts("test")

    def configure_optimizers(self) -> dict[str, Any]:
        """timm's factories, on our parameter groups."""
        optimizer, scheduler = self._optimizers(*self._length())
        if scheduler is None:
            return {"optimizer": optimizer}
        config = {"scheduler": scheduler, "interval": "step"}
        if isinstance(scheduler, ReduceLROnPlateau):
            config = {"scheduler": scheduler, "interval": "epoch", "monitor": "val_top1"}
        return {"optimizer": optimizer, "lr_scheduler": config}

    def check_optimizers(self) -> None:
        """Make them without a trainer. Raises InputError for a name or argument that timm does not know."""
        self._optimizers(1, 1)

    def _length(self) -> tuple[int, int]:
        """(epochs, updates in each) of the schedule: as many as max_epochs, max_steps and the data allow."""
        total, epochs = self.trainer.estimated_stepping_batches, self.trainer.max_epochs
        if not math.isfinite(total):  # until max_time
            return 1, 1
        if epochs is None or epochs < 1 or self.trainer.max_steps > 0:
            in_epoch = max(1, self.trainer.num_training_batches // self.trainer.accumulate_grad_batches)
            epochs = math.ceil(total / in_epoch)
        return epochs, max(1, int(total) // epochs)

    def _optimizers(self, epochs: int, updates: int) -> tuple[torch.optim.Optimizer, Any]:
        arguments = dict(self.optimizer_config)
        factor = arguments.pop("quantizer_lr_factor")
        groups = parameter_groups(self.model, arguments["lr"], arguments.pop("weight_decay"), factor)
        with _settings_of("optimizer"):
            optimizer = create_optimizer_v2(groups, weight_decay=0.0, filter_bias_and_bn=False, **arguments)
        if self.scheduler_config["sched"] == "plateau":
            return optimizer, self._plateau(optimizer)
        with _settings_of("scheduler"):
            scheduler, _ = create_scheduler_v2(
                optimizer, num_epochs=epochs, updates_per_epoch=updates, step_on_epochs=False, **self.scheduler_config
            )
        return optimizer, scheduler

    def _plateau(self, optimizer: torch.optim.Optimizer) -> ReduceLROnPlateau:
        """Torch's own, which Lightning steps with the validation accuracy: timm's forgets its count in checkpoints."""
        settings = {"patience_epochs": 10, "decay_rate": 0.1, "min_lr": 0.0, "warmup_epochs": 0} | self.scheduler_config
        unknown = settings.keys() - {"sched", "patience_epochs", "decay_rate", "min_lr", "warmup_epochs"}
        if unknown or settings["warmup_epochs"]:
            name = min(unknown) if unknown else "warmup_epochs"
            raise InputError(f"scheduler.{name}: sched=plateau takes patience_epochs, decay_rate and min_lr")
        patience, factor = settings["patience_epochs"], settings["decay_rate"]
        with _settings_of("scheduler"):
            return ReduceLROnPlateau(optimizer, "max", factor, patience, min_lr=settings["min_lr"])

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """timm's schedulers count updates themselves; the one that waits for a plateau is told the accuracy."""
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(metric)
        else:
            scheduler.step_update(num_updates=self.global_step)

    def _distill(self, loss: Tensor, logits: Tensor, images: Tensor) -> Tensor:
        """Mix in the divergence from the teacher at a temperature (Hinton et al., arXiv 1503.02531)."""
        temperature, weight = self.loss_config["distillation_temperature"], self.loss_config["distillation_weight"]
        with torch.no_grad():
            wanted = F.log_softmax(self._teacher[0](images) / temperature, -1)
        found = F.log_softmax(logits / temperature, -1)
        divergence = F.kl_div(found, wanted, reduction="batchmean", log_target=True) * temperature**2
        return (1 - weight) * loss + weight * divergence

    def _evaluate(self, stage: str, batch: tuple[Tensor, Tensor]) -> None:
        images, labels = batch
        logits = self.model(images.to(memory_format=self._layout))
        self._count(stage, logits, labels, F.cross_entropy(logits, labels))

    def _count(self, stage: str, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        correct = (logits.detach().argmax(-1) == labels).sum()
        self._counts.setdefault(stage, []).append(
            torch.stack(
                [correct.double(), loss.detach().double() * len(labels), correct.new_tensor(len(labels)).double()]
            )
        )

    def _log_counts(self, stage: str) -> float:
        correct, loss, count = self.trainer.strategy.reduce(
            torch.stack(self._counts.pop(stage)).sum(0), reduce_op="sum"
        ).tolist()
        self.accuracy[stage] = 100 * correct / count
        self.log(f"{stage}_loss", loss / count)
        self.log(f"{stage}_top1", self.accuracy[stage], prog_bar=True)
        return loss / count
