"""The page about a training, and the card in the finished package."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from data_catalog.disk.files import write_bytes
from data_catalog.report.drawing import COLOURS, svg_chart
from training.packages.config import TrainPackageConfig
from training.packages.pairs import DROP_REASONS, ParallelCaptions
from training.runs.runner import RunState

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPORT_FILE = "report.html"
NUM_SAMPLES = 10  # held-out pairs on the page


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The data of a training: its languages and the sha256 of its files."""

    from_code: str
    to_code: str
    pairs_sha256: tuple[str, ...]
    held_out_sha256: str | None
    continued: str | None  # key of the training whose weights it starts from


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A training: its folder, data and settings, and the package's metadata in the format of Argos Translate."""

    folder: Path
    data: ParallelCaptions
    sources: Sources
    config: TrainPackageConfig
    metadata: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReport:
    """The results of training a package; scores are those of the finished package on the held-out pairs."""

    num_training: int
    num_held_out: int
    dropped: dict[str, int]  # lines of the files that were not used, by reason (`DROP_REASONS`)
    num_parameters: int
    vocabulary_size: int
    num_steps: int  # fewer than those of the settings if chrF stopped rising
    best_step: int  # whose weights are in the package
    held_out_loss: float  # cross-entropy per target token in nats, before quantization
    exact_match: float  # share of translations that equal the reference
    bleu: float
    chrf: float


def write_report(
    training: Training,
    state: RunState,
    texts: Sequence[str],
    *,
    num_parameters: int,
    report: TrainReport | None = None,
) -> None:
    """Write the page into the training's folder: one HTML file without scripts or external resources.

    `texts` are translations of the held-out sources by the latest weights; with the `report`, by the finished package.
    """
    charts = []
    if state.history:
        charts = [
            _chart("BLEU and chrF", state, {"chrF": "val_chrf", "BLEU": "val_bleu"}),
            _chart("nats per token", state, {"training": "train_loss", "held out": "val_loss"}),
        ]
    style = (files("data_catalog.report") / "templates" / "report.css").read_text(encoding="utf-8")
    page = _rendered(
        "report.html",
        training,
        report,
        package_name=training.folder.stem,  # the folder has the package's name
        data=training.data,
        state=state,
        num_parameters=num_parameters,
        samples=list(zip(training.data.held_out[:NUM_SAMPLES], texts, strict=False)),
        reasons=DROP_REASONS,
        # Style and charts are our own markup, not text of the dataset.
        style=Markup(style),  # noqa: S704
        charts=[Markup(chart) for chart in charts],  # noqa: S704
    )
    write_bytes(training.folder / REPORT_FILE, page.encode())


def _chart(what: str, state: RunState, series: Mapping[str, str]) -> str:
    """Return a chart of some values over steps as an `svg` element."""

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        steps = [record["step"] for record in state.history]
        for (label, name), colour in zip(series.items(), ("first", "second"), strict=True):
            axes.plot(steps, [record[name] for record in state.history], color=COLOURS[colour], marker="o", label=label)
        best: Any = state.best_record["step"]
        axes.axvline(best, color=COLOURS["soft"], linestyle=(0, (3, 3)), linewidth=1, zorder=1, label="best")
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.set_xlabel("steps")
        axes.set_ylabel(what)
        figure.legend(loc="outside upper left", ncols=3, frameon=False)

    return svg_chart(f"{what} over steps", draw)


def write_card(path: Path, training: Training, report: TrainReport) -> None:
    """Write the package's README, without a date, so that the same training gives the same file."""
    path.write_text(_rendered("card.md", training, report), encoding="utf-8")


def _rendered(template: str, training: Training, report: TrainReport | None, **values: Any) -> str:
    environment = Environment(
        loader=PackageLoader("training.packages"),
        autoescape=select_autoescape(["html"]),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    return environment.get_template(template).render(
        metadata=training.metadata,
        sources=training.sources,
        settings=asdict(training.config),
        report=report,
        **values,
    )
