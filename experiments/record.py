"""Keep the results of a sweep beside its experiment: python experiments/record.py RUNS... FOLDER

Copies result.json and config.yaml of every finished run below RUNS to FOLDER, named by the run, without this machine's
folders, which say nothing to others; stq-report reads them there.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import yaml

from stq.results.runs.collect import collect


def record(runs: Path, folder: Path) -> int:
    """Copy what is done below ``runs``; returns the number of runs. Raises InputError where nothing is, or in doubt."""
    folder.mkdir(parents=True, exist_ok=True)
    done = collect([runs]).done
    for run in done:
        config = yaml.safe_load(run.companion("config.yaml").read_text())
        config.pop("paths")
        config["data"].pop("path", None)
        config["data"].get("source", {}).pop("path", None)
        (folder / f"{run.name}.config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        result = run.result | {"command": without_folders(run.result["command"])}
        (folder / f"{run.name}.result.json").write_text(json.dumps(result, indent=2) + "\n")
    return len(done)


def without_folders(command: str) -> str:
    """A command without settings that are absolute folders; of an absolute file its name is left."""
    kept = (re.sub(r"(?<==)/.*/(?=[^/]+\.\w+$)", "", word) for word in command.split(" "))
    return " ".join(word for word in kept if not re.search("=/", word))


if __name__ == "__main__":
    *sources, target = map(Path, sys.argv[1:])
    print(sum(record(source, target) for source in sources), "runs recorded in", target)
