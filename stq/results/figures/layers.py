"""What quantizers learned, by layer: range of the attention, thresholds over training, histograms of the codes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from ..runs.metrics import by_layer, read_codes, read_metrics
from ..runs.run import Run
from ..tables.groups import Bits, Group, Row
from .figure_style import Panels, Picture, style


def layer_pictures(group: Group, key: str, row: Row | None) -> Iterator[Picture]:
    """Pictures of one run for each bit width: that of ``row`` or of the best row, and its lowest seed."""
    attention = _attention(group, key)
    if attention:
        yield attention
    for bits in group.bits:
        rows = [each for each in group.rows if bits in each.cells and row in (None, each)]
        if not rows:
            continue
        chosen = max(rows, key=lambda each: each.cells[bits].mean)
        seed, run = min(chosen.cells[bits].runs.items())
        what = f"{chosen.label} at {bits[0]}/{bits[1]} bits, seed {seed}"
        name = f"{key}_w{bits[0]}a{bits[1]}"
        for draw in (_thresholds, _codes):
            picture = draw(run, name, what)
            if picture:
                yield picture


def _attention(group: Group, key: str) -> Picture | None:
    """Least and largest relative gain of the channels, at the end of training; None where every gain is 1."""
    ranges: dict[Bits, dict[int, dict[str, tuple[float, float]]]] = {}
    for index, row in enumerate(group.rows):
        for bits, cell in row.cells.items():
            spans = _gain_spans(min(cell.runs.items())[1])
            if any(high - low > 1e-6 for low, high in spans.values()):
                ranges.setdefault(bits, {})[index] = spans
    if not ranges:
        return None
    layers = list(dict.fromkeys(layer for rows in ranges.values() for spans in rows.values() for layer in spans))
    below = 0.25 + 0.05 * max(map(len, layers))
    panels = Panels(len(ranges), 2, max(3.8, 0.3 * len(layers) + 1.2), 2.2 + below, below)
    for ax, (bits, rows) in zip(panels.axes, sorted(ranges.items()), strict=True):
        for place, (index, spans) in enumerate(sorted(rows.items())):
            xs = [layers.index(layer) + 0.16 * (place - (len(rows) - 1) / 2) for layer in spans]
            lows, highs = zip(*spans.values(), strict=True)
            look = style(index)
            ax.vlines(xs, lows, highs, color=look["color"], linewidth=3, label=group.rows[index].label)
        ax.axhline(1, color="0.4", linewidth=0.8)
        ax.set_xticks(range(len(layers)), layers, rotation=60, ha="right", fontsize=7)
        ax.set_title(f"{bits[0]}/{bits[1]} bits", fontsize=9)
        ax.set_ylabel("gain over its mean", fontsize=8)
    figure = panels.finish(f"Attention: {group.data}, {group.model}, first/last {group.first_last}")
    text = "Least to largest gain of a layer's channels over their mean, after the last epoch of the lowest seed."
    return Picture(f"{key}_attention", "Range of the attention by layer", text, figure)


def _gain_spans(run: Run) -> dict[str, tuple[float, float]]:
    metrics = read_metrics(run, ("gain_min/", "gain_max/"))
    low, high = by_layer(metrics, "gain_min"), by_layer(metrics, "gain_max")
    layers = _in_network_order(run, [layer for layer in low if low[layer] and high.get(layer)])
    return {layer: (low[layer][max(low[layer])], high[layer][max(high[layer])]) for layer in layers}


def _thresholds(run: Run, name: str, what: str) -> Picture | None:
    metrics = read_metrics(run, ("threshold_min/", "threshold_max/", "step/"))
    low, high = by_layer(metrics, "threshold_min"), by_layer(metrics, "threshold_max")
    layers = _in_network_order(run, [layer for layer in low if low[layer].keys() == high.get(layer, {}).keys()])
    if not layers:
        return None
    panels = Panels(len(layers), 4, 2.5, 2.0)
    steps = by_layer(metrics, "step")
    for ax, layer in zip(panels.axes, layers, strict=True):
        epochs = sorted(low[layer])
        shown = [epoch + 1 for epoch in epochs]
        ax.fill_between(
            shown,
            [low[layer][e] for e in epochs],
            [high[layer][e] for e in epochs],
            color=style(0)["color"],
            alpha=0.3,
            label="from lowest to highest threshold",
        )
        if layer in steps:
            own = sorted(steps[layer])
            ax.plot([e + 1 for e in own], [steps[layer][e] for e in own], color=style(1)["color"], label="step")
        ax.set_title(layer, fontsize=8)
        ax.set_xlabel("epoch", fontsize=7)
    figure = panels.finish(f"Thresholds: {what}")
    text = f"{what}: span of each layer's thresholds over channels and levels, and its step, in units of its input."
    return Picture(f"{name}_thresholds", "Thresholds by layer over training", text, figure)


def _codes(run: Run, name: str, what: str) -> Picture | None:
    layers = read_codes(run)
    if not layers:
        return None
    panels = Panels(len(layers), 4, 2.5, 2.0)
    for ax, (layer, facts) in zip(panels.axes, layers.items(), strict=True):
        _histogram(ax, facts["codes"], [100 * share for share in facts["share"]], facts["thresholds"])
        ax.set_title(layer, fontsize=8)
        ax.set_ylabel("share, %", fontsize=7)
    figure = panels.finish(f"Codes: {what}")
    text = (
        f"{what}: share of each integer code on the calibration batch, drawn over the interval of inputs that gets the "
        "code (mean over channels; the outermost are open); the bands are the thresholds from the lowest channel's to "
        "the highest. Layers of many codes are drawn over the codes."
    )
    return Picture(f"{name}_codes", "Codes and thresholds by layer", text, figure)


def _histogram(ax, codes: list[int], percent: list[float], thresholds: list[list[float]]) -> None:
    inner = [mean for _, mean, _ in thresholds]
    ordered = all(a < b for a, b in pairwise(inner))
    colour = style(0)["color"]
    if len(codes) > 32 or len(inner) != len(codes) - 1 or not ordered:
        used = [place for place, share in enumerate(percent) if share > 0] or [0]
        span = slice(max(used[0] - 1, 0), used[-1] + 2)  # most of 256 codes may not occur
        ax.fill_between(codes[span], percent[span], step="mid", color=colour, linewidth=0)
        ax.set_xlabel("code", fontsize=7)
        return
    width = (inner[-1] - inner[0]) / (len(inner) - 1) if len(inner) > 1 else abs(inner[0]) or 1.0
    edges = [inner[0] - width, *inner, inner[-1] + width]
    ax.stairs(percent, edges, fill=True, color=colour, alpha=0.75)
    for code, share, left, right in zip(codes, percent, edges[:-1], edges[1:], strict=True):
        if len(codes) <= 8:
            ax.annotate(f"{code}", ((left + right) / 2, share), ha="center", va="bottom", fontsize=7)
    for low, _, high in thresholds:
        ax.axvspan(low, high, color=style(1)["color"], alpha=0.5, label="threshold, over channels")
    ax.margins(y=0.15)
    ax.set_xlabel("input of the layer, the code on top" if len(codes) <= 8 else "input of the layer", fontsize=7)


def _in_network_order(run: Run, layers: list[str]) -> list[str]:
    """metrics.csv has its columns by name; codes.json, where there is one, has the layers as the network runs them."""
    order = list(read_codes(run))
    return sorted(layers, key=lambda layer: order.index(layer) if layer in order else len(order))
