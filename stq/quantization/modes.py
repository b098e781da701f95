"""Training and evaluation modes of a model's modules, put back as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def modes_put_back(model: nn.Module) -> Iterator[dict[nn.Module, bool]]:
    """Gives the mode of each module, which it has again afterwards."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield modes
    finally:
        for module, mode in modes.items():
            module.training = mode
