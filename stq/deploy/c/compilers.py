"""What compilers make of an exported source: how large it is where it will run."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

# compiler, its options, what prints sizes, for what
_COMPILERS = (
    ("arm-none-eabi-gcc", ("-mcpu=cortex-m4", "-mthumb"), "arm-none-eabi-size", "Cortex-M4"),
    ("gcc", (), "size", "this machine"),
)


def object_size(header: Path) -> str:
    """Flash and RAM of the compiled network in words; says so where there is no compiler to tell."""
    for compiler, options, size, where in _COMPILERS:
        if shutil.which(compiler) is None or shutil.which(size) is None:
            continue
        with tempfile.TemporaryDirectory() as folder:
            built = Path(folder) / "network.o"
            flags = ("-std=c99", "-O2", *options, "-c", str(header.with_suffix(".c")), "-o", str(built))
            subprocess.run([compiler, *flags], check=True, capture_output=True)
            told = subprocess.run([size, str(built)], check=True, capture_output=True, text=True).stdout
        text, data, bss = map(int, told.splitlines()[1].split()[:3])
        version = subprocess.run([compiler, "-dumpversion"], capture_output=True, text=True).stdout.strip()
        return f"{text + data:,} bytes of flash, {data + bss:,} of RAM ({where}, {compiler} {version} -O2)"
    return "no compiler here (arm-none-eabi-gcc or gcc) to say how large it is"
