"""One job of a sweep: runs, and reports how it ended; a failed job does not stop the others.

Jobs may run in other processes or on other machines, where nobody sees what they print. So they report through small
files in ``<sweep>/.jobs``, which the parent reads (see ``progress``).
"""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ..errors import TrainingFailed
from ..storage.run_lock import run_lock

REPORTS = ".jobs"
SWEEP = "STQ_SWEEP"  # variable of the environment: which sweep a job is of, for several may share a folder
_TRIES = 3  # of a job whose process is killed again and again


def run_in_sweep(task: Callable[[DictConfig], object], cfg: DictConfig) -> object:
    """Run one job of a sweep; report how it ended, and return NaN instead of raising where it failed."""
    hydra_cfg = HydraConfig.get()
    folder = Path(hydra_cfg.runtime.output_dir)
    started, error, value = time.time(), None, float("nan")
    reports = Path(hydra_cfg.sweep.dir) / REPORTS
    reports.mkdir(parents=True, exist_ok=True)
    try:
        with run_lock(folder, wait=True):  # a job of a sweep that was killed may live on
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
    _report(folder / REPORTS, number, folder / sweep.subdir, error, float("nan"), 0)


def count_kill(begun: Path) -> None:
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
        count_kill(begun)
    times = begun.with_suffix(".killed")
    if times.is_file() and times.stat().st_size >= _TRIES:
        raise TrainingFailed(f"its process was killed {_TRIES} times: perhaps the memory does not suffice")
    begun.touch()


def _report(reports: Path, number: int, folder: Path, error: str | None, value: object, seconds: float) -> None:
    name = f"{number}_{folder.name}"
    part = reports / f".{name}.{os.getpid()}.part"
    report = {"folder": str(folder), "error": error, "value": value, "seconds": seconds, "sweep": os.environ.get(SWEEP)}
    part.write_text(json.dumps(report))
    part.replace(reports / f"{name}.json")
    (reports / f"{folder.name}.begun").unlink(missing_ok=True)
