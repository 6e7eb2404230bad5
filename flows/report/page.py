"""Write the page of a build: one file of HTML that needs nothing else, loads nothing and runs nothing."""

import functools
import re
from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_catalog.schema import NATIVE
from data_catalog.sources.origins import ORIGINS
from data_catalog.storage.history import runs
from data_catalog.storage.integrity import recorded
from data_catalog.storage.manifest import Snapshot, datasets_folder
from data_catalog.storage.shards import write_bytes
from flows.report import charts, texts
from flows.report.captions import listed
from flows.report.contents import Contents, gather
from flows.report.texts import language_name

if TYPE_CHECKING:
    from jinja2 import Environment

REPORT_FILE = "report.html"
DEFAULT_EXAMPLES = 3  # captions of each reason
# Raised when the page changes: pages of older versions are written again by the next build that finds its snapshot.
PAGE_VERSION = 3
_MARK = '<meta name="vernaclip-report" content="{}">'
_FILTERS = ("text", "caption", "linked", "plain", "number", "percent", "size", "duration", "decimal")
_CHARTS = (
    *("stream", "losses", "words", "characters", "per_image", "scores"),
    *("sizes", "aspects", "file_sizes"),
)
_ASPECTS = {0.25: "1:4", 0.5: "1:2", 2 / 3: "2:3", 1.0: "1:1", 1.5: "3:2", 2.0: "2:1", 4.0: "4:1"}
_KILOBYTES = {2.0**power: f"{2.0 ** (power - 10):,g}" for power in range(4, 28)}


def report_path(root: Path, dataset: str) -> Path:
    """Where the page of a dataset's current snapshot lies."""
    return datasets_folder(root) / dataset / REPORT_FILE


def write_report(
    root: Path, snapshot: Snapshot, *, out: Path | None = None, num_examples: int = DEFAULT_EXAMPLES
) -> Path:
    """Write the page of a snapshot.

    Args:
        root: of the catalog.
        snapshot: what the page is about.
        out: another place than the dataset's own.
        num_examples: captions shown for each reason, and translations for each part of an engine's scores.

    Returns:
        Where the page lies.

    Raises:
        DiskError: the disk is full, or fails.
    """
    page = page_of(gather(snapshot, list(runs(root, snapshot.dataset)), num_examples=num_examples))
    content = page.encode(errors="replace")  # a lone surrogate cannot be shown
    if out is not None:
        write_bytes(out, content)
        return out
    path = report_path(root, snapshot.dataset)
    with recorded(path):
        write_bytes(path, content)
    return path


def refresh_report(root: Path, snapshot: Snapshot, *, has_run: bool) -> Path:
    """Write the page where there is none of this snapshot, or where a run has something to add to it."""
    path = report_path(root, snapshot.dataset)
    if has_run or not _is_of(path, snapshot):
        write_report(root, snapshot)
    return path


def _is_of(path: Path, snapshot: Snapshot) -> bool:
    """Whether a page is there and of this snapshot and version."""
    try:
        with path.open("rb") as file:
            return _mark(snapshot).encode() in file.read(2000)
    except FileNotFoundError:
        return False


def _mark(snapshot: Snapshot) -> str:
    return _MARK.format(f"{snapshot.snapshot} {PAGE_VERSION}")


@functools.cache
def _environment() -> "Environment":
    """Templates, which are parsed once in a process."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("flows.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["language_name"] = language_name
    environment.filters |= {name: getattr(texts, name) for name in _FILTERS}
    return environment


def page_of(contents: Contents) -> str:
    """The page as HTML: the same for the same contents."""
    from markupsafe import Markup

    style = (files("flows.report") / "templates" / "report.css").read_text(encoding="utf-8")
    return (
        _environment()
        .get_template("report.html")
        .render(
            it=contents,
            funnel=contents.funnel,
            manifest=contents.snapshot.manifest,
            # Ours, not the dataset's: mark, style and charts are markup.
            mark=Markup(_mark(contents.snapshot)),  # noqa: S704
            style=Markup(style),  # noqa: S704
            charts={**dict.fromkeys(_CHARTS), **{name: Markup(chart) for name, chart in _charts(contents).items()}},  # noqa: S704
            language=language_name(contents.snapshot.manifest["target_lang"]),
            language_name=language_name,
            latest_run=contents.runs[0] if contents.runs else None,
            meaning_of=contents.snapshot.meaning,
            listed=listed,
            anchor=_anchor,
            native=NATIVE,
            origins=ORIGINS,
        )
    )


def _charts(contents: Contents) -> dict[str, str]:
    """The charts by name; those that have nothing to show are left out."""
    found: dict[str, str] = {}
    funnel = contents.funnel
    if funnel.num_read:
        kept = {
            source: [funnel.read[source], *(funnel.kept[source][step] for step in funnel.steps)]
            for source in funnel.read
        }
        found["stream"] = charts.stream_chart(funnel.steps, kept)
        found["losses"] = charts.losses_chart(funnel.dropped, funnel.published)
    for unit, series in contents.lengths.items():
        if series:
            found[unit] = charts.length_chart(f"Lengths of captions in {unit}", series, unit=unit)
    if contents.counts.per_image:
        labels = ("captions of an image", "images")
        found["per_image"] = charts.bars_chart("Captions of an image", contents.counts.per_image, labels=labels)
    if contents.scores is not None:
        scores = contents.scores
        found["scores"] = charts.score_chart(scores.counts, low=scores.low, width=scores.width)
    return found | _image_charts(contents)


def _image_charts(contents: Contents) -> dict[str, str]:
    found: dict[str, str] = {}
    sizes = contents.counts.sizes
    if sizes:
        points = [(row["mean_width"], row["mean_height"], row["num_images"]) for row in sizes]
        found["sizes"] = charts.size_chart(points)
        aspects = _aspects(sizes)
        found["aspects"] = charts.octave_chart(
            "Images by aspect ratio", aspects, per_octave=8, labels=_ASPECTS, axis="width : height"
        )
    if contents.file_sizes:
        found["file_sizes"] = charts.octave_chart(
            "Images by size of their files", contents.file_sizes, per_octave=4, labels=_KILOBYTES, axis="kibibytes"
        )
    return found


def _aspects(sizes: list[dict[str, Any]]) -> dict[int, int]:
    """Images by aspect ratio, in eighths of an octave, which are what the sizes are given in."""
    found: Counter[int] = Counter()
    for row in sizes:
        found[row["width"] - row["height"]] += row["num_images"]
    return found


def _anchor(*parts: object) -> str:
    """A name within the page for a section about something of the dataset."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(map(str, parts)).lower()).strip("-")
