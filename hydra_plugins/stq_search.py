"""The search as a Hydra sweeper, which Hydra takes from this namespace only; ``stq.sweeps.search`` does the work."""

from __future__ import annotations

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class SearchSweeper(Sweeper):
    """Hyperparameter search by Optuna; imported by every Hydra program, so what is slow is imported when used."""

    def __init__(self, params: DictConfig | None, trials: int, max_batch_size: int, seed: int):
        self.params, self.trials, self.max_batch_size, self.seed = params or {}, trials, max_batch_size, seed

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before ``sweep``."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Search over the intervals and choices among the configured parameters and the command line's."""
        from stq.sweeps.search import Search

        given = [f"{key}={value}" for key, value in self.params.items()]
        Search(self, [*given, *arguments]).run()
