"""Starting points: scratch, timm's pretrained weights, a checkpoint, or the float run that a configuration implies."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
import torch
from filelock import FileLock
from omegaconf import DictConfig, OmegaConf, open_dict
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor, nn

from ..errors import InputError, nearest
from ..results.runs.config_hash import config_hash
from ..results.runs.result_file import read_result
from .build import build_backbone

STARTS = ("scratch", "pretrained", "checkpoint", "float_baseline")


@dataclass
class Start:
    """A float network and what is known of it: the test accuracy (percent) of its float run, and a quantized state."""

    model: nn.Module
    float_test_top1: float | None = None
    quantized_state: dict[str, Tensor] | None = None


def start_from(cfg: DictConfig, data: pl.LightningDataModule, train: Callable[[DictConfig], object]) -> Start:
    """The network to begin with, by ``init.start``; ``train`` trains the float run where it is needed and missing.

    Raises InputError for an unknown start or a wrong checkpoint.
    """
    kind = cfg.init.start
    if kind not in STARTS:
        raise InputError(f"init.start={kind} is not a starting point{nearest(kind, STARTS)}: use {', '.join(STARTS)}")
    model = build_backbone(cfg, data, pretrained=kind == "pretrained")
    if kind == "checkpoint":
        state = read_state(cfg.init.path)
        quantized = any(key.endswith("_extra_state") for key in state)
        load_float_weights(model, float_state(state), cfg.init.path)
        return Start(model, quantized_state=state if quantized else None)
    if kind == "float_baseline":
        folder = float_baseline(cfg, train)
        load_float_weights(model, read_state(folder / "checkpoints" / "best.ckpt"), folder)
        return Start(model, float_test_top1=read_result(folder)["test_top1"])
    return Start(model)


def read_state(path: str | Path | None) -> dict[str, Tensor]:
    """A state_dict from a Lightning or plain checkpoint, read without executing code. Raises InputError."""
    if path is None or not Path(path).is_file():
        raise InputError(f"init.path={path} is not a file: give a checkpoint (.ckpt of a run folder, or a state_dict)")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(f"{path} is not a checkpoint that can be read without executing code") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path} holds no state_dict")
    return {key.removeprefix("model."): value for key, value in state.items()}


def float_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The float weights of a quantized network's state: original weights under their plain names, no quantizers."""
    plain = {}
    for key, value in state.items():
        if key.endswith(".parametrizations.weight.original"):
            plain[key.replace(".parametrizations.weight.original", ".weight")] = value
        elif ".parametrizations." not in key and ".input_quantizer." not in key:
            plain[key] = value
    return plain


def load_float_weights(model: nn.Module, state: dict[str, Tensor], path: str | Path) -> None:
    """Load a whole float state. Raises InputError that names the first key or shape that does not fit."""
    own = model.state_dict()
    for key in own.keys() | state.keys():
        if key not in state or key not in own or own[key].shape != state[key].shape:
            found = {
                name: tuple(d[key].shape) if key in d else "absent" for name, d in (("model", own), ("file", state))
            }
            raise InputError(
                f"{path} is the checkpoint of another network: '{key}' is {found['file']} there and {found['model']} "
                "in the model"
            )
    model.load_state_dict(state)


def float_config(cfg: DictConfig) -> DictConfig:
    """The float run that a configuration implies: the same without quantizers, with ``init.float`` merged over it."""
    float_cfg = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
    overrides = float_cfg.init.pop("float", None) or {}
    with open_dict(float_cfg):
        float_cfg.quantizer = {"method": "none"}
        float_cfg.bits = float_cfg.weight_bits = float_cfg.activation_bits = float_cfg.first_last_bits = 32
        float_cfg.init = {"start": "scratch", "path": None, "float": None}
        float_cfg.callbacks.progressive = float_cfg.callbacks.reestimate_batch_norm = None
        float_cfg.loss.distillation_weight = 0.0
        float_cfg.tags = []
        float_cfg = OmegaConf.merge(float_cfg, overrides)
        float_cfg.paths.output_dir = str(Path(cfg.paths.float_dir) / config_hash(float_cfg))
    return float_cfg


def float_baseline(cfg: DictConfig, train: Callable[[DictConfig], object]) -> Path:
    """Folder of the finished float run; trains it if need be. Jobs that ask at once wait for the one that trains."""
    float_cfg = float_config(cfg)
    folder = Path(float_cfg.paths.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    # only the first process of a data-parallel run takes the lock: the others train with it
    lock = FileLock(folder.with_suffix(".lock")) if rank_zero_only.rank == 0 else contextlib.nullcontext()
    with lock:
        train(float_cfg)  # which returns at once where the run is done
    return folder
