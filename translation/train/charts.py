"""The curve of a training as SVG to be put into an HTML page."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from data_catalog.charts import COLOURS, svg_chart
from translation.train.state import CurvePoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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
    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        for (label, values), colour in zip(series.items(), ("first", "second"), strict=True):
            axes.plot(positions, values, color=COLOURS[colour], marker="o", label=label)
        _mark(axes, positions[marked])
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        figure.legend(loc="outside upper left", ncols=3, frameon=False)

    return svg_chart(name, draw)


def _mark(axes: "Axes", position: float) -> None:
    axes.axvline(position, color=COLOURS["soft"], linestyle=(0, (3, 3)), linewidth=1, zorder=1, label="best")
