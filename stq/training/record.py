"""What result.json says beside the accuracies: settings, versions, hardware, size and cost."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig

from ..deploy.cost import Cost, SizeReport, cost, model_size
from ..quantizers import get_method
from ..results.runs.config_hash import covered, cut_short
from ..results.runs.identity import Identity
from ..results.runs.result_file import OPTIONAL_KEYS, SCHEMA_VERSION
from ..storage.content_hash import digest
from .build import is_quantized, plain
from .provenance import command, git_commit, hardware, versions

log = logging.getLogger(__name__)


def facts_of(cfg: DictConfig, data: pl.LightningDataModule, identity: Identity, started: str) -> dict[str, Any]:
    """What is known before training, and said whether the run succeeds or not."""
    quantized = is_quantized(cfg) and get_method(cfg.quantizer.method).rounds
    own_weights = cfg.quantizer.get("weight_method")
    return {
        "schema_version": SCHEMA_VERSION,
        "status": "failed",
        "error": None,
        "method": cfg.quantizer.method,
        "weight_method": (own_weights or get_method(cfg.quantizer.method).weights) if quantized else None,
        "weight_bits": cfg.weight_bits if quantized else 32,
        "activation_bits": cfg.activation_bits if quantized else 32,
        "first_last_bits": cfg.first_last_bits if quantized else 32,
        "data": data.name,
        "model": model_name(cfg),
        "seed": cfg.seed,
        "epochs": None,
        "val_top1": None,
        "test_top1": None,
        "float_test_top1": None,
        "parameters": None,
        "size_bytes": None,
        "float_size_bytes": None,
        "wall_seconds": None,
        **dict.fromkeys(OPTIONAL_KEYS),
        "versions": versions(),
        "git_commit": git_commit(),
        "hardware": hardware(),
        "command": command(),
        "config_hash": identity.config_hash,
        "tags": plain(cfg.tags),
        "started": started,
        "steps": None,
        "cut_short": cut_short(cfg),
        "identity": identity.identity,
        "data_fingerprint": identity.data_fingerprint,
        "data_known": data.known,
        "image_size": data.image_size,
        "config": covered(cfg),
    }


def model_name(cfg: DictConfig) -> str:
    """timm's name, or the class that ``model._target_`` names."""
    return str(cfg.model.get("name") or str(cfg.model.get("_target_")).rpartition(".")[2])


_costs: dict[tuple, Cost] = {}  # of this process: jobs of a sweep that differ in nothing but their seeds cost the same


def cost_of(cfg: DictConfig, model: torch.nn.Module, data: pl.LightningDataModule) -> dict[str, Any]:
    """Size, and the cost of one input where that can be told: a run that has been trained is not lost for it."""
    input_size = (data.in_chans, data.image_size, data.image_size)
    try:
        key = (digest(covered(cfg, without=("seed",))), str(model), input_size)
        if key not in _costs:
            _costs[key] = cost(model, input_size)
    except Exception as error:  # the model's own code runs in there, and is traced
        text = str(error).strip().splitlines()
        log.warning("result.json has no cost of one input: %s", text[0] if text else type(error).__name__)
        return model_size(model)._asdict()
    return {name: getattr(_costs[key], name) for name in (*SizeReport._fields, *OPTIONAL_KEYS)}


def note_other_versions(folder: Path, result: Mapping[str, Any]) -> None:
    """Say in one sentence that a finished run was made by another commit or versions, if so; it is used anyway."""
    now, then = versions(), result["versions"] or {}
    other = [f"{name} {then[name]}" for name in now if name in then and then[name] != now[name]]
    if result["git_commit"] != git_commit() and result["git_commit"] is not None:
        other.insert(0, f"commit {result['git_commit'][:10]}")
    if other:
        log.info("%s was made with %s", folder, ", ".join(other))
