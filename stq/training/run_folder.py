"""Open a run folder again: its configuration without running what it names, its network, its data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn
from yaml import YAMLError

from ..errors import InputError
from ..quantization.surgery import adopt_bits
from ..results.runs.identity import recorded_fingerprint
from ..results.runs.result_file import read_result
from ..storage.content_hash import HashCache
from .build import add_quantizers, build_backbone, build_data, fingerprint_of, is_quantized, own_bits, own_layers, plain
from .checkpoints import BEST
from .initial_weights import read_state
from .instantiation import check_targets

_SECTIONS = ("model", "data", "quantizer", "optimizer", "scheduler", "loss", "trainer")


def load_run(run: str | Path, trust: Sequence[str] = ()) -> tuple[nn.Module, pl.LightningDataModule, DictConfig]:
    """(model in eval mode with the selected checkpoint, data module, configuration) of a run folder.

    trust: classes and functions of yours that the run's configuration may name (``"my_package.MyData"``); nothing else
    that it names is run but stq's own. Raises InputError for a folder that is no finished run, for data that are not
    those of the run, or a checkpoint that is damaged or does not fit.
    """
    folder = Path(run)
    cfg = read_config(folder, trust)
    path = folder / "checkpoints" / BEST
    if not path.is_file():
        raise InputError(f"run={folder} has no checkpoints/best.ckpt: the run has not finished an epoch")
    state = read_state(path)
    data = build_data(cfg)
    _check_data(folder, cfg, data)
    model = build_backbone(cfg, data)
    if is_quantized(cfg):
        model = add_quantizers(model, cfg)
        own = own_layers(model, cfg)
        adopt_bits(model, state)
        _check_bits(folder, own_bits(model, own, cfg))
    try:
        model.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{path} does not fit the run's config.yaml: {str(error).splitlines()[0]}") from error
    return model.eval(), data, cfg


def read_config(folder: Path, trust: Sequence[str] = ()) -> DictConfig:
    """A run's config.yaml. Raises InputError where it is missing, damaged, foreign, or names code not trusted."""
    path = folder / "config.yaml"
    if not path.is_file():
        raise InputError(f"run={folder} is not a run folder: it has no config.yaml")
    try:
        cfg = OmegaConf.load(path)
    except (OSError, ValueError, YAMLError, OmegaConfBaseException, RecursionError) as error:
        raise InputError(f"{path} is not readable ({str(error).splitlines()[0]})") from None
    if missing := [name for name in _SECTIONS if not OmegaConf.is_dict(cfg) or not OmegaConf.is_dict(cfg.get(name))]:
        raise InputError(f"{path} is not the configuration of a run of stq: it has no section '{missing[0]}'")
    check_targets(OmegaConf.to_container(cfg, resolve=False), trust, str(path))
    return cfg


def _check_data(folder: Path, cfg: DictConfig, data: pl.LightningDataModule) -> None:
    recorded = recorded_fingerprint(folder)
    if recorded is None:  # of an older stq
        return
    if fingerprint_of(plain(cfg), data, HashCache(None)) != recorded:
        raise InputError(
            f"the data of run={folder} are not those that it was trained on: data.path={cfg.data.get('path')} holds "
            "others now"
        )


def _check_bits(folder: Path, found: dict[str, int]) -> None:
    if not (folder / "result.json").is_file():
        return
    result = read_result(folder)
    for key, bits in found.items():
        if result["status"] == "done" and result[key] != bits:
            raise InputError(f"run={folder}: its result.json says {key}={result[key]}, its checkpoint has {bits}")
