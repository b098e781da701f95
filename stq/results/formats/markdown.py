"""Tables in GitHub's Markdown."""

from __future__ import annotations

import re

from ..tables.report_table import COMPARED, COSTS, EPOCHS, PUBLISHED, Entry, Sheet
from .number_format import (
    COMPARISON_HEADINGS,
    DASH,
    accuracy,
    bits_name,
    caption,
    comparison_cells,
    cost_table,
    details,
    epoch_table,
    failure,
    first_last,
    float_lines,
    same_n,
)


def render(sheets, apart) -> str:
    """A section for each sheet; runs in no table at the end."""
    parts = [part for sheet in sheets for part in _sheet(sheet)]
    for heading, runs in apart:
        parts.append(f"## {heading}\n")
        parts.append("\n".join(f"- {_escape(failure(run))}" for run in runs) + "\n")
    return "\n".join(parts)


def _sheet(sheet: Sheet):
    yield f"## {_escape(sheet.title)}\n"
    yield from (f"{_escape(line)}\n" for line in float_lines(sheet))
    if sheet.ours:
        ours = [bits for bits in sheet.bits if any(bits in line.entries for line in sheet.ours)]
        rows = [[line.label, *(_cell(line.entries.get(bits), same_n(sheet)) for bits in ours)] for line in sheet.ours]
        yield _table(["ours", *map(bits_name, ours)], rows)
        yield f"{caption(sheet)}\n"
    if sheet.published:
        yield f"**{PUBLISHED}:**\n"
        shown = [bits for bits in sheet.bits if any(bits in line.entries for line in sheet.published)]
        rows = []
        for line in sheet.published:
            facts = [line.label, accuracy(line.float_mean, None), first_last(line.first_last)]
            rows.append([*facts, *(_cell(line.entries.get(bits)) for bits in shown), f"{line.source}; {line.remarks}"])
        yield _table(["published", "its float", "first/last", *map(bits_name, shown), "source"], rows)
    if sheet.comparisons:
        yield _table(list(COMPARISON_HEADINGS), [comparison_cells(item) for item in sheet.comparisons])
        yield f"{COMPARED}\n"
    if sheet.epochs:
        headings, *rows = epoch_table(sheet)
        yield _table(headings, rows)
        yield f"{EPOCHS}\n"
    if sheet.costs:
        headings, *rows = cost_table(sheet)
        yield _table(headings, rows)
        yield f"{COSTS}\n"
    yield from (f"Note: {_escape(note)}\n" for note in sheet.notes)


def _cell(entry: Entry | None, n: int | None = None) -> str:
    if entry is None:
        return DASH
    value = accuracy(entry.mean, entry.spread)
    value = f"**{value}**" if entry.best else value
    more = details(entry, n)
    return f"{value} ({more})" if more else value


def _table(headings: list[str], rows: list[list[str]]) -> str:
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    bold = re.compile(r"^\*\*([^*]+)\*\*")
    cells = ([bold.sub(r"<b>\1</b>", cell) for cell in line] for line in lines)  # so that other stars can be escaped
    return "\n".join(f"| {' | '.join(_escape(cell, True) for cell in line)} |" for line in cells) + "\n"


def _escape(text: str, keep_bold: bool = False) -> str:
    if keep_bold and text.startswith("<b>"):
        inside, _, rest = text[3:].partition("</b>")
        return f"**{_escape(inside)}**{_escape(rest)}"
    return re.sub(r"([\\|*_`<>\[\]])", r"\\\1", text.replace("\n", " "))
