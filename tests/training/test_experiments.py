"""Every experiment composes for every job of its grid; those that need a GPU run dry on a made-up image folder."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

from stq.cli.config_folder import config_folder
from stq.quantization.policy import Policy
from stq.results.runs.config_hash import config_hash
from stq.training import train
from tests.composed import compose_config

EXPERIMENTS = sorted(path.stem for path in (Path(config_folder()) / "experiment").glob("*.yaml"))
PAGES = Path(config_folder()).parent / "experiments"
TOLD = {page.parent.name for page in PAGES.glob("*/README.md")} | {page.stem for page in PAGES.glob("recipes/*.md")}


def jobs(experiment: str) -> list[list[str]]:
    """The overrides of each job of an experiment's grid."""
    params = OmegaConf.load(Path(config_folder()) / "experiment" / f"{experiment}.yaml").hydra.sweeper.params
    return [
        [f"{k}={v}" for k, v in zip(params, values, strict=True)]
        for values in product(*(str(v).split(",") for v in params.values()))
    ]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_first_and_the_last_job_compose_and_differ(experiment):
    hashes = set()
    grid = jobs(experiment)
    with initialize_config_dir(config_folder(), version_base="1.3"):
        for overrides in (grid[0], grid[-1]):
            cfg = compose("train", [f"experiment={experiment}", *overrides])
            Policy(cfg.quantizer.method, cfg.weight_bits, cfg.activation_bits, cfg.first_last_bits)
            hashes.add(config_hash(cfg))
    assert len(hashes) == min(2, len(grid))


def test_every_experiment_has_a_page():
    assert set(EXPERIMENTS) == TOLD - {
        "deployment",
        "training_speed",
        "microcontroller",
        "gates_from_scratch",
        "trained_networks",
    }  # that have no configuration of their own


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory) -> Path:
    rng = np.random.default_rng(0)
    top = tmp_path_factory.mktemp("images")
    for split, name in product(("train", "val"), ("cat", "dog")):
        folder = top / split / name
        folder.mkdir(parents=True)
        for i in range(6):
            Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return top


@pytest.mark.parametrize(
    ("experiment", "overrides"),
    [
        ("imagenet_resnet18", ["recipe=lsq_imagenet", "bits=2"]),
        ("imagenet_resnet18", ["recipe=pact_imagenet", "bits=4"]),
        pytest.param("imagenet_resnet50", ["recipe=double_st_imagenet", "bits=3"], marks=pytest.mark.slow),
        ("imagenet_mobilenetv2", ["recipe=double_st_imagenet", "bits=4"]),
        ("reactnet_binary", ["quantizer=double_st", "model.width=4"]),
    ],
)
def test_dry_run_on_a_made_up_image_folder(experiment, overrides, image_folder, tmp_path):
    small = ["data.image_size=32", "data.batch_size=4", "data.workers=0", "trainer.max_epochs=1", "init=scratch"]
    here = ["trainer.precision=32-true", "trainer.accelerator=cpu", "trainer.enable_progress_bar=false"]
    cfg = compose_config(
        tmp_path, f"experiment={experiment}", *overrides, *small, *here, f"data.path={image_folder}", quick=False
    )
    result = train(cfg)
    assert (result["status"], result["data"]) == ("done", image_folder.name)
    assert result["size_bytes"] < result["float_size_bytes"] / (4 if experiment != "reactnet_binary" else 2)
