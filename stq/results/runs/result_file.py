"""``result.json``, the record of one run, and its schema.

A run folder holds ``config.yaml`` (composed), ``identity.json``, ``metrics.csv``, ``codes.json``,
``checkpoints/best.ckpt`` and ``last.ckpt``, and ``result.json``: one flat JSON object with the keys of ``KEYS``, and of
``OPTIONAL_KEYS`` and ``LATER_KEYS``, which older results may lack. Accuracies are in percent, sizes in bytes, times in
seconds. ``schema_version`` grows when a key changes its meaning; optional keys may be added without that.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...storage.content_hash import digest
from ...storage.durable_files import write_text_durably

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
    "config_hash": "hash of the settings, without output folders, loggers and launchers",
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

# what later versions of stq record beside that
LATER_KEYS: dict[str, str] = {
    "steps": "optimizer steps taken in this run",
    "cut_short": "the debugging setting that cut the run short, as key=value, null where there was none",
    "identity": "hash of the settings, the data's content and the files that settings name: which run this is",
    "data_fingerprint": "hash of what the data hold",
    "data_known": "the well-known data set that the data are for certain, null where they are not known to be one",
    "image_size": "height and width of the images in pixels, null where the data do not say",
    "config": "object: the settings that decide the result (see config_hash)",
    "checksum": "hash of all other keys",
}

_NAMES = ("status", "method", "data", "model", "config_hash")
_NUMBER, _OR_NULL = (int, float), (type(None),)
_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("status", "method", "data", "model", "config_hash"), (str,)),
    **dict.fromkeys(("error", "weight_method", "git_commit", "hardware", "command", "started"), (str, *_OR_NULL)),
    **dict.fromkeys(("cut_short", "identity", "data_fingerprint", "data_known", "checksum"), (str, *_OR_NULL)),
    **dict.fromkeys(("weight_bits", "activation_bits", "seed"), (int,)),
    **dict.fromkeys(("first_last_bits", "epochs", "steps", "image_size", "parameters"), (int, *_OR_NULL)),
    **dict.fromkeys(("size_bytes", "float_size_bytes", "wall_seconds", *OPTIONAL_KEYS), (*_NUMBER, *_OR_NULL)),
    **dict.fromkeys(("val_top1", "test_top1", "float_test_top1"), (*_NUMBER, *_OR_NULL)),
    **dict.fromkeys(("versions", "config"), (dict, *_OR_NULL)),
    "tags": (list,),
}
_KINDS = {list: "list", str: "string", int: "number", float: "number", bool: "boolean", dict: "object"}
_KINDS[type(None)] = "null"
_LARGEST = 2.0**63  # of any number


class DamagedResult(InputError):
    """A result.json that was a result once: cut off, or changed after it was written."""


def write_result(folder: Path, result: dict[str, Any]) -> Path:
    """Write ``folder/result.json``, with its checksum, so that a reader sees a whole file or the one before.

    Raises KeyError for a missing key, StorageFailed where the disk does not take it.
    """
    missing = [key for key in KEYS if key not in result]
    if missing:
        raise KeyError(f"result.json lacks {', '.join(missing)}")
    path = folder / FILE_NAME
    write_text_durably(path, json.dumps(result | {"checksum": _checksum(result)}, indent=2) + "\n")
    return path


def _checksum(result: Mapping[str, Any]) -> str:
    return digest({key: value for key, value in result.items() if key != "checksum"})


def read_result(path: Path) -> dict[str, Any]:
    """Read one result.json (or the one in a run folder). Raises InputError where it is missing, broken or foreign."""
    path = path / FILE_NAME if path.is_dir() else path
    if path.suffix != ".json":
        raise InputError(f"{path} is not a result file: give a result.json, a results.jsonl, or folders that hold them")
    try:
        result = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: the run has not finished, or this is not a run folder") from None
    except (ValueError, OSError, RecursionError) as error:
        raise DamagedResult(f"{path} is not readable as JSON ({error}): was the writer interrupted?") from None
    return check_result(result, str(path))


def check_result(result: Any, place: str) -> dict[str, Any]:
    """``result`` itself, if it is of this schema. Raises InputError, naming the place, where it is not."""
    if not isinstance(result, dict):
        raise InputError(f"{place} is not the result of a run: it holds a JSON {_KINDS[type(result)]}, not an object")
    if "schema_version" not in result:
        raise InputError(f"{place} is not the result of a run: it has no schema version")
    if result["schema_version"] != SCHEMA_VERSION:
        raise InputError(
            f"{place} has schema version {result['schema_version']!r}, this stq reads version {SCHEMA_VERSION}"
        )
    missing = [key for key in KEYS if key not in result]
    if missing:
        raise InputError(f"{place} lacks the key '{missing[0]}' of schema version {SCHEMA_VERSION}")
    if result.get("checksum") is not None and result["checksum"] != _checksum(result):
        raise DamagedResult(f"{place} does not match its own checksum: it was changed or damaged after it was written")
    for key, value in result.items():
        _check_value(place, key, value)
    for key in _NAMES:
        if not result[key].isprintable():
            raise InputError(f"{place}: '{key}' is {_brief(result[key])}, not a name that can be printed")
    return result


def _check_value(place: str, key: str, value: Any) -> None:
    wanted = _TYPES.get(key)
    if wanted is not None and not (isinstance(value, wanted) and not isinstance(value, bool)):
        names = " or ".join(dict.fromkeys(_KINDS[kind] for kind in wanted))
        raise InputError(f"{place}: '{key}' is {_brief(value)}, not a {names}")
    for each in _leaves(value):
        if isinstance(each, str) and not each.isascii() and each.encode("utf-8", "replace").decode() != each:
            raise InputError(f"{place}: '{key}' holds characters that are none (half of a surrogate pair)")
        if isinstance(each, int) and abs(each) > _LARGEST:
            raise InputError(f"{place}: '{key}' is {_brief(each)}, a number beyond all measure")


def _leaves(value: Any, depth: int = 0) -> Iterator[Any]:
    if isinstance(value, dict | list) and depth < 50:
        for each in [*value, *value.values()] if isinstance(value, dict) else value:
            yield from _leaves(each, depth + 1)
    else:
        yield value


def _brief(value: Any) -> str:
    if isinstance(value, int) and abs(value) > _LARGEST:
        return f"a whole number of {value.bit_length()} bits"
    text = ascii(value)
    return text if len(text) < 60 else f"{text[:57]}..."
