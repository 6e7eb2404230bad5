"""What a snapshot knows of one image and its captions, found by id, by address or by its bytes; and like ids."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from data_catalog.database.lookup import LOOKUP_KIND, shards_with
from data_catalog.plain_text import cell_text
from data_catalog.schema import PAIRS
from data_catalog.sources.urls import canonical_url, is_web_url
from data_catalog.storage.manifest import Snapshot
from data_catalog.storage.shards import column_names, read_columns

Row = dict[str, Any]
FETCH_LOGS = "fetch-log"
# Where in the snapshot a row stands.
FILE = "file"
_PIXELS = ("image", "original")
_SHA256 = re.compile("[0-9a-fA-F]{64}")
# Ids are looked through for their beginnings up to so many rows; more would take longer than an answer may.
MOST_ROWS_READ = 1_000_000
MOST_HINTS = 3
MOST_CHARACTERS = 200  # of an id that is not there are said again


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """One sample in one snapshot.

    Args:
        snapshot: in which it is.
        sample_id: of the sample.
        shard: its number.
        captions: its rows of the schema `CAPTIONS`, each with the `FILE` that it stands in.
        image: what became of its image, schema `OUTCOMES`; None: it was never asked for.
        pairs: by `sample_id`, without pixels and with their `FILE`: the published image, and those that captions of
            the sample are merged into.
        guests: captions of other samples that are published with its image.
        requests: how it was fetched (schema `FETCH_LOG`), where the log is still there.
    """

    snapshot: Snapshot
    sample_id: str
    shard: int
    captions: list[Row]
    image: Row | None
    pairs: dict[str, Row]
    guests: list[str]
    requests: list[Row]


def find_stories(snapshot: Snapshot, identity: str) -> list[Story]:
    """The samples that an id, an address or a hash means in a snapshot; none if there are none there.

    Args:
        snapshot: where to look.
        identity: a `sample_id`, a `caption_id`, an image's address in any spelling, before or after redirects, or
            the sha256 of its bytes as they came.
    """
    return [_story(snapshot, shard, sample_id) for shard, sample_id in find_samples(snapshot, identity)]


def find_samples(snapshot: Snapshot, identity: str) -> list[tuple[int, str]]:
    """The shards and `sample_id`s that an id, an address or a hash means; none if there are none."""
    wanted = _Wanted(identity.strip())
    shards = _shards_with(snapshot, wanted.texts)
    return [(shard, sample_id) for shard in shards for sample_id in sorted(_matches(snapshot, shard, wanted))]


class _Wanted:
    """What somebody asks for, and the ids that it may mean."""

    def __init__(self, identity: str) -> None:
        self.identity = identity.lower() if _SHA256.fullmatch(identity) else identity
        self.address = canonical_url(identity) if is_web_url(identity) else None
        places = [place for place, char in enumerate(identity) if char == "#"]
        # A caption's id is its sample's with something behind a "#"; a key may have more of these.
        self.sample_ids = [] if self.address else [identity, *(identity[:place] for place in places)]

    @property
    def texts(self) -> list[str]:
        return self.sample_ids or [self.identity]

    def is_address(self, url: str | None) -> bool:
        return url is not None and (url == self.identity or canonical_url(url) == self.address)


def _shards_with(snapshot: Snapshot, texts: Sequence[str]) -> list[int]:
    """The shards that may hold some samples."""
    lookups = snapshot.manifest["files"][LOOKUP_KIND]
    return sorted({shard for entry in lookups for shard in shards_with(snapshot.folder / entry["path"], texts)})


def _files(snapshot: Snapshot, kind: str, shard: int) -> Iterator[Path]:
    for entry in snapshot.manifest["files"][kind]:
        if entry["shard"] == shard:
            yield snapshot.folder / entry["path"]


def _matches(snapshot: Snapshot, shard: int, wanted: _Wanted) -> set[str]:
    """The `sample_id`s of a shard that are asked for."""
    found: set[str] = set()
    for path in _files(snapshot, "captions", shard):
        table = read_columns(path, ["sample_id", "caption_id", "url"])
        if wanted.address is None:
            found |= _ids_of(table, wanted)
        else:
            found |= _at_address(table, "url", wanted)
    for path in _files(snapshot, "images", shard):
        if wanted.address is None:
            rows = _rows_where(read_columns(path, ["sample_id", "sha256"]), "sha256", wanted.identity)
            found.update(row["sample_id"] for row in rows)
        else:
            found |= _at_address(read_columns(path, ["sample_id", "final_url"]), "final_url", wanted)
    return found


def _ids_of(table: pa.Table, wanted: _Wanted) -> set[str]:
    """Samples by their own id or by one of a caption."""
    rows = zip(table.column("sample_id").to_pylist(), table.column("caption_id").to_pylist(), strict=True)
    return {sample_id for sample_id, caption_id in rows if wanted.identity in (sample_id, caption_id)}


def _at_address(table: pa.Table, name: str, wanted: _Wanted) -> set[str]:
    rows = zip(table.column("sample_id").to_pylist(), table.column(name).to_pylist(), strict=True)
    return {sample_id for sample_id, url in rows if wanted.is_address(url)}


def _story(snapshot: Snapshot, shard: int, sample_id: str) -> Story:
    captions = _rows(snapshot, "captions", shard, sample_id)
    images = _rows(snapshot, "images", shard, sample_id)
    pairs = dict(_pairs(snapshot, {sample_id: shard}))
    elsewhere = {row["merged_into"] for row in captions if row["merged_into"]} - pairs.keys()
    pairs |= _pairs(snapshot, dict.fromkeys(sorted(elsewhere)))
    own = {row["caption_id"] for row in captions}
    published = pairs[sample_id]["caption_ids"] if sample_id in pairs else []
    return Story(
        snapshot=snapshot,
        sample_id=sample_id,
        shard=shard,
        captions=captions,
        image=images[0] if images else None,
        pairs=pairs,
        guests=[name for name in published if name not in own],
        requests=_requests(snapshot, shard, sample_id),
    )


def _rows(snapshot: Snapshot, kind: str, shard: int, sample_id: str) -> list[Row]:
    """A sample's rows in the files of a kind, with `FILE`."""
    found = []
    for path in _files(snapshot, kind, shard):
        names = [name for name in column_names(path) if name not in _PIXELS]
        rows = _rows_where(read_columns(path, names), "sample_id", sample_id)
        found += [{**row, FILE: path.relative_to(snapshot.folder).as_posix()} for row in rows]
    return found


def _rows_where(table: pa.Table, name: str, value: str) -> list[Row]:
    places = [place for place, found in enumerate(table.column(name).to_pylist()) if found == value]
    return [row for place in places for row in table.slice(place, 1).to_pylist()]


def _pairs(snapshot: Snapshot, samples: Mapping[str, int | None]) -> Iterator[tuple[str, Row]]:
    """The published images of some samples whose shards are known or not."""
    for sample_id, known in samples.items():
        shards = [known] if known is not None else _shards_with(snapshot, [sample_id])
        rows = [row for shard in shards for row in _rows(snapshot, "pairs", shard, sample_id)]
        if rows:
            yield sample_id, {name: rows[0].get(name) for name in (*PAIRS.names, FILE) if name not in _PIXELS}


def _requests(snapshot: Snapshot, shard: int, sample_id: str) -> list[Row]:
    """What the logs beside the snapshots tell of the times that an image was asked for, the oldest log first."""
    logs = (snapshot.folder.parent / FETCH_LOGS).glob(f"{shard:05d}-*.parquet")
    found: list[Row] = []
    for path in sorted(logs, key=lambda path: (path.stat().st_mtime_ns, path.name)):
        found += _rows_where(read_columns(path, None), "sample_id", sample_id)
    return found


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
