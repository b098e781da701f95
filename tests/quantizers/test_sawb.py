"""SAWB against its equation in NumPy, with the published coefficients typed anew."""

import numpy as np
import pytest
import torch

from .harness import close, run, weights

PUBLISHED = {2: (3.12, 2.064), 3: (7.509, 6.892), 4: (12.68, 12.80), 5: (17.74, 18.64), 8: (31.76, 35.04)}


def clip_of(w, bits):
    c1, c2 = PUBLISHED[bits]
    return c1 * np.sqrt((w**2).mean()) - c2 * np.abs(w).mean()


@pytest.mark.parametrize("bits", PUBLISHED)
def test_levels_evenly_from_minus_clip_to_clip_and_gradient_one(bits):
    w = torch.randn(8, 4, 3, 3, dtype=torch.float64)
    y, upstream, dw, _ = run(weights("sawb", bits, w), w)
    clip = clip_of(w.numpy(), bits)
    levels = np.linspace(-clip, clip, 2**bits)
    nearest = levels[np.abs(w.numpy()[..., None] - levels).argmin(-1)]
    close(y, nearest)
    close(dw, upstream)


@pytest.mark.parametrize("bits", [6, 7])
def test_unpublished_bits_lie_between_their_published_neighbours(bits):
    w = torch.randn(64, 64, dtype=torch.float64)
    clip = weights("sawb", bits, w).clip(w).item()
    assert clip_of(w.numpy(), 5) < clip < clip_of(w.numpy(), 8)


def test_one_bit_is_the_sign_times_the_mean_magnitude():
    w = torch.randn(8, 4, dtype=torch.float64)
    y, upstream, dw, _ = run(weights("sawb", 1, w), w)
    close(y, np.where(w.numpy() >= 0, 1, -1) * np.abs(w.numpy()).mean())
    close(dw, upstream)


def test_a_formula_that_gives_no_positive_clip_falls_back_to_the_largest_weight():
    w = torch.full((4, 4), 0.5, dtype=torch.float64)  # equal magnitudes at 4 bits: (12.68 - 12.80) * 0.5 < 0
    assert clip_of(w.numpy(), 4) < 0
    close(weights("sawb", 4, w)(w), w)
