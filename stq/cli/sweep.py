"""Sweeps: every job reports its end, failed jobs do not stop the others, and the parent tells and sums up.

Jobs may run in other processes or on other machines, where nobody sees what they print. So they report through small
files in ``<sweep>/.jobs``, and a thread of the parent prints a line for each as it appears. A launcher whose worker
process was killed gives up all its jobs; the sweep is then begun again, which does what is missing.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from ..errors import TrainingFailed

_REPORTS = ".jobs"
_TRIES = 3  # of a job whose process is killed again and again


class SweepStart(Callback):
    """Before the first job, in the parent whatever the launcher: clears old reports and begins to tell new ones."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Where a search decides on its jobs as it goes, it says itself how many to expect."""
        if Teller.current is not None:  # begun again
            return
        Teller.current = Teller(Path(config.hydra.sweep.dir).absolute() / _REPORTS)
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
        """Print what is new; a job that lived on after its sweep was killed may report beside ours."""
        with self._lock:
            found = {(path.name, path.stat().st_mtime_ns): path for path in self.folder.glob("*.json")}
            for name, time_ns in sorted(found.keys() - self._seen, key=lambda key: key[1]):
                self._seen.add((name, time_ns))
                self.reports[name] = json.loads(found[name, time_ns].read_text())
                self._print(self.reports[name])
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


def run_in_sweep(task: Callable[[DictConfig], object], cfg: DictConfig) -> object:
    """Run one job of a sweep; report how it ended, and return NaN instead of raising where it failed."""
    hydra_cfg = HydraConfig.get()
    folder = Path(hydra_cfg.runtime.output_dir)
    started, error, value = time.time(), None, float("nan")
    reports = Path(hydra_cfg.sweep.dir) / _REPORTS
    reports.mkdir(parents=True, exist_ok=True)
    try:
        with _sole_worker(folder):
            _begin(reports, folder.name)
            value = task(cfg)
    except Exception as failure:  # whatever it is, the other jobs go on
        error = str(failure).strip().splitlines()[0] if str(failure).strip() else type(failure).__name__
        (folder / "traceback.txt").write_text(traceback.format_exc())
    _report(reports, hydra_cfg.job.num, folder, error, value, time.time() - started)
    return value


def report_lost(cfg: DictConfig, number: int, error: str) -> None:
    """Report, in the parent, a job that could not do so itself."""
    sweep = cfg.hydra.sweep
    folder = Path(sweep.dir).absolute()
    _report(folder / _REPORTS, number, folder / sweep.subdir, error, float("nan"), 0)


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
                _count_kill(job)
            print("going on with what is missing", file=sys.stderr, flush=True)


def _count_kill(begun: Path) -> None:
    with begun.with_suffix(".killed").open("a") as times:
        times.write(".")
    begun.unlink()


def _begin(folder: Path, name: str) -> None:
    """Remember that the job was begun; raises TrainingFailed where its process was killed each time that it was.

    Where the launcher itself begins a lost job again (Ray), only this tells that it was lost. Slurm queues jobs again
    that it preempts, however often.
    """
    begun = folder / f"{name}.begun"
    if begun.is_file() and "SLURM_JOB_ID" not in os.environ:
        _count_kill(begun)
    times = begun.with_suffix(".killed")
    if times.is_file() and times.stat().st_size >= _TRIES:
        raise TrainingFailed(f"its process was killed {_TRIES} times: perhaps the memory does not suffice")
    begun.touch()


def _sole_worker(folder: Path) -> AbstractContextManager:
    """A lock on the run folder, which ends with the process that holds it, however that ends.

    Jobs of a sweep that was killed may live on (Slurm's do, and joblib's until they end): the same job of a new sweep
    waits for them, and then finds their result.
    """
    lock = FileLock(folder / ".lock")
    try:
        return lock.acquire(timeout=0.5)
    except Timeout:
        print(f"{folder} is being worked on by another process: waiting for it", file=sys.stderr, flush=True)
        return lock.acquire()


def _report(reports: Path, number: int, folder: Path, error: str | None, value: object, seconds: float) -> None:
    name = f"{number}_{folder.name}"
    part = reports / f".{name}.{os.getpid()}.part"
    part.write_text(json.dumps({"folder": str(folder), "error": error, "value": value, "seconds": seconds}))
    part.replace(reports / f"{name}.json")
    (reports / f"{folder.name}.begun").unlink(missing_ok=True)


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
