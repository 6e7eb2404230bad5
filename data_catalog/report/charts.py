"""The charts of the report: lengths of captions, translation scores, and sizes of images."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from data_catalog.charts import COLOURS, SERIES, chart_label, svg_chart
from data_catalog.report.contents import Rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Share of the captions after which the rest of a distribution is drawn as one last bar.
_TAIL = 0.995
_MAX_BARS = 60
_ASPECTS = {0.25: "1:4", 0.5: "1:2", 2 / 3: "2:3", 1.0: "1:1", 1.5: "3:2", 2.0: "2:1", 4.0: "4:1"}
_KIBIBYTES = {2.0**power: f"{2.0 ** (power - 10):,g}" for power in range(4, 28)}


def charts_of(contents: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the charts of the contents that `gather` returns, by name; leave out charts without data."""
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
    """Draw distributions of lengths on top of each other; the last bar has all longer captions."""
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
    """Draw the number of captions by engine and bin of scores; `low` is the lower edge of bin 0."""
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
    """Draw a histogram of images over a logarithmic axis; the centre of bin `n` is `2 ** (n / per_octave)`."""
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
