"""What a run prints when it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_only
from rich.console import Console
from rich.table import Table

from ..results.runs.run import FLOAT_METHODS


@rank_zero_only
def print_summary(result: dict[str, Any], folder: str | Path) -> None:
    """A short table: accuracies, sizes, where the run folder is."""
    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    if result["float_test_top1"] is not None:
        table.add_row("float test top-1", f"{result['float_test_top1']:.2f} %")
    bits = f"{result['method']}, weights {result['weight_bits']} bits, activations {result['activation_bits']} bits"
    name = FLOAT_METHODS.get(result["method"], bits)
    table.add_row(f"test top-1 ({name})", f"{result['test_top1']:.2f} %")
    table.add_row("size in float", f"{result['float_size_bytes'] / 1024:.1f} KiB")
    if result["method"] not in FLOAT_METHODS:
        ratio = result["float_size_bytes"] / result["size_bytes"]
        table.add_row("size quantized", f"{result['size_bytes'] / 1024:.1f} KiB ({ratio:.1f} times smaller)")
    table.add_row("run folder", str(folder))
    console = Console()
    console.print(table) if console.is_terminal else Console(width=250).print(table)
