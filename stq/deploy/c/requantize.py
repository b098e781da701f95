"""Thresholds of a layer as one multiplication, one addition and one shift for each channel, proved equal to them.

``code = clip((m * acc + b) >> s, 0, levels)`` rises with ``sign * acc`` as the codes do, so it is the same for every
accumulator in [-bound, bound] if it is the same on both sides of each threshold. For a shift s each threshold T_i says

    m T_i + b >= i 2**s        m (T_i - 1) + b <= i 2**s - 1

and some b fits if no two of these contradict, which bounds m from both sides. The smallest shift for which all
channels of a layer have such an m, and for which ``m * acc + b`` stays within 32 bits, is taken.

Of 255 thresholds there is now and then one that rounding has moved by one, so that no line has them all. Then the line
that was rounded is taken (``nearly``), and the few accumulators for which it gives another code are listed with theirs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_OPEN = 2**62


@dataclass(frozen=True)
class Shifted:
    """``code = clip((multiplier[o] * acc + bias[o]) >> shift, 0, levels)``; a negative sum is code 0."""

    multiplier: np.ndarray  # int64 (O,), the sign of each channel in it
    bias: np.ndarray  # int64 (O,)
    shift: int
    exceptions: tuple[tuple[int, int, int], ...] = ()  # (channel, accumulator, its code), in order


def fit(thresholds: np.ndarray, sign: np.ndarray, bound: int, largest: int = 2**31 - 1) -> Shifted | None:
    """What counts how many of ``thresholds`` (O, levels), ascending, are at most ``sign * acc``; None: nothing does.

    bound: of the magnitude of the accumulator. largest: that of ``m * acc + b``.
    """
    thresholds = thresholds.astype(np.int64)
    levels = thresholds.shape[1]
    above, below = thresholds <= bound, thresholds > -bound  # can be reached; can be missed
    at, before = np.maximum(thresholds, -bound), np.minimum(thresholds - 1, bound)
    for shift in range(41):
        codes = np.arange(1, levels + 1, dtype=np.int64) << shift
        if codes[-1] > largest:
            return None
        least, most = _slopes(at, before, codes, above, below)
        most = np.minimum(most, min(largest // max(bound, 1), 2**31 - 1))
        if (least > most).any():
            continue
        slope = least
        low = np.where(above, codes - slope[:, None] * at, -_OPEN).max(1)
        high = np.where(below, codes - 1 - slope[:, None] * before, _OPEN).min(1)
        bias = np.where(low > -_OPEN, low, high)
        if (np.where(low > -_OPEN, high >= low, True) & (slope * bound + np.abs(bias) <= largest)).all():
            return Shifted(slope * sign.reshape(-1), bias, shift)
    return None


def nearly(
    thresholds: np.ndarray, sign: np.ndarray, bound: int, slope: np.ndarray, intercept: np.ndarray
) -> Shifted | None:
    """The line ``code = slope |acc| + intercept`` of each channel in 64 bits, with the accumulators that it gets wrong.

    None where these are more than the thresholds of a channel, or the line does not fit.
    """
    thresholds = np.clip(thresholds.astype(np.int64), -bound, bound + 1)
    steepest = np.abs(slope).max(initial=0)
    if not 0 < steepest < 2**20 or not np.isfinite(intercept).all():
        return None
    shift = int(np.floor(30 - np.log2(steepest)))
    if not 0 < shift < 55 or np.abs(intercept).max() * 2.0**shift > 2.0**60:
        return None
    factor = np.maximum(np.rint(slope * 2.0**shift), 1).astype(np.int64)
    bias = np.rint((intercept + 0.5) * 2.0**shift).astype(np.int64)
    codes = np.arange(1, thresholds.shape[1] + 1, dtype=np.int64) << shift
    own = np.clip(-((bias[:, None] - codes) // factor[:, None]), -bound, bound + 1)  # where the line reaches each code
    exceptions = []
    for channel in range(len(thresholds)):
        wrong = np.abs(own[channel] - thresholds[channel])
        if wrong.sum() > thresholds.shape[1]:
            return None
        places = {
            int(acc)
            for a, b in zip(own[channel], thresholds[channel], strict=True)
            for acc in range(min(a, b), max(a, b))
        }
        for signed in places:
            right = int((signed >= thresholds[channel]).sum())
            if right != int((signed >= own[channel]).sum()):
                exceptions.append((channel, signed * int(sign.reshape(-1)[channel]), right))
    return Shifted(factor * sign.reshape(-1), bias, shift, tuple(sorted(exceptions)))


def _slopes(
    at: np.ndarray, before: np.ndarray, codes: np.ndarray, above: np.ndarray, below: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest whole slope of each channel that no pair of conditions rules out."""
    least, most = np.zeros(len(at), np.int64), np.full(len(at), _OPEN, np.int64)
    for i in range(len(codes)):  # code i + 1 is reached at at[i]; code j + 1 not yet at before[j]
        run = before - at[:, i : i + 1]
        rise = codes - 1 - codes[i]
        holds = above[:, i : i + 1] & below
        with np.errstate(divide="ignore"):
            upper = np.where(holds & (run > 0), rise // np.where(run > 0, run, 1), _OPEN).min(1)
            lower = np.where(holds & (run < 0), -(rise // np.where(run < 0, -run, 1)), 0).max(1)
        impossible = (holds & (run == 0) & (rise < 0)).any(1)
        most = np.minimum(most, np.where(impossible, -1, upper))
        least = np.maximum(least, lower)
    return least, most
