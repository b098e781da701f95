"""``result.json``, the record of one run, and its schema.

A run folder holds ``config.yaml`` (composed), ``metrics.csv``, ``codes.json``, ``checkpoints/best.ckpt``
and ``last.ckpt``, and ``result.json``: one flat JSON object with the keys of ``KEYS`` and of ``OPTIONAL_KEYS``, which
older results may lack. Accuracies are in percent, sizes in bytes, times in seconds. ``schema_version`` grows when a key
changes its meaning; optional keys may be added without that.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ...errors import InputError

SCHEMA_VERSION = 1
FILE_NAME = "result.json"

KEYS: dict[str, str] = {
    "schema_version": "version of this schema, an integer",
    "status": "'done', or 'failed' with the reason in 'error'",
    "error": "one sentence, null where the run is done",
    "method": "activation quantizer, as in stq.list_quantizers(); 'none' for a float run",
    "weight_method": "weight quantizer, null where the weights are float",
    "weight_bits": "bit width of the weights, 32 for float",
    "activation_bits": "bit width of the activations, 32 for float",
    "first_last_bits": "bit width of the first and last layer, 32 for float, null where it is that of all others",
    "data": "name of the data set",
    "model": "timm model name",
    "seed": "seed of initialisation, split and order",
    "epochs": "epochs trained in this run",
    "val_top1": "top-1 accuracy of the selected checkpoint on the validation split, percent",
    "test_top1": "top-1 accuracy of the selected checkpoint on the test set, percent",
    "float_test_top1": "test_top1 of the float run that this run started from, null if none",
    "parameters": "parameters of the network as deployed (attention blocks are frozen away)",
    "size_bytes": "size of the deployed network, scales and thresholds included",
    "float_size_bytes": "size of the same network in 32-bit floating point",
    "wall_seconds": "training time, from calibration to the last epoch",
    "versions": "object: python, torch, lightning, timm, stq",
    "git_commit": "commit of the checkout, '+' appended where it had changes, null outside git",
    "hardware": "processor or GPU names and counts, one string",
    "command": "the command line",
    "config_hash": "hash of what decides the result: the configuration without paths, loggers and launchers",
    "tags": "list of the user's labels",
    "started": "start of the run, ISO 8601, UTC",
}
# the cost of one input through the deployed network, as stq.cost counts it; null where the network cannot be followed
OPTIONAL_KEYS: dict[str, str] = {
    "macs": "multiplications of the convolutions and linear layers (blocks kept for dynamic inference not counted)",
    "bops": "bit operations: multiplications times weight bits times activation bits, summed over layers",
    "float_bops": "bit operations of the same network at 32 bits",
    "activation_bytes": "peak memory of the activations",
    "float_activation_bytes": "peak memory of the activations of the same network in 32-bit floating point",
}

_KINDS = {list: "list", str: "string", int: "number", float: "number", bool: "boolean", type(None): "null"}


def write_result(folder: Path, result: dict[str, Any]) -> Path:
    """Write ``folder/result.json`` so that a reader sees a whole file or none. Raises KeyError for a missing key."""
    missing = [key for key in KEYS if key not in result]
    if missing:
        raise KeyError(f"result.json lacks {', '.join(missing)}")
    path = folder / FILE_NAME
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(result, indent=2) + "\n")
    part.replace(path)
    return path


def read_result(path: Path) -> dict[str, Any]:
    """Read one result.json (or the one in a run folder). Raises InputError where it is missing, broken or foreign."""
    path = path / FILE_NAME if path.is_dir() else path
    try:
        result = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: the run has not finished, or this is not a run folder") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is not readable as JSON ({error}): was the writer interrupted?") from None
    return check_result(result, str(path))


def check_result(result: Any, place: str) -> dict[str, Any]:
    """``result`` itself, if it is of this schema. Raises InputError, naming the place, where it is not."""
    if not isinstance(result, dict):
        raise InputError(f"{place} is not the result of a run: it holds a JSON {_KINDS[type(result)]}, not an object")
    if "schema_version" not in result:
        raise InputError(f"{place} is not the result of a run: it has no schema version")
    if result["schema_version"] != SCHEMA_VERSION:
        raise InputError(
            f"{place} has schema version {result['schema_version']}, this stq reads version {SCHEMA_VERSION}"
        )
    missing = [key for key in KEYS if key not in result]
    if missing:
        raise InputError(f"{place} lacks the key '{missing[0]}' of schema version {SCHEMA_VERSION}")
    return result


def finished_result(folder: Path, identity: str) -> dict[str, Any] | None:
    """The result of a run folder that is done, else None.

    Raises InputError if the folder holds a run of another configuration hash than ``identity``.
    """
    if not (folder / FILE_NAME).is_file():
        return None
    result = read_result(folder)
    if result["config_hash"] != identity:
        raise InputError(
            f"{folder} holds another run ({result['config_hash']}, this is {identity}): choose a new folder"
        )
    return result if result["status"] == "done" else None
