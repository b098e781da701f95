"""Sorts runs into what may stand in one table: groups, their rows, and the cells whose seeds are averaged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from ...errors import InputError
from ..runs.run import FLOAT_METHODS, Run
from ..runs.settings import brief, differing, in_order, short_names, shown, without_echoes
from .significance import mean_and_spread

FLOAT = "float baseline"
FLOAT_CONTROL = "float, trained on"
FLOAT_GATES = FLOAT_METHODS["float_gates"]
Bits = tuple[int, int]


@dataclass
class Cell:
    """Runs that differ in nothing but the seed."""

    runs: dict[int, Run]

    @property
    def accuracies(self) -> dict[int, float]:
        """Test top-1 in percent by seed."""
        return {seed: run.accuracy for seed, run in self.runs.items()}

    @property
    def mean(self) -> float:
        """Of the test top-1, percent."""
        return mean_and_spread(self.accuracies.values())[0]

    @property
    def spread(self) -> float | None:
        """Sample standard deviation in percentage points; None for one seed."""
        return mean_and_spread(self.accuracies.values())[1]


@dataclass
class Row:
    """A method with one choice of settings, at several bit widths."""

    method: str
    label: str
    cells: dict[Bits, Cell]
    factors: tuple[str, ...] = ()  # the settings that the label names


@dataclass
class Group:
    """Runs of one data set (by its name and, where it is recorded, its content), network and first/last policy.

    ``floats`` are rows of float runs, ``float_by_seed`` the accuracies of the float models that the runs started from,
    or else of the float runs among them.
    """

    data: str
    model: str
    first_last_bits: int | None
    parameters: int | None
    float_size_bytes: int | None
    rows: list[Row]
    floats: list[Row]
    float_by_seed: dict[int, float]
    fingerprint: str | None = None  # of the data, where tables of others have the same name
    notes: list[str] = field(default_factory=list)

    @property
    def first_last(self) -> str:
        """How the first and last layer are treated, in words."""
        return "as all others" if self.first_last_bits is None else f"{self.first_last_bits} bits"

    @property
    def bits(self) -> list[Bits]:
        """Bit widths of any row, in order."""
        return sorted({bits for row in self.rows for bits in row.cells})

    @property
    def runs(self) -> list[Run]:
        """Every run of the group's rows, float runs last."""
        return [run for row in (*self.rows, *self.floats) for cell in row.cells.values() for run in cell.runs.values()]

    def gaps(self, cell: Cell) -> list[float] | None:
        """Differences to the float baseline in percentage points, by seed: that of the run, or that of the same seed.

        None unless every run of the cell has one.
        """
        floats = [own_float(run, self.float_by_seed) for run in cell.runs.values()]
        if any(value is None for value in floats):
            return None
        return [run.accuracy - value for run, value in zip(cell.runs.values(), floats, strict=True)]


def own_float(run: Run, by_seed: dict[int, float]) -> float | None:
    """The float accuracy that a run is held against, percent."""
    recorded = run.result["float_test_top1"]
    return by_seed.get(run.result["seed"]) if recorded is None else recorded


def make_groups(runs: Iterable[Run]) -> list[Group]:
    """Groups in order of data set, network, first/last bits. Raises InputError where two runs of one seed differ in
    nothing that is known."""
    quantized: dict[tuple, list[Run]] = defaultdict(list)
    floats: dict[tuple, list[Run]] = defaultdict(list)
    runs = list(runs)
    contents = _contents(runs)
    for run in runs:
        fingerprint = run.result.get("data_fingerprint") or ""
        network = (
            run.result["data"],
            run.result["model"],
            run.result["float_size_bytes"] or 0,
            fingerprint if len(contents[run.result["data"]]) > 1 else "",
        )
        if run.method in FLOAT_METHODS:
            floats[network].append(run)
        else:
            quantized[(*network, run.result["first_last_bits"])].append(run)
    for network in floats.keys() - {key[:-1] for key in quantized}:
        quantized[(*network, 32)] = []
    return [_group(key, quantized[key], floats[key[:-1]]) for key in sorted(quantized, key=_order)]


def _contents(runs: Iterable[Run]) -> dict[str, set[str]]:
    """The fingerprints that are recorded for the data of one name: several data sets may have it."""
    found: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        found[run.result["data"]] |= {run.result.get("data_fingerprint")} - {None}
    return found


def _order(key: tuple) -> tuple:
    *network, first_last_bits = key
    return (*network, first_last_bits or 0)


def _group(key: tuple, quantized: list[Run], float_runs: list[Run]) -> Group:
    data, model, size, fingerprint, first_last_bits = key
    by_method: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in quantized:
        by_method[run.method, run.result["weight_method"] or "float"].append(run)
    names = [method for method, _ in by_method]
    rows = []
    for (method, weights), members in sorted(by_method.items()):
        rows += _rows(method, f"{method} ({weights} weights)" if names.count(method) > 1 else method, members)
    baseline, trained_on, gated, gated_on = (
        [run for run in float_runs if run.method == method and (run.result["float_test_top1"] is None) is begins]
        for method in FLOAT_METHODS
        for begins in (True, False)
    )
    floats = _rows("none", FLOAT, baseline) + _rows("none", FLOAT_CONTROL, trained_on)
    floats += _rows("float_gates", FLOAT_GATES, gated) + _rows("float_gates", f"{FLOAT_GATES}, trained on", gated_on)
    some = (quantized or float_runs)[0].result
    group = Group(data, model, first_last_bits, some["parameters"], size or None, rows, floats, {}, fingerprint or None)
    _note_floats(group, quantized or trained_on, baseline)
    _note_differences(group)
    return group


def _rows(method: str, label: str, runs: list[Run]) -> list[Row]:
    """One row for each choice of the settings in which runs of the same bits differ."""
    cells: dict[Bits, list[Run]] = defaultdict(list)
    for run in runs:
        cells[run.bits].append(run)
    factors = sorted({key for members in cells.values() for key in differing(run.settings for run in members)})
    factors = without_echoes([key for key in factors if not _goes_with_seed(key, runs)], [run.settings for run in runs])
    names = short_names(factors)
    split: dict[tuple[str, ...], dict[Bits, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        split[tuple(shown(run.settings, key) for key in factors)][run.bits].append(run)
    rows = []
    for values, members in sorted(split.items(), key=lambda item: [in_order(value) for value in item[0]]):
        chosen = ", ".join(f"{names[key]}={brief(value)}" for key, value in zip(factors, values, strict=True))
        full = f"{label} [{chosen}]" if chosen else label
        rows.append(Row(method, full, {b: _cell(full, b, each) for b, each in members.items()}, tuple(factors)))
    return rows


def _goes_with_seed(key: str, runs: list[Run]) -> bool:
    """Another seed, such as that of the split, that is set from the run's seed."""
    values: dict[int, set[str]] = defaultdict(set)
    for run in runs:
        values[run.result["seed"]].add(shown(run.settings, key))
    return key.endswith("seed") and all(len(each) == 1 for each in values.values())


def _cell(label: str, bits: Bits, runs: list[Run]) -> Cell:
    by_seed: dict[int, Run] = {}
    for run in sorted(runs, key=lambda run: run.result["seed"]):
        seed = run.result["seed"]
        if seed in by_seed:
            raise InputError(
                f"{by_seed[seed].place} and {run.place} are both {label} at {bits[0]}/{bits[1]} bits, seed {seed}, "
                f"with different settings, but no config.yaml beside them says which: report them apart"
            )
        by_seed[seed] = run
    return Cell(by_seed)


def _note_floats(group: Group, runs: list[Run], baseline: list[Run]) -> None:
    """Fill ``float_by_seed`` and say where there is no float model, or more than one, to compare with."""
    values: dict[int, dict[str, float]] = defaultdict(dict)  # by what is printed of them: the rest is rounding
    for run in runs:
        if run.result["float_test_top1"] is not None:
            values[run.result["seed"]][f"{run.result['float_test_top1']:.4f}"] = run.result["float_test_top1"]
    for run in baseline if not values else ():
        values[run.result["seed"]][f"{run.accuracy:.4f}"] = run.accuracy
    several = {seed: sorted(each.values()) for seed, each in values.items() if len(each) > 1}
    group.float_by_seed = {seed: next(iter(each.values())) for seed, each in sorted(values.items()) if len(each) == 1}
    if several:
        seed, each = min(several.items())
        listed = ", ".join(f"{value:.2f} %" for value in each)
        group.notes.append(
            f"Runs of seed {seed} started from {len(each)} different float models ({listed}); "
            "each difference is to the run's own."
        )
    without = [row.label for row in group.rows if any(group.gaps(cell) is None for cell in row.cells.values())]
    if without:
        group.notes.append(f"No float baseline of the same seeds for {', '.join(without)}: no difference is given.")


def _note_differences(group: Group) -> None:
    """Say in which settings, code and libraries the rows differ; a method's own settings are its own matter."""
    runs = [run for row in group.rows for cell in row.cells.values() for run in cell.runs.values()]
    told = {key for row in group.rows for key in row.factors}
    for key in differing(run.settings for run in runs):
        if key.startswith("quantizer.") or key in told:
            continue
        where: dict[str, list[str]] = defaultdict(list)
        for row in group.rows:
            for bits, cell in sorted(row.cells.items()):
                for value in {shown(run.settings, key) for run in cell.runs.values()}:
                    where[value].append(f"{row.label} {bits[0]}/{bits[1]}")
        parts = [f"{value} ({_few(places)})" for value, places in sorted(where.items(), key=lambda i: in_order(i[0]))]
        group.notes.append(f"Not the same for all, {key}: {'; '.join(parts)}.")
    unknown = sum(len(run.settings) == 1 for run in runs)
    if unknown:
        group.notes.append(
            f"{unknown} of {len(runs)} results have no config.yaml beside them: that their settings agree, "
            "beyond the epochs, could not be checked."
        )
    commits = {run.result["git_commit"] for run in group.runs}
    versions = {run.result["versions"].get("torch") for run in group.runs if isinstance(run.result["versions"], dict)}
    for many, what in ((commits, "commits of the code"), (versions, "versions of torch")):
        if len(many) > 1:
            group.notes.append(f"The runs were made with {len(many)} {what}.")


def _few(places: list[str], most: int = 3) -> str:
    return ", ".join(places[:most]) + (f" and {len(places) - most} more" if len(places) > most else "")
