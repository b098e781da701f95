"""Which configuration a run has: a hash of all settings, less a short list of those that cannot change its numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig

# Everything that is not listed here is part of the hash, also what users add. A setting that is null or empty counts as
# one that is not there, so that a new setting whose default is null leaves the hashes as they are; but it counts where
# it is handed on to a library or to the user's code.
INCIDENTAL: dict[str, str] = {
    "variables": "values for ${variables.NAME}: what uses them holds them",
    "learning_rate": "the same in experiments of older runs",
    "published_decay": "the same in recipes of older runs",
    "bits": "short for weight_bits and activation_bits, which hold what it says",
    "paths": "where runs and data lie",
    "logger": "who is told of the numbers",
    "sweep_name": "a folder",
    "tags": "the user's labels",
    "target": "where the network will run: checked before training, it changes nothing",
    "run": "the folder that a run is resumed in",
    "trust": "what a run folder may name",
    "jobs": "how many jobs run at a time",
    "slurm": "where jobs run",
    "memory": "what is kept for the backward pass; the numbers are the same bit by bit",
    "threads": "the hardware in use, recorded as such",
    "trainer.accelerator": "the hardware in use, recorded as such",
    "trainer.enable_progress_bar": "what is shown",
    "callbacks.monitor": "logs what quantizers do, and only that",
    "data.label": "what tables call the data",
    "data.download": "how the data came; what they are, their fingerprint says",
    "data.source.download": "how the data came; what they are, their fingerprint says",
}
# the same for data sets in memory, whose augmentation is drawn for an epoch at once, whoever loads it
_ARRAYS, _OF_ARRAYS = "stq.data.ArrayDataModule", ("data.workers", "data.on_device")
# settings that older runs lack, with the value that they had
_ADDED: dict[str, Any] = {
    "compile": False,
    "quantizer.settings.range_gate": "mlp",
    "quantizer.settings.threshold_gate": "mlp",
    "quantizer.settings.rank": 4,
    "quantizer.settings.kernel_size": 5,
}
# mappings whose order counts: later patterns win, callbacks are called in turn
_IN_ORDER = ("quantizer.layers", "callbacks")
# null and empty values are handed on here, where the default may be another
_HANDED_ON = ("model", "quantizer.settings", "optimizer", "scheduler")
# settings that are known by what they name and not by their name: the data's fingerprint, the content of a file
LOCATED = ("data.path", "data.source.path", "init.path")
# a run with one of these is one that tries something out
_DEBUGGING: dict[str, tuple[Any, ...]] = {
    "trainer.fast_dev_run": (None, False, 0),
    "trainer.overfit_batches": (None, 0, 0.0),
    "trainer.limit_train_batches": (None, 1.0),
    "trainer.limit_val_batches": (None, 1.0),
    "trainer.limit_test_batches": (None, 1.0),
    "trainer.max_time": (None,),
}


def config_hash(config: DictConfig | Mapping[str, Any]) -> str:
    """16 hexadecimal digits for a configuration, composed or as read from config.yaml; names run folders.

    They change whenever a setting changes that is not on the list ``INCIDENTAL``. No data are read.
    """
    text = json.dumps(in_order(covered(config)), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def covered(config: DictConfig | Mapping[str, Any], without: tuple[str, ...] = ()) -> dict[str, Any]:
    """The settings that the hash covers, as plain nested dictionaries; ``without`` leaves out more of them."""
    plain = _plain(config)
    in_memory = (plain.get("data") or {}).get("_target_", _ARRAYS) == _ARRAYS
    return _kept(plain, "", {*INCIDENTAL, *without, *(_OF_ARRAYS if in_memory else ())})


def cut_short(config: DictConfig | Mapping[str, Any]) -> str | None:
    """The debugging setting that cuts a run short, as ``key=value``; None where there is none."""
    plain = _plain(config)
    for key, unset in _DEBUGGING.items():
        section, name = key.split(".")
        value = (plain.get(section) or {}).get(name)
        if not any(value is each or (type(value) is type(each) and value == each) for each in unset):
            return f"{key}={value}"
    return None


def first_difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    """``bits is 2 here and 4 there`` for the first covered setting in which two configurations differ."""
    a, b = (flat(covered(config)) for config in (ours, theirs))
    for key in sorted(a.keys() | b.keys()):
        if a.get(key) != b.get(key):
            return f"{key} is {a.get(key, 'not set')} here and {b.get(key, 'not set')} there"
    return None


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def in_order(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The settings for a hash that sorts keys: those whose order counts as lists of pairs."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            value = in_order(value, f"{prefix}{key}.")
            value = list(value.items()) if f"{prefix}{key}" in _IN_ORDER else value
        found[key] = value
    return found


def _kept(tree: Mapping[str, Any], prefix: str, left_out: set[str], handed_on: bool = False) -> dict[str, Any]:
    target = tree.get("_target_")
    handed_on = handed_on or prefix[:-1] in _HANDED_ON or (target is not None and not str(target).startswith("stq."))
    kept = {}
    for key, value in tree.items():
        if f"{prefix}{key}" in left_out:
            continue
        if isinstance(value, Mapping):
            value = _kept(value, f"{prefix}{key}.", left_out, handed_on)
        added = _ADDED.get(f"{prefix}{key}")
        if (handed_on or value not in (None, {}, [])) and (added is None or value != added):
            kept[str(key)] = value
    return kept


def _plain(config: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(config, dict):
        return config
    from omegaconf import OmegaConf

    container = OmegaConf.to_container(config, resolve=False)
    # the resolver of run folders' names asks for the hash while the rest of Hydra's own node cannot be resolved yet
    keys = [key for key in container if key != "hydra" and key not in INCIDENTAL]
    return {key: _resolved(config, key) for key in keys}


def _resolved(config: DictConfig, key: str) -> Any:
    from omegaconf import OmegaConf

    value = config.get(key)
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
