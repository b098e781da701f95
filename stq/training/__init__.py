"""Training: builds data, network and quantizers from a configuration, trains, writes the run folder."""

from .load import load_run
from .run import train

__all__ = ["load_run", "train"]
