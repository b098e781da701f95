"""Hyperparameter search: Optuna proposes, Hydra's launcher runs, a database in the sweep folder remembers.

``search.db`` is written before a job starts and after it ends, so a search that was killed goes on by the same command:
completed trials are kept, and those that were running or that failed run again, in their own folders and thus from
their last checkpoint.
A database may hold several studies: a study is named by the content of the configuration and of the search space, so
that values from different tasks never mix.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from ..errors import InputError
from ..results.runs.config_hash import config_hash
from .progress import Teller

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial


class Sweeper(Protocol):
    """What Hydra's plug-in (``hydra_plugins/stq_search.py``) hands over: its context, launcher and settings."""

    config: DictConfig
    hydra_context: HydraContext
    launcher: Launcher
    trials: int
    max_batch_size: int
    seed: int

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Raises for overrides that do not compose."""


class Search:
    """A search over the overrides that are intervals or choices; the others are the same for each trial."""

    def __init__(self, sweeper: Sweeper, arguments: list[str]):
        self.sweeper = sweeper
        self.loader = sweeper.hydra_context.config_loader
        self.folder = Path(sweeper.config.hydra.sweep.dir).absolute()
        parsed = OverridesParser.create(config_loader=self.loader).parse_overrides(arguments)
        overrides = {override.get_key_element(): override for override in parsed}  # the command line's come last
        self.space = {key: distribution(o) for key, o in overrides.items() if o.is_sweep_override()}
        self.fixed = [
            f"{key}={o.get_value_element_as_str()}" for key, o in overrides.items() if not o.is_sweep_override()
        ]
        if not self.space:
            raise InputError("the search has nothing to vary: give an interval or a choice, key=interval(low,high)")

    @cached_property
    def study(self) -> Study:
        """The study of this configuration and space, from the database where it has been begun."""
        optuna = _optuna()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder.mkdir(parents=True, exist_ok=True)
        identity = f"{config_hash(self.sweeper.config)} {sorted(self.space.items())}"
        name = hashlib.sha256(identity.encode()).hexdigest()[:16]
        storage = f"sqlite:///{self.folder / 'search.db'}"
        return optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)

    def run(self) -> None:
        """Run the trials that are missing, then print the best one and write ``best.yaml``."""
        interrupted, ended = self._take_up()
        kept = f"{ended} trials kept, " if ended else ""
        Teller.current.expect(max(0, self.sweeper.trials - ended), kept)
        begun = 0
        while missing := max(0, self.sweeper.trials - ended):
            size = min(self.sweeper.max_batch_size, missing)
            batch, interrupted = interrupted[:size], interrupted[size:]
            if not batch:
                batch = self._propose(size)
            begun += self._run_batch(batch, begun)
            ended += len(batch)
        Teller.current.tell()
        self._tell_best()

    def _take_up(self) -> tuple[list[FrozenTrial], int]:
        """Trials that earlier starts left running or that failed, to run again, and the number of completed ones."""
        from optuna.trial import TrialState

        whole = [trial for trial in self.study.get_trials() if trial.params.keys() == self.space.keys()]
        for trial in self.study.get_trials(states=[TrialState.RUNNING]):
            if trial not in whole:  # killed while it was proposed
                self.study.tell(trial.number, state=TrialState.FAIL)
        again = [trial for trial in whole if trial.state == TrialState.RUNNING]
        latest = {tuple(trial.params.items()): trial for trial in whole}
        for trial in latest.values():
            if trial.state == TrialState.FAIL:
                self.study.enqueue_trial(trial.params)
                again += self._propose(1)
        return again, sum(trial.state == TrialState.COMPLETE for trial in whole)

    def _propose(self, size: int) -> list[FrozenTrial]:
        """New trials; the seed follows their number, so that an interrupted search proposes what it would have."""
        self.study.sampler = _optuna().samplers.TPESampler(seed=self.sweeper.seed + len(self.study.trials))
        numbers = [self.study.ask(self.space).number for _ in range(size)]
        return [self.study.trials[number] for number in numbers]

    def _run_batch(self, batch: Sequence[FrozenTrial], begun: int) -> int:
        """Launch the jobs of trials and record their values; equal trials share a job. Gives the number of jobs."""
        from optuna.trial import TrialState

        jobs: dict[tuple[str, ...], list[FrozenTrial]] = {}
        for trial in batch:
            jobs.setdefault(tuple(self._overrides(trial)), []).append(trial)
        commands = [list(overrides) for overrides in jobs]
        self.sweeper.validate_batch_is_legal(commands)
        for trials, job in zip(jobs.values(), self.sweeper.launcher.launch(commands, begun), strict=True):
            value = _value(job)
            for trial in trials:
                self.study.tell(trial.number, value, TrialState.FAIL if value is None else None)
        return len(jobs)

    def _overrides(self, trial: FrozenTrial) -> list[str]:
        return [*self.fixed, *(f"{key}={trial.params[key]}" for key in self.space)]

    def _tell_best(self) -> None:
        from optuna.trial import TrialState

        if not self.study.get_trials(states=[TrialState.COMPLETE]):
            raise InputError("no trial of the search succeeded; the same command tries them again")
        best = self.study.best_trial
        overrides = self._overrides(best)
        cfg = self.loader.load_sweep_config(self.sweeper.config, overrides)
        found = {"val_top1": best.value, "overrides": overrides, "run": str(self.folder / cfg.hydra.sweep.subdir)}
        OmegaConf.save(OmegaConf.create(found), self.folder / "best.yaml")
        searched = " ".join(overrides[len(self.fixed) :])
        print(f"best of {len(self.study.trials)} trials: validation {best.value:.2f} %, {searched}")


def distribution(override: Override) -> BaseDistribution:
    """Optuna's form of one interval, range or choice. Raises InputError."""
    distributions = _optuna().distributions
    sweep, log = override.value(), "log" in override.value().tags
    try:
        if isinstance(sweep, IntervalSweep):
            kind = distributions.IntDistribution if isinstance(sweep.start, int) else distributions.FloatDistribution
            return kind(sweep.start, sweep.end, log=log)
        if isinstance(sweep, RangeSweep):
            values = [float(value) if "." in value else int(value) for value in override.sweep_string_iterator()]
            exact = all(isinstance(value, int) for value in values)
            kind = distributions.IntDistribution if exact else distributions.FloatDistribution
            return kind(values[0], values[-1], log=log, step=sweep.step)
    except (ValueError, IndexError) as error:
        raise InputError(f"'{override.input_line}' is not a range to search: {error}") from error
    assert isinstance(sweep, ChoiceSweep)
    return distributions.CategoricalDistribution(tuple(override.sweep_string_iterator()))


def _value(job: JobReturn) -> float | None:
    """The validation accuracy of a job, None where it failed."""
    if job.status != JobStatus.COMPLETED or not math.isfinite(job.return_value):
        return None
    return float(job.return_value)


def _optuna() -> Any:
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise InputError("hyperparameter search needs the package optuna: pip install 'stq[search]'") from error
    return optuna
