"""Sweeps of tiny jobs, in this process or in one that can be killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stq.cli import train

TINY = [
    "init=scratch",
    "model.width=4",
    "trainer.max_epochs=1",
    "trainer.accelerator=cpu",
    "data.batch_size=256",
    "threads=1",
]


@pytest.fixture
def sweep(monkeypatch, capsys, tmp_path):
    """Runs ``stq-train -m`` with tiny jobs; gives the exit status, what it printed, and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", command(tmp_path, *arguments)[2:])
        try:
            train.main()
            status = 0
        except SystemExit as stop:
            status = stop.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def command(runs: Path, *arguments: str) -> list[str]:
    """The same as a command line."""
    return [sys.executable, "-m", "stq.cli.train", "-m", f"paths.runs={runs}", *TINY, *arguments]


def start(runs: Path, *arguments: str) -> subprocess.Popen:
    """A sweep in a process group of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command(runs, *arguments),
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def results(folder: Path) -> dict[str, dict]:
    """All results in a sweep's folder by the hash of their configuration."""
    found = [json.loads(path.read_text()) for path in folder.glob("*/result.json")]
    return {result["config_hash"]: result for result in found}
