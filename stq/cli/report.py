"""``stq-report RUNS...``: tables, figures and a page from the result.json files of finished runs."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from ..errors import InputError
from .argument_parser import Parser

_DESCRIPTION = """\
Tables of finished runs: methods by bit widths, mean ± sample standard deviation over seeds, difference to the float
baseline, paired comparison over seeds, published numbers beside ours. Folders are searched for result.json (and
*.result.json), and for the recorded tables of experiments, results.jsonl; runs of different data sets, networks or
first/last policies get tables of their own, and settings that differ are named. Failed runs are listed apart. Exit
status: 0, or 2 where no right table can be made."""

_EXAMPLES = """\
examples:
  stq-report runs/ablation_digits
  stq-report runs/ablation_digits --format latex > table.tex
  stq-report runs/ablation_digits runs/float --output report     # every format, figures, report.html
  stq-report runs/ablation_digits --against lsq                  # compare each method with lsq over seeds"""


def _parser() -> Parser:
    parser = Parser("stq-report", description=_DESCRIPTION, epilog=_EXAMPLES)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help="run folders, folders of them, result files")
    parser.add_argument(
        "--format",
        choices=("terminal", "markdown", "latex", "csv"),
        default="terminal",
        help="of the table on standard output (default: terminal)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="write report.md, report.tex, report.csv, report.html and figures/ (SVG and PDF) there",
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write only the page: one file that needs no network")
    parser.add_argument(
        "--wandb",
        metavar="PROJECT",
        help="log the files of --output as one artifact, and the table, in a run of this wandb project (or "
        "ENTITY/PROJECT); offline where no key is known",
    )
    parser.add_argument("--against", metavar="ROW", help="compare with this row, not with the best of each column")
    parser.add_argument(
        "--layers", metavar="ROW", help="figures by layer for this row, not for the best at each bit width"
    )
    parser.add_argument("--published", type=Path, metavar="FILE", help="published results (default: those of stq)")
    parser.add_argument("--no-published", action="store_true", help="leave published results out")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Exits with status 2 and one sentence where the runs given make no table."""
    options = _parser().parse_args(arguments)
    try:
        _report(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # such as an output folder that cannot be written
        print(f"error: {error.filename}: {error.strerror}" if error.filename else f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _report(options: argparse.Namespace) -> None:
    from ..results.formats import render
    from ..results.runs.collect import collect
    from ..results.tables.groups import make_groups
    from ..results.tables.published import published_file, read_published
    from ..results.tables.report_table import make_sheets

    found = collect(options.runs)
    groups = make_groups(found.done)
    published = {} if options.no_published else read_published(options.published or published_file())
    sheets = make_sheets(groups, published, options.against)
    if options.output or options.html or options.wandb:
        from ..results.write_report import write_page, write_report

        with TemporaryDirectory() as spare:
            if options.output or options.wandb:
                folder = options.output or Path(spare)
                write_report(folder, found, groups, sheets, options.layers)
            if options.html:
                write_page(options.html, found, groups, sheets, options.layers)
            if options.wandb:
                from ..results.wandb.report_upload import log_report

                print(log_report(options.wandb, folder, sheets), file=sys.stderr)
    sys.stdout.write(render(options.format, sheets, found.apart))
    sys.stdout.flush()
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    for heading, runs in found.apart:
        print(f"warning: {len(runs)} {heading[0].lower()}{heading[1:]}", file=sys.stderr)
    if found.unfinished:
        print(
            f"warning: {len(found.unfinished)} runs without a result yet, such as {found.unfinished[0]}",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
