"""The charts of the page: how many captions come through, and how long, sure and large what came is."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from data_catalog.charts import COLOURS, SERIES, SIZE, chart_label, svg_chart

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


MAX_SERIES = len(SERIES)
# Points between the rows of the stream over which it narrows.
_STEPS_OF_CURVE = 24


def stream_chart(steps: Sequence[str], kept: Mapping[str, Sequence[int]]) -> str:
    """Captions of each source after each step, as a stream from the top down that narrows where they are dropped.

    Args:
        steps: names, in order.
        kept: by source, rows read and then rows that each step kept: one number more than there are steps.
    """
    series = {source: [*values, values[-1]] for source, values in _few_series(kept).items()}
    rows_of = ["read", *steps, "kept"]

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        _bare(axes)
        totals = [sum(values) for values in zip(*series.values(), strict=True)]
        left = [-total / 2 for total in totals]
        for number, (source, values) in enumerate(series.items()):
            right = [start + value for start, value in zip(left, values, strict=True)]
            rows, smooth_left, smooth_right = _smooth(left, right)
            colour = COLOURS[SERIES[number % MAX_SERIES]]
            axes.fill_betweenx(
                rows,
                smooth_left,
                smooth_right,
                facecolor=colour,
                edgecolor=COLOURS["card"],
                linewidth=1.5,
                label=chart_label(source),
            )
            left = right
        axes.set_ylim(len(rows_of) - 0.85, -0.15)
        axes.set_yticks(range(len(rows_of)), rows_of)
        for row, (before, after) in enumerate(zip([totals[0], *totals], totals, strict=False)):
            said = f"{after:,}" if row in (0, len(rows_of) - 1) else f"−{before - after:,}" if before > after else ""
            axes.text(1.02, row, said, transform=axes.get_yaxis_transform(), va="center", color=COLOURS["ink"])
        figure.legend(loc="outside upper left", ncols=3, frameon=False, handlelength=1)

    return svg_chart("Captions of each source after each step", draw, size=(SIZE[0], 4.6))


def losses_chart(dropped: Mapping[str, Mapping[str, int]], kept: Mapping[str, int]) -> str:
    """Draw how many of a hundred captions of each source are kept, and which steps lose the others.

    Args:
        dropped: rows by source and step, in the order of the steps.
        kept: rows by source.
    """
    sources = list(kept)[:MAX_SERIES]

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        _bare(axes)
        axes.spines.bottom.set_visible(True)
        axes.set_xticks(range(0, 101, 25))
        axes.xaxis.set_major_formatter("{x:g}%")
        left = [0.0] * len(sources)
        lost = {step: [dropped[source][step] for source in sources] for step in dropped[sources[0]]}
        lost = {step: values for step, values in lost.items() if any(values)}
        parts: dict[str, Sequence[int]] = {"kept": [kept[source] for source in sources]}
        parts |= _few_series(lost, MAX_SERIES - 1)
        totals = [max(1, sum(values)) for values in zip(*parts.values(), strict=True)]
        for (label, values), colour in zip(parts.items(), SERIES, strict=False):
            widths = [100 * value / total for value, total in zip(values, totals, strict=True)]
            axes.barh(range(len(sources)), widths, left=left, height=0.62, color=COLOURS[colour], label=label)
            left = [start + width for start, width in zip(left, widths, strict=True)]
        axes.set_yticks(range(len(sources)), [chart_label(source) for source in sources])
        axes.set_ylim(len(sources) - 0.5, -0.5)
        axes.set_xlim(0, 100)
        figure.legend(loc="outside upper left", ncols=3, frameon=False, handlelength=1)

    return svg_chart("Share of each source's captions kept and lost, by step", draw, size=(SIZE[0], _height(sources)))


def _few_series(series: Mapping[str, Sequence[int]], most: int = MAX_SERIES) -> dict[str, Sequence[int]]:
    """Return no more series than there are colours: the largest, and one for the others together."""
    if len(series) <= most:
        return dict(series)
    by_size = sorted(series, key=lambda name: (-max(series[name]), name))
    few = {name: values for name, values in series.items() if name in by_size[: most - 1]}
    rest = [series[name] for name in by_size[most - 1 :]]
    return {**few, f"{len(rest)} others": [sum(values) for values in zip(*rest, strict=True)]}


def _smooth(left: Sequence[float], right: Sequence[float]) -> tuple[list[float], list[float], list[float]]:
    """The edges of a band at the whole numbers, and between them along a curve that is level at both ends."""
    rows: list[float] = []
    edges: tuple[list[float], list[float]] = ([], [])
    for row in range(len(left) - 1):
        for point in range(_STEPS_OF_CURVE):
            part = point / _STEPS_OF_CURVE
            eased = part * part * (3 - 2 * part)
            rows.append(row + part)
            for edge, side in zip(edges, (left, right), strict=True):
                edge.append(side[row] + (side[row + 1] - side[row]) * eased)
    return [*rows, float(len(left) - 1)], [*edges[0], left[-1]], [*edges[1], right[-1]]


def _bare(axes: "Axes") -> None:
    axes.grid(visible=False)
    axes.set_xticks([])
    axes.tick_params(axis="y", length=0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)


def _height(rows: Sequence[object]) -> float:
    return 1.1 + 0.42 * max(2, len(rows))
