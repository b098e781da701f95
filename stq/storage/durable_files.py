"""Files that are whole or not there: written beside their place, flushed to the disk, renamed."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from ..errors import StorageFailed

_REMEDIES = {
    errno.ENOSPC: "make space",
    errno.EDQUOT: "make space within your quota",
    errno.EFBIG: "raise the limit on the size of files",
    errno.EROFS: "make the file system writable again",
}


def write_durably(
    path: Path, write: Callable[[BinaryIO], object], before_replacing: Callable[[Path], None] | None = None
) -> None:
    """Let ``write`` fill a file that takes the place of ``path`` when it is whole and on the disk.

    A reader, a kill or a power cut sees the old file or the new one. before_replacing: called with the new file while
    the old one is still in its place; what it raises leaves that as it is. Raises StorageFailed where the disk does not
    take it (full, read-only, ...).
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if before_replacing is not None:
            before_replacing(part)
        part.replace(path)
        _flush_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink()
        if (failure := storage_failure(error, path)) is not None:
            raise failure from error
        raise


def write_text_durably(path: Path, text: str) -> None:
    """``write_durably`` for a text in UTF-8."""
    write_durably(path, lambda file: file.write(text.encode()))


def storage_failure(error: BaseException, path: Path | None = None) -> StorageFailed | None:
    """The sentence for an error that came of the disk, or None for any other.

    torch reports a full disk as a RuntimeError that the real error led to.
    """
    cause: BaseException | None = error
    while cause is not None and not (isinstance(cause, OSError) and cause.errno in _REMEDIES):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return None
    place = path or cause.filename
    where = f"{place} could not be written" if place else "a file could not be written"
    return StorageFailed(
        f"{where}: {os.strerror(cause.errno).lower()}. What was there before is intact: {_REMEDIES[cause.errno]}, then "
        "the same command goes on"
    )


def _flush_folder(folder: Path) -> None:
    """So that the new name survives a power cut too, where the file system can do that for folders."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
