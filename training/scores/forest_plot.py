"""Differences and their intervals as a picture: a row each, and where nothing differs a line."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_catalog.charts import COLOURS, SERIES
from data_catalog.storage.shards import write_bytes
from training.scores.score import Difference

_MARKERS = "osD^v"
_MAX_LINE = 34  # letters of a label before it is broken


def write_forest_plot(labels: Sequence[str], series: Mapping[str, Sequence[Difference]], path: Path) -> None:
    """Draw a PNG.

    Args:
        labels: of the rows, from the top, at least one.
        series: for each of the rows a difference, by the name of what is measured.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "text.parse_math": False}):
        figure = Figure(figsize=(8, 1.6 + 0.75 * len(labels)), dpi=120, layout="constrained")
        FigureCanvasAgg(figure)
        _draw(
            figure.add_subplot(xlabel="with the filter less without it, 95 % interval (to the right: better with it)"),
            labels,
            series,
        )
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    write_bytes(path, buffer.getvalue())


def _draw(axes: Any, labels: Sequence[str], series: Mapping[str, Sequence[Difference]]) -> None:
    axes.axvline(0, color=COLOURS["soft"], linewidth=1)
    gap = 0.7 / len(series)
    for number, (name, found) in enumerate(series.items()):
        heights = [row + (number - (len(series) - 1) / 2) * gap for row in range(len(labels))]
        values = [each.value for each in found]
        # A value may lie outside of the interval of its draws where hardly anything varies.
        sides = [
            [max(0.0, each.value - each.low) for each in found],
            [max(0.0, each.high - each.value) for each in found],
        ]
        axes.errorbar(
            values,
            heights,
            xerr=sides,
            fmt=_MARKERS[number % len(_MARKERS)],
            color=COLOURS[SERIES[number]],
            label=name,
            markersize=5,
            capsize=3,
            linewidth=1.4,
        )
    axes.set_yticks(range(len(labels)), [_broken(label) for label in labels])
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(axis="x", color=COLOURS["line"], linewidth=0.6)
    axes.set_axisbelow(True)
    axes.figure.legend(*axes.get_legend_handles_labels(), frameon=False, ncols=len(series), loc="outside upper center")


def _broken(label: str) -> str:
    """A long label on several lines, broken between the settings that it names."""
    return label.replace(" + ", " +\n") if len(label) > _MAX_LINE else label
