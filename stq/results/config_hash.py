"""The hash that identifies a run by the content of its configuration; needs no training code."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

# these decide the result; paths, loggers, launchers and progress bars do not
_DECIDING = (
    "model",
    "quantizer",
    "weight_bits",
    "activation_bits",
    "first_last_bits",
    "data",
    "optimizer",
    "scheduler",
    "loss",
    "init",
    "seed",
)
_TRAINER = ("max_epochs", "precision", "gradient_clip_val", "accumulate_grad_batches", "limit_train_batches")
_INCIDENTAL_DATA = ("workers", "eval_batch_size", "path", "download")


def config_hash(cfg: DictConfig) -> str:
    """16 hexadecimal digits that change whenever something that decides the result changes."""
    kept = {key: _plain(cfg, key) for key in (*_DECIDING, "trainer", "callbacks")}
    kept["trainer"] = {key: kept["trainer"].get(key) for key in _TRAINER}
    kept["progressive"] = kept.pop("callbacks")["progressive"]
    kept["data"] = _without(kept["data"], _INCIDENTAL_DATA)
    kept["init"] = {key: value for key, value in kept["init"].items() if value is not None}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _without(tree: object, names: tuple[str, ...]) -> object:
    if not isinstance(tree, dict):
        return tree
    kept = {key: _without(value, names) for key, value in tree.items() if key not in names}
    path = Path(str(tree.get("path")))
    if path.suffix:
        kept["file"] = path.name  # where a data set lies does not matter, which one it is does
    return kept


def _plain(cfg: DictConfig, key: str) -> Any:
    value = cfg[key]
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
