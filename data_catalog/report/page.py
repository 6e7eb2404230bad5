"""Writing of the report: one HTML file without scripts or external resources."""

import functools
from collections import defaultdict
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_catalog.catalog.history import runs
from data_catalog.catalog.manifest import REPORT_FILE, Snapshot, datasets_folder
from data_catalog.disk.files import write_bytes
from data_catalog.disk.records import recorded
from data_catalog.report import texts
from data_catalog.report.contents import gather

if TYPE_CHECKING:
    from jinja2 import Environment

DEFAULT_EXAMPLES = 3  # captions of each reason
# Version of the page. It is raised when the page changes; the next build then writes pages of older versions again.
PAGE_VERSION = 10
_FILTERS = ("text", "caption", "linked", "plain", "number", "percent", "size", "duration", "decimal")


def report_path(root: Path, dataset: str) -> Path:
    """Return the path of the report on a dataset's current snapshot."""
    return datasets_folder(root) / dataset / REPORT_FILE


def write_report(
    root: Path, snapshot: Snapshot, *, out: Path | None = None, num_examples: int = DEFAULT_EXAMPLES
) -> Path:
    """Write the report on a snapshot, by default in its dataset's folder; return its path.

    `num_examples` captions are shown for each reason, and as many translations for each part of an engine's scores.
    """
    contents = gather(snapshot, list(runs(root, snapshot.dataset)), num_examples=num_examples)
    content = _page(contents, snapshot).encode(errors="replace")  # a lone surrogate cannot be shown
    if out is not None:
        write_bytes(out, content)
        return out
    path = report_path(root, snapshot.dataset)
    with recorded(path):
        write_bytes(path, content)
    return path


def refresh_report(root: Path, snapshot: Snapshot, *, has_run: bool) -> None:
    """Write the report if it is missing, on another snapshot or of another version, or if a run has done steps."""
    path = report_path(root, snapshot.dataset)
    if has_run or not path.is_file() or _version_tag(snapshot).encode() not in path.read_bytes():
        write_report(root, snapshot)


def _version_tag(snapshot: Snapshot) -> str:
    return f'<meta name="vernaclip-report" content="{snapshot.snapshot} {PAGE_VERSION}">'


def _page(contents: Mapping[str, Any], snapshot: Snapshot) -> str:
    """Return the page as HTML; equal contents give equal pages."""
    from markupsafe import Markup

    # Mark and style are our own markup. Texts of the dataset are escaped.
    style = Markup((files("data_catalog.report") / "templates" / "report.css").read_text(encoding="utf-8"))  # noqa: S704
    absent = ["fit"] * (contents["judged"] is None)
    _, funnel = contents["tables"]["funnel"]
    return (
        _environment()
        .get_template("report.html")
        .render(
            **contents,
            manifest=snapshot.manifest,
            mark=Markup(_version_tag(snapshot)),  # noqa: S704
            style=style,
            language=texts.language_name(snapshot.manifest["target_lang"]),
            sources=[row["Source"] for row in funnel[:-1]],
            total=funnel[-1],
            meanings=defaultdict(str, {step: snapshot.meaning(step) for step in snapshot.steps}),
            absent=absent,
        )
    )


@functools.cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("data_catalog.report")
    found = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    found.filters |= {name: getattr(texts, name) for name in _FILTERS}
    found.globals |= {name: getattr(texts, name) for name in ("look", "cell", "language_name")}
    return found
