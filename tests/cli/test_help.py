"""--help names every group, option and setting, and starts nothing slow."""

import subprocess
import sys
from pathlib import Path

import pytest

from stq.cli.config_folder import config_folder


@pytest.mark.parametrize("program", ["train", "evaluate", "export"])
def test_help_imports_nothing_slow(program):
    code = f"import sys; sys.argv = ['stq', '--help']\nfrom stq.cli.{program} import main; main()\n"
    code += "print([name for name in ('torch', 'pytorch_lightning', 'timm', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "change any with key=value" in done.stdout


def test_help_names_the_options_and_the_settings_of_those_chosen(monkeypatch, capsys):
    from stq.cli import train

    monkeypatch.setattr(sys, "argv", ["stq-train", "--help", "quantizer=pact"])
    train.main()
    out = capsys.readouterr().out
    for folder in Path(config_folder()).iterdir():
        if folder.is_dir() and folder.name != "hydra":
            (line,) = [line for line in out.splitlines() if line.startswith(f"{folder.name}: ")]
            assert {name.stem for name in folder.glob("*.yaml")} - {"base"} == set(line.split(": ")[1].split(", "))
    assert "initial_clip: null" in out
    assert "t_max:" not in out
