"""The settings of runs, as far as they decide results, and where runs differ in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .config_hash import LOCATED, covered, flat

# told by the table itself, or by the result
_ELSEWHERE = {"weight_bits", "activation_bits", "first_last_bits", "seed", "model.name", "data.name"}
_ELSEWHERE |= {"quantizer.method", "trainer.max_epochs"}
_BEFORE_GATES = {"range_gate": "mlp", "threshold_gate": "mlp", "inference": "static", "attention_lr_factor": 1.0}
_IMPLIED = {"double_st": _BEFORE_GATES, "st": _BEFORE_GATES | {"threshold_gate": "none"}}


def implied_settings(method: str) -> dict[str, Any]:
    """What the settings of a method mean that do not say so, as those of runs from before gates could be chosen."""
    return dict(_IMPLIED.get(method, {}))


def deciding_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the result in a configuration, by dotted key; nothing where there is none.

    Raises AttributeError where a group of settings is something else.
    """
    return flat(covered(config, without=(*LOCATED, *_ELSEWHERE)))


def differing(settings: Iterable[Mapping[str, Any]]) -> list[str]:
    """Keys whose values are not the same in all of them, sorted. A key that one of them lacks differs."""
    values: dict[str, set[str]] = {}
    all_settings = list(settings)
    for key in {key for each in all_settings for key in each}:
        values[key] = {shown(each, key) for each in all_settings}
    return sorted(key for key, distinct in values.items() if len(distinct) > 1)


def without_echoes(keys: Iterable[str], settings: Iterable[Mapping[str, Any]]) -> list[str]:
    """The keys, of those that some runs lack and that tell the same runs apart only one: the method, or else the first.

    A whole group of settings that some runs have, such as those of a float run with gates, is one difference.
    """
    settings, kept, told = list(settings), [], set()
    for key in sorted(keys, key=lambda key: not key.endswith(".method")):
        if any(key not in each for each in settings):
            values = [shown(each, key) for each in settings]
            apart = tuple(values.index(value) for value in values)
            if apart in told:
                continue
            told.add(apart)
        kept.append(key)
    return sorted(kept)


def shown(settings: Mapping[str, Any], key: str) -> str:
    """A setting's value as tables print it; a question mark where no config.yaml tells."""
    absent = "unset" if len(settings) > 1 else "?"
    return str(settings.get(key, absent))


def brief(value: str) -> str:
    """A long fraction to six digits, everything else as it is."""
    try:
        return f"{float(value):g}" if len(value) > 8 else value
    except ValueError:
        return value


def in_order(value: str) -> tuple[float, str]:
    """Sorting key: numbers by size, then names."""
    try:
        return float(value), value
    except ValueError:
        return float("inf"), value


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """The last part of each dotted key, all of it where that would be ambiguous."""
    keys = list(keys)
    last = [key.rpartition(".")[2] for key in keys]
    clear = [name != "method" and last.count(name) == 1 for name in last]  # the method of what?
    return {key: name if alone else key for key, name, alone in zip(keys, last, clear, strict=True)}
