"""Recorded outcomes of URLs: each is recorded once, and looked up before a request is made.

Outcomes stay in the files that builds write: in `images/` of the existing snapshots, and in the fetch outputs of
unfinished builds. The pictures are in `pairs/`, or in `images/spare-*` if no pair has them. A picture takes precedence
over a failure, then the later attempt over the earlier one.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_catalog.database.connections import connect_spilling
from data_catalog.errors import DamagedError
from data_catalog.fetch.config import POLITE
from data_catalog.fetch.journal import Piece, PieceReader
from data_catalog.fetch.reasons import FETCH_REASONS, image_step, is_retryable
from data_catalog.images.tables import IMAGE_COLUMNS, Row, read_groups, write_rows
from data_catalog.schema import IMAGES, OUTCOMES, RAW_IMAGES
from data_catalog.storage.failpoints import failpoint
from data_catalog.storage.integrity import read_checksummed, write_checksummed
from data_catalog.storage.manifest import Snapshot, committed_snapshots, dataset_names
from data_catalog.storage.shards import digest, sha256_of
from data_catalog.storage.work import WorkStore

logger = logging.getLogger(__name__)

# Version of the fetch step. It is raised when its output changes; outputs of earlier versions in `work/` are ignored.
VERSION = 6
# Files of the fetch step: images that were fetched now; recorded ones as they came; recorded ones that are normalised.
FETCHED_FILE, RAW_FILE, IMAGES_FILE = "asked.parquet", "raw.parquet", "images.parquet"
# It has, for each image of the shard in order, the file that contains it.
ORDER_FILE = "order.parquet"
IN_FETCHED, IN_RAW, IN_IMAGES = range(3)

# Pictures that no pair has, and recorded outcomes of images that are not in the snapshot.
SPARE = pa.schema([*OUTCOMES, IMAGES.field("bytes"), IMAGES.field("original")])

# Settings that older outcomes do not name.
_DEFAULTS = {"engine": POLITE}
# As lists in SQL.
_FETCH = tuple(FETCH_REASONS)
_RETRYABLE = tuple(filter(is_retryable, FETCH_REASONS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetching:
    """The part of a build that decides whether a recorded outcome is valid for it.

    Args:
        dataset: that is built.
        attempt: its number; retryable failures are only valid if they are from this attempt.
        fetch: what-settings of section `[fetch]`.
        normalise: what-settings of section `[normalise]`.
    """

    dataset: str
    attempt: int
    fetch: Mapping[str, Any]
    normalise: Mapping[str, Any]


@dataclass(slots=True)
class _File:
    """A file with outcomes or pictures, whose sha256 is compared once."""

    path: Path
    sha256: str
    was_whole: bool = False

    def is_whole(self) -> bool:
        self.was_whole = self.was_whole or (self.path.is_file() and sha256_of(self.path) == self.sha256)
        return self.was_whole

    def require_whole(self) -> None:
        if not self.is_whole():
            raise DamagedError(
                f"{self.path} is missing or damaged, so a build can't reuse its images. Run `vernaclip verify`. If you "
                f"remove the folder {self.path.parents[1]}, its images are fetched again"
            )


class RecordedOutcomes:
    """An index of the recorded outcomes in a root that are valid for a build, by URL."""

    def __init__(
        self, root: Path, fetching: Fetching, *, snapshots: bool = True, unfinished: Sequence[str] | None = None
    ) -> None:
        """Index the snapshots and unfinished builds of a root. A damaged snapshot is refused.

        Args:
            root: of the catalog.
            fetching: decides which outcomes are valid.
            snapshots: index the snapshots of all datasets.
            unfinished: datasets whose unfinished builds are indexed; None: all.
        """
        self._fetching = fetching
        self._files: list[_File] = []
        self._connection = connect_spilling(root / "work")
        # Numbers of files and rows, by the hash of the canonical URL. `normalised`: the build can use it as it is.
        self._connection.execute(
            "CREATE TABLE found (key UBIGINT, good BOOLEAN, attempt INTEGER, normalised BOOLEAN, file INTEGER, "
            "number INTEGER, picture_file INTEGER, picture_number INTEGER)"
        )
        for dataset in dataset_names(root) if snapshots else ():
            for snapshot in committed_snapshots(root, dataset):
                if _DEFAULTS | snapshot.manifest["settings"]["fetch"] == fetching.fetch:
                    self._index_snapshot(snapshot)
        for folder in sorted((root / "work").glob("*/fetch")):
            if unfinished is None or folder.parent.name in unfinished:
                self._index_unfinished(WorkStore(folder.parent))
        # Equal outcomes are ordered by file and row, so that a resumed build uses the same one.
        best = "PARTITION BY key ORDER BY good DESC, attempt DESC, file, number"
        query = f"SELECT * FROM found QUALIFY row_number() OVER ({best}) = 1 ORDER BY key"
        facts: Any = self._connection.sql(query).to_arrow_table()
        self._facts: pa.Table = facts.combine_chunks()
        self._keys = self._facts.column("key").to_numpy()
        self._connection.execute("DROP TABLE found")

    def urls(self) -> pa.Table:
        """Return the canonical `url` and the `sample_id` of every outcome, in the order of files and rows."""
        tables = [pa.schema({"url": pa.string(), "sample_id": pa.string()}).empty_table()]
        for file in self._facts.group_by("file").aggregate([("number", "list")]).sort_by("file").to_pylist():
            table = pq.read_table(self._files[file["file"]].path, columns=["url", "sample_id"])
            tables.append(table.take(sorted(file["number_list"])).select(["url", "sample_id"]).cast(tables[0].schema))
        return pa.concat_tables(tables)

    def has(self, urls: pa.Array) -> list[bool]:
        """Return for each canonical URL whether it has a valid outcome."""
        found: list[bool] = self._places(urls).is_valid().to_pylist()
        return found

    def write_recorded(self, urls: pa.Array, sample_ids: Sequence[str], folder: Path) -> list[int | None]:
        """Write the recorded outcomes of some images into `RAW_FILE` and `IMAGES_FILE` of a folder, in their order.

        Args:
            urls: canonical URLs; null has no outcome.
            sample_ids: of the images.
            folder: of the fetch step; only files that have a row are written.

        Returns:
            For each image, `IN_RAW`, `IN_IMAGES`, or None if it has no recorded outcome.
        """
        facts = self._facts.take(self._places(urls)).to_pylist()  # all values are None for images without an outcome
        asked = urls.to_pylist()
        rows: dict[int, Row] = {}  # by position; without bytes
        there = [position for position, fact in enumerate(facts) if fact["key"] is not None]
        for file, places in self._by_file(there, facts, "file"):
            names = [name for name in pq.read_schema(file.path).names if name not in IMAGE_COLUMNS]
            table = pq.read_table(file.path, columns=names).take([number for number, _ in places])
            for (_, position), row in zip(places, table.to_pylist(), strict=True):
                if (row.pop("canonical_url", None) or row["url"]) == asked[position]:  # else two URLs have one hash
                    shared = {"url": asked[position], "sample_id": sample_ids[position]}
                    rows[position] = row | shared | {"attempt": facts[position]["attempt"]}
        # The bytes are copied in the order of their files, so that each row group is read once.
        scratch = folder / "pictures"
        good = [position for position, row in rows.items() if row["drop_reason"] is None]
        with scratch.open("wb") as out:
            for file, places in self._by_file(good, facts, "picture_file", "picture_number"):
                file.require_whole()
                for position, name, content in _bytes_of(file.path, places):
                    rows[position][name] = Piece(scratch, out.tell(), len(content))
                    out.write(content)
        where: list[int | None] = [None] * len(facts)
        for position, row in rows.items():
            where[position] = IN_IMAGES if facts[position]["normalised"] else IN_RAW
            if where[position] == IN_RAW:
                row["bytes"] = row.pop("original", row.get("bytes"))
        with PieceReader() as reader:
            for place, schema, name in ((IN_RAW, RAW_IMAGES, RAW_FILE), (IN_IMAGES, IMAGES, IMAGES_FILE)):
                chosen = (rows[position] for position, at in enumerate(where) if at == place)
                if place in where:
                    write_rows(map(reader.filled, chosen), schema, folder / name)
        scratch.unlink()
        return where

    def _places(self, urls: pa.Array) -> pa.Array:
        """Return the row of each URL in `_facts`, or null."""
        if not len(self._keys):
            return pa.nulls(len(urls), pa.int64())
        with self._connection.cursor() as connection:  # one for each thread
            connection.register("asked", pa.table({"url": urls, "n": range(len(urls))}))
            table: Any = connection.sql("SELECT hash(url) AS key FROM asked ORDER BY n").to_arrow_table()
        keys = table.column("key").to_numpy()
        places = np.searchsorted(self._keys, keys)
        is_there = self._keys.take(places, mode="clip") == keys
        return pc.if_else(pc.and_(urls.is_valid(), pa.array(is_there)), pa.array(places), None)

    def _by_file(
        self, positions: Iterable[int], facts: Sequence[Row], file: str, number: str = "number"
    ) -> Iterator[tuple[_File, list[tuple[int, int]]]]:
        """Yield each file of some facts, with pairs of row number and position, both in order."""
        places = sorted((facts[position][file], facts[position][number], position) for position in positions)
        for found, group in groupby(places, key=lambda place: place[0]):
            yield self._files[found], [place[1:] for place in group]

    def _index_snapshot(self, snapshot: Snapshot) -> None:
        outcomes, pairs, spare = (
            [_File(snapshot.folder / entry["path"], entry["sha256"]) for entry in snapshot.manifest["files"][kind]]
            for kind in ("images", "pairs", "spare")
        )
        for file in outcomes:
            file.require_whole()
        settings = snapshot.manifest["settings"]["normalise"]
        facts: Any = {
            "own": snapshot.dataset == self._fetching.dataset,
            "is_same": settings == self._fetching.normalise,
            "url": "coalesce(canonical_url, url)",
        }
        is_usable = facts["is_same"] or settings["keep_original"]
        self._index(outcomes, pairs, usable="p.sample_id IS NOT NULL" if pairs and is_usable else "false", **facts)
        self._index(spare, usable="true" if is_usable else "width IS NULL", **facts)

    def _index_unfinished(self, work: WorkStore) -> None:
        raw: list[_File] = []
        images: list[_File] = []
        for commit, key in work.commits("fetch"):
            if key["version"] != VERSION or _DEFAULTS | key["settings"]["config"] != self._fetching.fetch:
                continue
            kinds = [(FETCHED_FILE, raw), (RAW_FILE, raw)]
            if key["settings"]["normalise"] == self._fetching.normalise:
                kinds.append((IMAGES_FILE, images))
            for name, files in kinds:
                if name in commit.files:
                    file = _File(commit.path(name), commit.files[name])
                    if file.is_whole():
                        files.append(file)
                    else:
                        logger.warning("%s is damaged. Its images are fetched again", file.path)
        own = work.folder.name == self._fetching.dataset
        self._index(raw, own=own, is_same=False)
        self._index(images, own=own, is_same=True)

    def _index(
        self,
        files: Sequence[_File],
        pairs: Sequence[_File] = (),
        *,
        own: bool,
        is_same: bool,
        usable: str = "true",
        url: str = "url",
    ) -> None:
        """Index the valid outcomes of files; `pairs` have their pictures, of which the build can use those `usable`."""
        import duckdb

        if not files:
            return
        first = len(self._files)
        self._files += [*files, *pairs]
        paths = {"files": [str(file.path) for file in files]}
        join, picture = "", f"{first} + o.file_index, o.file_row_number"
        if pairs:
            paths["pairs"] = [str(file.path) for file in pairs]
            join = """LEFT JOIN (SELECT sample_id, file_index, file_row_number
                FROM read_parquet($pairs, hive_partitioning = false)) p ON o.sample_id = p.sample_id"""
            picture = f"{first + len(files)} + p.file_index, p.file_row_number"
        attempt = "coalesce(attempt, 0)" if own else "0"
        query = f"""
            INSERT INTO found
            SELECT hash({url}), drop_reason IS NULL, {attempt},
                CASE WHEN drop_reason IS NULL THEN {"width IS NOT NULL" if is_same else "false"}
                ELSE drop_reason NOT IN {_FETCH} END,
                {first} + o.file_index, o.file_row_number, {picture}
            FROM read_parquet($files, hive_partitioning = false) o {join}
            WHERE url IS NOT NULL AND CASE
                WHEN drop_reason IS NULL THEN {usable}
                WHEN drop_reason IN {_RETRYABLE} THEN {attempt} >= {self._fetching.attempt}
                WHEN drop_reason IN {_FETCH} THEN true
                ELSE drop_reason <> 'forgotten' AND {is_same} END
        """
        try:
            self._connection.execute(query, paths)
        except duckdb.Error as error:
            for file in (*files, *pairs):
                file.require_whole()
            raise DamagedError(f"{files[0].path.parent} cannot be read ({error}). Run `vernaclip verify`") from error


def _bytes_of(path: Path, places: Sequence[tuple[int, int]]) -> Iterator[tuple[int, str, bytes]]:
    """Yield position, column and bytes of some rows of a file; `places` are sorted pairs of row number and position."""
    with pq.ParquetFile(path) as file:
        columns = [name for name in ("image", "bytes", "original") if name in file.schema_arrow.names]
        start = 0
        for group in range(file.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            here = [(number - start, position) for number, position in places if start <= number < end]
            if here:
                table = file.read_row_group(group, columns=columns).take([number for number, _ in here])
                for (_, position), found in zip(here, table.to_pylist(), strict=True):
                    if "image" in found:
                        found["bytes"] = found.pop("image")["bytes"]
                    yield from ((position, name, content) for name, content in found.items() if content is not None)
            start = end


def unpublished_outcomes(
    root: Path,
    fetching: Fetching,
    published: Sequence[Path],
    is_taken_down: Callable[[pa.Table], Sequence[bool]],
    folder: Path,
) -> Iterator[Row]:
    """Yield outcomes that unfinished builds of a dataset have recorded and a snapshot has not, schema `SPARE`.

    Args:
        root: of the catalog.
        fetching: settings of the snapshot's build; outcomes of other settings are left out.
        published: the snapshot's files of outcomes.
        is_taken_down: returns which rows are taken down: they are left out.
        folder: for temporary files; empty, and removed by the caller.
    """
    known = RecordedOutcomes(root, fetching, snapshots=False, unfinished=[fetching.dataset])
    unpublished = known.urls()
    for path in published:
        table = pq.read_table(path, columns=["canonical_url", "url"])
        there = pc.coalesce(table.column("canonical_url"), table.column("url"))
        unpublished = unpublished.filter(pc.invert(pc.is_in(unpublished.column("url"), there)))
    known.write_recorded(
        unpublished.column("url").combine_chunks(), unpublished.column("sample_id").to_pylist(), folder
    )
    for path in filter(Path.is_file, (folder / RAW_FILE, folder / IMAGES_FILE)):
        for rows in read_groups(path):
            for row in rows:
                row["source"] = row["sample_id"].partition(":")[0]
                row["step"] = image_step(row["drop_reason"]) if row["drop_reason"] else None
                if path.name == RAW_FILE:
                    row["original"] = row.pop("bytes")
            taken_down = is_taken_down(pa.Table.from_pylist(rows, schema=OUTCOMES))
            yield from (row for row, is_one in zip(rows, taken_down, strict=True) if not is_one)


def needed_fetch_outputs(root: Path, work: WorkStore, dataset: str, *, used: Collection[str] = ()) -> list[Path]:
    """Return the fetch outputs of a dataset with an outcome that no snapshot has: later builds need them.

    Args:
        root: of the catalog.
        work: step outputs of the dataset.
        dataset: its name.
        used: keys of outputs that a snapshot was made from.
    """
    indexes: dict[str, RecordedOutcomes] = {}
    found = []
    for commit, key in work.commits("fetch"):
        if commit.folder.name in used or key["version"] != VERSION:
            continue
        settings = key["settings"]
        known_by = digest(settings)
        if known_by not in indexes:
            fetching = Fetching(dataset=dataset, attempt=0, fetch=settings["config"], normalise=settings["normalise"])
            indexes[known_by] = RecordedOutcomes(root, fetching, unfinished=())
        files = [commit.path(name) for name in (FETCHED_FILE, RAW_FILE, IMAGES_FILE) if name in commit.files]
        urls = pa.concat_tables([pq.read_table(path, columns=["url"]) for path in files]).column("url").drop_null()
        if not all(indexes[known_by].has(urls.combine_chunks())):
            found.append(commit.folder)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """The attempt of a dataset, 0 for its first build: each one requests failed images again.

    It is under way until a build ends.
    """

    number: int = 0
    is_under_way: bool = False


def _attempt_path(root: Path, dataset: str) -> Path:
    return root / "memory" / f"attempt-{dataset}.json"


def attempt_of(root: Path, dataset: str) -> Attempt:
    """Return a dataset's attempt."""
    path = _attempt_path(root, dataset)
    remedy = "remove it; attempts are then counted from the snapshots"
    recorded = Attempt(**read_checksummed(path, remedy=remedy)) if path.is_file() else Attempt()
    last = max((snapshot.manifest["attempt"] for snapshot in committed_snapshots(root, dataset)), default=0)
    return recorded if recorded.number >= last else Attempt(number=last)


def begin_attempt(root: Path, dataset: str) -> Attempt:
    """Begin an attempt, and record it. An attempt that has not ended continues with its number."""
    attempt = attempt_of(root, dataset)
    return (
        attempt
        if attempt.is_under_way
        else _recorded(root, dataset, Attempt(number=attempt.number + 1, is_under_way=True))
    )


def end_attempt(root: Path, dataset: str) -> None:
    """Record that a build has ended, so that the next attempt gets a new number and requests failed images again."""
    attempt = attempt_of(root, dataset)
    if attempt.is_under_way:
        _recorded(root, dataset, replace(attempt, is_under_way=False))


def _recorded(root: Path, dataset: str, attempt: Attempt) -> Attempt:
    path = _attempt_path(root, dataset)
    failpoint("attempt.before_record", path)
    write_checksummed(path, asdict(attempt))
    failpoint("attempt.after_record", path)
    return attempt
