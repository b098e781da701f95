"""Parts of the C export by brute force: multiplications for thresholds, places in memory, packed rows."""

from itertools import pairwise

import numpy as np
import pytest

from stq.deploy.c.layers import pack_rows
from stq.deploy.c.memory import Value, place
from stq.deploy.c.requantize import fit, nearly


@pytest.mark.parametrize("seed", range(40))
def test_a_multiplication_counts_thresholds_for_every_sum(seed):
    rng = np.random.default_rng(seed)
    levels, channels, bound = int(rng.choice([1, 3, 7, 15])), 4, int(rng.choice([20, 300, 5000]))
    slope = rng.uniform(0.002, 3.0, (channels, 1)) * levels / bound
    start = rng.uniform(-1.5 * bound, 1.5 * bound, (channels, 1))  # some are never reached, some always
    thresholds = np.ceil(start + (np.arange(1, levels + 1) - 0.5) / slope).astype(np.int64)
    sign = rng.choice([-1, 1], channels)
    found = fit(thresholds, sign, bound)
    assert found is not None
    acc = np.arange(-bound, bound + 1)
    for channel in range(channels):
        sums = found.multiplier[channel] * acc + found.bias[channel]
        assert np.abs(sums).max() < 2**31
        codes = np.clip(np.where(sums < 0, 0, sums >> found.shift), 0, levels)
        assert np.array_equal(codes, (sign[channel] * acc[:, None] >= thresholds[channel]).sum(1))


def test_what_no_line_has_is_left_to_a_table():
    assert fit(np.array([[0, 10, 11, 30]]), np.array([1]), 100) is None  # steps of 10, 1, 19
    found = fit(np.array([[-500]]), np.array([-1]), 100)  # always reached
    assert np.array_equal(
        np.clip((found.multiplier * np.arange(-100, 101) + found.bias) >> found.shift, 0, 1), [1] * 201
    )


@pytest.mark.parametrize("seed", range(10))
def test_sums_that_no_line_has_are_listed(seed):
    rng = np.random.default_rng(seed)
    levels, channels, bound = 255, 3, 20_000
    slope = rng.uniform(0.5, 1.5, channels) * levels / bound
    intercept = rng.uniform(-50, 50, channels)
    thresholds = np.ceil((np.arange(1, levels + 1) - 0.5 - intercept[:, None]) / slope[:, None]).astype(np.int64)
    moved = rng.choice(levels, 6, replace=False)
    thresholds[0, moved] += rng.choice([-1, 1], 6)
    thresholds = np.where(thresholds > bound, 2**31 - 1, thresholds)
    sign = rng.choice([-1, 1], channels)
    found = nearly(thresholds, sign, bound, slope, intercept)
    assert {channel for channel, _, _ in found.exceptions} == {0}
    assert 1 <= len(found.exceptions) <= 6
    acc = np.arange(-bound, bound + 1)
    for channel in range(channels):
        sums = found.multiplier[channel] * acc + found.bias[channel]
        codes = np.clip(np.where(sums < 0, 0, sums >> found.shift), 0, levels)
        for where, value, code in found.exceptions:
            codes[acc == value] = code if where == channel else codes[acc == value]
        assert np.array_equal(codes, (sign[channel] * acc[:, None] >= thresholds[channel]).sum(1))


@pytest.mark.parametrize("seed", range(10))
def test_values_that_live_together_do_not_overlap(seed):
    rng = np.random.default_rng(seed)
    begins = rng.integers(0, 20, 30)
    values = [
        Value(str(i), int(rng.integers(1, 500)), int(b), int(b + rng.integers(0, 6))) for i, b in enumerate(begins)
    ]
    offsets, total = place(values)
    least = 0
    for step in range(26):
        alive = sorted((offsets[v.name], v.bytes) for v in values if v.first <= step <= v.last)
        assert all(offset % 4 == 0 for offset, _ in alive)
        assert all(a + size <= b for (a, size), (b, _) in pairwise(alive))
        least = max(least, sum(size for _, size in alive))
    assert least <= total < 2 * least + 100


@pytest.mark.parametrize("bits", range(1, 9))
def test_packed_rows_are_read_back(bits):
    index = np.random.default_rng(bits).integers(0, 2**bits, (5, 19))
    packed, row_bytes, blocks = pack_rows(index, bits)
    assert (blocks, row_bytes) == (3, 3 * bits)
    for row, wanted in zip(packed, index, strict=True):
        number = int.from_bytes(row.tobytes(), "little")
        assert [(number >> (bits * i)) & (2**bits - 1) for i in range(24)] == [*wanted, 0, 0, 0, 0, 0]
