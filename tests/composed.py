"""A configuration as the command line composes it, small enough for a test."""

from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from stq.cli.config_folder import config_folder

QUICK = [
    "model.width=4",
    "trainer.max_epochs=2",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "data.batch_size=128",
]


def float_run_of(cfg: DictConfig) -> Path:
    """The folder of the float run that a configuration implies."""
    from stq.training.build import build_data
    from stq.training.initial_weights import float_config, float_folder

    return float_folder(float_config(cfg), build_data(cfg))


def compose_config(runs: Path, *overrides: str, folder: str = "run", quick: bool = True) -> DictConfig:
    """The composed training configuration with its run folder ``runs/folder``."""
    if quick:
        short_float = () if any(o.startswith("init=") for o in overrides) else ("init.float.trainer.max_epochs=2",)
        overrides = (*QUICK, *short_float, *overrides)
    with initialize_config_dir(config_folder(), version_base="1.3"):
        cfg = compose("train", [*overrides, f"paths.runs={runs}"])
    cfg.paths.output_dir = str(runs / folder)
    return cfg
