"""The page about a training: how far it is, its curve, samples, what it was trained on, how to go on from it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from data_catalog.charts import COLOURS, svg_chart
from data_catalog.storage.shards import write_bytes
from translation.train.card import TrainReport
from translation.train.config import TrainPackageConfig
from translation.train.folder import SUFFIX, Sources
from translation.train.pairs import DROP_REASONS, ParallelCaptions
from translation.train.state import CurvePoint, TrainState

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A held-out pair and its translation."""

    source: str
    translation: str
    reference: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportContent:
    """What the page is about.

    Args:
        metadata: the package's.
        state: with no validation yet, with some, or with all.
        num_parameters: of the network.
        samples: translations by the latest weights while training is under way, then by the package.
        report: of the finished package; None while training is under way.
    """

    metadata: dict[str, str]
    sources: Sources
    config: TrainPackageConfig
    data: ParallelCaptions
    state: TrainState
    num_parameters: int
    samples: Sequence[Sample]
    report: TrainReport | None = None


def write_report(path: Path, content: ReportContent) -> None:
    """Write the page: one HTML file without scripts that loads nothing.

    Args:
        path: in the folder of the training.

    Raises:
        DiskError: the disk is full.
    """
    page = _page(content, package_name=path.parent.name.removesuffix(SUFFIX))
    write_bytes(path, page.encode())


def _page(content: ReportContent, *, package_name: str) -> str:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    curve = content.state.curve
    best = content.state.best if curve else None
    charts = (_score_chart(curve, best), _loss_chart(curve, best)) if best else ()
    return environment.from_string(_part("report.html")).render(
        content=content,
        metadata=content.metadata,
        report=content.report,
        status=_status(content),
        curve=curve,
        best=best,
        # Ours, not the dataset's: style and charts are markup.
        style=Markup(_part("report.css")),  # noqa: S704
        charts=[Markup(chart) for chart in charts],  # noqa: S704
        num_lines=_num_lines(content),
        reasons=DROP_REASONS,
        settings=asdict(content.config),
        package_name=package_name,
    )


def _status(content: ReportContent) -> str:
    """How far the training is."""
    step, num_steps = content.state.step, content.config.num_steps
    if content.report is None:
        return f"after step {step:,} of {num_steps:,}"
    if step < num_steps:
        return f"finished after {step:,} of {num_steps:,} steps, for chrF had ceased to rise"
    return f"finished after {step:,} steps"


def _num_lines(content: ReportContent) -> int:
    """Lines of the files of pairs, which also gave the held-out pairs where nothing else did."""
    given = content.sources.held_out_sha256 or content.sources.continued
    num_held_out = 0 if given else len(content.data.held_out)
    return len(content.data.training) + num_held_out + sum(content.data.dropped.values())


def _part(name: str) -> str:
    return (files("translation.train") / "page" / name).read_text(encoding="utf-8")


def _score_chart(curve: Sequence[CurvePoint], best: CurvePoint) -> str:
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


def _loss_chart(curve: Sequence[CurvePoint], best: CurvePoint) -> str:
    """Loss in training and of the held-out pairs over steps; arguments and result as of `_score_chart`."""
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
        soft = COLOURS["soft"]
        axes.axvline(positions[marked], color=soft, linestyle=(0, (3, 3)), linewidth=1, zorder=1, label="best")
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        figure.legend(loc="outside upper left", ncols=3, frameon=False)

    return svg_chart(name, draw)
