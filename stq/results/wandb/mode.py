"""Whether wandb can be reached: one decision for runs and for reports."""

from __future__ import annotations

import os


def default_mode() -> str:
    """What WANDB_MODE says; else online where a key is known and offline where not, to be sent by ``wandb sync``."""
    if mode := os.environ.get("WANDB_MODE"):
        return mode
    if os.environ.get("WANDB_API_KEY"):
        return "online"
    import wandb

    return "online" if wandb.api.api_key else "offline"
