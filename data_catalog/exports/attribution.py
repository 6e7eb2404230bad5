"""ATTRIBUTION.csv, a line an image: whose it is, under which licence, where it is from. Nothing in it computes."""

import csv
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from data_catalog.exports.judged import JudgedShard, sample_key
from data_catalog.exports.markdown import table
from data_catalog.exports.references import upstream_paper
from data_catalog.exports.rights import Policy
from data_catalog.exports.texts import markdown_text, sheet_cell

CSV_FILE, TEXT_FILE = "ATTRIBUTION.csv", "ATTRIBUTION.md"
COLUMNS = ("key", "sample_id", "source", "split", "pixels", "license", "attribution", "page_url", "url")
_NEEDED = ["sample_id", "source", "split", "license", "attribution", "page_url", "url"]

_HEAD = """# Attribution

ATTRIBUTION.csv has a line for each image: its licence, whom to credit and where it is from, in upstream's words.
`pixels` says whether the image itself is here (`yes`), or why it is only listed. A cell that a spreadsheet would take
for a formula has an apostrophe in front.

The terms of each source as a whole, and the paper to cite:"""


class AttributionWriter:
    """Writes ATTRIBUTION.csv into a folder, as images come."""

    def __init__(self, folder: Path, policy: Policy) -> None:
        self._file = (folder / CSV_FILE).open("w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file)
        self._policy = policy
        self._writer.writerow(COLUMNS)

    def __enter__(self) -> "AttributionWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, shard: JudgedShard) -> None:
        """Write a line for each image of a shard that goes along, or is listed by its URL."""
        for row, reason in zip(shard.rows.select(_NEEDED).to_pylist(), shard.reasons, strict=True):
            if reason is None or row["url"]:
                self._writer.writerow([sheet_cell(cell) for cell in self._cells(row, reason)])

    def _cells(self, row: Mapping[str, Any], reason: str | None) -> list[str | None]:
        return [
            sample_key(row["sample_id"]),
            row["sample_id"],
            row["source"],
            row["split"],
            reason or "yes",
            self._policy.licence(row),
            row["attribution"],
            row["page_url"],
            row["url"],
        ]


def attribution_text(manifest: Mapping[str, Any]) -> str:
    """ATTRIBUTION.md: the terms of each source."""
    rows = [
        [markdown_text(name), markdown_text(entry["licence"]), upstream_paper(manifest, name) or ""]
        for name, entry in sorted(manifest["sources"].items())
    ]
    return f"{_HEAD}\n\n{table(['source', 'terms', 'paper'], rows)}\n"
