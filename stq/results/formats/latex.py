"""Tables in LaTeX for the booktabs package."""

from __future__ import annotations

import re

from ..tables.report_table import COMPARED, COSTS, PUBLISHED, Entry, Sheet
from .number_format import (
    accuracy,
    bits_name,
    caption,
    comparison_cells,
    cost_table,
    details,
    failure,
    first_last,
    same_n,
)

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "±": r"$\pm$",
    "−": "$-$",
    "×": r"$\times$",
    "⁶": "$^6$",
    "–": "--",
    "<": "$<$",
    ">": "$>$",
    "|": r"\textbar{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
} | {character: f"\\{character}" for character in "&%$#_{}"}
_PATTERN = re.compile("|".join(map(re.escape, _SPECIAL)))


def render(sheets, apart) -> str:
    """Tables of ours, of published numbers and of comparisons for each sheet; runs in no table are comments."""
    parts = [r"% \usepackage{booktabs} in the preamble"]
    for sheet in sheets:
        parts += [part(sheet) for part in (_ours, _published, _comparisons, _costs)]
    parts += [f"% {heading}: {failure(run)}".replace("\n", " ") for heading, runs in apart for run in runs]
    return "\n\n".join(filter(None, parts)) + "\n"


def _ours(sheet: Sheet) -> str:
    if not sheet.ours:
        return ""
    shown = [bits for bits in sheet.bits if any(bits in line.entries for line in sheet.ours)]
    rows = [f"Method & {' & '.join(map(bits_name, shown))} \\\\", r"\midrule"]
    for line in sheet.floats:
        entry = line.entries[32, 32]
        value = _escape(f"{accuracy(entry.mean, entry.spread)} ({details(entry)})")
        rows.append(rf"{_escape(line.label)} & \multicolumn{{{len(shown)}}}{{c}}{{{value}}} \\")
    rows += [r"\midrule"] if sheet.floats else []
    for line in sheet.ours:
        rows += _rows([_escape(line.label)], [line.entries.get(bits) for bits in shown], same_n(sheet))
    notes = " ".join(_escape(note) for note in (f"{sheet.title}.", caption(sheet), *sheet.notes))
    return _environment(sheet.key, notes, "l" + "r" * len(shown), rows, r"\small")


def _published(sheet: Sheet) -> str:
    if not sheet.published:
        return ""
    shown = [bits for bits in sheet.bits if any(bits in line.entries for line in sheet.published)]
    rows = [f"Published & Float & First/last & {' & '.join(map(bits_name, shown))} \\\\", r"\midrule"]
    sources: list[str] = []
    for line in sheet.published:
        source = f"{line.source} ({line.remarks})"
        sources += [source] if source not in sources else []
        name = f"{_escape(line.label)}$^{{{sources.index(source) + 1}}}$"
        facts = [name, accuracy(line.float_mean, None), _escape(first_last(line.first_last))]
        rows += _rows(facts, [line.entries.get(bits) for bits in shown], None)
    notes = [_escape(f"{PUBLISHED}. Top-1 in percent; in brackets the difference to the float model of the source.")]
    notes += [f"$^{{{i}}}$\\,{_escape(source)}." for i, source in enumerate(sources, 1)]
    columns = "l" + "r" * (2 + len(shown))
    return _environment(f"{sheet.key}_published", " ".join(notes), columns, rows, r"\footnotesize")


def _comparisons(sheet: Sheet) -> str:
    if not sheet.comparisons:
        return ""
    rows = [r"Bits & Compared & $n$ & Difference & 95\,\% interval & $p$ & $p$ (Holm) \\", r"\midrule"]
    rows += [" & ".join(map(_escape, comparison_cells(item))) + r" \\" for item in sheet.comparisons]
    notes = _escape(f"{sheet.title}. {COMPARED}")
    return _environment(f"{sheet.key}_paired", notes, "llrrrrr", rows, r"\footnotesize")


def _costs(sheet: Sheet) -> str:
    if not sheet.costs:
        return ""
    headings, *lines = ([_escape(cell) for cell in row] for row in cost_table(sheet))
    rows = [" & ".join(headings) + r" \\", r"\midrule", *(" & ".join(line) + r" \\" for line in lines)]
    columns = r"p{0.3\linewidth}l" + "r" * (len(headings) - 2)  # many rows may share a line
    return _environment(f"{sheet.key}_cost", _escape(f"{sheet.title}. {COSTS}"), columns, rows, r"\footnotesize")


def _rows(first: list[str], entries: list[Entry | None], n: int | None) -> list[str]:
    """The numbers, and under them in small type what belongs to each: side by side they are too wide for a page."""
    values, under = [], []
    for entry in entries:
        value = "--" if entry is None else _escape(accuracy(entry.mean, entry.spread))
        values.append(rf"\textbf{{{value}}}" if entry and entry.best else value)
        more = _escape(details(entry, n)) if entry else ""
        under.append(rf"\scriptsize ({more})" if more else "")
    rows = [" & ".join([*first, *values]) + r" \\"]
    if any(under):
        rows.append(" & ".join(["", *[""] * (len(first) - 1), *under]) + r" \\")
    return rows


def _environment(key: str, caption: str, columns: str, rows: list[str], size: str) -> str:
    body = "\n".join(rows)
    return (
        f"\\begin{{table}}\n\\centering{size}\n\\caption{{{caption}}}\n\\label{{tab:{key.replace('_', '-')}}}\n"
        f"\\setlength{{\\tabcolsep}}{{3pt}}\n\\begin{{tabular}}{{{columns}}}\n\\toprule\n{body}\n\\bottomrule\n"
        "\\end{tabular}\n\\end{table}"
    )


def _escape(text: str) -> str:
    return _PATTERN.sub(lambda match: _SPECIAL[match.group()], text.replace("\n", " "))
