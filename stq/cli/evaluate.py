"""``stq-evaluate run=FOLDER``: evaluate a run folder again and hold it against its result.json."""

from __future__ import annotations

from omegaconf import DictConfig

from .application import application
from .setting_types import RUN, check_types, trusted


def _evaluate(cfg: DictConfig) -> None:
    check_types(cfg, RUN)
    from .evaluate_run import evaluate_run

    evaluate_run(cfg.run, trusted(cfg))


main = application(_evaluate, "evaluate", sweeps=False)

if __name__ == "__main__":
    main()
