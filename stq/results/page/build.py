"""Puts the page together from its template, style, script and the report's parts."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from ... import __version__
from ..figures.figure_style import Picture
from ..formats.number_format import failure
from ..runs.collect import Collection
from ..tables.groups import Group
from ..tables.report_table import Sheet
from .runs import run_data, run_rows, selects
from .tables import comparison_table, costs_table, epochs_table, notes, our_table, published_table

_HERE = Path(__file__).parent


def make_page(
    found: Collection, groups: Sequence[Group], sheets: Sequence[Sheet], pictures: Sequence[Sequence[Picture]]
) -> str:
    """The page as text. Everything that comes from files is escaped; nothing in it is loaded from elsewhere."""
    runs = [(run, group) for group in groups for run in group.runs]
    # float runs stand in every group of their network: the list of runs has them once
    runs = list({run.place: (run, group) for run, group in reversed(runs)}.values())[::-1]
    shown = [*runs, *((run, None) for _, each in found.apart for run in each)]
    parts = {
        "style": (_HERE / "page.css").read_text(),
        "script": (_HERE / "page.js").read_text(),
        "data": run_data([run for run, _ in shown]),
        "title": escape(" · ".join(dict.fromkeys(f"{group.data}, {group.model}" for group in groups))),
        "summary": escape(_summary(found)),
        "contents": _contents(sheets),
        "groups": "\n".join(_group(i, s, p) for i, (s, p) in enumerate(zip(sheets, pictures, strict=True))),
        "failed": _apart(found),
        "selects": selects(shown),
        "rows": run_rows(shown),
        "count": str(len(shown)),
    }
    template = (_HERE / "page.html").read_text()
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match.group(1)], template)


def _summary(found: Collection) -> str:
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    commits = {run.result["git_commit"] for run in found.done} - {None}
    code = f"code at {commits.pop()[:10]}" if len(commits) == 1 else f"code at {len(commits)} commits"
    counts = [f"{len(found.done)} runs"]
    counts += [f"{len(found.failed)} failed"] if found.failed else []
    counts += [f"{len(found.cut_short)} cut short"] if found.cut_short else []
    counts += [f"{len(found.unfinished)} unfinished"] if found.unfinished else []
    return f"{', '.join(counts)} · {code} · made {made} by stq {__version__}"


def _contents(sheets: Sequence[Sheet]) -> str:
    links = [f'<li><a href="#group{i}">{escape(sheet.title)}</a></li>' for i, sheet in enumerate(sheets)]
    return "".join([*links, '<li><a href="#runs">All runs</a></li>'])


def _group(index: int, sheet: Sheet, pictures: Sequence[Picture]) -> str:
    parts = [f'<section id="group{index}" aria-labelledby="title{index}">']
    parts += [f'<h2 id="title{index}">{escape(sheet.title)}</h2>']
    parts += [our_table(sheet), published_table(sheet), comparison_table(sheet), epochs_table(sheet)]
    parts += [costs_table(sheet), notes(sheet)]
    if pictures:
        parts += ["<h3>Figures</h3>", '<div class="figures">', *map(_figure, pictures), "</div>"]
    return "\n".join([*filter(None, parts), "</section>"])


def _figure(picture: Picture) -> str:
    # an image, not inline SVG: the ids inside of two drawings would collide
    code = base64.b64encode(picture.svg().encode()).decode()
    wide, _ = picture.figure.get_size_inches()
    image = f'<img src="data:image/svg+xml;base64,{code}" alt="{escape(f"{picture.title}. {picture.text}")}">'
    caption = f"<figcaption><strong>{escape(picture.title)}.</strong> {escape(picture.text)}</figcaption>"
    width = ' class="wide"' if wide > 7 else ""
    return f'<figure{width}><div class="scroll" tabindex="0">{image}</div>{caption}</figure>'


def _apart(found: Collection) -> str:
    sections = []
    for heading, runs in found.apart:
        items = "".join(f"<li>{escape(failure(run))}</li>" for run in runs)
        sections.append(f'<section class="failed"><h2>{escape(heading)}</h2><ul>{items}</ul></section>')
    return "".join(sections)
