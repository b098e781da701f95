"""``stq-evaluate run=FOLDER``: evaluate a run folder again and hold it against its result.json."""

from __future__ import annotations

from omegaconf import DictConfig

from .config import application


def _evaluate(cfg: DictConfig) -> None:
    from ..training.evaluate import evaluate_run

    evaluate_run(cfg.run)


main = application(_evaluate, "evaluate")

if __name__ == "__main__":
    main()
