"""Checkpoints that are whole or not used: how they are written and read, and which are kept."""

from __future__ import annotations

import logging
import os
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn

from ..errors import InputError
from ..storage.durable_files import write_durably

log = logging.getLogger(__name__)

BEST, LAST = "best.ckpt", "last.ckpt"
_BEFORE = ".before"  # appended to the name of the checkpoint before


class DurableCheckpointIO(TorchCheckpointIO):
    """Lightning's reading and writing of checkpoints, such that a kill, a full disk or a flipped bit loses nothing.

    A checkpoint is written beside its place, flushed to the disk, read again and only then given its name; the one
    before is kept under ``.before``. Its parts carry checksums (CRC-32, as in every file of ``torch.save``), which are
    verified on every read. Reading executes no code.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Raises StorageFailed where the disk does not take it; what was there before is intact."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)

        def keep_the_one_before(new: Path) -> None:
            verify(new)
            if path.is_file():
                before(path).unlink(missing_ok=True)
                try:
                    os.link(path, before(path))
                except OSError:  # a file system without links
                    path.replace(before(path))

        write_durably(path, lambda file: torch.save(checkpoint, file), keep_the_one_before)

    def load_checkpoint(
        self, path: str | Path, map_location: Callable | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Raises InputError for a checkpoint that is damaged, or that cannot be read without executing code."""
        return read_checkpoint(Path(path))


def before(path: Path) -> Path:
    """Where the checkpoint before ``path`` is kept."""
    return path.with_name(path.name + _BEFORE)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, verified. Raises InputError where it is damaged or holds more than data."""
    verify(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an older kind of file, which is refused or read all the same
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch's own kinds of errors vary
        raise InputError(f"{path} is not a checkpoint that can be read without executing code") from error


def verify(path: Path) -> None:
    """Raises InputError where the checksums in a checkpoint do not match its content, or it is cut off.

    Files of an older kind than torch's zip archives carry no checksums and are passed.
    """
    try:
        if not zipfile.is_zipfile(path):
            with path.open("rb") as file:
                old = file.read(1) == b"\x80"  # a plain pickle
            if old:
                return
            raise zipfile.BadZipFile("it is no archive")
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except OSError:
        raise
    except (zipfile.BadZipFile, zlib.error, ValueError, NotImplementedError, RuntimeError, EOFError) as error:
        raise InputError(f"{path} is damaged, not a checkpoint that can be read ({error})") from None
    if bad is not None:
        raise InputError(f"{path} is damaged, not a checkpoint that can be read (the checksum of {bad} does not match)")


def checkpoint_to_resume(folder: Path) -> Path | None:
    """The checkpoint from which a run goes on, verified; None to begin anew. A bad one is told in one sentence.

    Epochs are seeded by their number, so that a run ends with the same numbers from whichever it goes on.
    """
    best = folder / BEST
    if not best.is_file() and before(best).is_file():  # killed between the two
        before(best).replace(best)
    if best.is_file() and not _whole(best):
        log.warning("%s is damaged: the run begins anew", best)
        return None
    last = folder / LAST
    for path in (last, before(last)):
        if path.is_file():
            if _whole(path):
                return path
            log.warning("%s is damaged: going on from the checkpoint before", path)
    return None


def save_state(model: nn.Module, path: Path) -> None:
    """A checkpoint of a network alone, as Lightning's hold it."""
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    DurableCheckpointIO().save_checkpoint({"state_dict": state}, path)


def forget_the_ones_before(folder: Path) -> None:
    """Of a run that is done."""
    for path in folder.glob(f"*{_BEFORE}"):
        path.unlink()


def _whole(path: Path) -> bool:
    try:
        read_checkpoint(path)
    except InputError:
        return False
    return True


class MovableCheckpoint(ModelCheckpoint):
    """Lightning's ``ModelCheckpoint``, which knows its files by name, so that a run folder can be moved and resumed."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Paths of the folder that the run had are those of the folder that it has."""

        def here(path: str) -> str:
            return str(Path(self.dirpath) / Path(path).name) if path else path

        moved = dict(state_dict, dirpath=self.dirpath)
        for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
            moved[key] = here(moved.get(key, ""))
        moved["best_k_models"] = {here(path): score for path, score in (moved.get("best_k_models") or {}).items()}
        super().load_state_dict(moved)
