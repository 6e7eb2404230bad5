"""Reader of Conceptual Captions: CC3M (`caption<TAB>url`) and CC12M (`url<TAB>caption`), TSV, no header, no quotes."""

import re
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from data_catalog.errors import InputError
from data_catalog.settings import PATH
from data_catalog.sources.files import (
    FilesConfig,
    Line,
    Trouble,
    check_text_file,
    excerpt,
    head_lines,
    read_lines,
    upstream_files,
)
from data_catalog.sources.rows import Candidate, Location, Records
from data_catalog.sources.urls import is_web_url, url_key

_SPLIT_IN_NAME = re.compile(r"(train|val)(?:ing|idation)?(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptualCaptionsConfig(FilesConfig):
    """Files of Conceptual Captions."""

    EXPECTED_FILES: ClassVar = "at least one Conceptual Captions TSV"

    files: tuple[str, ...] = field(metadata=PATH)
    """TSV files."""


class Columns(NamedTuple):
    """Indices of the caption and URL columns of one variant."""

    kind: str
    caption: int
    url: int

    @property
    def layout(self) -> str:
        """Return the column order as text, for messages."""
        return "caption<TAB>url" if self.url else "url<TAB>caption"


CC3M = Columns("cc3m", caption=0, url=1)
CC12M = Columns("cc12m", caption=1, url=0)


def check_conceptual_captions(config: ConceptualCaptionsConfig, columns: Columns) -> None:
    """Refuse a file that cannot be read to its end, or whose first lines have other columns."""
    expected = f"a {columns.kind} TSV ({columns.layout}, no header)"
    other = CC12M if columns is CC3M else CC3M
    for path in upstream_files(config):
        check_text_file(path, expected=expected)
        lines = head_lines(path)
        rows = [cells for line in lines if len(cells := line.text.split("\t")) == 2]
        in_place, swapped = (
            sum(is_web_url(cells[place].strip()) for cells in rows) for place in (columns.url, other.url)
        )
        if swapped > in_place:
            raise InputError(
                f"{path} has the columns {other.layout}: set kind to {other.kind}, or give {expected} instead"
            )
        if not in_place:
            found = f"line 1: {excerpt(lines[0].text)[:200]}"
            raise InputError(f"{path} does not have two columns with a URL in one ({found}): expected {expected}")


def read_conceptual_captions(config: ConceptualCaptionsConfig, columns: Columns) -> Records:
    """Yield a record for each line."""
    for path in upstream_files(config):
        found = _SPLIT_IN_NAME.search(path.name)
        split = found[1].lower() if found else None
        for line in read_lines(path):
            if line.text:
                yield Location(str(path), line.number, line.text), line.trouble or _record(line, columns, split)


def _record(line: Line, columns: Columns, split: str | None) -> Candidate | Trouble:
    cells = line.text.split("\t")
    if len(cells) != 2:
        return Trouble("malformed_row", f"{len(cells)} fields instead of 2 ({columns.layout})")
    url = cells[columns.url].strip()
    return Candidate(sample_key=url_key(url), url=url, caption=cells[columns.caption], lang="en", split=split)
