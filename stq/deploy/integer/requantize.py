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
    """``stored = clip(round(multiplier[o] * (factor * sign[o] * acc + bias[o])), 0, levels * gain)``; fits: where."""

    factor: int
    multiplier: np.ndarray  # float32 (O,)
    bias: np.ndarray  # int32 (O,)
    fits: np.ndarray  # bool (O,)


def fit(threshold: Node, gain: int, bound: int, largest_factor: int) -> Requantization | None:
    """The requantization that gives ``gain * (code - low)`` for every accumulator in [-bound, bound], or None.

    gain: 2 only for one-bit codes (stored as 0 and 2), else 1.
    """
    thresholds = threshold.arrays["thresholds"].astype(np.int64)
    if thresholds.shape[1] == 1:
        bias = (1 - np.clip(thresholds[:, 0], -bound, bound + 1)).astype(np.int32)
        if bound + int(np.abs(bias).max()) >= _EXACT:
            return None
        return Requantization(1, np.full(len(bias), gain, np.float32), bias, np.full(len(bias), True))
    found = fit_channels(threshold, bound, largest_factor) if gain == 1 else None
    return found if found is not None and found.fits.all() else None


def fit_channels(threshold: Node, bound: int, largest_factor: int, lowest: int = 0) -> Requantization | None:
    """The requantization that gives ``code - low + lowest`` in the channels that have one; None where none can have.

    lowest: what stands for the lowest code.
    """
    if "slope" not in threshold.arrays:
        return None
    thresholds = threshold.arrays["thresholds"].astype(np.int64)
    always, never = thresholds <= -bound, thresholds > bound
    thresholds = np.clip(thresholds, -bound, bound + 1)
    channels, levels = thresholds.shape
    factor = 1
    while factor * 2 <= largest_factor and factor * 2 * bound < _EXACT // 2 and factor < 512:
        factor *= 2
    slope, intercept = threshold.arrays["slope"], threshold.arrays["intercept"]
    with np.errstate(all="ignore"):
        start = np.nan_to_num(np.rint((intercept + lowest) / slope * factor), posinf=0, neginf=0)
    start = np.clip(start, -2 * factor * bound - 2, 2 * factor * bound + 2)
    bias = start[:, None, None] + np.arange(-32, 33)[None, :, None]  # (O, candidates, 1)
    half = np.arange(levels) + 0.5 + lowest
    # a code is reached at factor * threshold and not yet at factor * (threshold - 1); in between lies the step
    reached, before = ((factor * (thresholds - less)[:, None] + bias) / half for less in (0, 1))
    first, last = always[:, None], never[:, None]
    positive = half > 0  # dividing by a negative number turns a comparison over
    most = np.where(positive, np.where(last, np.inf, reached), np.where(first, np.inf, before)).min(2)
    least = np.where(positive, np.where(first, 0.0, before), np.where(last, 0.0, reached)).max(2)
    least = np.maximum(least, 1e-9)
    most = np.clip(most, 1e-12, 4 * least)  # where only one side binds, any step near it will do
    room = np.log(most / least)
    rows, best = np.arange(channels), room.argmax(1)
    step = np.sqrt(least[rows, best] * most[rows, best])
    multiplier, bias = (1 / step).astype(np.float32), bias[rows, best, 0].astype(np.int32)

    def stored(accumulator: np.ndarray) -> np.ndarray:
        exact = factor * accumulator + bias[:, None]
        beyond = np.abs(exact).max(1, keepdims=True) >= _EXACT
        return np.where(beyond, np.nan, np.rint(exact.astype(np.float32) * multiplier[:, None]))

    # in float32, as the kernel computes it, which is monotone in between
    codes = np.arange(1, levels + 1) + lowest
    at, before = stored(np.minimum(thresholds, bound)), stored(thresholds - 1)
    holds = ((at >= codes) | never).all(1) & ((before < codes) | always).all(1)
    return Requantization(factor, multiplier, bias, holds & (room[rows, best] > 0))
