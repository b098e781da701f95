"""Starting points: scratch, timm's pretrained weights, a checkpoint, or the float run that a configuration implies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor, nn

from ..errors import InputError, nearest
from ..quantization.float_weights import check_gates_fit, gates_of
from ..quantizers import FLOAT_BITS
from ..results.runs.config_hash import config_hash, cut_short
from ..results.runs.legacy_hash import legacy_hash
from ..results.runs.result_file import read_result
from ..results.runs.run import read_yaml
from .build import build_backbone, identity_of
from .checkpoints import read_checkpoint

Train = Callable[..., object]
STARTS = ("scratch", "pretrained", "checkpoint", "float_baseline")


@dataclass
class Start:
    """A float network and what is known of it: the test accuracy (percent) of its float run, its state if it was
    quantized, and what its gates learned if it was a float network with gates."""

    model: nn.Module
    float_test_top1: float | None = None
    quantized_state: dict[str, Tensor] | None = None
    gates: dict[str, Tensor] | None = None


def start_from(cfg: DictConfig, data: pl.LightningDataModule, train: Train) -> Start:
    """The network to begin with, by ``init.start``; ``train`` trains the float run where it is needed and missing.

    Raises InputError for an unknown start or a wrong checkpoint.
    """
    kind = check_start(cfg)
    model = build_backbone(cfg, data, pretrained=kind == "pretrained")
    if kind == "checkpoint":
        state = read_state(cfg.init.path)
        bits = {int(value[0]) for key, value in state.items() if key.endswith("_extra_state")}
        load_float_weights(model, float_state(state), cfg.init.path)
        quantized = bits - {FLOAT_BITS}
        return Start(model, quantized_state=state if quantized else None, gates=None if quantized else gates_of(state))
    if kind == "float_baseline":
        folder = float_baseline(cfg, data, train)
        state = read_state(folder / "checkpoints" / "best.ckpt")
        load_float_weights(model, float_state(state), folder)
        result = read_result(folder)
        whole = result.get("cut_short") is None  # else it is nothing to be held against
        return Start(model, float_test_top1=result["test_top1"] if whole else None, gates=gates_of(state))
    return Start(model)


def check_start(cfg: DictConfig) -> str:
    """``init.start``. Raises InputError for one that there is not."""
    kind = cfg.init.start
    if kind not in STARTS:
        raise InputError(f"init.start={kind} is not a starting point{nearest(kind, STARTS)}: use {', '.join(STARTS)}")
    return kind


def read_state(path: str | Path | None) -> dict[str, Tensor]:
    """A state_dict from a Lightning or plain checkpoint, read without executing code. Raises InputError."""
    if path is None or not Path(path).is_file():
        raise InputError(f"init.path={path} is not a file: give a checkpoint (.ckpt of a run folder, or a state_dict)")
    content = read_checkpoint(Path(path))
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


def check_gates(model: nn.Module, method: str, gates: dict[str, Tensor] | None = None) -> None:
    """Raise InputError where a model of that method would lose the gates that the float network has learned.

    gates: what they learned, where it is known.
    """
    if not gates_of(model.state_dict()):
        raise InputError(
            f"the float network that init starts from has gates, and quantizer={method} has none: start from one "
            "without (init=float_baseline), or use quantizer=double_st"
        )
    if gates is not None:
        try:
            check_gates_fit(model, gates)
        except ValueError as error:
            raise InputError(str(error)) from error


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
        float_cfg.residual_bits = None
        float_cfg.init = {"start": "scratch", "path": None, "float": None}
        float_cfg.callbacks.progressive = float_cfg.callbacks.reestimate_batch_norm = None
        float_cfg.loss.distillation_weight = 0.0
        float_cfg.optimizer.quantizer_lr_factor = 1.0  # there are none
        float_cfg.tags = []
        float_cfg.run = None
        float_cfg = OmegaConf.merge(float_cfg, overrides)
    return float_cfg


def float_baseline(cfg: DictConfig, data: pl.LightningDataModule, train: Train) -> Path:
    """Folder of the finished float run; trains it if need be. Jobs that ask at once wait for the one that trains.

    Its folder is named by its identity, so that it is shared by whatever has the same settings, data and files. One
    that is cut short by a debugging setting lies apart.
    """
    float_cfg = float_config(cfg)
    with open_dict(float_cfg):
        float_cfg.paths.output_dir = str(float_folder(float_cfg, data))
    train(float_cfg, wait=True)  # which returns at once where the run is done
    return Path(float_cfg.paths.output_dir)


def float_folder(float_cfg: DictConfig, data: pl.LightningDataModule) -> Path:
    """Where the float run of ``float_config`` lies; an older stq named it by another hash."""
    shared, identity = Path(float_cfg.paths.float_dir), identity_of(float_cfg, data)
    if cut_short(float_cfg) is not None:
        return shared / "cut_short" / identity.identity
    older = shared / legacy_hash(float_cfg)
    if older.is_dir() and config_hash(read_yaml(older / "config.yaml")) == identity.config_hash:
        return older
    return shared / identity.identity
