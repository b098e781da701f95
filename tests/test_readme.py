"""README's Python snippets run, and its commands compose."""

import re
import shlex
from pathlib import Path

import pytest

from stq.quantizers import registry

README = (Path(__file__).parent.parent / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.S)
COMMANDS = re.findall(r"^stq-train (.*?)(?:\s+#.*)?$", README, re.M)


@pytest.fixture(autouse=True)
def _registry_put_back(monkeypatch):
    monkeypatch.setattr(registry._methods, "entries", dict(registry._methods.entries))


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_snippet_runs(number, capsys):
    exec(compile(SNIPPETS[number], f"README snippet {number}", "exec"), {})


def test_own_quantizer_of_the_readme_is_usable():
    import torch

    import stq

    exec(SNIPPETS[1], {})
    model = stq.quantize(torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3)), "mine", first_last_bits=None)
    x = torch.rand(2, 1, 5, 5)
    stq.calibrate(model, x)
    seen = model.eval()[0].input_quantizer(x)
    assert len(seen.unique()) == 8  # 3 bits
    assert (seen - x).abs().max() <= x.max() / 7 / 2 + 1e-6


@pytest.mark.parametrize("command", [c for c in COMMANDS if not c.startswith("-m")])
def test_command_composes(command):
    from hydra import compose, initialize_config_dir

    from stq.cli.config_folder import config_folder

    with initialize_config_dir(config_folder(), version_base="1.3"):
        assert compose("train", shlex.split(command)).quantizer.method


def test_readme_has_snippets_and_commands():
    assert len(SNIPPETS) >= 2
    assert len(COMMANDS) >= 5
