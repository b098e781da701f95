"""``stq-train``: train one low-bit network, or a sweep of them with ``-m``."""

from __future__ import annotations

import logging
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from ..results.runs.config_hash import config_hash
from ..results.runs.result_file import finished_result
from .application import application
from .setting_types import TRAIN, check_kinds


def _train(cfg: DictConfig) -> float:
    check_kinds(cfg, TRAIN)
    sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    if sweep:
        cfg.trainer.enable_progress_bar = False  # a sweep has one line a job
        logging.getLogger("stq").setLevel(logging.WARNING)
        done = finished_result(Path(cfg.paths.output_dir), config_hash(cfg))
        if done is not None:  # found before the slow imports, so that a finished sweep takes seconds
            return done["val_top1"]
    import torch

    from ..training import train
    from ..training.run_summary import print_summary

    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    result = train(cfg)
    if not sweep:
        print_summary(result, cfg.paths.output_dir)
    return result["val_top1"]


main = application(_train, "train")

if __name__ == "__main__":
    main()
