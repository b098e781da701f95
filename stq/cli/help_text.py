"""``--help``: what Hydra prints too, without its search through all groups, which takes longer than all the rest."""

from __future__ import annotations

import string
from pathlib import Path

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.initialize import initialize_config_dir
from omegaconf import OmegaConf, open_dict

from .config_folder import config_folder, options_of


def print_help(config_name: str, overrides: list[str]) -> None:
    """The template of ``hydra.help`` in the configuration, with its groups and settings filled in."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_folder(), version_base="1.3"):
        cfg = compose(config_name, overrides=overrides, return_hydra_config=True)
    template = OmegaConf.to_container(cfg.hydra.help, resolve=False)["template"]
    with open_dict(cfg):
        del cfg["hydra"]
    filled = {"APP_CONFIG_GROUPS": _groups(), "CONFIG": OmegaConf.to_yaml(cfg)}
    print(string.Template(template).safe_substitute(filled))


def _groups() -> str:
    folder = Path(config_folder())
    groups = sorted(each.name for each in folder.iterdir() if each.is_dir() and each.name != "hydra")
    return "\n".join(f"{group}: {', '.join(options_of(group))}" for group in groups) + "\n"
