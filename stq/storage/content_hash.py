"""Hashes of what files hold, remembered by path, size and time, so that large data are not read at every start."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import StorageFailed
from .durable_files import write_text_durably


def digest(*parts: Any) -> str:
    """32 hexadecimal digits for JSON values, bytes and whatever has a buffer, in this order."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part if isinstance(part, bytes | bytearray | memoryview) else _text(part)
        state.update(str(len(data)).encode() + b":")  # so that the border between two parts counts
        state.update(data)
    return state.hexdigest()


def _text(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, default=str).encode()


def file_digest(path: Path) -> str:
    """32 hexadecimal digits of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def file_stamp(path: Path) -> list[Any]:
    """Path, size and time: while these stay, the content is taken to be the same."""
    facts = path.stat()
    return [str(path.resolve()), facts.st_size, facts.st_mtime_ns]


class HashCache:
    """Remembered values in one JSON file; a file that is missing or damaged is an empty cache."""

    def __init__(self, path: Path | None):
        self.path = path

    def get(self, stamp: Any) -> Any:
        """The value remembered for a stamp, or None."""
        return self._read().get(digest(stamp))

    def put(self, stamp: Any, value: Any) -> Any:
        """Remember ``value`` and return it; a cache that cannot be written is no failure."""
        if self.path is not None:
            with contextlib.suppress(OSError, StorageFailed):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                write_text_durably(self.path, json.dumps(self._read() | {digest(stamp): value}) + "\n")
        return value

    def of(self, stamp: Any, compute: Callable[[], Any]) -> Any:
        """The value of a stamp, computed where it is not remembered."""
        known = self.get(stamp)
        return known if known is not None else self.put(stamp, compute())

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads(self.path.read_text()) if self.path is not None else {}
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}
