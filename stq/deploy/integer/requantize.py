"""One multiplication and one integer bias that reproduce a channel's integer thresholds exactly.

An 8-bit kernel gives ``code = round(m * (acc + B))``, saturated, with a float32 ``m`` and an integer ``B``, whereas the
thresholds come from a real bias. With the weights multiplied by a whole ``F`` the accumulator has F steps where it had
one, so ``B`` can be placed finely; ``m`` and ``B`` are then chosen in the middle of what all thresholds of the channel
allow, and the result is checked in float32. A channel for which nothing passes makes the caller take another way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..network import Node

_EXACT = 2**24  # integers that float32 holds


@dataclass(frozen=True)
class Requantization:
    """``stored = clip(round(multiplier[o] * (factor * sign[o] * acc + bias[o])), 0, levels * gain)``."""

    factor: int
    multiplier: np.ndarray  # float32 (O,)
    bias: np.ndarray  # int32 (O,)


def fit(threshold: Node, gain: int, bound: int, largest_factor: int) -> Requantization | None:
    """The requantization that gives ``gain * (code - low)`` for every accumulator in [-bound, bound], or None.

    gain: 2 only for one-bit codes (stored as 0 and 2), else 1.
    """
    thresholds = threshold.arrays["thresholds"].astype(np.int64)
    always, never = thresholds <= -bound, thresholds > bound
    thresholds = np.clip(thresholds, -bound, bound + 1)
    channels, levels = thresholds.shape
    if levels == 1:
        found = Requantization(1, np.full(channels, gain, np.float32), (1 - thresholds[:, 0]).astype(np.int32))
        return found if bound + int(np.abs(found.bias).max()) < _EXACT else None
    if gain != 1 or "slope" not in threshold.arrays:
        return None
    factor = 1
    while factor * 2 <= largest_factor and factor * 2 * bound < _EXACT // 2 and factor < 512:
        factor *= 2
    slope, intercept = threshold.arrays["slope"], threshold.arrays["intercept"]
    with np.errstate(all="ignore"):
        start = np.nan_to_num(np.rint(intercept / slope * factor), posinf=0, neginf=0)
    start = np.clip(start, -2 * factor * bound - 2, 2 * factor * bound + 2)
    bias = start[:, None, None] + np.arange(-32, 33)[None, :, None]  # (O, candidates, 1)
    half = np.arange(levels) + 0.5
    # a code is reached at factor * threshold and not yet at factor * (threshold - 1); in between lies the step
    most = (factor * thresholds[:, None] + bias) / half
    least = (factor * (thresholds[:, None] - 1) + bias) / half
    most = np.where(never[:, None], np.inf, most).min(2)
    least = np.maximum(np.where(always[:, None], 0.0, least).max(2), 1e-9)
    most = np.clip(most, 1e-12, 4 * least)  # where only one side binds, any step near it will do
    room = np.log(most / least)
    rows, best = np.arange(channels), room.argmax(1)
    if not (room[rows, best] > 0).all():
        return None
    step = np.sqrt(least[rows, best] * most[rows, best])
    found = Requantization(factor, (1 / step).astype(np.float32), bias[rows, best, 0].astype(np.int32))
    return found if _holds(found, thresholds, always, never, bound) else None


def _holds(found: Requantization, thresholds: np.ndarray, always: np.ndarray, never: np.ndarray, bound: int) -> bool:
    """Whether the float32 arithmetic of the kernel steps exactly at the thresholds (it is monotone in between)."""
    levels = np.arange(1, thresholds.shape[1] + 1)

    def stored(accumulator: np.ndarray) -> np.ndarray:
        exact = found.factor * accumulator + found.bias[:, None]
        if np.abs(exact).max() >= _EXACT:
            return np.full(exact.shape, np.nan)
        return np.rint(exact.astype(np.float32) * found.multiplier[:, None])

    at, before = stored(np.minimum(thresholds, bound)), stored(thresholds - 1)
    return bool(((at >= levels) | never).all() and ((before < levels) | always).all())
