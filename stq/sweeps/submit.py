"""Jobs through Submitit: what hydra-submitit-launcher submits, waited for so that one lost job costs no other.

Hydra's launcher gives up at the first job without a result, and where Slurm keeps no accounts it waits for that job for
ever: Submitit asks ``sacct`` only. Here ``squeue`` is asked, which every Slurm has. A lost job is one that failed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import submitit
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher
from omegaconf import OmegaConf
from submitit.core.core import Job
from submitit.core.utils import FailedJobError, UncompletedJobError, pickle_load
from submitit.slurm.slurm import SlurmInfoWatcher

from .job import report_lost

# https://slurm.schedmd.com/squeue.html#SECTION_JOB-STATE-CODES
_FINAL = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "TIMEOUT",
}


class QueueWatcher(SlurmInfoWatcher):
    """Finds the jobs that ended, or that Slurm does not know any more.

    Only when it is seen so for ``grace`` seconds: a job that is queued again ends for a moment, and a result may take
    its time to be seen through a network file system.
    """

    def __init__(self, delay_s: int = 30, grace: float = 60):
        super().__init__(delay_s)
        self._grace = grace
        self._since: dict[str, float] = {}
        self._ended: set[str] = set()

    def _make_command(self) -> list[str]:
        # not by job: squeue fails where it has forgotten one of them
        return ["squeue", f"--user={os.getuid()}", "--states=all", "--array", "--noheader", "--format=%i|%T"]

    def read_info(self, string: bytes | str) -> dict[str, dict[str, str]]:
        """The state of each job that was submitted here, from what squeue printed."""
        text = string if isinstance(string, str) else string.decode()
        states, now = dict(line.split("|") for line in text.split()), time.monotonic()
        info = {job: {"State": states.get(job, "gone")} for job in self._registered}
        for job in info:
            if states.get(job) not in _FINAL | {None}:
                self._since.pop(job, None)
            elif now - self._since.setdefault(job, now) >= self._grace:
                self._ended.add(job)
        return info

    def is_done(self, job_id: str, mode: str = "standard") -> bool:
        """Whether the job is there no more, a result or not."""
        self.update_if_long_enough(mode)
        return job_id in self._ended


def submit(
    executor: str,
    params: dict[str, Any],
    setting: dict[str, Any],
    job_overrides: Sequence[Sequence[str]],
    initial_job_idx: int,
) -> list[JobReturn]:
    """Run jobs on ``executor`` (local or slurm), all of them to their end; a lost job is reported and gives NaN."""
    launcher = BaseSubmititLauncher(**params)
    launcher.setup(**setting)
    numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
    calls = [
        (list(overrides), "hydra.sweep.dir", number, f"job_id_for_{number}", Singleton.get_state())
        for number, overrides in zip(numbers, job_overrides, strict=True)
    ]
    submitit.SlurmJob.watcher = QueueWatcher()
    jobs = _executor(executor, launcher.params).map_array(launcher, *zip(*calls, strict=True))
    waiting, ended = dict(zip(numbers, jobs, strict=True)), {}
    while waiting:
        for number in [number for number, job in waiting.items() if job.done()]:
            overrides = job_overrides[number - initial_job_idx]
            ended[number] = _end(waiting.pop(number), number, overrides, setting)
        time.sleep(1)
    return [ended[number] for number in numbers]


def _executor(name: str, params: dict[str, Any]) -> submitit.AutoExecutor:
    """Submitit's executor, with the settings that belong to it alone under its name."""
    common = OmegaConf.structured(BaseQueueConf).keys()
    given = {key if key in common else f"{name}_{key}": value for key, value in params.items()}
    at_start = {key: given.pop(key) for key in (f"{name}_max_num_timeout",) if key in given}
    executor = submitit.AutoExecutor(folder=given.pop("submitit_folder"), cluster=name, **at_start)
    executor.update_parameters(**given)
    return executor


def _end(job: Job, number: int, overrides: Sequence[str], setting: dict[str, Any]) -> JobReturn:
    try:
        return job.results()[0]
    except (UncompletedJobError, FailedJobError) as error:
        cfg = setting["hydra_context"].config_loader.load_sweep_config(setting["config"], list(overrides))
        report_lost(cfg, number, _reason(job, error))
        lost = JobReturn(overrides=overrides, status=JobStatus.COMPLETED)
        lost.return_value = float("nan")  # as that of a job that failed
        return lost


def _reason(job: Job, error: Exception) -> str:
    paths = job.task(0).paths
    log = f"; its log is {paths.stderr}" if paths.stderr.exists() else ""
    if paths.result_pickle.exists():
        outcome, trace = pickle_load(paths.result_pickle)
        return (trace if outcome == "error" else str(error)).strip().splitlines()[-1] + log
    state = job.task(0).state
    return f"it ended without a result{'' if state == 'FINISHED' else f' ({state})'}{log}"  # Submitit's word locally
