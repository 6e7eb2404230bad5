"""Reader of Conceptual Captions: CC3M (`caption<TAB>url`) and CC12M (`url<TAB>caption`), TSV, no header, no quotes."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from data_catalog.base.settings import PATH
from data_catalog.rows.urls import url_key
from data_catalog.sources.files import FilesConfig, Trouble, read_lines, upstream_files
from data_catalog.sources.rows import Candidate, Location, OpenFiles, Records

_SPLIT_IN_NAME = re.compile(r"(train|val)(?:ing|idation)?(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptualCaptionsConfig(FilesConfig):
    """Files of Conceptual Captions."""

    EXPECTED: ClassVar = "a TSV without header: caption<TAB>url with kind cc3m, url<TAB>caption with kind cc12m"

    files: tuple[str, ...] = field(metadata=PATH)
    """TSV files."""


def read_conceptual_captions(config: ConceptualCaptionsConfig, *, url_column: int) -> OpenFiles:
    """Yield each file with a record for each line."""
    return ((path, _records(path, url_column)) for path in upstream_files(config))


def _records(path: Path, url_column: int) -> Records:
    found = _SPLIT_IN_NAME.search(path.name)
    split = found[1].lower() if found else None
    layout = "url<TAB>caption" if url_column == 0 else "caption<TAB>url"
    for line in read_lines(path):
        location, cells = Location(str(path), line.number, line.text), line.text.split("\t")
        if line.trouble:
            yield location, line.trouble
        elif len(cells) == 2:
            url, caption = cells[url_column].strip(), cells[1 - url_column]
            yield location, Candidate(sample_key=url_key(url), url=url, caption=caption, lang="en", split=split)
        elif line.text:
            yield location, Trouble("malformed_row", f"{len(cells)} fields instead of 2 ({layout})")
