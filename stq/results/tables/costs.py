"""What the networks of a group cost for one input, a line for each distinct cost."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from ..runs.run import Run
from .groups import Bits, Group


class Cost(NamedTuple):
    """Bytes as deployed, multiplications, bit operations, peak bytes of the activations; None is not known."""

    size: float | None
    macs: float | None
    bops: float | None
    activations: float | None


@dataclass(frozen=True)
class CostLine:
    """The rows that cost the same at the same bits, and what the same network costs in float."""

    rows: tuple[str, ...]
    bits: Bits
    cost: Cost
    in_float: Cost

    @property
    def ratios(self) -> Cost:
        """How many times less than in float; None where that is not known."""
        return Cost(*(full / own if own and full else None for own, full in zip(self.cost, self.in_float, strict=True)))


# where result.json has them
DEPLOYED = Cost("size_bytes", "macs", "bops", "activation_bytes")
_IN_FLOAT = Cost("float_size_bytes", "macs", "float_bops", "float_activation_bytes")
FLOAT_NETWORK = "float network"


def cost_lines(group: Group) -> tuple[CostLine, ...]:
    """The float network first, then the rows by bits, in order of the rows. Empty where no cost is known."""
    rows: dict[tuple[Bits, Cost, Cost], list[str]] = {}
    for bits in group.bits:
        for row in group.rows:
            if bits in row.cells:
                runs = row.cells[bits].runs.values()
                key = bits, _agreed(runs, DEPLOYED), _agreed(runs, _IN_FLOAT)
                rows.setdefault(key, []).append(row.label)
    full = _agreed(group.runs, _IN_FLOAT)
    lines = [CostLine((FLOAT_NETWORK,), (32, 32), full, full)]
    lines += [CostLine(tuple(labels), *key) for key, labels in rows.items()]
    return tuple(line for line in lines if set(line.cost) != {None})


def cost_notes(group: Group) -> list[str]:
    """Say where runs that differ in nothing but the seed do not cost the same: then no cost is given."""
    notes = []
    for row in group.rows:
        for (weights, activations), cell in sorted(row.cells.items()):
            keys = [key for key in DEPLOYED if len(_known(cell.runs.values(), key)) > 1]
            if keys:
                where = f"{row.label} at {weights}/{activations} bits"
                notes.append(f"The seeds of {where} differ in {', '.join(keys)}: none is given.")
    return notes


def _agreed(runs: Collection[Run], keys: Cost) -> Cost:
    """Older results lack some costs: one that has them speaks for its seeds."""
    values = [_known(runs, key) for key in keys]
    return Cost(*(each.pop() if len(each) == 1 else None for each in values))


def _known(runs: Collection[Run], key: str) -> set[float]:
    return {run.result.get(key) for run in runs} - {None}
