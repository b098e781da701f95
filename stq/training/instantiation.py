"""Objects that a configuration names: anything the user typed, and of a run folder only what is known or trusted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import hydra.utils
from hydra.errors import InstantiationException

from ..errors import InputError, nearest

# every class and function that conf/ names; none is known by its package, for names inside of packages lead elsewhere
KNOWN_TARGETS = (
    "stq.data.ArrayDataModule",
    "stq.data.TimmDataModule",
    "stq.data.sources.digits",
    "stq.data.sources.npz",
    "stq.data.sources.torchvision_set",
    "pytorch_lightning.callbacks.EarlyStopping",
    "pytorch_lightning.callbacks.EMAWeightAveraging",
)
_SPECIAL = ("_args_", "_partial_", "_recursive_", "_convert_", "_mode_")


def instantiate(section: Mapping[str, Any], place: str, **more: Any) -> Any:
    """What ``section['_target_']`` names, with the section's other keys and ``more`` as its arguments.

    Raises InputError, naming the place in the configuration, for a target that is not there or does not take them.
    """
    try:
        return hydra.utils.instantiate(dict(section), **more)
    except InstantiationException as error:
        cause: BaseException = error
        while cause.__cause__ is not None and not isinstance(cause, InputError):
            cause = cause.__cause__
        if isinstance(cause, InputError):
            raise cause from None
        raise InputError(f"{place}: {str(cause).strip().splitlines()[0]} ({type(cause).__name__})") from error


def check_targets(config: Mapping[str, Any], trust: Sequence[str], place: str) -> None:
    """Raise InputError for anything in a run's configuration that would run code which is neither known nor trusted.

    trust: paths of classes and functions that the user allows, exactly as they stand in the configuration.
    """
    for key, name, value in _walk(config, ""):
        if isinstance(value, str) and "${" in value:
            raise InputError(
                f"{place}: {key} is '{value}', which would be looked up when the run is opened; a run's configuration "
                "holds plain values"
            )
        if name in _SPECIAL:
            raise InputError(f"{place}: {key} is not a setting of a run, and nothing of a run folder is called with it")
        if name == "_target_" and value not in (*KNOWN_TARGETS, *trust):
            raise InputError(
                f"{place}: {key} names {value!r}, which is not run without your leave{nearest(value, KNOWN_TARGETS)}; "
                f"if you know that code, say trust={value}"
            )


def _walk(node: Any, key: str) -> Iterator[tuple[str, str, Any]]:
    """(dotted key, last part of it, value) of all leaves, and of every ``_target_`` whatever it holds."""
    items = node.items() if isinstance(node, Mapping) else enumerate(node)
    for part, value in items:
        name, dotted = str(part), f"{key}.{part}" if key else str(part)
        if isinstance(value, Mapping | list | tuple):
            if name == "_target_" or name in _SPECIAL:
                yield dotted, name, value
            yield from _walk(value, dotted)
        else:
            yield dotted, name, value
