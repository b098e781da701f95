"""The C compiler of this machine, and a function that it has made."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path


@cache
def compiler() -> list[str] | None:
    """The C compiler with what it is to do: as fast as this processor allows, with torch's values."""
    found = shutil.which(os.environ.get("CC", "cc"))
    if found is None or os.name != "posix":
        return None
    exact = ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
    for machine in (["-march=native"], ["-mcpu=native"], []):
        for threads in (["-fopenmp"], ["-fopenmp-simd"], []):
            command = [found, "-O3", "-shared", "-fPIC", *exact, *machine, *threads, "-x", "c"]
            if _built("void run(void) {}", command) is not None:
                return command
    return None


def compiled(source: str) -> Callable | None:
    """``run`` of a source: takes the address of the geometry, that of the operands' addresses, and threads."""
    command = compiler()
    found = None if command is None else _built(source, command)
    if found is None:
        return None
    run = found.run
    run.argtypes, run.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int], None
    return run


def _built(source: str, command: Sequence[str]) -> ctypes.CDLL | None:
    """The loaded library; its files are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="stq-kernel-") as folder:
        result = Path(folder) / "kernel.so"
        done = subprocess.run(
            [*command, "-", "-o", str(result)], input=source, text=True, capture_output=True, check=False
        )
        if done.returncode != 0:
            return None
        try:
            return ctypes.CDLL(str(result))
        except OSError:
            return None
