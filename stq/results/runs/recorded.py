"""``results.jsonl``: the recorded runs of one table, one run a line.

A line is a JSON object: ``name`` of the run folder, ``result`` (what its result.json holds), ``config`` (its
config.yaml without this machine's folders), and ``metrics``, a summary by epoch (``val_top1``, ``train_loss``, ...;
null for an epoch that has no value; empty where no metrics were kept). Lines are sorted by name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ...errors import InputError
from .result_file import check_result
from .run import Run

_KEYS = {"name": str, "result": dict, "config": dict, "metrics": dict}


def read_recorded(path: Path) -> Iterator[Run]:
    """The runs of a ``results.jsonl``. Raises InputError naming the line that is broken, foreign or of another kind."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not readable ({error})") from None
    for number, text in enumerate(lines, 1):
        where = f"{path}, line {number}"
        try:
            line = json.loads(text)
        except ValueError as error:
            raise InputError(f"{where} is not readable as JSON ({error}): was the writer interrupted?") from None
        for key, kind in _KEYS.items():
            if not isinstance(line, dict) or not isinstance(line.get(key), kind):
                raise InputError(f"{where} is not a recorded run: it has no '{key}'")
        yield Run(path, check_result(line["result"], where), number, line)


def write_recorded(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write the lines, sorted by name, so that a reader sees a whole file or the one before."""
    ordered = sorted(lines, key=lambda line: line["name"])
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text("".join(json.dumps(line) + "\n" for line in ordered))
    part.replace(path)
