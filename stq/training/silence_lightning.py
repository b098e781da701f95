"""Lightning's advice about workers and devices, which is not for the users of a command line, is kept from them."""

from __future__ import annotations

import logging
import warnings

_ADVICE = (
    ".*does not have many workers.*",
    ".*isinstance.treespec.*",
    ".*exists and is not empty.*",
    ".*Checkpoint directory .* exists.*",
    ".*`srun` command is available.*",
    ".*sync_dist=True.*",  # every process evaluates all images, so there is nothing to bring together
)


def quieten() -> None:
    """Only warnings that a user can act on are shown."""
    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for advice in _ADVICE:
        warnings.filterwarnings("ignore", advice)
