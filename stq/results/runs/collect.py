"""Finds the runs below folders and reads their results; every doubtful file is an error, never a number."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import InputError
from .recorded import read_recorded
from .result_file import FILE_NAME, OPTIONAL_KEYS, read_result
from .run import RECORDED, Run


@dataclass
class Collection:
    """The runs found: done, failed (with a reason in their result), cut short by a debugging setting, folders of runs
    without a result yet, and what a reader should know of them."""

    done: list[Run] = field(default_factory=list)
    failed: list[Run] = field(default_factory=list)
    cut_short: list[Run] = field(default_factory=list)
    unfinished: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def apart(self) -> list[tuple[str, list[Run]]]:
        """(heading, runs) of those that are in no table."""
        kinds = (("Failed runs", self.failed), ("Runs cut short by a debugging setting", self.cut_short))
        return [(f"{heading}, in no table", runs) for heading, runs in kinds if runs]


def collect(places: Iterable[Path]) -> Collection:
    """Read every ``result.json`` and ``*.result.json`` at or below the given files and folders, but no hidden folders.

    A folder with a ``results.jsonl`` is a recorded table: that file is read, and what lies below it are other tables.
    A run that is there twice is used once, and a note says so. Raises InputError for a place that is missing or holds
    no finished run, a result that is broken, foreign or of another schema, and where two runs of the same configuration
    and seed differ.
    """
    places = list(places)
    found = Collection()
    for path in _files(places, found.unfinished):
        for run in read_recorded(path) if path.suffix == ".jsonl" else (Run(path, read_result(path)),):
            _check(run)
            done = found.cut_short if run.result.get("cut_short") else found.done
            (done if run.result["status"] == "done" else found.failed).append(run)
    found.done = _once(found.done, found.notes)
    if not found.done:
        raise InputError(_nothing(places, found))
    return found


def _files(places: Iterable[Path], unfinished: list[Path]) -> list[Path]:
    files: dict[Path, Path] = {}  # by what links resolve to, so that a folder given twice counts once
    for place in places:
        if place.is_file():
            files.setdefault(place.resolve(), place)
            continue
        if not place.is_dir():
            raise InputError(f"{place} does not exist: give run folders, or folders that hold them")
        for folder, below, names in os.walk(place, onerror=_unreadable):
            below[:] = [name for name in below if not name.startswith(".")]  # .hydra, a trash folder, a sync tool's
            if RECORDED in names:
                below.clear()
                names = [RECORDED]
            here = [name for name in names if name in (FILE_NAME, RECORDED) or name.endswith(f".{FILE_NAME}")]
            for name in here:
                path = Path(folder, name)
                files.setdefault(path.resolve(), path)
            if not here and "config.yaml" in names:
                unfinished.append(Path(folder))
    return sorted(files.values())


def _unreadable(error: OSError) -> None:
    raise InputError(f"{error.filename} is not readable ({error.strerror}): the runs in it would be missing") from None


def _check(run: Run) -> None:
    """The numbers that the tables use are in range. Raises InputError naming file and key."""
    result, done = run.result, run.result["status"] == "done"
    if result["status"] not in ("done", "failed"):
        raise InputError(f"{run.place}: 'status' is {result['status']!r}, neither 'done' nor 'failed'")
    if done and result["epochs"] is None:
        raise InputError(f"{run.place}: 'epochs' is None, not an integer")
    for key in ("test_top1", "val_top1", "float_test_top1"):
        value = result[key]
        if value is None and (key != "test_top1" or not done):
            continue
        if value is None or not 0 <= value <= 100:  # not a number is not in between either
            raise InputError(f"{run.place}: '{key}' is {value!r}, not a percentage")
    for key in ("parameters", "size_bytes", "float_size_bytes", "wall_seconds", *OPTIONAL_KEYS):
        value = result.get(key)
        if value is not None and not value >= 0:
            raise InputError(f"{run.place}: '{key}' is {value!r}, not a positive number")


def _once(runs: list[Run], notes: list[str]) -> list[Run]:
    seen: dict[tuple[str, int], Run] = {}
    for run in runs:
        key = run.result.get("identity") or run.result["config_hash"], run.result["seed"]
        first = seen.setdefault(key, run)
        if first is run:
            continue
        if first.accuracy != run.accuracy:
            raise InputError(
                f"two runs of the same configuration and seed differ, {first.place} and {run.place} (configuration "
                f"{key[0]}, seed {key[1]}): leave one out"
            )
        same = first.result["started"] == run.result["started"]
        what = "the same run" if same else "two runs of the same configuration and seed, with the same result"
        notes.append(f"{first.place} and {run.place} are {what}: it is used once")
    return list(seen.values())


def _nothing(places: list[Path], found: Collection) -> str:
    where = ", ".join(map(str, places))
    if found.failed:
        first = found.failed[0]
        return f"{where}: all {len(found.failed)} runs failed, {first.name} with: {ascii(first.result['error'])[1:-1]}"
    if found.cut_short:
        setting = ascii(found.cut_short[0].result["cut_short"])[1:-1]
        return f"{where}: no whole run, {len(found.cut_short)} cut short by {setting}"
    if found.unfinished:
        return f"{where}: no finished run, {len(found.unfinished)} without a result yet (no {FILE_NAME})"
    return f"{where}: no run there (no {FILE_NAME} in it or below)"
