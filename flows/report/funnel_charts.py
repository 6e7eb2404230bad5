"""The charts of the funnel: how many captions come through, and where which source loses the others."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from data_catalog.charts import COLOURS, SERIES, SIZE, chart_label, svg_chart

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
