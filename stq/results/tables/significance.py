"""Mean, spread, and paired comparison over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

CONFIDENCE = 0.95


def mean_and_spread(values: Iterable[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n - 1); the deviation of one value is not known: None."""
    values = list(values)
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


@dataclass(frozen=True)
class Paired:
    """The difference of two methods over the seeds that both have, in percentage points, with its t interval.

    ``p`` is the two-sided probability of such a difference by chance under the t model. It and the interval are None
    where all differences are equal: an interval of no width would claim certainty that a few seeds cannot give.
    """

    n: int
    mean: float
    low: float | None
    high: float | None
    p: float | None


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Paired | None:
    """Compare accuracies by seed, ``ours`` minus ``theirs``; None where fewer than two seeds match."""
    seeds = sorted(ours.keys() & theirs.keys())
    if len(seeds) < 2:
        return None
    differences = [ours[seed] - theirs[seed] for seed in seeds]
    mean, spread = mean_and_spread(differences)
    n = len(seeds)
    if spread < 1e-9:  # accuracies are shares of a test set: equal differences differ by rounding only
        return Paired(n, mean, None, None, None)
    from scipy.special import stdtr, stdtrit

    error = spread / math.sqrt(n)
    reach = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * error
    return Paired(n, mean, mean - reach, mean + reach, float(2 * stdtr(n - 1, -abs(mean) / error)))


def holm(probabilities: Mapping[str, float | None]) -> dict[str, float | None]:
    """Holm's step-down correction for asking several questions at once; None stays None."""
    known = sorted((p, key) for key, p in probabilities.items() if p is not None)
    corrected: dict[str, float | None] = dict.fromkeys(probabilities)
    highest = 0.0
    for rank, (p, key) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        corrected[key] = highest
    return corrected
