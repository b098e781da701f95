"""What glibc does with freed memory, which decides a tenth of a training step on a processor."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_LARGEST_MMAP_THRESHOLD = 32 << 20  # larger ones are refused


def keep_freed_memory() -> bool:
    """Let this process keep what it frees instead of giving it back, where glibc is the allocator: True if it is.

    Activations of some megabytes are freed and asked for again in each step. By default the kernel takes them back and
    clears them anew, tens of thousands of pages a step. The process stays as large as it once was.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))
