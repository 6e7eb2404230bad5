"""Distributions as charts: how long captions are, how sure engines were, how large images are."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from data_catalog.charts import COLOURS, SERIES, chart_label, svg_chart

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Share of captions beyond which the tail of a distribution is drawn as one last bar.
_TAIL = 0.995
_MAX_BARS = 60


def length_chart(name: str, series: Mapping[str, Mapping[int, int]], *, unit: str) -> str:
    """Distributions of lengths over each other.

    Args:
        name: what is shown.
        series: by label, number of captions by length; one at least, none empty.
        unit: of the lengths.
    """
    last = max(_tail(counts) for counts in series.values())
    width = max(1, math.ceil((last + 1) / _MAX_BARS))
    edges = [edge - 0.5 for edge in range(0, last + 2 * width, width)]
    last_bar = (len(edges) - 2) * width
    has_tail = any(value >= last_bar + width for counts in series.values() for value in counts)

    from matplotlib.ticker import MaxNLocator

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        for number, (label, counts) in enumerate(series.items()):
            bars = [0] * (len(edges) - 1)
            for value, count in counts.items():
                bars[min(value // width, len(bars) - 1)] += count
            _stairs(axes, bars, edges, number, label)
        axes.set_xlim(0, edges[-1])
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        axes.set_xlabel(f"{unit}; the last bar holds {last_bar:,} and more" if has_tail else unit)
        _counts(axes, "captions")
        if len(series) > 1:
            figure.legend(loc="outside upper left", ncols=2, frameon=False)

    return svg_chart(name, draw)


def bars_chart(name: str, counts: Mapping[int, int], *, labels: tuple[str, str]) -> str:
    """A bar for each whole number, such as captions of an image; the last one stands for all above as well."""
    last = min(_tail(counts), min(counts) + 20)
    bars = {value: count for value, count in counts.items() if value < last}
    bars[last] = sum(count for value, count in counts.items() if value >= last)
    has_tail = any(value > last for value in counts)

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        axes.bar(list(bars), list(bars.values()), color=COLOURS["first"], width=0.7)
        ticks = list(bars) if len(bars) <= 12 else list(bars)[:: math.ceil(len(bars) / 12)]
        axes.set_xticks(ticks, [f"{tick}+" if has_tail and tick == last else str(tick) for tick in ticks])
        axes.grid(visible=False, axis="x")
        axes.set_xlabel(labels[0])
        _counts(axes, labels[1])

    return svg_chart(name, draw)


def score_chart(counts: Mapping[str, Mapping[int, int]], *, low: float, width: float) -> str:
    """How sure engines were of their translations.

    Args:
        counts: by engine, number of captions by bin; one engine at least, none empty.
        low: where bin 0 begins.
        width: of a bin.
    """
    last = max(max(bins) for bins in counts.values())
    edges = [low + width * edge for edge in range(last + 2)]

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        for number, (name, bins) in enumerate(counts.items()):
            _stairs(axes, [bins.get(place, 0) for place in range(last + 1)], edges, number, chart_label(name))
        axes.set_xlabel("mean log-probability of a token")
        _counts(axes, "captions")
        figure.legend(loc="outside upper left", ncols=1, frameon=False)

    return svg_chart("Captions by translation score", draw)


def size_chart(points: Sequence[tuple[float, float, int]]) -> str:
    """Widths and heights of images as they came: larger dots are more images.

    Args:
        points: width and height in pixels, number of images; one at least.
    """
    widths, heights, counts = zip(*points, strict=True)
    most = max(counts)

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        areas = [4 + 120 * count / most for count in counts]
        axes.scatter(widths, heights, s=areas, color=COLOURS["first"], alpha=0.55, linewidths=0)
        for axis, values in ((axes.xaxis, widths), (axes.yaxis, heights)):
            _octaves(axes, axis, min(values), max(values))
        axes.set_xlabel("width in pixels")
        axes.set_ylabel("height in pixels")

    return svg_chart("Widths and heights of images as they came", draw)


def octave_chart(
    name: str,
    counts: Mapping[int, int],
    *,
    per_octave: int,
    labels: Mapping[float, str],
    axis: str,
) -> str:
    """A histogram over a logarithmic axis.

    Args:
        name: what is shown.
        counts: number of images by bin; bin `n` is around `2 ** (n / per_octave)`. One at least.
        per_octave: bins for each doubling.
        labels: of the values that are marked on the axis.
        axis: what the values are.
    """
    first, last = min(counts), max(counts)

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        edges = [(number - 0.5) / per_octave for number in range(first, last + 2)]
        _stairs(axes, [counts.get(number, 0) for number in range(first, last + 1)], edges, 0, "")
        low, high = edges[0] - 0.2, edges[-1] + 0.2
        marks = {math.log2(value): label for value, label in labels.items() if low <= math.log2(value) <= high}
        axes.set_xticks(list(marks), list(marks.values()))
        axes.set_xlim(low, high)
        axes.set_xlabel(axis)
        _counts(axes, "images")

    return svg_chart(name, draw)


def _stairs(axes: "Axes", bars: Sequence[int], edges: Sequence[float], number: int, label: str) -> None:
    colour = COLOURS[SERIES[number % len(SERIES)]]
    axes.stairs(bars, edges, fill=True, color=colour, alpha=0.22)
    axes.stairs(bars, edges, color=colour, linewidth=1.6, label=label)


def _counts(axes: "Axes", label: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.yaxis.set_major_formatter(lambda value, _: _short(value))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.set_ylabel(label)
    axes.set_ylim(bottom=0)


def _short(value: float) -> str:
    for scale, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 10 * scale or abs(value) >= scale > 1e3:
            return f"{value / scale:g}{unit}"
    return f"{value:,g}"


def _octaves(axes: "Axes", axis: Any, low: float, high: float) -> None:
    """A logarithmic axis, where sizes differ that much, with marks that people use."""
    if high < 3 * low:
        return
    scale = axes.set_xscale if axis is axes.xaxis else axes.set_yscale
    scale("log", base=2)
    axis.set_major_formatter("{x:,g}")


def _tail(counts: Mapping[int, int]) -> int:
    """The value up to which nearly all are."""
    most, total = _TAIL * sum(counts.values()), 0
    for value in sorted(counts):
        total += counts[value]
        if total >= most:
            return value
    return max(counts)
