"""Writes a report: every format, the figures, the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .figures.accuracy import accuracy_pictures
from .figures.figure_style import Picture
from .figures.layers import layer_pictures
from .formats import FORMATS, render
from .page import make_page
from .runs.collect import Collection
from .tables.groups import Group
from .tables.report_table import Sheet, find_row


def write_report(
    folder: Path, found: Collection, groups: Sequence[Group], sheets: Sequence[Sheet], layers: str | None
) -> None:
    """``report.md``, ``.tex``, ``.csv``, ``.html`` and ``figures/*.svg`` and ``.pdf`` in ``folder``.

    Raises InputError if ``layers`` names no row, and for broken metrics.csv or codes.json; then nothing is written.
    """
    pictures = make_pictures(groups, sheets, layers)
    page = make_page(found, groups, sheets, pictures)
    figures = folder / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    for each in pictures:
        for picture in each:
            picture.save(figures)
    for name, suffix in FORMATS.items():
        if name != "terminal":
            (folder / f"report.{suffix}").write_text(render(name, sheets, found.apart))
    (folder / "report.html").write_text(page)


def write_page(
    file: Path, found: Collection, groups: Sequence[Group], sheets: Sequence[Sheet], layers: str | None
) -> None:
    """The page alone, as one file. Raises InputError as ``write_report`` does."""
    page = make_page(found, groups, sheets, make_pictures(groups, sheets, layers))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page)


def make_pictures(groups: Sequence[Group], sheets: Sequence[Sheet], layers: str | None) -> list[list[Picture]]:
    """The pictures of each group; those by layer of the row called ``layers``, if given."""
    import matplotlib

    chosen = find_row(groups, layers) if layers else []
    pictures = []
    with matplotlib.rc_context({"text.parse_math": False}):  # a dollar sign in a name is one
        for group, sheet in zip(groups, sheets, strict=True):
            row = next((row for row in chosen if row in group.rows), None)
            by_layer = layer_pictures(group, sheet.key, row) if row or not layers else ()
            pictures.append([*accuracy_pictures(group, sheet.key), *by_layer])
    return pictures
