"""``stq-train``: train one low-bit network, or a sweep of them with ``-m``; go on with one by ``run=FOLDER``."""

from __future__ import annotations

import gc
import logging
import math
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from ..data.fingerprint import fingerprint_cache, remembered
from ..errors import InputError
from ..results.runs.identity import finished_result, identify
from .application import application
from .setting_types import TRAIN, check_types, trusted

# what may be given beside run=FOLDER: it says where and how, not what
_BESIDE_RUN = ("run", "trust", "threads", "trainer.accelerator", "trainer.enable_progress_bar")


def _train(cfg: DictConfig) -> float:
    if cfg.run is not None:
        cfg = _resumed(cfg)
    check_types(cfg, TRAIN)
    sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    if sweep:
        cfg.trainer.enable_progress_bar = False  # a sweep has one line a job
        logging.getLogger("stq").setLevel(logging.WARNING)
        done = _finished(cfg)
        if done is not None:  # found before the slow imports, so that a finished sweep takes seconds
            return _score(done)
    import torch

    from ..training import train
    from ..training.run_summary import print_summary

    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    if not sweep:
        result = train(cfg)
        print_summary(result, cfg.paths.output_dir)
        return _score(result)
    if gc.get_freeze_count() == 0:
        gc.freeze()  # what was imported stays: looking for cycles among the rest takes milliseconds
    try:
        return _score(train(cfg))
    finally:
        gc.collect()  # a job's networks are full of cycles, and Python would look for them after dozens of jobs


def _score(result: dict[str, Any]) -> float:
    return math.nan if result["val_top1"] is None else result["val_top1"]


def _finished(cfg: DictConfig) -> dict[str, Any] | None:
    """The result of a run that is done and whose data are known to be those of before, else None."""
    folder = Path(cfg.paths.output_dir)
    if not (folder / "result.json").is_file():
        return None
    config = OmegaConf.to_container(cfg, resolve=True)
    cache = fingerprint_cache(cfg.paths.float_dir)
    fingerprint = remembered(config["data"], cache)
    return None if fingerprint is None else finished_result(folder, identify(config, fingerprint, cache), config)


def _resumed(cfg: DictConfig) -> DictConfig:
    """The configuration of the run folder that ``run`` names. Raises InputError for settings given beside it."""
    given = [override.split("=")[0].lstrip("+~") for override in HydraConfig.get().overrides.task]
    for key in given:
        if key not in _BESIDE_RUN:
            raise InputError(f"run={cfg.run} goes on with the settings of that folder: leave {key} out")
    from ..training.run_folder import read_config

    own = read_config(Path(cfg.run), trusted(cfg))
    with open_dict(own):
        beside = Path(str(own.paths.float_dir)).resolve().parent in Path(cfg.run).resolve().parents
        float_dir = own.paths.float_dir if beside else cfg.paths.float_dir  # a run folder says not where to write
        own.paths = {**cfg.paths, "float_dir": float_dir, "output_dir": str(cfg.run)}
        own.run, own.trust = None, []
        for key in ("variables", "compile"):  # older configurations lack them
            own.setdefault(key, cfg[key])
        for key in given:
            if key not in ("run", "trust"):
                OmegaConf.update(own, key, OmegaConf.select(cfg, key))
    return own


main = application(_train, "train")

if __name__ == "__main__":
    main()
