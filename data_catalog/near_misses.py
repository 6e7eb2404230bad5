"""What somebody may have meant who asks for an id that is not there."""

from collections.abc import Iterator, Sequence

import pyarrow.compute as pc

from data_catalog.database.story import find_samples
from data_catalog.plain_text import cell_text
from data_catalog.sources.urls import is_web_url
from data_catalog.storage.manifest import Snapshot
from data_catalog.storage.shards import read_columns

# Ids are looked through for their beginnings up to so many rows; more would take longer than an answer may.
MOST_ROWS_READ = 1_000_000
MOST_HINTS = 3
MOST_CHARACTERS = 200  # of an id that is not there are said again


def not_there(snapshots: Sequence[Snapshot], identity: str) -> str:
    """Return one sentence for an id that is nowhere, with what may have been meant."""
    places = ", ".join(f"{found.dataset} {found.snapshot}" for found in snapshots)
    shown = identity if len(identity) <= MOST_CHARACTERS else f"{identity[:MOST_CHARACTERS]}..."
    text = f"nothing in {places} is called '{cell_text(shown)}'"
    near = _near_misses(snapshots, identity)
    if near:
        return f"{text}: did you mean {' or '.join(cell_text(name) for name in near)}?"
    examples = [name for name in map(_example_id, snapshots) if name is not None]
    looks = f" (a sample_id looks like {cell_text(examples[0])})" if examples else ""
    sources = [source for found in snapshots for source in found.manifest["sources"].values()]
    unselected = sum(sum(source["unselected"].values()) for source in sources)
    counted = f"; {unselected:,} upstream rows were not selected, and are counted only" if unselected else ""
    return f"{text}: give a sample_id, a caption_id, an image's URL or the sha256 of its bytes{looks}{counted}"


def _near_misses(snapshots: Sequence[Snapshot], identity: str) -> list[str]:
    """Ids that are there and like one that is not: with a source before it, without an end, another scheme."""
    found = (sample_id for snapshot in snapshots for sample_id in _near(snapshot, identity.strip()))
    return list(dict.fromkeys(found))[:MOST_HINTS]


def _near(snapshot: Snapshot, identity: str) -> Iterator[str]:
    is_small = sum(entry["rows"] for entry in snapshot.manifest["files"]["captions"]) <= MOST_ROWS_READ
    for other in dict.fromkeys(_spellings(snapshot, identity)):
        if other not in ("", identity) and find_samples(snapshot, other):
            yield other
    if is_small and len(identity) > 2 and not is_web_url(identity):
        yield from _beginning_with(snapshot, identity)


def _spellings(snapshot: Snapshot, identity: str) -> Iterator[str]:
    if is_web_url(identity):
        scheme, _, rest = identity.partition("://")
        other = "http" if scheme.lower() == "https" else "https"
        yield f"{other}://{rest}"
        yield identity.partition("#")[0].partition("?")[0]
        return
    yield f"https://{identity}"
    yield f"http://{identity}"
    yield identity.partition("#")[0].rpartition(" ")[2]
    for source in snapshot.manifest["sources"]:
        key = identity.removesuffix(".jpg")
        yield f"{source}:{key}"
        yield f"{source}:{key.lstrip('0')}"


def _beginning_with(snapshot: Snapshot, identity: str) -> Iterator[str]:
    """Samples whose id, or whose key behind the source's name, begins with the text."""
    texts = {identity, *(f"{source}:{identity}" for source in snapshot.manifest["sources"])}
    for entry in snapshot.manifest["files"]["captions"]:
        ids = read_columns(snapshot.folder / entry["path"], ["sample_id"]).column(0).unique()
        for text in sorted(texts):
            yield from ids.filter(pc.starts_with(ids, text)).to_pylist()


def _example_id(snapshot: Snapshot) -> str | None:
    """What the ids of a snapshot look like: the first one; None of a snapshot without rows."""
    for entry in snapshot.manifest["files"]["captions"]:
        if entry["rows"]:
            ids = read_columns(snapshot.folder / entry["path"], ["sample_id"])
            return str(ids.column("sample_id")[0])
    return None
