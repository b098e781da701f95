"""Every option of every group composes, and names what exists."""

from pathlib import Path

import hydra
import pytest
import timm
from omegaconf import OmegaConf

import stq
import stq.models
from stq.cli.config_folder import config_folder
from stq.cli.setting_types import TRAIN, check_types
from tests.composed import compose_config

GROUPS = sorted(path for path in Path(config_folder()).iterdir() if path.is_dir())
OPTIONS = [(group.name, file.stem) for group in GROUPS for file in sorted(group.glob("*.yaml")) if file.stem != "base"]


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=lambda value: value)
def test_option_composes(group, option, tmp_path):
    missing = {"data/npz": ["data.path=x.npz"], "data/timm": ["data.name=hfds/x", "data.num_classes=2"]}
    missing |= {"data/own": ["data._target_=stq.data.TimmDataModule"], "model/own": ["model._target_=torch.nn.Linear"]}
    missing |= {"model/timm": ["model.name=resnet18"], "init/checkpoint": ["init.path=x"]}
    cfg = compose_config(tmp_path, f"{group}={option}", *missing.get(f"{group}/{option}", ()), quick=False)
    check_types(cfg, TRAIN)
    OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    if group == "model" and option != "own":
        assert timm.is_model(cfg.model.name)
    if group == "data":
        assert hydra.utils.get_class(cfg.data._target_)
    if group == "quantizer":
        assert cfg.quantizer.method in stq.list_quantizers()


def test_every_method_has_a_configuration():
    presets = set()
    assert {option for group, option in OPTIONS if group == "quantizer"} == set(stq.list_quantizers()) | presets
