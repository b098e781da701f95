"""Trained networks that come with stq: packed files, each with its result and how it was made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...errors import InputError, nearest
from ..network import Network
from .packed_file import load_packed

_FOLDER = Path(__file__).parents[2] / "trained"


def list_trained() -> list[str]:
    """Names of the trained networks that come with stq: network, data, bits of weights and activations."""
    return sorted(path.stem for path in _FOLDER.glob("*.safetensors"))


def load_trained(name: str) -> tuple[Network, tuple[int, ...]]:
    """(network, input size) of a trained network; ``stq.run(network, images)`` gives its scores.

    Raises InputError for a name that there is not.
    """
    return load_packed(_path(name))


def trained_card(name: str) -> dict[str, Any]:
    """What is known of a trained network: data, preprocessing, method, bits, commit, its accuracy, its configuration.

    Raises InputError for a name that there is not.
    """
    from safetensors import safe_open

    with safe_open(str(_path(name)), framework="numpy") as file:
        found = file.metadata()
    return {key.removeprefix("stq."): _value(text) for key, text in found.items() if key.startswith("stq.")}


def _path(name: str) -> Path:
    path = _FOLDER / f"{name}.safetensors"
    if name not in list_trained():
        raise InputError(f"there is no trained network '{name}'{nearest(name, list_trained())}: see stq.list_trained()")
    return path


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # plain text
        return text
