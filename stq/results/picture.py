"""One look for all figures: size, colours that the colour-blind tell apart, saving."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8C6D00", "#56B4E9", "#000000", "#E69F00")  # Okabe and Ito
_MARKERS = "osD^vP*X"
_LINES = ("-", "--", ":", "-.")


@dataclass
class Picture:
    """A figure with its file name (no suffix), its title, and a sentence that says what it shows."""

    name: str
    title: str
    text: str
    figure: Figure
    _svg: str | None = None

    def save(self, folder: Path) -> None:
        """Write ``name.svg`` and ``name.pdf``; the same results give the same files."""
        (folder / f"{self.name}.svg").write_text(self.svg())
        self.figure.savefig(folder / f"{self.name}.pdf", metadata={"CreationDate": None})

    def svg(self) -> str:
        """The figure as SVG, its words as text."""
        if self._svg is None:
            import matplotlib

            out = io.StringIO()
            with matplotlib.rc_context({"svg.hashsalt": "stq", "svg.fonttype": "none"}):
                self.figure.savefig(out, format="svg", metadata={"Date": None})
            self._svg = out.getvalue()
        return self._svg


def style(index: int) -> dict[str, str]:
    """Colour, marker and line of the row with this index, the same in all figures of a group."""
    return {
        "color": _COLOURS[index % len(_COLOURS)],
        "marker": _MARKERS[index % len(_MARKERS)],
        "linestyle": _LINES[index // len(_COLOURS) % len(_LINES)],
    }


def panels(count: int, across: int, width: float, height: float) -> tuple[Figure, Sequence[Axes]]:
    """A figure of ``count`` panels, at most ``across`` side by side, each of the given size in inches."""
    from matplotlib.figure import Figure

    across = min(count, across)
    down = math.ceil(count / across)
    figure = Figure(figsize=(max(4.8, width * across), height * down + 0.5), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).flatten()
    for extra in axes[count:]:
        extra.set_axis_off()
    for each in axes[:count]:
        each.grid(alpha=0.25)
        each.tick_params(labelsize=8)
    return figure, axes[:count]


def legend_below(figure: Figure, axes: Sequence[Axes]) -> None:
    """One legend under all panels, each label once."""
    handles = {}
    for each in axes:
        for handle, label in zip(*each.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        columns = min(5, len(handles)) if max(map(len, handles)) < 20 else 2 if max(map(len, handles)) < 45 else 1
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)
