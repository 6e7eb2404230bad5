"""Recorded outcomes of URLs: each is recorded once, and looked up before a request is made.

Outcomes stay in the files that builds write: in `images/` of the existing snapshots, and in the fetch outputs of
unfinished builds. The pictures are in `pairs/`, or in `images/spare-*` if no pair has them. A picture takes precedence
over a failure, then the later attempt over the earlier one.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_catalog.database.connections import connect_spilling
from data_catalog.errors import DamagedError
from data_catalog.fetch.config import POLITE
from data_catalog.fetch.journal import Piece
from data_catalog.fetch.reasons import FETCH_REASONS, is_retryable
from data_catalog.images.tables import IMAGE_COLUMNS, PieceReader, Row, read_groups, write_rows
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

# Locations of recorded outcomes: by the URL's hash, the number of a file and the row in it.
_FACTS = pa.schema(
    {
        "key": pa.uint64(),
        "good": pa.bool_(),
        "attempt": pa.int32(),
        "file": pa.int32(),
        "row": pa.int32(),
        "picture_file": pa.int32(),
        "picture_row": pa.int32(),
    }
)
# Settings that older outcomes do not name.
_DEFAULTS = {"engine": POLITE}
_RETRYABLE = sorted(name for name, reason in FETCH_REASONS.items() if reason.retryable)


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


class RecordedOutcomes:
    """An index of the recorded outcomes in a root that are valid for a build, by URL."""

    def __init__(
        self, root: Path, fetching: Fetching, *, snapshots: bool = True, unfinished: Sequence[str] | None = None
    ) -> None:
        """Index the snapshots and unfinished builds of a root.

        Args:
            root: of the catalog.
            fetching: decides which outcomes are valid.
            snapshots: index the snapshots of all datasets.
            unfinished: datasets whose unfinished builds are indexed; None: all.

        Raises:
            DamagedError: a snapshot's file of outcomes is damaged.
        """
        self._root, self._fetching = root, fetching
        self._files: list[_File] = []
        self._connection = connect_spilling(root / "work")
        found = [_FACTS.empty_table()]
        for dataset in dataset_names(root) if snapshots else ():
            for snapshot in committed_snapshots(root, dataset):
                if _DEFAULTS | snapshot.manifest["settings"]["fetch"] == fetching.fetch:
                    found += self._of_snapshot(snapshot)
        found += self._unfinished(unfinished)
        # Equal outcomes are ordered by file and row, so that a resumed build uses the same one.
        order = {"key": "ascending", "good": "descending", "attempt": "descending", "file": "ascending"}
        facts = pa.concat_tables(found).sort_by([*order.items(), ("row", "ascending")])
        keys = facts.column("key").to_numpy()
        is_first = np.ones(len(keys), np.bool_)
        is_first[1:] = keys[1:] != keys[:-1]
        self._facts = facts.filter(pa.array(is_first)).combine_chunks()
        self._keys = keys[is_first]

    def urls(self) -> pa.Table:
        """Return the canonical `url` and the `sample_id` of every outcome, in the order of files and rows."""
        tables = [pa.schema({"url": pa.string(), "sample_id": pa.string()}).empty_table()]
        for file in self._facts.group_by("file").aggregate([("row", "list")]).sort_by("file").to_pylist():
            table = pq.read_table(self._files[file["file"]].path, columns=["url", "sample_id"])
            tables.append(table.take(sorted(file["row_list"])).select(["url", "sample_id"]).cast(tables[0].schema))
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

        Raises:
            DamagedError: a snapshot's file is damaged.
        """
        facts = self._facts.take(self._places(urls)).to_pylist()  # all values are None for images without an outcome
        by_file: defaultdict[int, list[int]] = defaultdict(list)
        for position, fact in enumerate(facts):
            if fact["file"] is not None:
                by_file[fact["file"]].append(position)
        asked = urls.to_pylist()
        rows: dict[int, Row] = {}  # by position; without bytes
        for number, positions in by_file.items():
            path = self._files[number].path
            names = [name for name in pq.read_schema(path).names if name not in IMAGE_COLUMNS]
            table = pq.read_table(path, columns=names).take([facts[position]["row"] for position in positions])
            for position, row in zip(positions, table.to_pylist(), strict=True):
                if (row.pop("canonical_url", None) or row["url"]) == asked[position]:  # else two URLs have one hash
                    rows[position] = row | {"url": asked[position]}
        scratch = folder / "pictures"
        pieces = self._spill({position: facts[position] for position in rows}, scratch)
        where: list[int | None] = [None] * len(facts)
        for position, row in rows.items():
            found = self._as_written(facts[position], row, pieces[position], sample_ids[position])
            where[position], rows[position] = found
        with PieceReader() as reader:
            for place, schema, name in ((IN_RAW, RAW_IMAGES, RAW_FILE), (IN_IMAGES, IMAGES, IMAGES_FILE)):
                chosen = (rows[position] for position, at in enumerate(where) if at == place)
                if place in where:
                    write_rows(map(reader.filled, chosen), schema, folder / name)
        scratch.unlink(missing_ok=True)
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

    def _of_snapshot(self, snapshot: Snapshot) -> Iterator[pa.Table]:
        settings = snapshot.manifest["settings"]["normalise"]
        is_same = settings == self._fetching.normalise
        has_pictures = str(is_same or settings["keep_original"]).lower()
        entries = snapshot.manifest["files"]
        own = snapshot.dataset == self._fetching.dataset
        outcomes, pairs, spare = (
            [_File(snapshot.folder / entry["path"], entry["sha256"], is_same=is_same) for entry in found]
            for found in (entries["images"], entries["pairs"], entries["spare"])
        )
        for file in outcomes:
            file.require_whole()
        url = "coalesce(canonical_url, url)"
        if outcomes:
            pictures = _parquet(pairs) if pairs else "(SELECT NULL AS sample_id, NULL AS filename, 0 AS number)"
            query = f"""
                SELECT hash({url}) AS key, o.*, p.filename AS picture, p.number AS picture_row
                FROM {_parquet(outcomes)} o LEFT JOIN (SELECT sample_id, filename, number FROM {pictures}) p
                USING (sample_id) WHERE url IS NOT NULL
                AND ({self._holds(own, is_same=is_same)}
                    OR ({has_pictures} AND drop_reason IS NULL AND picture IS NOT NULL))
            """
            yield self._facts_of(query, outcomes, pairs, own=own)
        if spare:
            query = f"""
                SELECT hash({url}) AS key, *, filename AS picture, number AS picture_row FROM {_parquet(spare)}
                WHERE url IS NOT NULL
                AND ({self._holds(own, is_same=is_same)} OR (drop_reason IS NULL AND ({has_pictures} OR width IS NULL)))
            """
            yield self._facts_of(query, spare, own=own)

    def _unfinished(self, datasets: Sequence[str] | None) -> Iterator[pa.Table]:
        """Yield the outcomes in the fetch outputs of unfinished builds, schema `_FACTS`."""
        for folder in sorted((self._root / "work").glob("*/fetch")):
            if datasets is not None and folder.parent.name not in datasets:
                continue
            own = folder.parent.name == self._fetching.dataset
            for commit, key in WorkStore(folder.parent).commits("fetch"):
                if key["version"] != VERSION or _DEFAULTS | key["settings"]["config"] != self._fetching.fetch:
                    continue
                is_same = key["settings"]["normalise"] == self._fetching.normalise
                for name in (FETCHED_FILE, RAW_FILE, IMAGES_FILE):
                    is_raw = name != IMAGES_FILE
                    if name not in commit.files or not (is_raw or is_same):
                        continue
                    file = _File(commit.path(name), commit.files[name], is_same=is_same, is_raw=is_raw)
                    if not file.is_whole():
                        logger.warning("%s is damaged. Its images are fetched again", file.path)
                        continue
                    failed_by = (
                        f"CASE WHEN drop_reason IN ({_sql_list(FETCH_REASONS)}) THEN 'fetch' ELSE 'normalise' END"
                    )
                    step = "'fetch'" if is_raw else failed_by
                    query = f"""
                        SELECT hash(url) AS key, *, filename AS picture, number AS picture_row
                        FROM (SELECT *, {step} AS step FROM {_parquet([file])})
                        WHERE url IS NOT NULL AND ({self._holds(own, is_same=True)} OR drop_reason IS NULL)
                    """
                    yield self._facts_of(query, [file], own=own)

    def _holds(self, own: bool, *, is_same: bool) -> str:
        """Return an SQL condition for failures that are valid for the build."""
        attempt = self._fetching.attempt
        is_new = f"attempt >= {attempt}" if own else str(attempt == 0).lower()
        fetched = f"step = 'fetch' AND (drop_reason NOT IN ({_sql_list(_RETRYABLE)}) OR {is_new})"
        normalised = f"step = 'normalise' AND drop_reason <> 'forgotten' AND {str(is_same).lower()}"
        return f"(drop_reason IS NOT NULL AND ({fetched} OR {normalised}))"

    def _facts_of(
        self, query: str, files: "Sequence[_File]", pictures: "Sequence[_File]" = (), *, own: bool
    ) -> pa.Table:
        """Return the outcomes that a query selects from files, schema `_FACTS`.

        Args:
            query: in SQL.
            files: that contain the outcomes.
            pictures: files that contain the pictures; empty: the same files.
            own: the files belong to the dataset that is built, so that their attempts count.
        """
        import duckdb

        first, places = len(self._files), [*files, *pictures]
        self._files += places
        query = f"""
            SELECT key, drop_reason IS NULL AS good, {"coalesce(attempt, 0)" if own else "0"} AS attempt,
                filename AS file, number AS row, picture::VARCHAR AS picture_file, picture_row FROM ({query})
        """
        try:
            found: Any = self._connection.sql(query).to_arrow_table()
        except duckdb.Error as error:
            for file in places:
                file.require_whole()
            raise DamagedError(f"{files[0].path.parent} cannot be read ({error}). Run `vernaclip verify`") from error
        paths = pa.array([str(file.path) for file in places])
        for name in ("file", "picture_file"):
            numbers = pc.add(pc.index_in(found.column(name), value_set=paths), first)
            found = found.set_column(found.schema.get_field_index(name), name, numbers)
        return found.cast(_FACTS)

    def _spill(self, facts: Mapping[int, Row], scratch: Path) -> Mapping[int, dict[str, Piece]]:
        """Copy the bytes of pictures into one file, ordered by file and row, so that each row group is read once."""
        pieces: defaultdict[int, dict[str, Piece]] = defaultdict(dict)
        by_file: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        for position, fact in facts.items():
            if fact["good"]:
                by_file[fact["picture_file"]].append((fact["picture_row"], position))
        with scratch.open("wb") as out:
            for number, places in sorted(by_file.items()):
                self._files[number].require_whole()
                for position, name, content in _bytes_of(self._files[number].path, sorted(places)):
                    pieces[position][name] = Piece(scratch, out.tell(), len(content))
                    out.write(content)
        return pieces

    def _as_written(self, fact: Row, row: Row, pieces: Mapping[str, Piece], sample_id: str) -> tuple[int, Row]:
        """Return the number of the step's file that an outcome goes to, and its row there, with pieces for bytes."""
        shared = {"sample_id": sample_id, "attempt": fact["attempt"]}
        file = self._files[fact["file"]]
        if row["drop_reason"] is None:
            is_image = file.is_same and row.get("width") is not None
        else:
            is_image = row["drop_reason"] not in FETCH_REASONS
        if is_image and not file.is_raw:
            return IN_IMAGES, {name: row.get(name) for name in IMAGES.names} | shared | dict(pieces)
        content = pieces.get("original", pieces.get("bytes"))
        return IN_RAW, {name: row.get(name) for name in RAW_IMAGES.names} | shared | {"bytes": content}


@dataclass(slots=True)
class _File:
    """A file that contains outcomes.

    Args:
        path: of the file.
        sha256: of its bytes, as recorded.
        is_same: its pictures were normalised with the build's settings.
        is_raw: its pictures are not normalised.
        looked_at: its bytes were checked and match.
    """

    path: Path
    sha256: str
    is_same: bool = True
    is_raw: bool = False
    looked_at: bool = False

    def is_whole(self) -> bool:
        self.looked_at = self.looked_at or (self.path.is_file() and sha256_of(self.path) == self.sha256)
        return self.looked_at

    def require_whole(self) -> None:
        if not self.is_whole():
            raise DamagedError(
                f"{self.path} is missing or damaged, so a build can't reuse its images. Run `vernaclip verify`. If you "
                f"remove the folder {self.path.parents[1]}, its images are fetched again"
            )


def _bytes_of(path: Path, places: Sequence[tuple[int, int]]) -> Iterator[tuple[int, str, bytes]]:
    """Yield position, column and bytes of some rows of a file; `places` are sorted pairs of row number and position."""
    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        columns = [name for name in ("image", "bytes", "original") if name in names]
        start = 0
        for group in range(file.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            here = [(row - start, position) for row, position in places if start <= row < end]
            if here:
                table = file.read_row_group(group, columns=columns).take([row for row, _ in here])
                for (_, position), found in zip(here, table.to_pylist(), strict=True):
                    image = found.pop("image", None)
                    for name, content in {**found, **({"bytes": image["bytes"]} if image else {})}.items():
                        if content is not None:
                            yield position, name, content
            start = end


def _parquet(files: "Sequence[_File]") -> str:
    names = ", ".join("'" + str(file.path).replace("'", "''") + "'" for file in files)
    return (
        f"(SELECT * RENAME (file_row_number AS number) FROM read_parquet([{names}], filename = true, "
        "file_row_number = true, hive_partitioning = false))"
    )


def _sql_list(reasons: Sequence[str] | Mapping[str, Any]) -> str:
    return ", ".join(f"'{reason}'" for reason in reasons)


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
    for name in (RAW_FILE, IMAGES_FILE):
        if not (folder / name).is_file():
            continue
        for group in read_groups(folder / name):
            rows = [_spare_row(row, is_raw=name == RAW_FILE) for row in group]
            facts = [{key: value for key, value in row.items() if key not in IMAGE_COLUMNS} for row in rows]
            taken_down = is_taken_down(pa.Table.from_pylist(facts, schema=OUTCOMES))
            yield from (row for row, is_one in zip(rows, taken_down, strict=True) if not is_one)


def _spare_row(row: Row, *, is_raw: bool) -> Row:
    reason = row["drop_reason"]
    found = {name: row.get(name) for name in SPARE.names}
    found["source"] = row["sample_id"].partition(":")[0]
    found["step"] = None if reason is None else "fetch" if reason in FETCH_REASONS else "normalise"
    if is_raw:
        found["bytes"], found["original"] = None, row["bytes"]
    return found


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
        fetching = Fetching(dataset=dataset, attempt=0, fetch=settings["config"], normalise=settings["normalise"])
        known_by = digest(settings)
        if known_by not in indexes:
            indexes[known_by] = RecordedOutcomes(root, fetching, unfinished=())
        names = [name for name in (FETCHED_FILE, RAW_FILE, IMAGES_FILE) if name in commit.files]
        columns = [pq.read_table(commit.path(name), columns=["url"]).column("url") for name in names]
        urls = pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string()).drop_null()
        if not all(indexes[known_by].has(urls.combine_chunks())):
            found.append(commit.folder)
    return found


def attempts_path(root: Path, dataset: str) -> Path:
    """Return the path of the record of a dataset's attempt."""
    return root / "memory" / f"attempt-{dataset}.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """The attempt of a dataset: each one requests failed images again.

    Args:
        number: 0 for the first build.
        is_under_way: the attempt was begun, and no build has ended since.
    """

    number: int = 0
    is_under_way: bool = False


def attempt_of(root: Path, dataset: str) -> Attempt:
    """Return a dataset's attempt.

    Raises:
        DamagedError: its record is damaged.
    """
    path = attempts_path(root, dataset)
    remedy = "remove it; attempts are then counted from the snapshots"
    recorded = Attempt(**read_checksummed(path, remedy=remedy)) if path.is_file() else Attempt()
    last = max((int(snapshot.manifest["attempt"]) for snapshot in committed_snapshots(root, dataset)), default=0)
    return recorded if recorded.number >= last else Attempt(number=last)


def begin_attempt(root: Path, dataset: str) -> Attempt:
    """Begin an attempt, and record it. An attempt that has not ended continues with its number.

    Raises:
        DamagedError: the record of the attempt is damaged.
    """
    attempt = attempt_of(root, dataset)
    if not attempt.is_under_way:
        attempt = Attempt(number=attempt.number + 1, is_under_way=True)
        _record(root, dataset, attempt)
    return attempt


def end_attempt(root: Path, dataset: str) -> None:
    """Record that a build has ended, so that the next attempt gets a new number and requests failed images again."""
    attempt = attempt_of(root, dataset)
    if attempt.is_under_way:
        _record(root, dataset, replace(attempt, is_under_way=False))


def _record(root: Path, dataset: str, attempt: Attempt) -> None:
    failpoint("attempt.before_record", attempts_path(root, dataset))
    write_checksummed(attempts_path(root, dataset), asdict(attempt))
    failpoint("attempt.after_record", attempts_path(root, dataset))


def num_retryable(snapshot: Snapshot) -> int:
    """Count the images of a snapshot that are missing for a retryable reason.

    Raises:
        DamagedError: the snapshot is damaged.
    """
    count = 0
    for entry in snapshot.manifest["files"]["images"]:
        file = _File(snapshot.folder / entry["path"], entry["sha256"])
        file.require_whole()
        reasons = pq.read_table(file.path, columns=["drop_reason"]).column("drop_reason").to_pylist()
        count += sum(is_retryable(reason) for reason in reasons)
    return count
