"""The charts of the report: captions by step, lengths, translation scores, and sizes of images."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data_catalog.charts import COLOURS, SERIES, SIZE, chart_label, svg_chart
from data_catalog.report.contents import Rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Share of the captions after which the rest of a distribution is drawn as one last bar.
_TAIL = 0.995
_MAX_BARS = 60
_MAX_SERIES = len(SERIES)
# Points of the curve between two rows of the stream chart.
_STEPS_OF_CURVE = 24
_ASPECTS = {0.25: "1:4", 0.5: "1:2", 2 / 3: "2:3", 1.0: "1:1", 1.5: "3:2", 2.0: "2:1", 4.0: "4:1"}
_KIBIBYTES = {2.0**power: f"{2.0 ** (power - 10):,g}" for power in range(4, 28)}


def charts_of(contents: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the charts of the contents that `gather` returns, by name; leave out charts without data."""
    if contents["num_read"]:
        yield "stream", _stream_chart(contents["steps"], contents["funnel"])
        yield "losses", _losses_chart(contents["funnel"])
    for unit in ("characters", "words"):
        rows = [row for row in contents["lengths"] if row["unit"] == unit]
        if rows:
            yield unit, _length_chart(unit, rows)
    if contents["per_image"]:
        yield "per_image", _per_image_chart(contents["per_image"])
    if contents["scores"]:
        yield "scores", _score_chart(**contents["scores"])
    if contents["sizes"]:
        yield "sizes", _size_chart(contents["sizes"])
        aspects: Counter[int] = Counter()
        for row in contents["sizes"]:
            aspects[row["aspect"]] += row["num_images"]
        yield "aspects", _octave_chart("Images by aspect ratio", aspects, 8, _ASPECTS, "width : height")
    if contents["file_sizes"]:
        sizes = {row["octave"]: row["num_images"] for row in contents["file_sizes"]}
        yield "file_sizes", _octave_chart("Images by size of their files", sizes, 4, _KIBIBYTES, "kibibytes")


def _length_chart(unit: str, rows: Rows) -> str:
    """Draw distributions of lengths on top of each other.

    Args:
        unit: of the lengths.
        rows: `what`, `length` and `num_captions`, at least one.
    """
    series: dict[str, dict[int, int]] = {}
    for row in rows:
        series.setdefault(row["what"], {})[row["length"]] = row["num_captions"]
    last = max(_tail_start(counts) for counts in series.values())
    width = max(1, math.ceil((last + 1) / _MAX_BARS))
    edges = [edge - 0.5 for edge in range(0, last + 2 * width, width)]
    last_bar = (len(edges) - 2) * width
    has_tail = any(row["length"] >= last_bar + width for row in rows)

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
        axes.set_xlabel(f"{unit} (last bar: {last_bar:,} or more)" if has_tail else unit)
        _format_count_axis(axes, "captions")
        if len(series) > 1:
            figure.legend(loc="outside upper left", ncols=2, frameon=False)

    return svg_chart(f"Lengths of captions in {unit}", draw)


def _per_image_chart(rows: Rows) -> str:
    """Draw a bar for each number of captions per image; the last one includes all larger numbers."""
    counts = {row["num_captions"]: row["num_images"] for row in rows}
    last = min(_tail_start(counts), min(counts) + 20)
    bars = {value: count for value, count in counts.items() if value < last}
    bars[last] = sum(count for value, count in counts.items() if value >= last)
    has_tail = any(value > last for value in counts)

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        axes.bar(list(bars), list(bars.values()), color=COLOURS["first"], width=0.7)
        ticks = list(bars) if len(bars) <= 12 else list(bars)[:: math.ceil(len(bars) / 12)]
        axes.set_xticks(ticks, [f"{tick}+" if has_tail and tick == last else str(tick) for tick in ticks])
        axes.grid(visible=False, axis="x")
        axes.set_xlabel("captions per image")
        _format_count_axis(axes, "images")

    return svg_chart("Captions per image", draw)


def _score_chart(counts: Mapping[str, Mapping[int, int]], low: float, width: float) -> str:
    """Draw distributions of translation scores.

    Args:
        counts: by engine, number of captions by bin; at least one engine, none of them empty.
        low: lower edge of bin 0.
        width: of a bin.
    """
    last = max(max(bins) for bins in counts.values())
    edges = [low + width * edge for edge in range(last + 2)]

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        for number, (name, bins) in enumerate(counts.items()):
            _stairs(axes, [bins.get(place, 0) for place in range(last + 1)], edges, number, chart_label(name))
        axes.set_xlabel("mean log-probability per token")
        _format_count_axis(axes, "captions")
        figure.legend(loc="outside upper left", ncols=1, frameon=False)

    return svg_chart("Captions by translation score", draw)


def _size_chart(rows: Rows) -> str:
    """Draw widths and heights of images before normalisation; larger dots are more images."""
    most = max(row["num_images"] for row in rows)

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        areas = [4 + 120 * row["num_images"] / most for row in rows]
        widths, heights = ([row[side] for row in rows] for side in ("width", "height"))
        axes.scatter(widths, heights, s=areas, color=COLOURS["first"], alpha=0.55, linewidths=0)
        for axis, values, scale in ((axes.xaxis, widths, axes.set_xscale), (axes.yaxis, heights, axes.set_yscale)):
            if max(values) >= 3 * min(values):
                scale("log", base=2)
                axis.set_major_formatter("{x:,g}")
        axes.set_xlabel("width in pixels")
        axes.set_ylabel("height in pixels")

    return svg_chart("Widths and heights of images before normalisation", draw)


def _octave_chart(name: str, counts: Mapping[int, int], per_octave: int, labels: Mapping[float, str], axis: str) -> str:
    """Draw a histogram of images over a logarithmic axis.

    Args:
        name: of the chart.
        counts: number of images by bin, at least one; the centre of bin `n` is `2 ** (n / per_octave)`.
        per_octave: number of bins for each doubling.
        labels: of the values that are marked on the axis.
        axis: label of the axis.
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
        _format_count_axis(axes, "images")

    return svg_chart(name, draw)


def _stairs(axes: "Axes", bars: Sequence[int], edges: Sequence[float], number: int, label: str) -> None:
    colour = COLOURS[SERIES[number % len(SERIES)]]
    axes.stairs(bars, edges, fill=True, color=colour, alpha=0.22)
    axes.stairs(bars, edges, color=colour, linewidth=1.6, label=label)


def _format_count_axis(axes: "Axes", label: str) -> None:
    from matplotlib.ticker import MaxNLocator

    def short(value: float, _: object) -> str:
        for scale, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if abs(value) >= 10 * scale or abs(value) >= scale > 1e3:
                return f"{value / scale:g}{unit}"
        return f"{value:,g}"

    axes.yaxis.set_major_formatter(short)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.set_ylabel(label)
    axes.set_ylim(bottom=0)


def _tail_start(counts: Mapping[int, int]) -> int:
    """Return the smallest value that at least the share `_TAIL` of the captions do not exceed."""
    most, total = _TAIL * sum(counts.values()), 0
    for value in sorted(counts):
        total += counts[value]
        if total >= most:
            return value
    return max(counts)


def _stream_chart(steps: Sequence[str], funnel: Mapping[str, Rows]) -> str:
    """Draw the captions of each source as a stream from top to bottom that narrows at steps that drop captions.

    Args:
        steps: names, in order.
        funnel: by source, its rows of these steps.
    """
    kept = {source: [rows[0]["read"], *(row["kept"] for row in rows)] for source, rows in funnel.items()}
    series = {source: [*values, values[-1]] for source, values in _few_series(kept).items()}
    rows_of = ["read", *steps, "kept"]
    places = np.arange((len(rows_of) - 1) * _STEPS_OF_CURVE + 1) / _STEPS_OF_CURVE

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        _hide_axes(axes)
        totals = np.sum(list(series.values()), axis=0)
        left = -totals / 2
        for number, (source, values) in enumerate(series.items()):
            right = left + values
            axes.fill_betweenx(
                places,
                _smooth(left, places),
                _smooth(right, places),
                facecolor=COLOURS[SERIES[number % _MAX_SERIES]],
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


def _losses_chart(funnel: Mapping[str, Rows]) -> str:
    """Draw for each source the share of captions that are kept, and the shares that each step drops."""
    sources = list(funnel)[:_MAX_SERIES]
    steps = zip(*(funnel[source] for source in sources), strict=True)
    lost = {rows[0]["step"]: [row["dropped"] for row in rows] for rows in steps}
    parts: dict[str, Sequence[int]] = {"kept": [funnel[source][-1]["kept"] for source in sources]}
    parts |= _few_series({step: values for step, values in lost.items() if any(values)}, _MAX_SERIES - 1)
    totals = [max(1, sum(values)) for values in zip(*parts.values(), strict=True)]

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        _hide_axes(axes)
        axes.spines.bottom.set_visible(True)
        axes.set_xticks(range(0, 101, 25))
        axes.xaxis.set_major_formatter("{x:g}%")
        left = [0.0] * len(sources)
        for (label, values), colour in zip(parts.items(), SERIES, strict=False):
            widths = [100 * value / total for value, total in zip(values, totals, strict=True)]
            axes.barh(range(len(sources)), widths, left=left, height=0.62, color=COLOURS[colour], label=label)
            left = [start + width for start, width in zip(left, widths, strict=True)]
        axes.set_yticks(range(len(sources)), [chart_label(source) for source in sources])
        axes.set_ylim(len(sources) - 0.5, -0.5)
        axes.set_xlim(0, 100)
        figure.legend(loc="outside upper left", ncols=3, frameon=False, handlelength=1)

    height = 1.1 + 0.42 * max(2, len(sources))
    return svg_chart("Share of each source's captions kept and dropped, by step", draw, size=(SIZE[0], height))


def _few_series(series: Mapping[str, Sequence[int]], most: int = _MAX_SERIES) -> dict[str, Sequence[int]]:
    """Return at most `most` series: the largest ones, and one for all others together."""
    if len(series) <= most:
        return dict(series)
    by_size = sorted(series, key=lambda name: (-max(series[name]), name))
    few = {name: values for name, values in series.items() if name in by_size[: most - 1]}
    rest = [series[name] for name in by_size[most - 1 :]]
    return {**few, f"{len(rest)} others": [sum(values) for values in zip(*rest, strict=True)]}


def _smooth(edge: NDArray[np.float64], places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Interpolate an edge, given at whole numbers, with a curve that is level at each of them."""
    before = np.minimum(places.astype(np.int64), len(edge) - 2)
    part = places - before
    found: NDArray[np.float64] = edge[before] + (edge[before + 1] - edge[before]) * part * part * (3 - 2 * part)
    return found


def _hide_axes(axes: "Axes") -> None:
    axes.grid(visible=False)
    axes.set_xticks([])
    axes.tick_params(axis="y", length=0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
