"""What a result depends on beside its configuration: the code, the packages, the machine, the command."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch


def git_commit() -> str | None:
    """Commit of the checkout that stq runs from, with '+' if it has uncommitted changes; None outside git."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def versions() -> dict[str, str]:
    """Versions that a result may depend on."""
    packages = ("torch", "torchvision", "pytorch-lightning", "timm", "stq")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def hardware() -> str:
    """GPU names, or the processor and the number of threads in use."""
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        return f"{count} x {torch.cuda.get_device_name(0)}"
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        name = names[0] if names else name
    return f"{name}, {torch.get_num_threads()} threads"


def command() -> str:
    """The command line, the program by its name, also where a module of ``stq.cli`` was run with ``python -m``."""
    program = Path(sys.argv[0])
    name = f"stq-{program.stem}" if program.parent.name == "cli" and program.suffix == ".py" else program.name
    return " ".join([name, *sys.argv[1:]])
