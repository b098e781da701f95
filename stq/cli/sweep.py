"""Sweeps: every job reports its end, failed jobs do not stop the others, and the parent sums up.

Jobs may run in other processes or on other machines, so they report through small files in ``<sweep>/.jobs``.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

_FOLDER, _TOTAL, _START = "STQ_SWEEP_FOLDER", "STQ_SWEEP_TOTAL", "STQ_SWEEP_START"


class SweepStart(Callback):
    """Before the first job: counts the jobs and clears the reports of an earlier try."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Runs in the parent, whatever the launcher; the jobs inherit what it puts into the environment."""
        folder = (Path(config.hydra.sweep.dir) / ".jobs").absolute()
        folder.mkdir(parents=True, exist_ok=True)
        for report in folder.glob("*.json"):
            report.unlink()
        total = _count_jobs(config)
        print(f"{total or 'a search of'} jobs, run folders in {config.hydra.sweep.dir}", flush=True)
        os.environ.update({_FOLDER: str(folder), _TOTAL: str(total), _START: str(time.time())})


def _count_jobs(config: DictConfig) -> int:
    """Number of jobs of a grid; 0 where the sweeper decides as it goes (hyperparameter search)."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    if not config.hydra.sweeper._target_.endswith("BasicSweeper"):
        return 0
    given = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    overrides = OverridesParser.create().parse_overrides([*given, *config.hydra.overrides.task])
    return sum(len(batch) for batch in BasicSweeper.split_arguments(overrides, None))


def run_in_sweep(task: Callable[[DictConfig], object], cfg: DictConfig) -> object:
    """Run one job of a sweep; report how it ended, and return NaN instead of raising where it failed."""
    hydra_cfg = HydraConfig.get()
    folder = Path(hydra_cfg.runtime.output_dir)
    started, error, value = time.time(), None, float("nan")
    try:
        value = task(cfg)
    except Exception as failure:  # whatever it is, the other jobs go on
        error = str(failure).strip().splitlines()[0] if str(failure).strip() else type(failure).__name__
        (folder / "traceback.txt").write_text(traceback.format_exc())
    report = {"num": hydra_cfg.job.num, "folder": str(folder), "error": error, "seconds": time.time() - started}
    _report(report, value)
    return value


def _report(report: dict[str, Any], value: object) -> None:
    """Leave a file for the parent and print the sweep's progress line."""
    folder = Path(os.environ[_FOLDER])
    part = folder / f".{report['num']}.part"
    part.write_text(json.dumps(report))
    part.replace(folder / f"{report['num']}.json")
    done, total = len(list(folder.glob("*.json"))), int(os.environ[_TOTAL])
    elapsed = time.time() - float(os.environ[_START])
    of = f"/{total}, about {elapsed / done * (total - done) / 60:.0f} min left" if total else ""
    name = Path(report["folder"]).name
    if report["error"]:
        print(f"[{done}{of}] FAILED {name}: {report['error']}", file=sys.stderr, flush=True)
    else:
        print(f"[{done}{of}] {name}: validation {value:.2f} %, {report['seconds']:.0f} s", flush=True)


def summarize_sweep() -> int:
    """After a sweep, say what became of its jobs; returns the number that failed (0 outside a sweep)."""
    if _FOLDER not in os.environ:
        return 0
    folder, total = Path(os.environ.pop(_FOLDER)), int(os.environ.pop(_TOTAL))
    reports = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    failed = sorted((r for r in reports if r["error"]), key=lambda r: r["num"])
    lost = max(0, total - len(reports))
    print(f"{len(reports) - len(failed)} jobs done, {len(failed) + lost} failed: {folder.parent}")
    for report in failed:
        print(f"  failed: {report['folder']}: {report['error']}", file=sys.stderr)
    if lost:
        print(f"  {lost} jobs ended without a report: the same command again does what is missing", file=sys.stderr)
    return len(failed) + lost
