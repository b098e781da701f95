"""What compilers make of an exported source: how large it is where it will run, and a program that predicts."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from ...errors import InputError

# compiler, its options, what prints sizes, for what
_COMPILERS = (
    ("arm-none-eabi-gcc", ("-mcpu=cortex-m4", "-mthumb"), "arm-none-eabi-size", "Cortex-M4"),
    ("gcc", (), "size", "this machine"),
)


_CMSIS_NN = "arm_nnsupportfunctions.h"


def cmsis_nn(header: Path) -> tuple[list[str], list[str]]:
    """Compiler options and sources of CMSIS-NN, for an export with ``c.backend=cmsis_nn``; nothing for others.

    Raises InputError where the environment's CMSIS_NN names no checkout of it.
    """
    if _CMSIS_NN not in header.with_suffix(".c").read_text():
        return [], []
    root = Path(os.environ.get("CMSIS_NN", ""))
    source = root / "Source/NNSupportFunctions/arm_nn_mat_mult_nt_t_s8_s32.c"
    if not os.environ.get("CMSIS_NN") or not source.is_file() or not (root / "Include" / _CMSIS_NN).is_file():
        raise InputError(
            "c.backend=cmsis_nn is compiled with CMSIS-NN: set the environment variable CMSIS_NN to a checkout of "
            "github.com/ARM-software/CMSIS-NN"
        )
    return ["-isystem", str(root / "Include")], [str(source)]


def build(header: Path, program: Path) -> None:
    """Compile the source beside a header as a program that reads samples and prints their classes.

    Raises InputError where there is no compiler.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise InputError("running format='c' needs a C compiler, and no gcc or cc is installed")
    options, library = cmsis_nn(header)
    warnings = ["-std=gnu99"] if library else ["-std=c99", "-Wall", "-Wextra", "-Werror"]
    sources = [str(header.with_suffix(".c")), *library]
    subprocess.run([compiler, *warnings, "-O2", "-DSTQ_MAIN", *options, *sources, "-o", program, "-lm"], check=True)


def object_size(header: Path) -> str:
    """Flash and RAM of the compiled network in words; says so where there is no compiler to tell."""
    try:
        included, library = cmsis_nn(header)
    except InputError as error:
        return f"not compiled: {error}"
    for compiler, options, size, where in _COMPILERS:
        if shutil.which(compiler) is None or shutil.which(size) is None:
            continue
        with tempfile.TemporaryDirectory() as folder:
            built = Path(folder) / "network.o"
            flags = ("-O2", *options, *included, "-c", str(header.with_suffix(".c")), "-o", str(built))
            subprocess.run([compiler, *flags], check=True, capture_output=True)
            told = subprocess.run([size, str(built)], check=True, capture_output=True, text=True).stdout
        text, data, bss = map(int, told.splitlines()[1].split()[:3])
        version = subprocess.run([compiler, "-dumpversion"], capture_output=True, text=True).stdout.strip()
        without = ", without CMSIS-NN" if library else ""
        return f"{text + data:,} bytes of flash, {data + bss:,} of RAM ({where}, {compiler} {version} -O2{without})"
    return "no compiler here (arm-none-eabi-gcc or gcc) to say how large it is"
