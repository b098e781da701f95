"""Which 8-bit layers a processor without VNNI may get wrong: its kernels add two products in saturating 16 bits."""

from __future__ import annotations

import numpy as np

from ..network import INTEGER_LAYERS, Network, operand_limits

INT16_MAX = 2**15 - 1


def largest_magnitude(codes: np.ndarray) -> int:
    """The largest magnitude among weight codes, at least 1."""
    return int(np.abs(codes).max(initial=1))


def may_saturate(network: Network) -> list[str]:
    """Layers in which two products of codes can exceed 16 bits."""
    found = []
    for layer in network.of(*INTEGER_LAYERS):
        largest = max(map(abs, operand_limits(network, layer)))
        if 2 * largest * largest_magnitude(layer.arrays["weight"]) > INT16_MAX:
            found.append(layer.name)
    return found
