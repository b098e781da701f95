"""The parent of a sweep: tells of each job that ends, begins the sweep again where a worker was lost, and sums up.

A thread prints a line for each report of a job (see ``job``) as it appears. A launcher whose worker process was killed
gives up all its jobs; the sweep is then begun again, which does what is missing.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from .job import REPORTS, SWEEP, count_kill


class SweepStart(Callback):
    """Before the first job, in the parent whatever the launcher: clears old reports and begins to tell new ones."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Where a search decides on its jobs as it goes, it says itself how many to expect."""
        if Teller.current is not None:  # begun again
            return
        Teller.current = Teller(Path(config.hydra.sweep.dir).absolute() / REPORTS)
        if (total := _count_jobs(config)) is not None:
            Teller.current.expect(total)


def _count_jobs(config: DictConfig) -> int | None:
    """Number of jobs of a grid; None where another sweeper decides."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    if not config.hydra.sweeper._target_.endswith(".BasicSweeper"):
        return None
    given = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    overrides = OverridesParser.create().parse_overrides([*given, *config.hydra.overrides.task])
    return sum(len(batch) for batch in BasicSweeper.split_arguments(overrides, None))


class Teller:
    """Prints a line for each job that ends, and in the end what became of all."""

    current: Teller | None = None  # of the sweep that this process runs

    def __init__(self, folder: Path):
        self.folder, self.total, self.started = folder, 0, time.time()
        self.reports: dict[str, dict[str, Any]] = {}
        self._name = os.environ[SWEEP] = f"{socket.gethostname()}-{os.getpid()}"
        folder.mkdir(parents=True, exist_ok=True)
        for old in (path for kind in ("json", "begun", "killed") for path in folder.glob(f"*.{kind}")):
            old.unlink()
        self._seen: set[tuple[str, int]] = set()
        self._killed: dict[str, int] = {}
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def expect(self, total: int, before: str = "") -> None:
        """Say how many jobs there will be, beside those that ended already."""
        self.total = len(self.reports) + total
        print(f"{before}{total} job{'s' * (total != 1)}, run folders in {self.folder.parent}", flush=True)

    def end(self) -> None:
        """Stop watching, when all is told."""
        self._stop.set()
        self._thread.join()
        self.tell()

    def _watch(self) -> None:
        while not self._stop.wait(0.3):
            self.tell()

    def tell(self) -> None:
        """Print what is new; jobs of another sweep may report into the same folder."""
        with self._lock:
            found = {(path.name, path.stat().st_mtime_ns): path for path in self.folder.glob("*.json")}
            for name, time_ns in sorted(found.keys() - self._seen, key=lambda key: key[1]):
                self._seen.add((name, time_ns))
                report = json.loads(found[name, time_ns].read_text())
                if report.get("sweep") in (None, self._name):  # where a launcher hands no environment on: anybody's
                    self.reports[name] = report
                    self._print(report)
            for times in self.folder.glob("*.killed"):
                if (count := times.stat().st_size) > self._killed.get(times.stem, 0):
                    self._killed[times.stem] = count
                    print(f"a worker process was killed, that of {times.stem}", file=sys.stderr, flush=True)

    def _print(self, report: dict[str, Any]) -> None:
        done, name = len(self.reports), Path(report["folder"]).name
        left = (time.time() - self.started) / done * max(0, self.total - done) / 60
        place = f"[{done}/{self.total}, about {left:.0f} min left]"
        if report["error"]:
            print(f"{place} FAILED {name}: {report['error']}", file=sys.stderr, flush=True)
        else:
            print(f"{place} {name}: validation {report['value']:.2f} %, {report['seconds']:.0f} s", flush=True)


def go_on_without_a_worker(sweep: Callable[[], None]) -> None:
    """Run a sweep, and again where its launcher gives up because a worker process was killed; raises other errors."""
    Teller.current = None
    while True:
        try:
            return sweep()
        except Exception as error:
            killed = re.search("Terminated|WorkerCrashed", type(error).__name__)
            cut_short = list(Teller.current.folder.glob("*.begun")) if killed and Teller.current else []
            if not cut_short:
                raise
            for job in cut_short:
                count_kill(job)
            print("going on with what is missing", file=sys.stderr, flush=True)


def summarize_sweep() -> int:
    """After a sweep, say what became of its jobs; returns the number that failed (0 outside a sweep)."""
    if (teller := Teller.current) is None:
        return 0
    Teller.current = None
    teller.end()
    reports = teller.reports.values()
    failed = [report for report in reports if report["error"]]
    lost = max(0, teller.total - len(reports))
    print(f"{len(reports) - len(failed)} jobs done, {len(failed) + lost} failed: {teller.folder.parent}")
    for report in failed:
        print(f"  failed: {report['folder']}: {report['error']}", file=sys.stderr)
    if lost:
        print(f"  {lost} jobs ended without a report: the same command again does what is missing", file=sys.stderr)
    return len(failed) + lost
