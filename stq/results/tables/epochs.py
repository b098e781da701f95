"""How soon methods are as good as another in the end: validation accuracy by epoch, against a chosen row."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from ..runs.metrics import read_metrics
from .groups import Bits, Cell, Group


@dataclass(frozen=True)
class EpochLine:
    """A row's mean validation top-1 (percent) by epoch, and the first epoch whose mean is at least ``target``.

    target: the mean of the reference in its last epoch. reached: from 1; None where no epoch comes to it.
    """

    row: str
    bits: Bits
    reference: str
    target: float
    validation: tuple[float, ...]
    reached: int | None


def epoch_lines(group: Group, against: str) -> tuple[EpochLine, ...]:
    """A line for each row and bit width at which the reference kept its metrics too, the reference first."""
    found = []
    rows = sorted(group.rows, key=lambda row: row.label != against)
    targets: dict[Bits, float] = {}
    for row in rows:
        for bits, cell in sorted(row.cells.items()):
            validation = _by_epoch(cell)
            if validation and row.label == against:
                targets[bits] = validation[-1]
            if not validation or bits not in targets:
                continue
            target = targets[bits]
            reached = next((epoch for epoch, value in enumerate(validation, 1) if value >= target - 1e-9), None)
            found.append(EpochLine(row.label, bits, against, target, validation, reached))
    return tuple(found)


def _by_epoch(cell: Cell) -> tuple[float, ...]:
    """The mean over the seeds of each epoch that all of them have; nothing where a run has no metrics."""
    runs = [read_metrics(run, ("val_top1",)).get("val_top1", {}) for run in cell.runs.values()]
    count = min((max(series, default=-1) + 1 for series in runs), default=0)
    shared = [epoch for epoch in range(count) if all(epoch in series for series in runs)]
    return tuple(fmean(series[epoch] for series in runs) for epoch in shared) if len(shared) == count else ()
