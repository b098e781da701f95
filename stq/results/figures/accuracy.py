"""Accuracy against bits, model size and bit operations; training curves. Means over seeds with their spread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import fmean

from ..runs.metrics import Series, read_metrics
from ..tables.groups import Bits, Cell, Group, Row
from ..tables.significance import mean_and_spread
from .figure_style import Panels, Picture, style

SPREAD = "Bars are one sample standard deviation over seeds; a point without a bar is one seed."


def accuracy_pictures(group: Group, key: str) -> Iterator[Picture]:
    """The pictures for which the group's results hold the numbers."""
    if not group.rows:
        return
    places = {bits: place for place, bits in enumerate(group.bits)}
    picture = _accuracy(group, f"{key}_bits", "bits", lambda bits, _: places[bits])
    axes = picture.figure.axes[0]
    axes.set_xticks(list(places.values()), [f"{w}/{a}" for w, a in places])
    axes.set_xlabel("bits of weights/activations")
    yield picture
    quantities = (("size_bytes", 1024, "size", "deployed size, KiB"), ("bops", 1e9, "bops", "bit operations, 10⁹"))
    for field, unit, name, label in quantities:
        known = [row for row in group.rows if any(_mean_of(cell, field) for cell in row.cells.values())]
        if known:
            picture = _accuracy(group, f"{key}_{name}", label.split(",")[0], _scaled(field, unit))
            axes = picture.figure.axes[0]
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter("{x:g}")
            axes.tick_params(which="minor", labelsize=7)
            axes.set_xlabel(label)
            yield picture
    curves = _curves(group, key)
    if curves:
        yield curves


def _accuracy(group: Group, name: str, what: str, place: Callable[[Bits, Cell], float | None]) -> Picture:
    panels = Panels(1, 1, 6.4, 3.9)
    (axes,) = panels.axes
    for index, row in enumerate(group.rows):
        placed = [(place(bits, cell), cell) for bits, cell in row.cells.items()]
        points = sorted(((x, cell) for x, cell in placed if x is not None), key=lambda point: point[0])
        shift = 0.06 * (index - (len(group.rows) - 1) / 2) if what == "bits" else 0  # so that no bar hides another
        xs, cells = [x + shift for x, _ in points], [cell for _, cell in points]
        spreads = [cell.spread or 0 for cell in cells]
        look = style(index) | {"markersize": 4.5, "capsize": 2.5, "linewidth": 1.3}
        axes.errorbar(xs, [cell.mean for cell in cells], spreads, label=row.label, **look)
    if group.float_by_seed:
        mean, spread = mean_and_spread(group.float_by_seed.values())
        axes.axhline(mean, color="0.35", linestyle="--", linewidth=1, label=f"float baseline ({mean:.2f} %)")
        axes.axhspan(mean - (spread or 0), mean + (spread or 0), color="0.5", alpha=0.15, linewidth=0)
    axes.set_ylabel("test top-1, %")
    title = f"Accuracy against {what}"
    figure = panels.finish(f"{title}: {_place(group)}")
    return Picture(name, title, f"Test top-1 against {what}, mean over seeds. {SPREAD}", figure)


def _place(group: Group) -> str:
    return f"{group.data}, {group.model}, first/last {group.first_last}"


def _mean_of(cell: Cell, field: str) -> float | None:
    values = [run.result.get(field) for run in cell.runs.values()]
    return None if None in values else fmean(values)


def _scaled(field: str, unit: float) -> Callable[[Bits, Cell], float | None]:
    def place(_: Bits, cell: Cell) -> float | None:
        value = _mean_of(cell, field)
        return None if value is None else value / unit

    return place


def _curves(group: Group, key: str) -> Picture | None:
    """Validation top-1 and training loss over epochs; None where no run kept its metrics."""
    quantities = {"val_top1": "validation top-1, %", "train_loss": "training loss"}
    kept = {}
    for row in group.rows:
        for bits, cell in row.cells.items():
            kept[row.label, bits] = [read_metrics(run, tuple(quantities)) for run in cell.runs.values()]
    if not any(metrics for runs in kept.values() for metrics in runs):
        return None
    panels = Panels(2 * len(group.bits), len(group.bits), 2.8, 2.3)
    for place, ax in enumerate(panels.axes):
        quantity, label = list(quantities.items())[place // len(group.bits)]
        bits = group.bits[place % len(group.bits)]
        for index, row in enumerate(group.rows):
            _curve(ax, index, row, [m[quantity] for m in kept.get((row.label, bits), ()) if quantity in m])
        if place < len(group.bits):
            ax.set_title(f"{bits[0]}/{bits[1]} bits", fontsize=9)
        else:
            ax.set_xlabel("epoch", fontsize=8)
        if place % len(group.bits) == 0:
            ax.set_ylabel(label, fontsize=8)
    figure = panels.finish(f"Training: {_place(group)}")
    text = "Validation top-1 and training loss by epoch; mean over seeds, the band from the lowest to the highest."
    return Picture(f"{key}_curves", "Training curves", text, figure)


def _curve(ax, index: int, row: Row, runs: list[Series]) -> None:
    epochs = sorted(set.intersection(*map(set, runs))) if runs else []
    if not epochs:
        return
    values = [[series[epoch] for series in runs] for epoch in epochs]
    look = style(index) | {"marker": "." if len(epochs) == 1 else ""}
    shown = [epoch + 1 for epoch in epochs]
    ax.plot(shown, list(map(fmean, values)), label=row.label, linewidth=1.2, **look)
    ax.fill_between(shown, list(map(min, values)), list(map(max, values)), color=look["color"], alpha=0.12, linewidth=0)
