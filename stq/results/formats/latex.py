"""Tables in LaTeX for the booktabs package."""

from __future__ import annotations

import re

from ..sheet import COMPARED, PUBLISHED, Entry, Line, Sheet
from .wording import accuracy, bits_name, caption, comparison_cells, details, failure, first_last, same_n

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "<": "$<$",
    ">": "$>$",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
} | {character: f"\\{character}" for character in "&%$#_{}"}
_PATTERN = re.compile("|".join(map(re.escape, _SPECIAL)))


def render(sheets, failed) -> str:
    """A table environment for each sheet, one for its comparisons; failed runs as comments at the end."""
    parts = [r"% \usepackage{booktabs} in the preamble"]
    for sheet in sheets:
        if sheet.ours or sheet.published:
            parts.append(_main(sheet))
        if sheet.comparisons:
            parts.append(_comparisons(sheet))
    parts += [f"% failed, in no table: {failure(run)}".replace("\n", " ") for run in failed]
    return "\n\n".join(parts) + "\n"


def _main(sheet: Sheet) -> str:
    columns = len(sheet.bits) + 3
    rows = [f"Method & Float & First/last & {' & '.join(map(bits_name, sheet.bits))} \\\\", r"\midrule"]
    rows += [_float(line) for line in sheet.floats]
    rows += [r"\midrule"] if sheet.floats and sheet.ours else []
    rows += [_row(sheet, line) for line in sheet.ours]
    sources: list[str] = []
    if sheet.published:
        rows += [r"\midrule", rf"\multicolumn{{{columns}}}{{l}}{{\emph{{{_escape(PUBLISHED)}}}}} \\"]
        for line in sheet.published:
            source = f"{line.source} ({line.remarks})"
            sources += [source] if source not in sources else []
            rows.append(_row(sheet, line, f"$^{{{sources.index(source) + 1}}}$"))
    notes = [_escape(note) for note in (sheet.title + ".", caption(sheet), *sheet.notes)]
    notes += [f"$^{{{i}}}$\\,{_escape(source)}." for i, source in enumerate(sources, 1)]
    return _environment(sheet.key, " ".join(notes), "l" + "r" * (columns - 1), rows)


def _comparisons(sheet: Sheet) -> str:
    rows = [r"Bits & Compared & $n$ & Difference & 95\,\% interval & $p$ & $p$ (Holm) \\", r"\midrule"]
    rows += [" & ".join(map(_escape, comparison_cells(item))) + r" \\" for item in sheet.comparisons]
    return _environment(f"{sheet.key}_paired", _escape(f"{sheet.title}. {COMPARED}"), "llrrrrr", rows)


def _environment(key: str, caption: str, columns: str, rows: list[str]) -> str:
    body = "\n".join(rows)
    return (
        f"\\begin{{table}}\n\\centering\n\\caption{{{caption}}}\n\\label{{tab:{key.replace('_', '-')}}}\n"
        f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{body}\n\\bottomrule\n\\end{{tabular}}\n\\end{{table}}"
    )


def _float(line: Line) -> str:
    entry = line.entries[32, 32]
    value = f"{accuracy(entry.mean, entry.spread)} ({details(entry)})"
    return f"{_escape(line.label)} & {_escape(value)} \\\\"


def _row(sheet: Sheet, line: Line, mark: str = "") -> str:
    cells = [_escape(accuracy(line.float_mean, line.float_spread)), _escape(first_last(line.first_last))]
    cells += [_cell(line.entries.get(bits), same_n(sheet)) for bits in sheet.bits]
    return f"{_escape(line.label)}{mark} & {' & '.join(cells)} \\\\"


def _cell(entry: Entry | None, n: int | None) -> str:
    if entry is None:
        return "--"
    value = _escape(accuracy(entry.mean, entry.spread))
    value = rf"\textbf{{{value}}}" if entry.best else value
    more = _escape(details(entry, n))
    return rf"{value} {{\scriptsize ({more})}}" if more else value


def _escape(text: str) -> str:
    return _PATTERN.sub(lambda match: _SPECIAL[match.group()], text.replace("\n", " "))
