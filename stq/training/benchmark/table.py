"""What a benchmark found, as a table in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COLUMNS = ("network", "method", "form", "ms", "step, of float", "quartiles", "memory, of float", "peak, of float")


def table(made: Mapping[str, Any]) -> str:
    """Markdown of ``made``: rows of ``measure``, and the command, hardware, git_commit and versions behind them."""
    peaks = any(row["peak"] is not None for row in made["rows"])
    columns = COLUMNS if peaks else COLUMNS[:-1]
    lines = [f"| {' | '.join(columns)} |", "|---|---|---|" + "--:|" * (len(columns) - 3)]
    for row in made["rows"]:
        cells = [_network(row), row["method"], row["form"], row["ms"], f"{row['step']:.2f}"]
        cells += [f"{row['low']:.2f} to {row['high']:.2f}", f"{row['memory']:.2f}"]
        cells += [f"{row['peak']:.2f}"] if peaks else []
        lines.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    commit = (made["git_commit"] or "unknown")[:8]
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items() if version)
    lines += ["", f"`{made['command']}`: {made['hardware']}, {versions}, commit {commit}."]
    return "\n".join(lines) + "\n"


def _network(row: Mapping[str, Any]) -> str:
    parts = [f"{row['network']}, {row['batch']} x {row['pixels']} px, {row['bits']} bits"]
    parts += ["bf16"] if row["precision"] == "bf16" else []
    parts += ["torch.compile"] if row["whole"] else []
    return ", ".join(parts)
