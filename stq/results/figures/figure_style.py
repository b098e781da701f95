"""One look for all figures: size, colours that the colour-blind tell apart, saving."""

from __future__ import annotations

import io
import math
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


class Panels:
    """``count`` panels, at most ``across`` side by side, ``width`` by ``height`` inches each with their labels.

    ``below`` is the height in inches of what stands under a panel. Places are counted here and not solved for by
    matplotlib's layout engines, which take longer than the drawing.
    """

    _LEFT, _RIGHT, _ABOVE = 0.62, 0.1, 0.3

    def __init__(self, count: int, across: int, width: float, height: float, below: float = 0.5):
        from matplotlib.figure import Figure

        self._across = min(count, across)
        self._cell, self._below = (width, height), below
        self.figure = Figure()
        self.axes: list[Axes] = [self.figure.add_axes((0, 0, 1, 1), label=str(i)) for i in range(count)]
        for each in self.axes:
            each.grid(alpha=0.25)
            each.tick_params(labelsize=8)

    def finish(self, title: str) -> Figure:
        """Put everything in its place: the title above all panels, one legend, each label once, below them."""
        width, height = self._cell
        down = math.ceil(len(self.axes) / self._across)
        handles = {}
        for each in self.axes:
            for handle, label in zip(*each.get_legend_handles_labels(), strict=True):
                handles.setdefault(label, handle)
        total_width = max(4.8, width * self._across)
        columns = max(1, int(total_width / (0.5 + 0.075 * max(map(len, handles), default=1))))
        legend = 0.1 + 0.2 * math.ceil(len(handles) / columns) if handles else 0.05
        total_height = legend + down * height + 0.3
        self.figure.set_size_inches(total_width, total_height)
        for place, each in enumerate(self.axes):
            row, column = divmod(place, self._across)
            bottom = legend + (down - 1 - row) * height + self._below
            size = width - self._LEFT - self._RIGHT, height - self._below - self._ABOVE
            left = column * width + self._LEFT + (total_width - width * self._across) / 2
            each.set_position(
                (left / total_width, bottom / total_height, size[0] / total_width, size[1] / total_height)
            )
        if handles:
            names = list(handles)
            self.figure.legend(
                [handles[name] for name in names], names, loc="lower center", ncols=columns, frameon=False, fontsize=8
            )
        self.figure.suptitle(title, fontsize=10, y=1 - 0.08 / total_height)
        return self.figure
