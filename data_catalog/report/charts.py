"""The charts of the report: histograms of captions and images."""

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from data_catalog.report.contents import Rows
from data_catalog.report.drawing import COLOURS, SERIES, chart_label, svg_chart
from data_catalog.report.texts import size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAX_BARS = 60
_TAIL = 0.005  # share of the rows at either end that the first and the last bar take in


class _Histogram(NamedTuple):
    title: str
    axis: str
    counted: str
    step: float = 1  # smallest difference of two values
    label: Callable[[float], str] = "{:g}".format


_HISTOGRAMS = {
    "words": _Histogram("Lengths of captions in words", "words", "captions"),
    "characters": _Histogram("Lengths of captions in characters", "characters", "captions"),
    "per_image": _Histogram("Captions per image", "captions per image", "images"),
    "scores": _Histogram("Captions by translation score", "mean log-probability per token", "captions", 0.001),
    "aspects": _Histogram(
        "Images by aspect ratio",
        "width : height",
        "images",
        1 / 8,
        lambda octaves: f"{max(1, 2**octaves):.3g}:{max(1, 2**-octaves):.3g}",
    ),
    "file_sizes": _Histogram(
        "Images by size of their files", "size of the file", "images", 1 / 4, lambda octaves: size(2**octaves)
    ),
}


def charts_of(histograms: Rows) -> Iterator[tuple[str, str]]:
    """Yield the charts of what `gather` returns, by name; leave out charts without data."""
    for name, kind in _HISTOGRAMS.items():
        rows = [row for row in histograms if row["chart"] == name]
        if rows:
            yield name, _histogram(kind, rows)


def _histogram(kind: _Histogram, rows: Rows) -> str:
    """Draw one or several distributions on top of each other."""
    series, values, counts = (np.array([row[name] for row in rows]) for name in ("series", "value", "num"))
    low, high = np.quantile(values, [_TAIL, 1 - _TAIL], weights=counts, method="inverted_cdf")
    width = kind.step * max(1, math.ceil((high - low) / kind.step / _MAX_BARS))
    edges = np.arange(low - kind.step / 2, high + width, width)

    def draw(figure: "Figure") -> None:
        from matplotlib.ticker import EngFormatter, MaxNLocator

        axes = figure.subplots()
        for name, colour in zip(dict.fromkeys(series), SERIES, strict=False):
            mine = series == name
            bars, _ = np.histogram(values[mine].clip(low, high), edges, weights=counts[mine])
            axes.stairs(bars, edges, fill=True, color=COLOURS[colour], alpha=0.22)
            axes.stairs(bars, edges, color=COLOURS[colour], linewidth=1.6, label=chart_label(name))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
        axes.xaxis.set_major_formatter(lambda value, _: kind.label(value))
        axes.set_xlabel(kind.axis)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_ylabel(kind.counted)
        if series.any():
            figure.legend(loc="outside upper left", ncols=2, frameon=False)

    return svg_chart(kind.title, draw)
