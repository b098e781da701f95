"""The page's list of runs: a row each, the choices to filter by, and what is behind a click."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape

from ..formats.number_format import DASH, bits_name, signed
from ..runs.run import Run
from ..tables.groups import Group, own_float

# heading, and whether it holds numbers
COLUMNS = (
    ("run", False),
    ("data", False),
    ("model", False),
    ("method", False),
    ("bits", True),
    ("seed", True),
    ("test top-1 %", True),
    ("to float", True),
    ("val top-1 %", True),
    ("size KiB", True),
    ("epochs", True),
    ("time s", True),
    ("commit", False),
    ("status", False),
)
FILTERS = ("data", "model", "method", "bits", "status")
_BEHIND = ("command", "git_commit", "config_hash", "started", "hardware", "versions", "weight_method")
_BEHIND += ("first_last_bits", "parameters", "float_size_bytes", "float_test_top1", "tags", "error")


def run_rows(runs: Iterable[tuple[Run, Group | None]]) -> str:
    """Table rows; each cell carries its value for sorting and its heading for narrow screens."""
    return "\n".join(_row(index, run, group) for index, (run, group) in enumerate(runs))


def selects(runs: Sequence[tuple[Run, Group | None]]) -> str:
    """A drop-down list for each of ``FILTERS``."""
    names = [name for name, _ in COLUMNS]
    parts = []
    for name in FILTERS:
        values = {_values(run, group)[names.index(name)] for run, group in runs}
        options = "".join(f"<option>{escape(text)}</option>" for _, text in sorted(values))
        parts.append(
            f'<label>{name}<select data-column="{names.index(name)}"><option value="">all</option>{options}</select>'
            "</label>"
        )
    return "".join(parts)


def run_data(runs: Iterable[Run]) -> str:
    """What is behind each row, as JSON that cannot end the script element it stands in."""
    data = []
    for run in runs:
        facts = {"result file": run.place} | {key: run.result[key] for key in _BEHIND}
        data.append({"facts": {key: _plain(value) for key, value in facts.items()}, "config": run.config_text})
    return json.dumps(data).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _row(index: int, run: Run, group: Group | None) -> str:
    cells = []
    for (name, numeric), (value, text) in zip(COLUMNS, _values(run, group), strict=True):
        kind = ' class="number"' if numeric else ""
        inside = escape(text)
        if name == "run":
            inside = f'<button type="button" class="open" aria-expanded="false">{inside}</button>'
        cells.append(f'<td data-label="{escape(name)}" data-value="{escape(str(value))}"{kind}>{inside}</td>')
    failed = ' class="failed"' if group is None else ""
    return f'<tr data-run="{index}"{failed}>{"".join(cells)}</tr>'


def _values(run: Run, group: Group | None) -> list[tuple[float | str, str]]:
    """For each column what it is sorted by and what it shows."""
    result = run.result
    baseline = own_float(run, group.float_by_seed) if group else None
    accuracy = result["test_top1"]
    gap = None if baseline is None or accuracy is None else accuracy - baseline
    size = result["size_bytes"]
    names = [run.name, result["data"], result["model"], run.method]
    commit = str(result["git_commit"] or DASH)
    return [
        *((name, name) for name in names),
        (100 * run.bits[0] + run.bits[1], bits_name(run.bits)),
        (result["seed"], str(result["seed"])),
        _number(accuracy, 2),
        (-1000.0 if gap is None else gap, signed(gap)),
        _number(result["val_top1"], 2),
        _number(None if size is None else size / 1024, 1),
        _number(result["epochs"], 0),
        _number(result["wall_seconds"], 1),
        (commit, commit[:8] + ("+" if commit.endswith("+") else "")),
        (result["status"], result["status"]),
    ]


def _number(value: float | None, digits: int) -> tuple[float, str]:
    return (-1.0, DASH) if value is None else (value, f"{value:.{digits}f}")


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {each}" for key, each in value.items())
    return (
        ", ".join(map(str, value)) if isinstance(value, list) and value else DASH if value in (None, []) else str(value)
    )
