"""The report page of a training, and the card in the finished package."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from data_catalog.disk.files import write_bytes
from data_catalog.report.drawing import COLOURS, svg_chart
from translation.train.config import TrainPackageConfig
from translation.train.loop import TrainState
from translation.train.pairs import DROP_REASONS, ParallelCaptions, Sources

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPORT_FILE = "report.html"
NUM_SAMPLES = 10  # held-out pairs on the page


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReport:
    """The results of training a package.

    Args:
        num_training: pairs that were trained on.
        num_held_out: pairs that were held out.
        dropped: lines of the TSV files that were not used, by reason (`translation.train.pairs.DROP_REASONS`).
        num_parameters: weights of the network.
        vocabulary_size: pieces of the vocabulary.
        num_steps: updates done, fewer than `num_steps` of the settings if chrF stopped rising.
        best_step: the update with the best weights, by chrF on the held-out pairs; these are in the package.
        held_out_loss: cross-entropy per target token in nats, before quantization.
        exact_match: share of the held-out pairs whose translation by the finished package equals the reference.
        bleu: sacreBLEU's BLEU of the finished package on the held-out pairs, 0 to 100.
        chrf: sacreBLEU's chrF of the same translations, 0 to 100.
    """

    num_training: int
    num_held_out: int
    dropped: dict[str, int]
    num_parameters: int
    vocabulary_size: int
    num_steps: int
    best_step: int
    held_out_loss: float
    exact_match: float
    bleu: float
    chrf: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A training: its folder, data and settings.

    Args:
        folder: folder of the training.
        data: pairs to train on, held-out pairs and dropped lines.
        sources: files of the pairs, and languages.
        config: settings.
        metadata: metadata of the package, in the format of Argos Translate.
    """

    folder: Path
    data: ParallelCaptions
    sources: Sources
    config: TrainPackageConfig
    metadata: dict[str, str]


def write_report(
    training: Training,
    state: TrainState,
    texts: Sequence[str],
    *,
    num_parameters: int,
    report: TrainReport | None = None,
) -> None:
    """Write the page into the training's folder: one HTML file without scripts or external resources.

    Args:
        training: the training.
        state: its progress, with no, some or all validations.
        texts: translations of the held-out sources by the latest weights during training, by the package afterwards;
            empty before the first validation.
        num_parameters: weights of the network.
        report: results of the finished package; None during training.

    Raises:
        DiskError: the disk is full.
    """
    sources, data, num_steps = training.sources, training.data, training.config.num_steps
    if report is None:
        status = f"after step {state.step:,} of {num_steps:,}"
    elif state.step < num_steps:
        status = f"finished after {state.step:,} of {num_steps:,} steps, because chrF stopped rising"
    else:
        status = f"finished after {state.step:,} steps"
    # The held-out pairs are lines of the files of pairs, unless they come from elsewhere.
    num_held_out = 0 if sources.held_out_sha256 or sources.continued else len(data.held_out)
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    template = environment.from_string((files("translation.train") / "report.html").read_text(encoding="utf-8"))
    style = (files("data_catalog.report") / "templates" / "report.css").read_text(encoding="utf-8")
    page = template.render(
        package_name=training.folder.stem,  # the folder has the package's name
        metadata=training.metadata,
        sources=sources,
        data=data,
        settings=asdict(training.config),
        state=state,
        status=status,
        best=state.best if state.curve else None,
        report=report,
        num_parameters=num_parameters,
        num_lines=len(data.training) + num_held_out + sum(data.dropped.values()),
        samples=list(zip(data.held_out[:NUM_SAMPLES], texts, strict=False)),
        reasons=DROP_REASONS,
        # Style and charts are our own markup, not text of the dataset.
        style=Markup(style),  # noqa: S704
        charts=[Markup(chart) for chart in _charts(state)] if state.curve else [],  # noqa: S704
    )
    write_bytes(training.folder / REPORT_FILE, page.encode())


def _charts(state: TrainState) -> tuple[str, str]:
    """Return the chart of scores over minutes and the chart of losses over steps, each as an `svg` element."""
    curve, best = state.curve, state.best

    def chart(
        name: str, labels: tuple[str, str], positions: list[float], marked: float, series: dict[str, list[float]]
    ) -> str:
        def draw(figure: "Figure") -> None:
            axes = figure.subplots()
            for (label, values), colour in zip(series.items(), ("first", "second"), strict=True):
                axes.plot(positions, values, color=COLOURS[colour], marker="o", label=label)
            axes.axvline(marked, color=COLOURS["soft"], linestyle=(0, (3, 3)), linewidth=1, zorder=1, label="best")
            axes.set_xlim(left=0)
            axes.xaxis.set_major_formatter("{x:,g}")
            axes.set_xlabel(labels[0])
            axes.set_ylabel(labels[1])
            figure.legend(loc="outside upper left", ncols=3, frameon=False)

        return svg_chart(name, draw)

    return (
        chart(
            "BLEU and chrF over minutes",
            ("minutes", "BLEU, chrF"),
            [point.seconds / 60 for point in curve],
            best.seconds / 60,
            {"chrF": [point.chrf for point in curve], "BLEU": [point.bleu for point in curve]},
        ),
        chart(
            "Loss over steps",
            ("steps", "nats per token"),
            [float(point.step) for point in curve],
            float(best.step),
            {
                "training": [point.train_loss for point in curve],
                "held out": [point.held_out_loss for point in curve],
            },
        ),
    )


def write_card(path: Path, training: Training, report: TrainReport) -> None:
    """Write the package's README, without a date, so that the same training gives the same file."""
    metadata, sources = training.metadata, training.sources
    dropped = ", ".join(f"{name} {count:,}" for name, count in report.dropped.items()) or "none"
    digests = ", ".join(f"`{digest}`" for digest in sources.pairs_sha256)
    start = f" The weights started from the training `{sources.continued}`." if sources.continued else ""
    listed = "\n".join(f"- `{name}`: {value}" for name, value in asdict(training.config).items())
    card = f"""# {metadata["from_name"]} to {metadata["to_name"]}, version {metadata["package_version"]}

A compact Transformer for captions, trained by `vernaclip mt train` and packed for Argos Translate. It knows only the
words of its training pairs. License: {metadata["license"]}.{start}

| | |
|---|---|
| parameters | {report.num_parameters:,}, stored as int8 |
| vocabulary | {report.vocabulary_size:,} sentencepiece pieces, shared by both languages |
| trained on | {report.num_training:,} distinct pairs; sha256 of the TSV: {digests} |
| updates | {report.num_steps:,}; the package has the averaged weights after {report.best_step:,}, best by chrF |
| lines dropped | {dropped} |
| held out | {report.num_held_out:,} pairs, never trained on |
| translated exactly as the reference | {report.exact_match:.1%} of the held-out pairs, by this package |
| BLEU, chrF | {report.bleu:.2f}, {report.chrf:.2f} on the held-out pairs, by this package (sacreBLEU) |
| loss | {report.held_out_loss:.4f} nats per token on the held-out pairs, before quantization |

Settings:

{listed}
"""
    path.write_text(card, encoding="utf-8")
