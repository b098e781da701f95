"""What README and the documentation show runs: Python snippets, commands, links; and README stays short."""

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from stq.cli.config_folder import config_folder
from stq.quantizers import registry

TOP = Path(__file__).parents[2]
PAGES = sorted([TOP / "README.md", TOP / "CONTRIBUTING.md", *(TOP / "docs").rglob("*.md")])
EXPERIMENTS = sorted((TOP / "experiments").rglob("*.md"))


def name(page: Path) -> str:
    return str(page.relative_to(TOP))


def snippets(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.S)


WITH_SNIPPETS = [page for page in PAGES if snippets(page)]
COMMANDS = [
    (page, command)
    for page in [*PAGES, *EXPERIMENTS]
    for command in re.findall(r"^stq-train ?(.*?)(?:\s+#.*)?$", page.read_text(), re.M)
]


@pytest.fixture(autouse=True)
def _registry_put_back(monkeypatch):
    monkeypatch.setattr(registry._methods, "entries", dict(registry._methods.entries))


@pytest.mark.parametrize("page", WITH_SNIPPETS, ids=name)
def test_snippets_run_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    for number, text in enumerate(snippets(page)):
        exec(compile(text, f"{name(page)}, snippet {number}", "exec"), scope)


def test_the_quantizer_of_ones_own_is_usable():
    import torch

    scope: dict = {}
    exec(snippets(TOP / "docs" / "your-own.md")[0], scope)
    x = torch.rand(2, 1, 5, 5)
    scope["stq"].calibrate(scope["model"], x)
    seen = scope["model"].eval()[0].input_quantizer(x)
    assert len(seen.unique()) == 8  # 3 bits
    assert (seen - x).abs().max() <= x.max() / 7 / 2 + 1e-6


def test_the_reader_of_the_packed_page_reads_what_is_packed():
    import numpy as np

    from stq.deploy.packed.packed_file import pack

    scope: dict = {}
    exec(snippets(TOP / "docs" / "shipping" / "packed.md")[0], scope)
    codes = np.random.default_rng(0).integers(0, 8, (3, 5)) * 2 - 7
    assert np.array_equal(scope["unpack"](pack(codes, 3, -7, 2), (3, 5), 3, -7, 2), codes)


@pytest.mark.parametrize(
    ("page", "command"), COMMANDS, ids=lambda value: name(value) if isinstance(value, Path) else ""
)
def test_command_composes(page, command):
    words = [word for word in shlex.split(command) if word not in ("-m", "--help")]
    if "-m" in shlex.split(command):  # the first job of the sweep
        words = [re.sub(r",.*", "", word) for word in words]
    with initialize_config_dir(config_folder(), version_base="1.3"):
        assert compose("train", words).quantizer.method


@pytest.mark.parametrize("page", [TOP / "README.md", TOP / "CONTRIBUTING.md", *EXPERIMENTS], ids=name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        assert re.match("https?://", target) or (page.parent / target).exists(), target


def test_readme_is_short():
    assert len((TOP / "README.md").read_text().split()) <= 700


def test_numbers_of_the_readme_are_those_of_the_experiment():
    """README's table is the experiment's, to one decimal."""

    def rows(page: Path) -> list[list[float]]:
        lines = re.findall(
            r"^\| (?:double|st|lsq|pact|dorefa|ST|LSQ|PACT|DoReFa)[^|]*\|(.*)\|$", page.read_text(), re.M
        )
        found = [[float(re.match(r"[\d.]+", cell.strip())[0]) for cell in line.split("|")] for line in lines[:6]]
        return sorted(found)

    ours, recorded = (rows(TOP / page) for page in ("README.md", "experiments/cifar10_small/README.md"))
    assert len(ours) == len(recorded) == 6
    for row, exact in zip(ours, recorded, strict=True):
        assert row == pytest.approx(exact, abs=0.051)
