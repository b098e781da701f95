"""One finished run, wherever its record lies: in its folder, or in a line of an experiment's ``results.jsonl``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from ...errors import InputError
from .result_file import FILE_NAME
from .settings import deciding_settings, implied_settings

RECORDED = "results.jsonl"
FLOAT_METHODS = {"none": "float", "float_gates": "float with gates"}  # that leave a network in float, as they are told


@dataclass(frozen=True)
class Run:
    """A result, and what else is kept of its run.

    path: the result file. line: number of the line in a ``results.jsonl``, and recorded: that line (keys name, result,
    config, metrics); both None for a run folder, whose files lie beside the result.
    """

    path: Path
    result: dict[str, Any]
    line: int | None = None
    recorded: Mapping[str, Any] | None = None

    @property
    def place(self) -> str:
        """Where the result is, in words."""
        return str(self.path) if self.line is None else f"{self.path}, line {self.line}"

    @property
    def name(self) -> str:
        """The run folder's name, or the file's or line's where many results lie in one place."""
        if self.recorded is not None:
            return self.recorded["name"]
        return self.path.name.removesuffix(f".{FILE_NAME}") if self.path.name != FILE_NAME else self.path.parent.name

    @property
    def method(self) -> str:
        """By the name that says what ran: double_st with both stages frozen, or with MLPs kept, has one of its own."""
        name, settings = self.result["method"], self.settings
        if name != "double_st" or not any(key.startswith("quantizer.") for key in settings):  # they are not known
            return name
        gates = {settings[f"quantizer.settings.{stage}_gate"] for stage in ("range", "threshold")}
        inference = settings["quantizer.settings.inference"]
        if inference == "dynamic" and gates == {"mlp"}:
            return "double_st_dynamic"
        return "double_st_frozen" if inference == "static" else name

    @property
    def bits(self) -> tuple[int, int]:
        """Bit widths of weights and activations."""
        return self.result["weight_bits"], self.result["activation_bits"]

    @property
    def accuracy(self) -> float:
        """Test top-1 in percent."""
        return self.result["test_top1"]

    def companion(self, name: str) -> Path | None:
        """``metrics.csv`` and so on of this run; beside ``x.result.json`` that is ``x.metrics.csv``.

        None where the run is recorded in a line, which has no files.
        """
        if self.recorded is not None:
            return None
        return self.path.with_name(self.path.name.removesuffix(FILE_NAME) + name)

    @property
    def config_text(self) -> str | None:
        """The configuration as YAML, for people; None where it is not kept."""
        if self.recorded is not None:
            return yaml.safe_dump(self.recorded["config"], sort_keys=False)
        path = self.companion("config.yaml")
        return path.read_text(errors="replace") if path.is_file() else None

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration; empty where it is not kept. Raises InputError if config.yaml is there and broken."""
        return self.recorded["config"] if self.recorded is not None else read_yaml(self.companion("config.yaml"))

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What decides the result apart from seed and bits, by dotted key; only the epochs without a configuration.

        Raises InputError if config.yaml is there and broken.
        """
        try:
            kept = self.result.get("config") or self.config  # a result of today holds them, under its checksum
            known = deciding_settings(kept)
        except AttributeError:  # a name or number where a run has a group of settings
            where = self.place if self.recorded is not None else self.companion("config.yaml")
            raise InputError(f"{where} is not the configuration of a run of stq") from None
        if any(key.startswith("quantizer.") for key in known):
            implied = implied_settings(self.result["method"])
            known = {f"quantizer.settings.{key}": value for key, value in implied.items()} | known
        return {"epochs": self.result["epochs"]} | known


def read_yaml(path: Path) -> dict[str, Any]:
    """A config.yaml as plain data; empty where there is none. Raises InputError where it is broken."""
    try:
        config = yaml.load(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not readable ({error})") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not readable as YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(config, dict):
        raise InputError(f"{path} is not a configuration: it holds no keys")
    return config
