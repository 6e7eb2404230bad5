"""The curve of a training as SVG to be put into an HTML page."""

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from translation.train.state import CurvePoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Each colour stands for the page's CSS variable of that name, which is another one in the dark.
_COLOURS = {
    "ink": "#1b2028",
    "soft": "#5a6472",
    "line": "#d5dae1",
    "first": "#1f5fbf",
    "second": "#b3560b",
}
# Inches: on a telephone, where the width is 25 rem or less, letters are about as large as those of the page.
_SIZE = (4.8, 3.1)
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "axes.edgecolor": _COLOURS["soft"],
    "axes.grid": True,
    "axes.labelcolor": _COLOURS["soft"],
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "grid.color": _COLOURS["line"],
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "lines.markersize": 3.5,
    "text.color": _COLOURS["ink"],
    "xtick.color": _COLOURS["soft"],
    "ytick.color": _COLOURS["soft"],
}


def score_chart(curve: Sequence[CurvePoint], best: CurvePoint) -> str:
    """BLEU and chrF over minutes.

    Args:
        curve: one point at least.
        best: the point to be marked.

    Returns:
        One `svg` element, the same for the same curve.
    """
    return _chart(
        [point.seconds / 60 for point in curve],
        {"chrF": [point.chrf for point in curve], "BLEU": [point.bleu for point in curve]},
        marked=curve.index(best),
        labels=("minutes", "BLEU, chrF"),
        name="BLEU and chrF over minutes",
    )


def loss_chart(curve: Sequence[CurvePoint], best: CurvePoint) -> str:
    """Loss in training and of the held-out pairs over steps; arguments and result as of `score_chart`."""
    return _chart(
        [float(point.step) for point in curve],
        {
            "training": [point.train_loss for point in curve],
            "held out": [point.held_out_loss for point in curve],
        },
        marked=curve.index(best),
        labels=("steps", "nats per token"),
        name="Loss over steps",
    )


def _chart(
    positions: list[float], series: dict[str, list[float]], *, marked: int, labels: tuple[str, str], name: str
) -> str:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.subplots()
        for (label, values), colour in zip(series.items(), ("first", "second"), strict=True):
            axes.plot(positions, values, color=_COLOURS[colour], marker="o", label=label)
        _mark(axes, positions[marked])
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        figure.legend(loc="outside upper left", ncols=3, frameon=False)
        return _inline_svg(figure, name)


def _mark(axes: "Axes", position: float) -> None:
    axes.axvline(position, color=_COLOURS["soft"], linestyle=(0, (3, 3)), linewidth=1, zorder=1, label="best")


def _inline_svg(figure: Any, name: str) -> str:
    """The figure without what a file of its own needs, in the page's fonts and colours."""
    file = io.StringIO()
    unsaid = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=unsaid)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # nothing refers to groups, and both charts would have the same
    svg = re.sub(r"font-family: [^;]*;", "", svg)
    for variable, colour in _COLOURS.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return re.sub(r'width="[^"]*" height="[^"]*"', f'role="img" aria-label="{name}"', svg, count=1)
