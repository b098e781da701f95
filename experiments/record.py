"""Keep the results of a sweep beside its experiment: python experiments/record.py RUNS... FOLDER

Adds every finished run below RUNS as a line to FOLDER/results.jsonl (see ``stq.results.runs.recorded``), without this
machine's folders, which say nothing to others; a run that is there already is replaced. stq-report reads it there.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stq.errors import InputError
from stq.results.runs.collect import collect
from stq.results.runs.metrics import read_metrics
from stq.results.runs.recorded import read_recorded, write_recorded
from stq.results.runs.run import RECORDED, Run

_SUMMARISED = ("train_loss", "train_top1", "val_loss", "val_top1")


def record(places: list[Path], folder: Path) -> int:
    """Record what is done below ``places``; returns the number of runs. Raises InputError where nothing is."""
    done = collect(places).done
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / RECORDED
    kept = {line["name"]: line for line in (run.recorded for run in read_recorded(file))} if file.is_file() else {}
    kept |= {run.name: line_of(run) for run in done}
    write_recorded(file, kept.values())
    return len(done)


def line_of(run: Run) -> Mapping[str, Any]:
    """What is kept of a run."""
    config = dict(run.config)
    config.pop("paths", None)
    config["data"] = {key: value for key, value in config["data"].items() if key != "path"}
    if isinstance(source := config["data"].get("source"), dict):
        config["data"]["source"] = {key: value for key, value in source.items() if key != "path"}
    result = run.result | {"command": without_folders(run.result["command"])}
    for key in ("config", "checksum"):  # the line has the configuration already
        result.pop(key, None)
    return {"name": run.name, "result": result, "config": config, "metrics": _summary(run)}


def _summary(run: Run) -> dict[str, list[float | None]]:
    """By epoch, to five digits."""
    epochs = range(run.result["epochs"])
    found = {name: series for name, series in read_metrics(run, _SUMMARISED).items() if name in _SUMMARISED}
    return {
        name: [float(f"{series[epoch]:.5g}") if epoch in series else None for epoch in epochs]
        for name, series in sorted(found.items())
    }


def without_folders(command: str) -> str:
    """A command without settings that are absolute folders; of an absolute file its name is left."""
    kept = (re.sub(r"(?<==)/.*/(?=[^/]+\.\w+$)", "", word) for word in command.split(" "))
    return " ".join(word for word in kept if not re.search("=/", word))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        print(__doc__, file=sys.stderr)
        raise SystemExit(2)
    *sources, target = map(Path, sys.argv[1:])
    try:
        print(record(sources, target), "runs recorded in", target / RECORDED)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
