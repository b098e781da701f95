"""What identifies a run: the hash of its configuration, the code, the machine."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

# these decide the result; paths, loggers, launchers and progress bars do not
_DECIDING = (
    "model",
    "quantizer",
    "weight_bits",
    "activation_bits",
    "first_last_bits",
    "data",
    "optimizer",
    "scheduler",
    "loss",
    "init",
    "seed",
)
_TRAINER = ("max_epochs", "precision", "gradient_clip_val", "accumulate_grad_batches", "limit_train_batches")
_INCIDENTAL_DATA = ("workers", "eval_batch_size", "path", "download")


def config_hash(cfg: DictConfig) -> str:
    """16 hexadecimal digits that change whenever something that decides the result changes."""
    content = OmegaConf.to_container(cfg, resolve=True)
    kept = {key: content[key] for key in _DECIDING}
    kept["trainer"] = {key: content["trainer"].get(key) for key in _TRAINER}
    kept["progressive"] = content["callbacks"]["progressive"]
    kept["data"] = _without(kept["data"], _INCIDENTAL_DATA)
    kept["init"] = {key: value for key, value in kept["init"].items() if value is not None}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _without(tree: object, names: tuple[str, ...]) -> object:
    if not isinstance(tree, dict):
        return tree
    kept = {key: _without(value, names) for key, value in tree.items() if key not in names}
    path = Path(str(tree.get("path")))
    if path.suffix:
        kept["file"] = path.name  # where a data set lies does not matter, which one it is does
    return kept


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
    """The command line, the program by its name."""
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
