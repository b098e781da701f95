"""Arrays of real numbers in fewer bytes, where nothing is lost: gates have int8 codes and float16 statistics."""

from __future__ import annotations

import numpy as np


def in_fewer_bytes(array: np.ndarray) -> dict[str, np.ndarray]:
    """The tensors of an array by the ends of their names: as float16, or int8 and a scale, where that is the same."""
    if array.dtype != np.float32 or array.size < 4 or not np.isfinite(array).all():
        return {"": array}
    largest = np.abs(array).max()
    start = np.float32(largest / np.float32(127)) if largest > 0 else np.float32(1)
    for scale in (start, np.nextafter(start, np.float32(0)), np.nextafter(start, np.float32(np.inf))):
        codes = np.rint(array / scale) if scale > 0 else array
        if np.abs(codes).max() <= 127 and np.array_equal(codes.astype(np.float32) * scale, array):
            return {"": codes.astype(np.int8), ".scale": np.array([scale], np.float32)}
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    return {"": half if np.array_equal(half.astype(np.float32), array) else array}
