"""The hash that stq wrote until its version 0.1: of a chosen part of the settings. Finds older run folders by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig

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


def legacy_hash(cfg: DictConfig | Mapping[str, Any]) -> str:
    """16 hexadecimal digits, as in the names of older run folders and float baselines."""
    kept = _deciding({key: _plain(cfg, key) for key in (*_DECIDING, "trainer", "callbacks", "compile")})
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _deciding(config: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: config.get(key) for key in _DECIDING}
    kept["trainer"] = {key: (config.get("trainer") or {}).get(key) for key in _TRAINER}
    kept["progressive"] = (config.get("callbacks") or {}).get("progressive")
    batches = (config.get("callbacks") or {}).get("reestimate_batch_norm")
    if batches is not None:  # left out otherwise, and so is the next, as before there was a choice
        kept["reestimate_batch_norm"] = batches
    if config.get("compile"):  # sums in another order
        kept["compile"] = True
    kept["data"] = _without(kept["data"], _INCIDENTAL_DATA)
    kept["init"] = {key: value for key, value in (kept["init"] or {}).items() if value is not None}
    return kept


def _without(tree: object, names: tuple[str, ...]) -> object:
    if not isinstance(tree, dict):
        return tree
    kept = {key: _without(value, names) for key, value in tree.items() if key not in names}
    path = Path(str(tree.get("path")))
    if path.suffix:
        kept["file"] = path.name  # where a data set lies does not matter, which one it is does
    return kept


def _plain(cfg: DictConfig | Mapping[str, Any], key: str) -> Any:
    from omegaconf import OmegaConf

    value = cfg.get(key)
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
