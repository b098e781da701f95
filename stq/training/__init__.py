"""Training: builds data, network and quantizers from a configuration, trains, writes the run folder."""

from .callbacks.quantization import QuantizationCallback
from .run import train
from .run_folder import load_run

__all__ = ["QuantizationCallback", "load_run", "train"]
