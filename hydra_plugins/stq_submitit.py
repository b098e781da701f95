"""Submitit's launchers, for sweeps that outlive a lost job. Hydra takes launchers from this namespace only; the work is
done in stq.sweeps.submit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class LocalLauncher(Launcher):
    """A process for each job; imported by every Hydra program, so what is slow or optional is imported when used."""

    executor = "local"

    def __init__(self, **params: Any):
        self.params = params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before ``launch``."""
        self.setting = {"hydra_context": hydra_context, "task_function": task_function, "config": config}

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit the jobs and wait until each has ended or is lost."""
        from stq.sweeps.submit import submit

        return submit(self.executor, self.params, self.setting, job_overrides, initial_job_idx)


class SlurmLauncher(LocalLauncher):
    """An allocation for each job."""

    executor = "slurm"
