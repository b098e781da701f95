"""Plots of finished runs: ``python -m stq.results.plots FOLDER PICTURE.svg``. Reads files only."""

from __future__ import annotations

import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from ..errors import InputError
from .schema import FILE_NAME, read_result


def results_under(folder: Path) -> list[dict[str, Any]]:
    """All results below a folder that are done. Raises InputError where there is none."""
    found = [read_result(path) for path in sorted(folder.rglob("*.json")) if path.name.endswith(FILE_NAME)]
    done = [result for result in found if result["status"] == "done"]
    if not done:
        raise InputError(f"{folder} holds no finished run (no result.json with status 'done')")
    return done


def accuracy_by_bits(results: list[dict[str, Any]]) -> dict[str, dict[int, list[float]]]:
    """Test accuracies (percent), a list over seeds, by method and bit width; runs of equal weight and activation bits.

    Raises InputError if the results are of several data sets, networks or first/last policies: those do not compare.
    """
    kinds = {(r["data"], r["model"], r["first_last_bits"]) for r in results if r["method"] != "none"}
    if len(kinds) > 1:
        raise InputError(f"these runs do not compare, they differ in data, model or first_last_bits: {sorted(kinds)}")
    table: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        if result["method"] != "none" and result["weight_bits"] == result["activation_bits"]:
            table[result["method"]][result["weight_bits"]].append(result["test_top1"])
    return {method: dict(cells) for method, cells in table.items()}


def plot_accuracy(results: list[dict[str, Any]], picture: Path) -> None:
    """Mean test accuracy against bits for each method, bars of one sample standard deviation, the float mean dashed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams["svg.hashsalt"] = "stq"  # the same results give the same file
    table = accuracy_by_bits(results)
    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for i, (method, cells) in enumerate(sorted(table.items())):
        bits = sorted(cells)
        means = [statistics.mean(cells[b]) for b in bits]
        spread = [statistics.stdev(cells[b]) if len(cells[b]) > 1 else 0.0 for b in bits]
        places = [b + 0.06 * (i - (len(table) - 1) / 2) for b in bits]  # side by side, so that no bar hides another
        axes.errorbar(places, means, spread, marker="o", markersize=4, capsize=2, linewidth=1.4, label=method)
    floats = {r["seed"]: r["float_test_top1"] for r in results if r["float_test_top1"] is not None}
    if floats:
        mean = statistics.mean(floats.values())
        axes.axhline(mean, color="0.4", linestyle="--", linewidth=1, label=f"float baseline ({mean:.1f} %)")
    first = next(r for r in results if r["method"] != "none")
    seeds = max(len(values) for cells in table.values() for values in cells.values())
    axes.set(
        xlabel="bits of weights and activations",
        ylabel="test top-1, %",
        xticks=sorted({b for cells in table.values() for b in cells}),
        title=f"{first['data']}, {first['model']}, first and last layer {first['first_last_bits']} bits, {seeds} seeds",
    )
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(picture, metadata={"Date": None} if picture.suffix == ".svg" else None, dpi=150)
    plt.close(figure)


def main() -> None:
    """Command line: a folder with results, a picture to write."""
    if len(sys.argv) != 3:
        raise SystemExit("usage: python -m stq.results.plots FOLDER PICTURE.svg")
    try:
        plot_accuracy(results_under(Path(sys.argv[1])), Path(sys.argv[2]))
    except InputError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
