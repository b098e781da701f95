"""What a printed table holds, once for all formats: lines of ours, lines of others, notes, comparisons over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...data.fingerprint import PUBLISHED_PIXELS
from ...errors import InputError, nearest
from ...storage.content_hash import digest
from .costs import CostLine, cost_lines, cost_notes
from .epochs import EpochLine, epoch_lines
from .groups import FLOAT, Bits, Group, Row
from .published import Published, normalised
from .significance import CONFIDENCE, Paired, holm, mean_and_spread, paired


@dataclass(frozen=True)
class Entry:
    """One cell: percent, percentage points, number of seeds. Published numbers have no spread and no seeds."""

    mean: float
    spread: float | None
    seeds: tuple[int, ...]
    gap: float | None
    best: bool = False


@dataclass(frozen=True)
class Line:
    """One row of a table. ``source`` is None for ours; an unknown policy or float accuracy is empty or None."""

    label: str
    first_last: str
    float_mean: float | None
    float_spread: float | None
    entries: Mapping[Bits, Entry]
    source: str | None = None
    remarks: str = ""


@dataclass(frozen=True)
class Comparison:
    """Two rows at the same bits over the seeds they share; ``paired`` is None where fewer than two match."""

    bits: Bits
    row: str
    reference: str
    paired: Paired | None
    corrected: float | None


@dataclass(frozen=True)
class Sheet:
    """Everything that is printed of a group."""

    title: str
    key: str
    bits: tuple[Bits, ...]
    ours: tuple[Line, ...]
    floats: tuple[Line, ...]
    published: tuple[Line, ...]
    comparisons: tuple[Comparison, ...]
    costs: tuple[CostLine, ...]
    epochs: tuple[EpochLine, ...]
    notes: tuple[str, ...]


COMPARED = (
    f"Paired over the seeds that both have: mean difference in percentage points, {CONFIDENCE:.0%} t interval, "
    "p of the t test, and p after Holm's correction for all comparisons listed."
)
COSTS = (
    "Cost of one input as deployed; in brackets how many times less than the float network. A bit operation is a "
    "multiplication (MAC) of a convolution or linear layer, times the bits of its weights and of its activations."
)
EPOCHS = (
    "Mean validation top-1 in percent by epoch, and the first epoch in which it is at least that of the row compared "
    "with in its last."
)
PUBLISHED = "Published by others: not ours, not averaged with ours, under their own recipes"


def make_sheets(groups: Sequence[Group], published: Mapping, against: str | None = None) -> list[Sheet]:
    """A sheet for each group. Raises InputError if ``against`` is given and no group has a row of that name."""
    if against is not None:
        find_row(groups, against)
    return [make_sheet(group, published, against) for group in groups]


def find_row(groups: Sequence[Group], label: str) -> list[Row]:
    """The rows called ``label``, one a group at most. Raises InputError, with the nearest name, where there is none."""
    labels = sorted({row.label for group in groups for row in group.rows})
    if label not in labels:
        more = f" and {len(labels) - 8} more" if len(labels) > 8 else ""
        listed = ", ".join(labels[:8]) + more if labels else "only float runs"
        raise InputError(f"there is no row '{label}'{nearest(label, labels)}: there are {listed}")
    return [row for group in groups for row in group.rows if row.label == label]


def make_sheet(group: Group, published: Mapping[tuple[str, str], Sequence[Published]], against: str | None) -> Sheet:
    """The sheet of a group; rows are compared with the row ``against``, or with the best of each column."""
    best = {bits: _best(group, bits) for bits in group.bits}
    theirs = tuple(map(_published_line, published.get((_known_data(group), normalised(group.model)), ())))
    columns = {*group.bits, *(bits for line in theirs for bits in line.entries)}
    title, key = _names(group)
    return Sheet(
        title,
        key,
        tuple(sorted(columns)),
        tuple(_line(group, row, best) for row in group.rows),
        (*_recorded_floats(group), *(_float_line(row) for row in group.floats)),
        theirs,
        tuple(_comparisons(group, best, against)),
        cost_lines(group),
        epoch_lines(group, against) if against else (),
        (*group.notes, *cost_notes(group)),
    )


def _known_data(group: Group) -> str | None:
    """The data set whose published numbers may stand beside: known for certain in every run, at the published size."""
    known = {(run.result.get("data_known"), run.result.get("image_size")) for run in group.runs}
    name, pixels = known.pop() if len(known) == 1 else (None, None)
    return normalised(name) if name is not None and PUBLISHED_PIXELS.get(name) == pixels else None


def _names(group: Group) -> tuple[str, str]:
    size = f" ({group.parameters:,} parameters)" if group.parameters else ""
    policy = f"first and last layer {group.first_last}" if group.rows else "float runs only"
    key = f"{group.data}_{group.model}_{group.float_size_bytes or 0}_fl{group.first_last_bits}"
    content = f" (content {group.fingerprint[:8]})" if group.fingerprint else ""
    key += f"_{group.fingerprint[:8]}" if group.fingerprint else ""
    return f"{group.data}{content}, {group.model}{size}, {policy}", _file_name(key)


def _file_name(key: str) -> str:
    """For files of figures: letters, digits and underscores, and not too many of them."""
    plain = "".join(c if c.isalnum() and c.isascii() else "_" for c in key)
    return plain if len(plain) <= 80 else f"{plain[:60]}_{digest(key)[:12]}"


def _best(group: Group, bits: Bits) -> float | None:
    """The highest mean of a column with something to be better than."""
    means = [row.cells[bits].mean for row in group.rows if bits in row.cells]
    return max(means) if len(means) > 1 else None


def _line(group: Group, row: Row, best: Mapping[Bits, float | None]) -> Line:
    entries, floats = {}, {}
    for bits, cell in sorted(row.cells.items()):
        gaps = group.gaps(cell)
        gap = mean_and_spread(gaps)[0] if gaps else None
        is_best = best[bits] is not None and cell.mean >= best[bits] - 1e-9
        entries[bits] = Entry(cell.mean, cell.spread, tuple(cell.runs), gap, is_best)
        floats |= {seed: run.accuracy - d for (seed, run), d in zip(cell.runs.items(), gaps or (), strict=False)}
    mean, spread = mean_and_spread(floats.values()) if floats else (None, None)
    return Line(row.label, group.first_last.removesuffix(" bits"), mean, spread, entries)


def _float_line(row: Row) -> Line:
    cell = next(iter(row.cells.values()))
    return Line(row.label, "32", None, None, {(32, 32): Entry(cell.mean, cell.spread, tuple(cell.runs), None)})


def _recorded_floats(group: Group) -> tuple[Line, ...]:
    """What the brackets refer to, where it is not among the float runs themselves."""
    printed: dict[int, float] = {}
    for row in group.floats:
        if row.label.startswith(FLOAT):
            printed |= {seed: value for cell in row.cells.values() for seed, value in cell.accuracies.items()}
    if not group.float_by_seed or printed == group.float_by_seed:
        return ()
    mean, spread = mean_and_spread(group.float_by_seed.values())
    entry = Entry(mean, spread, tuple(group.float_by_seed), None)
    return (Line("float baseline (recorded)", "32", None, None, {(32, 32): entry}),)


def _published_line(item: Published) -> Line:
    entries = {
        bits: Entry(top1, None, (), None if item.float_top1 is None else top1 - item.float_top1)
        for bits, top1 in sorted(item.top1.items())
    }
    start = f"start: {item.init or 'not said'}, distillation: {item.distillation or 'not said'}"
    seen = "seen in the source" if item.status == "read" else "seen quoted elsewhere"
    label = f"{item.method}, {item.network}"
    return Line(label, item.first_last, item.float_top1, None, entries, item.source, f"{start}; {seen}")


def _comparisons(group: Group, best: Mapping[Bits, float | None], against: str | None) -> list[Comparison]:
    found: dict[str, tuple[Bits, str, str, Paired | None]] = {}
    for bits in group.bits:
        rows = [row for row in group.rows if bits in row.cells]
        if len(rows) < 2:
            continue
        named = [row for row in rows if row.label == against]
        if against is not None and not named:
            continue
        reference = named[0] if named else max(rows, key=lambda row: row.cells[bits].mean)
        for row in rows:
            if row is not reference:
                result = paired(row.cells[bits].accuracies, reference.cells[bits].accuracies)
                found[f"{bits} {row.label}"] = bits, row.label, reference.label, result
    corrected = holm({key: result.p if result else None for key, (_, _, _, result) in found.items()})
    return [Comparison(*each, corrected[key]) for key, each in found.items()]
