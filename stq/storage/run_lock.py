"""A lock on a run folder that says who holds it, and that a dead holder does not keep.

The holder writes its process and host into ``.owner.json`` and touches that file every few seconds. A holder on this
host is dead when its process is; one on another host when it has not touched the file for minutes. Looking at the file
and taking it happens under a lock of the operating system, so that two do not take it at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from ..errors import InputError
from .durable_files import write_text_durably

_FILE = ".owner.json"
_HEARTBEAT = 10.0  # seconds
_SILENCE = 120.0  # seconds after which a holder on another host is taken to be dead
_held: dict[Path, int] = {}  # by this process, with how often: a run may hold the folder that its sweep's job holds


@contextmanager
def run_lock(folder: Path, wait: bool) -> Iterator[None]:
    """Hold a run folder, which is made if need be.

    wait: until another process lets go, told once on stderr; otherwise InputError is raised, naming that process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    key = folder.resolve()
    if key in _held:
        yield
        return
    told = False
    while (owner := _take(folder)) is not None:
        who = f"process {owner.get('pid')} on {owner.get('host')}"
        if not wait:
            raise InputError(
                f"{folder} is being worked on by {who}: wait until it is done, stop it, or choose a new folder"
            )
        if not told:
            print(
                f"{folder} is being worked on by another process ({who}): waiting for it", file=sys.stderr, flush=True
            )
            told = True
        time.sleep(0.5)
    stop = threading.Event()
    beat = threading.Thread(target=_beat, args=(folder / _FILE, stop), daemon=True)
    beat.start()
    _held[key] = os.getpid()
    try:
        yield
    finally:
        del _held[key]
        stop.set()
        with contextlib.suppress(OSError), FileLock(folder / ".lock"):  # a disk that fails has been told by then
            (folder / _FILE).unlink(missing_ok=True)


def _take(folder: Path) -> dict[str, Any] | None:
    """Take the folder and return None, or return who has it."""
    with FileLock(folder / ".lock"):
        file = folder / _FILE
        owner = _read(file)
        if owner is not None and _alive(owner, file):
            return owner
        mine = {"pid": os.getpid(), "host": socket.gethostname(), "begun": _begun(os.getpid())}
        write_text_durably(file, json.dumps(mine) + "\n")
        return None


def _read(file: Path) -> dict[str, Any] | None:
    try:
        owner = json.loads(file.read_text())
    except (OSError, ValueError):  # not there, or written by a process that died at it
        return None
    return owner if isinstance(owner, dict) else None


def _alive(owner: dict[str, Any], file: Path) -> bool:
    if owner.get("host") != socket.gethostname():
        return time.time() - file.stat().st_mtime < _SILENCE
    pid = owner.get("pid")
    if pid == os.getpid():  # of another folder's path to the same place, or of a process whose number this one got
        return owner.get("begun") == _begun(pid) and file.parent.resolve() in _held
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, TypeError):
        return False
    return owner.get("begun") == _begun(pid)


def _begun(pid: int) -> str | None:
    """When a process began, where the system tells: numbers of processes are used again."""
    try:
        state, *facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return "ended" if state in "ZX" else facts[18]  # its parent has not asked yet how it ended


def _beat(file: Path, stop: threading.Event) -> None:
    while not stop.wait(_HEARTBEAT):
        try:
            os.utime(file)
        except OSError:  # the disk is gone for a moment; the run itself will tell
            continue
