"""The page's tables of a group: ours, the published numbers, comparisons over seeds, notes."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from ..formats.number_format import (
    COMPARISON_HEADINGS,
    DASH,
    accuracy,
    bits_name,
    caption,
    comparison_cells,
    cost_table,
    details,
    epoch_table,
    first_last,
    float_lines,
    same_n,
)
from ..tables.report_table import COMPARED, COSTS, EPOCHS, PUBLISHED, Entry, Sheet


def our_table(sheet: Sheet) -> str:
    """Methods by bits, with the float baseline above."""
    floats = "".join(f'<p class="float">{escape(line)}</p>' for line in float_lines(sheet))
    if not sheet.ours:
        return floats
    shown = [bits for bits in sheet.bits if any(bits in line.entries for line in sheet.ours)]
    rows = []
    for line in sheet.ours:
        cells = "".join(_cell(line.entries.get(bits), same_n(sheet)) for bits in shown)
        rows.append(f'<tr><th scope="row">{escape(line.label)}</th>{cells}</tr>')
    return floats + _table(f"{sheet.title}: ours", ["ours", *map(bits_name, shown)], rows, caption(sheet))


def published_table(sheet: Sheet) -> str:
    """What others published for this data set and network; never in a row with ours."""
    if not sheet.published:
        return ""
    shown = [bits for bits in sheet.bits if any(bits in line.entries for line in sheet.published)]
    rows = []
    for line in sheet.published:
        facts = f"<td>{accuracy(line.float_mean, None)}</td><td>{escape(first_last(line.first_last))}</td>"
        cells = "".join(_cell(line.entries.get(bits), None) for bits in shown)
        source = f'<td class="source">{escape(line.source)}<small>{escape(line.remarks)}</small></td>'
        rows.append(f'<tr><th scope="row">{escape(line.label)}</th>{facts}{cells}{source}</tr>')
    headings = ["published", "its float", "first/last", *map(bits_name, shown), "source"]
    heading = f'<h3 class="published"><span class="badge">not ours</span> {escape(PUBLISHED)}</h3>'
    text = "Top-1 in percent as published; in brackets the difference to the float baseline of the same source."
    return heading + _table(f"{sheet.title}: published by others", headings, rows, text, "published")


def comparison_table(sheet: Sheet) -> str:
    """Paired over seeds, behind a click."""
    if not sheet.comparisons:
        return ""
    rows = []
    for item in sheet.comparisons:
        cells = [escape(cell) for cell in comparison_cells(item)]
        name = f'<td>{cells[0]}</td><th scope="row">{cells[1]}</th>'
        rows.append(f"<tr>{name}{''.join(f'<td>{cell}</td>' for cell in cells[2:])}</tr>")
    table = _table(f"{sheet.title}: comparison over seeds", COMPARISON_HEADINGS, rows, COMPARED)
    return f"<details><summary>Paired comparison over seeds</summary>{table}</details>"


def costs_table(sheet: Sheet) -> str:
    """A line for each distinct cost."""
    if not sheet.costs:
        return ""
    headings, *lines = cost_table(sheet)
    return "<h3>Cost</h3>" + _table(f"{sheet.title}: cost of one input", headings, _named(lines), COSTS)


def epochs_table(sheet: Sheet) -> str:
    """Accuracy by epoch against the row compared with."""
    if not sheet.epochs:
        return ""
    headings, *lines = epoch_table(sheet)
    return "<h3>By epoch</h3>" + _table(f"{sheet.title}: by epoch", headings, _named(lines), EPOCHS)


def _named(lines: list[list[str]]) -> list[str]:
    """Rows whose first cell is their name."""
    found = []
    for name, *cells in ([escape(cell) for cell in line] for line in lines):
        found.append(f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>')
    return found


def notes(sheet: Sheet) -> str:
    """What a reader must know before comparing."""
    if not sheet.notes:
        return ""
    return f'<ul class="notes">{"".join(f"<li>{escape(note)}</li>" for note in sheet.notes)}</ul>'


def _cell(entry: Entry | None, n: int | None) -> str:
    if entry is None:
        return f"<td>{DASH}</td>"
    value, more = escape(accuracy(entry.mean, entry.spread)), escape(details(entry, n))
    value = f"<strong>{value}</strong>" if entry.best else value
    return f"<td>{value}{f'<small>({more})</small>' if more else ''}</td>"


def _table(label: str, headings: Iterable[str], rows: list[str], text: str, kind: str = "") -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in headings)
    body = "\n".join(rows)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">'
        f'<table class="summary {kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        f'<p class="caption">{escape(text)}</p>'
    )
