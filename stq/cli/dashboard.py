"""``stq-dashboard``: the project's wandb workspace and report, built as code."""

from __future__ import annotations

import sys

from ..errors import InputError
from .argument_parser import Parser

_DESCRIPTION = """\
Builds a wandb workspace and a report (a draft) of the runs that `logger=wandb` sent: accuracy by method and bits,
parallel coordinates, training curves, thresholds of every layer over time. Offline runs must be sent first with
`wandb sync`. --dry-run prints what would be created, without network, key or wandb-workspaces."""


def main(arguments: list[str] | None = None) -> None:
    """Exits with status 2 and one sentence where the dashboard cannot be built."""
    parser = Parser("stq-dashboard", description=_DESCRIPTION)
    parser.add_argument("--project", default="stq", help="wandb project (default: stq, as in logger=wandb)")
    parser.add_argument("--entity", help="wandb user or team (default: that of who is logged in)")
    parser.add_argument("--group", metavar="SWEEP", help="only the runs of this sweep (its sweep_name)")
    parser.add_argument("--dry-run", action="store_true", help="print what would be created, create nothing")
    options = parser.parse_args(arguments)

    from ..results.wandb.dashboard import describe, make_dashboard

    dashboard = make_dashboard(options.project, options.entity, options.group)
    if options.dry_run:
        print("\n".join(describe(dashboard)))
        return
    from ..results.wandb.workspace import save

    try:
        workspace, report = save(dashboard)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(f"workspace: {workspace}\nreport (draft): {report}")


if __name__ == "__main__":
    main()
