"""Evaluate a finished run again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl

from ..errors import InputError
from ..results.runs.result_file import read_result
from ..training.build import plain
from ..training.classifier import Classifier
from ..training.run_folder import load_run
from ..training.silence_lightning import quieten


def evaluate_run(run: str | Path, trust: Sequence[str] = ()) -> dict[str, float]:
    """Validation and test top-1 (percent) of a run's selected checkpoint, printed beside its result.json.

    trust: as ``load_run`` takes it. Raises InputError if the folder is no finished run, or if what is found is not what
    was recorded.
    """
    quieten()
    model, data, cfg = load_run(run, trust)
    recorded = read_result(Path(run))
    module = Classifier(model, data.num_classes, plain(cfg.optimizer), plain(cfg.scheduler), plain(cfg.loss))
    trainer = pl.Trainer(
        accelerator=cfg.trainer.accelerator,
        devices=1,
        precision=cfg.trainer.precision,
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.validate(module, data, verbose=False)
    trainer.test(module, data, verbose=False)
    found = {f"{split}_top1": accuracy for split, accuracy in module.accuracy.items()}
    for name in found:
        print(f"{name}  {found[name]!r}  recorded {recorded[name]!r}")
    different = [name for name in found if found[name] != recorded[name]]
    if different:
        raise InputError(f"{' and '.join(different)} of {run} differ from its result.json: other hardware or versions?")
    return found
