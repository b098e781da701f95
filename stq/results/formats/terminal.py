"""Tables for the terminal, by rich."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..tables.groups import Bits
from ..tables.report_table import COMPARED, COSTS, EPOCHS, PUBLISHED, Line, Sheet
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
    """Coloured where standard output is a terminal; as wide as the terminal, or as the table needs in a file."""
    colours = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if colours else 220
    console = Console(file=io.StringIO(), force_terminal=colours, width=width)
    for sheet in sheets:
        console.print(f"\n[bold]{escape(sheet.title)}[/bold]")
        for line in float_lines(sheet):
            console.print(escape(line))
        if sheet.ours:
            console.print(_table(sheet))
        if sheet.published:
            console.print(_published(sheet))
        if sheet.comparisons:
            console.print(_comparisons(sheet))
        if sheet.epochs:
            headings, *rows = epoch_table(sheet)
            console.print(_plain(headings, rows, EPOCHS))
        if sheet.costs:
            console.print(_costs(sheet))
        for note in sheet.notes:
            console.print(f"note: {escape(note)}")
    for heading, runs in apart:
        console.print(f"\n[bold red]{heading} ({len(runs)}):[/bold red]")
        for run in runs:
            console.print(f"  {escape(failure(run))}")
    lines = console.file.getvalue().splitlines()
    return "\n".join(line.rstrip() for line in lines).strip("\n") + "\n"


def _table(sheet: Sheet) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        caption=caption(sheet).replace("is in bold", "is in bold (*)"),
        caption_justify="left",
        caption_style="dim",
    )
    table.add_column("ours")
    ours = [bits for bits in sheet.bits if any(bits in line.entries for line in sheet.ours)]
    for bits in ours:
        table.add_column(bits_name(bits), justify="right")
    for line in sheet.ours:
        table.add_row(escape(line.label), *(_cell(line, bits, same_n(sheet)) for bits in ours))
    return table


def _published(sheet: Sheet) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=PUBLISHED, title_justify="left", title_style="bold yellow")
    shown = [bits for bits in sheet.bits if any(bits in line.entries for line in sheet.published)]
    for name in ("published", "its float", "first/last", *map(bits_name, shown), "source"):
        table.add_column(name, justify="left" if name in ("published", "source") else "right")
    for line in sheet.published:
        cells = [_cell(line, bits) for bits in shown]
        source = f"{escape(line.source)}\n[dim]{escape(line.remarks)}[/dim]"
        table.add_row(
            escape(line.label), accuracy(line.float_mean, None), escape(first_last(line.first_last)), *cells, source
        )
    return table


def _comparisons(sheet: Sheet) -> Table:
    return _plain(COMPARISON_HEADINGS, [comparison_cells(item) for item in sheet.comparisons], COMPARED)


def _costs(sheet: Sheet) -> Table:
    headings, *rows = cost_table(sheet)
    return _plain(headings, rows, COSTS)


def _plain(headings: Iterable[str], rows: Iterable[Iterable[str]], text: str) -> Table:
    """Two columns of names, then numbers."""
    table = Table(box=box.SIMPLE_HEAD, caption=text, caption_justify="left", caption_style="dim")
    for i, name in enumerate(headings):
        table.add_column(name, justify="right" if i not in (0, 1) else "left")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _cell(line: Line, bits: Bits, n: int | None = None) -> str:
    entry = line.entries.get(bits)
    if entry is None:
        return DASH
    value = accuracy(entry.mean, entry.spread)
    if entry.best:  # the star says it where there is no bold
        value = f"[bold green]*{value}[/bold green]"
    more = f"({details(entry, n)})" if details(entry, n) else ""
    return f"{value}\n[dim]{more}[/dim]" if more else value
