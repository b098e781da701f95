"""A report kept in wandb: its files as one artifact, and our numbers as a table, in a run of the job type report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ...errors import InputError
from ..formats.csv import COLUMNS, lines
from ..tables.report_table import Sheet
from .mode import default_mode

_LEFT_OUT = {"reference", "low", "high", "p", "p_holm", "source", "remarks"}  # of comparisons and published numbers


def log_report(project: str, folder: Path, sheets: Sequence[Sheet]) -> str:
    """Log what ``write_report`` wrote to ``folder``, and tell in a sentence where it is now.

    project: a project of wandb, or entity/project. The same tables made again are a new version of the same artifact.
    Raises InputError where wandb is not installed or refuses.
    """
    try:
        import wandb
    except ModuleNotFoundError as error:
        raise InputError("--wandb needs the package wandb: pip install wandb") from error
    entity, _, name = project.rpartition("/")
    settings = wandb.Settings(console="off", silent=True)  # standard output is the table's
    try:
        mode = default_mode()
        with wandb.init(project=name, entity=entity or None, job_type="report", mode=mode, settings=settings) as run:
            run.log({"ours": wandb.Table(*_table(sheets))})
            run.log_artifact(_artifact(wandb, folder, sheets))
            place = f"send it with: wandb sync {Path(run.dir).parent}" if run.offline else f"see {run.url}"
            return "nothing is logged: wandb is disabled" if run.disabled else f"logged to wandb, {place}"
    except wandb.Error as error:
        raise InputError(f"wandb did not take the report: {' '.join(str(error).split())}") from error


def _table(sheets: Sequence[Sheet]) -> tuple[list[str], list[list]]:
    """Columns and rows: our cells and float runs, as in report.csv."""
    columns = [name for name in COLUMNS if name not in _LEFT_OUT]
    ours = [line for sheet in sheets for line in lines(sheet) if line["kind"] in ("ours", "float")]
    return columns, [[line.get(name) for name in columns] for line in ours]


def _artifact(wandb, folder: Path, sheets: Sequence[Sheet]):
    name = "-".join(["report", *(sheet.key for sheet in sheets)])
    artifact = wandb.Artifact(re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:128], type="report")
    for path in sorted([*folder.glob("report.*"), *folder.glob("figures/*")]):
        artifact.add_file(str(path), name=str(path.relative_to(folder)))
    return artifact
