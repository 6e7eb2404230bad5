"""What a training tells people: a page about how far it is, and the card inside the finished package."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from data_catalog.charts import COLOURS, svg_chart
from data_catalog.storage.shards import write_bytes
from translation.train.config import TrainPackageConfig
from translation.train.loop import TrainState
from translation.train.pairs import DROP_REASONS, ParallelCaptions, Sources

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPORT_FILE = "report.html"
NUM_SAMPLES = 10  # held-out pairs that the page shows


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReport:
    """What training a package gave.

    Args:
        dropped: lines of the TSV that were not used, by reason (`translation.train.pairs.DROP_REASONS`).
        num_steps: updates done, fewer than asked for where chrF had ceased to rise.
        best_step: the update after which the weights in the package were best, by chrF on the held-out pairs.
        held_out_loss: cross-entropy per target token in nats, before quantization.
        exact_match: share of the held-out pairs that the finished package translates word for word as given.
        bleu: sacreBLEU's, of the finished package on the held-out pairs, in [0, 100].
        chrf: the same, chrF.
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
    """What a training is of.

    Args:
        folder: keeps the training.
        metadata: of the package, as Argos Translate has it.
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
    """Write the page into the training's folder: one HTML file without scripts that loads nothing.

    Args:
        state: with no validation yet, with some, or with all.
        texts: translations of the held-out sources by the latest weights while training is under way, then by the
            package; none before the first validation.
        num_parameters: of the network.
        report: of the finished package; None while training is under way.

    Raises:
        DiskError: the disk is full.
    """
    sources, data, num_steps = training.sources, training.data, training.config.num_steps
    if report is None:
        status = f"after step {state.step:,} of {num_steps:,}"
    elif state.step < num_steps:
        status = f"finished after {state.step:,} of {num_steps:,} steps, for chrF had ceased to rise"
    else:
        status = f"finished after {state.step:,} steps"
    # The lines of the files of pairs also gave the held-out pairs, where nothing else did.
    num_held_out = 0 if sources.held_out_sha256 or sources.continued else len(data.held_out)
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    template = environment.from_string((files("translation.train") / "report.html").read_text(encoding="utf-8"))
    style = (files("data_catalog.report") / "templates" / "report.css").read_text(encoding="utf-8")
    page = template.render(
        package_name=training.folder.stem,  # it is named after the package
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
        # Ours, not the dataset's: style and charts are markup.
        style=Markup(style),  # noqa: S704
        charts=[Markup(chart) for chart in _charts(state)] if state.curve else [],  # noqa: S704
    )
    write_bytes(training.folder / REPORT_FILE, page.encode())


def _charts(state: TrainState) -> tuple[str, str]:
    """Return scores over minutes, and losses over steps, as one `svg` element each."""
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
    """Write the package's README; it has no date, so that the same training gives the same file."""
    metadata, sources = training.metadata, training.sources
    dropped = ", ".join(f"{name} {count:,}" for name, count in report.dropped.items()) or "none"
    digests = ", ".join(f"`{digest}`" for digest in sources.pairs_sha256)
    start = f" The weights started from the training `{sources.continued}`." if sources.continued else ""
    listed = "\n".join(f"- `{name}`: {value}" for name, value in asdict(training.config).items())
    card = f"""# {metadata["from_name"]} to {metadata["to_name"]}, version {metadata["package_version"]}

A compact Transformer for captions, trained by `vernaclip mt train` and packed for Argos Translate. It knows the words
of its training pairs and no others. License: {metadata["license"]}.{start}

| | |
|---|---|
| parameters | {report.num_parameters:,}, stored as int8 |
| vocabulary | {report.vocabulary_size:,} sentencepiece pieces, shared by both languages |
| trained on | {report.num_training:,} distinct pairs; sha256 of the TSV: {digests} |
| updates | {report.num_steps:,}; the weights are those after {report.best_step:,}, averaged, best by chrF |
| lines dropped | {dropped} |
| held out | {report.num_held_out:,} pairs, never trained on |
| translated word for word as given | {report.exact_match:.1%} of the held-out pairs, by this package |
| BLEU, chrF | {report.bleu:.2f}, {report.chrf:.2f} on the held-out pairs, by this package (sacreBLEU) |
| loss | {report.held_out_loss:.4f} nats per token on the held-out pairs, before quantization |

Settings:

{listed}
"""
    path.write_text(card, encoding="utf-8")
