"""Training: builds data, network and quantizers from a configuration, trains, writes the run folder."""

from .run import train
from .run_folder import load_run

__all__ = ["load_run", "train"]
