"""Recorded outcomes of URLs, which are looked up before a request is made.

They stay in the files that builds write: in `images/` of the existing snapshots, and in the fetch outputs of unfinished
builds. The pictures are in `pairs/`, or in `images/spare-*` if no pair has them. A picture takes precedence over a
failure, then the later attempt over the earlier one.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_catalog.base.errors import DamagedError
from data_catalog.catalog.connections import connect_spilling
from data_catalog.catalog.manifest import Snapshot, committed_snapshots, dataset_names
from data_catalog.catalog.work import WorkStore
from data_catalog.disk.failpoints import failpoint
from data_catalog.disk.files import digest
from data_catalog.disk.records import file_problem, read_checksummed, write_checksummed
from data_catalog.disk.row_groups import IMAGE_COLUMNS, Row, read_groups, write_rows
from data_catalog.fetch.config import POLITE
from data_catalog.fetch.journal import Piece
from data_catalog.rows.fetch_reasons import FETCH_REASONS, RETRYABLE, image_step
from data_catalog.rows.image_formats import HEIF, reads_heif
from data_catalog.rows.schema import IMAGES, OUTCOMES, RAW_IMAGES

logger = logging.getLogger(__name__)

# Version of the fetch step. It is raised when its output changes; outputs of earlier versions in `work/` are ignored.
VERSION = 6
# Files of the fetch step: images that were fetched now; recorded ones as they came; recorded ones that are normalised.
FETCHED_FILE, RAW_FILE, IMAGES_FILE = "asked.parquet", "raw.parquet", "images.parquet"
ORDER_FILE = "order.parquet"  # for each image of the shard in order, the file that contains it
IN_FETCHED, IN_RAW, IN_IMAGES = range(3)
# Pictures that no pair has, and recorded outcomes of images that are not in the snapshot.
SPARE = pa.schema([*OUTCOMES, IMAGES.field("bytes"), IMAGES.field("original")])
_DEFAULTS = {"engine": POLITE}  # settings that older outcomes do not name
_LACKED_HEIF = f"drop_reason = 'format_not_allowed' AND (detail = '{HEIF}' OR starts_with(detail, '{HEIF}: '))"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetching:
    """The part of a build that decides whether a recorded outcome is valid for it."""

    dataset: str
    attempt: int  # retryable failures are only valid if they are from this attempt of the dataset
    fetch: Mapping[str, Any]  # what-settings of section `[fetch]`
    normalise: Mapping[str, Any]


class RecordedOutcomes:
    """An index, by URL, of the outcomes in a root that are valid for a build: of snapshots, and of unfinished builds.

    With `unfinished`, only these datasets' unfinished builds are indexed.
    """

    def __init__(
        self, root: Path, fetching: Fetching, *, snapshots: bool = True, unfinished: Sequence[str] | None = None
    ) -> None:
        self._fetching = fetching
        self._files: list[Path] = []
        self._unchecked: dict[Path, str] = {}  # the sha256 of files of snapshots, until they are compared
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
        self._connection.execute(
            "CREATE TABLE best AS SELECT * FROM found "
            "QUALIFY row_number() OVER (PARTITION BY key ORDER BY good DESC, attempt DESC, file, number) = 1"
        )
        self._connection.execute("DROP TABLE found")

    def urls(self) -> pa.Table:
        """Return the canonical `url` and the `sample_id` of every outcome, in the order of files and rows."""
        query = "SELECT file, list(number ORDER BY number) FROM best GROUP BY file ORDER BY file"
        schema = pa.schema({"url": pa.string(), "sample_id": pa.string()})
        tables = [schema.empty_table()]
        for file, numbers in self._connection.execute(query).fetchall():
            table = pq.read_table(self._files[file], columns=["url", "sample_id"])
            tables.append(table.take(numbers).select(schema.names).cast(schema))
        return pa.concat_tables(tables)

    def has(self, urls: pa.Array) -> Any:
        """Return for each canonical URL whether it has a valid outcome."""
        return self._indexed(urls, "key IS NOT NULL").column(0).to_pylist()

    def write_recorded(self, urls: pa.Array, sample_ids: Sequence[str], folder: Path) -> list[int | None]:
        """Write the recorded outcomes of images, whose URLs may be null, to `RAW_FILE` and `IMAGES_FILE` of a folder.

        Return `IN_RAW`, `IN_IMAGES` or None, if nothing is recorded, for each image. Only files with a row are written.
        """
        facts, asked = self._indexed(urls, "best.*").to_pylist(), urls.to_pylist()
        rows: dict[int, Row] = {}  # by position; without bytes
        there = [position for position, fact in enumerate(facts) if fact["key"] is not None]
        for path, numbers, positions in self._by_file(there, facts, "file", "number"):
            names = [name for name in pq.read_schema(path).names if name not in IMAGE_COLUMNS]
            for position, row in zip(positions, _rows_of(path, numbers, names), strict=True):
                if (row.pop("canonical_url", None) or row["url"]) == asked[position]:  # else two URLs have one hash
                    shared = {"url": asked[position], "sample_id": sample_ids[position]}
                    rows[position] = row | shared | {"attempt": facts[position]["attempt"]}
        # The bytes are copied in the order of their files, so that each row group is read once.
        scratch = folder / "pictures"
        good = [position for position, row in rows.items() if row["drop_reason"] is None]
        with scratch.open("wb") as out:
            for path, numbers, positions in self._by_file(good, facts, "picture_file", "picture_number"):
                self._require_whole(path)
                for position, found in zip(positions, _rows_of(path, numbers, ["image", *IMAGE_COLUMNS]), strict=True):
                    if "image" in found:
                        found["bytes"] = found.pop("image")["bytes"]
                    for name, content in found.items():
                        if content is not None:
                            rows[position][name] = Piece(scratch, out.tell(), len(content))
                            out.write(content)
        where: list[int | None] = [None] * len(facts)
        for position, row in rows.items():
            where[position] = IN_IMAGES if facts[position]["normalised"] else IN_RAW
            if where[position] == IN_RAW:
                row["bytes"] = row.pop("original", row.get("bytes"))
        for place, schema, name in ((IN_RAW, RAW_IMAGES, RAW_FILE), (IN_IMAGES, IMAGES, IMAGES_FILE)):
            chosen = (rows[position] for position, at in enumerate(where) if at == place)
            if place in where:
                write_rows(map(_filled, chosen), schema, folder / name)
        scratch.unlink()
        return where

    def _indexed(self, urls: pa.Array, columns: str) -> pa.Table:
        """Return what is indexed of each URL; all values are null if it has no outcome."""
        query = f"SELECT {columns} FROM asked LEFT JOIN best ON key = hash(url) AND url IS NOT NULL ORDER BY n"
        with self._connection.cursor() as connection:  # one for each thread
            connection.register("asked", pa.table({"url": urls, "n": range(len(urls))}))
            return connection.sql(query).to_arrow_table()

    def _by_file(
        self, positions: Iterable[int], facts: Sequence[Row], file: str, number: str
    ) -> Iterator[tuple[Path, list[int], list[int]]]:
        """Yield each file of some facts, with the numbers of its rows, in order, and their positions."""
        places = sorted((facts[position][file], facts[position][number], position) for position in positions)
        for found, group in groupby(places, key=itemgetter(0)):
            here = [*group]
            yield self._files[found], [number for _, number, _ in here], [position for *_, position in here]

    def _require_whole(self, path: Path) -> None:
        if (sha256 := self._unchecked.get(path)) is not None:
            if (problem := file_problem(path, sha256)) is not None:
                raise DamagedError(
                    f"{problem}, so a build can't reuse its images. Run `vernaclip verify`. If you remove the folder "
                    f"{path.parents[1]}, its images are fetched again"
                )
            self._unchecked.pop(path, None)

    def _index_snapshot(self, snapshot: Snapshot) -> None:
        files: dict[str, list[Path]] = {}
        for kind in ("images", "pairs", "spare"):
            entries = {snapshot.folder / entry["path"]: entry["sha256"] for entry in snapshot.manifest["files"][kind]}
            files[kind] = [*entries]
            self._unchecked |= entries
        for path in files["images"]:
            self._require_whole(path)
        settings, own = snapshot.manifest["settings"]["normalise"], snapshot.dataset == self._fetching.dataset
        is_same, url = settings == self._fetching.normalise, "coalesce(canonical_url, url)"
        is_usable = is_same or settings["keep_original"]
        usable = "p.sample_id IS NOT NULL" if files["pairs"] and is_usable else "false"
        self._index(files["images"], files["pairs"], own=own, is_same=is_same, usable=usable, url=url)
        usable = "true" if is_usable else "width IS NULL"
        self._index(files["spare"], own=own, is_same=is_same, usable=usable, url=url)

    def _index_unfinished(self, work: WorkStore) -> None:
        raw: list[Path] = []
        images: list[Path] = []
        for commit, key in work.commits("fetch"):
            settings = key["settings"]
            if key["version"] != VERSION or _DEFAULTS | settings["config"] != self._fetching.fetch:
                continue
            lists = {FETCHED_FILE: raw, RAW_FILE: raw}
            if settings["normalise"] == self._fetching.normalise:
                lists[IMAGES_FILE] = images
            for name in lists.keys() & commit.files.keys():
                path = commit.path(name)
                if file_problem(path, commit.files[name]) is None:
                    lists[name].append(path)
                else:
                    logger.warning("%s is damaged. Its images are fetched again", path)
        own = work.folder.name == self._fetching.dataset
        self._index(sorted(raw), own=own, is_same=False)
        self._index(images, own=own, is_same=True)

    def _index(
        self,
        files: Sequence[Path],
        pairs: Sequence[Path] = (),
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
        paths = {"files": [str(path) for path in files]}
        join, picture = "", f"{first} + o.file_index, o.file_row_number"
        if pairs:
            paths["pairs"] = [str(path) for path in pairs]
            join = """LEFT JOIN (SELECT sample_id, file_index, file_row_number
                FROM read_parquet($pairs, hive_partitioning = false)) p ON o.sample_id = p.sample_id"""
            picture = f"{first + len(files)} + p.file_index, p.file_row_number"
        attempt = "coalesce(attempt, 0)" if own else "0"
        fetch, retryable = tuple(FETCH_REASONS), tuple(RETRYABLE)
        query = f"""
            INSERT INTO found
            SELECT hash({url}), drop_reason IS NULL, {attempt},
                CASE WHEN drop_reason IS NULL THEN {"width IS NOT NULL" if is_same else "false"}
                ELSE drop_reason NOT IN {fetch} END,
                {first} + o.file_index, o.file_row_number, {picture}
            FROM read_parquet($files, hive_partitioning = false) o {join}
            WHERE url IS NOT NULL AND CASE
                WHEN drop_reason IS NULL THEN {usable}
                WHEN drop_reason IN {retryable} THEN {attempt} >= {self._fetching.attempt}
                WHEN drop_reason IN {fetch} THEN true
                WHEN {reads_heif()} AND {_LACKED_HEIF} THEN false
                ELSE drop_reason <> 'forgotten' AND {is_same} END
        """
        try:
            self._connection.execute(query, paths)
        except duckdb.Error:
            for path in (*files, *pairs):
                self._require_whole(path)
            raise


def _filled(row: Row) -> Row:
    return {name: value.read() if isinstance(value, Piece) else value for name, value in row.items()}


def _rows_of(path: Path, numbers: Sequence[int], names: Sequence[str]) -> Iterator[Row]:
    """Yield the columns that a file has of some rows, whose numbers are sorted."""
    with pq.ParquetFile(path) as file:
        end = 0
        for group in range(file.num_row_groups):
            start, end = end, end + file.metadata.row_group(group).num_rows
            here = [number - start for number in numbers if start <= number < end]
            if here:
                yield from file.read_row_group(group, columns=names).take(here).to_pylist()


def may_be_decoded_now(snapshot: Snapshot) -> bool:
    """Return whether a snapshot lacks images for want of a decoder that is installed now."""
    import duckdb

    if not reads_heif() or all(row["drop_reason"] != "format_not_allowed" for row in snapshot.manifest["drop_reasons"]):
        return False
    paths = [str(snapshot.folder / entry["path"]) for entry in snapshot.manifest["files"]["images"]]
    query = f"SELECT count(*) > 0 FROM read_parquet(?, hive_partitioning = false) WHERE {_LACKED_HEIF}"
    with duckdb.connect() as connection:
        return bool(connection.execute(query, [paths]).fetchall()[0][0])


def unpublished_outcomes(
    root: Path,
    fetching: Fetching,
    published: Sequence[Path],
    is_taken_down: Callable[[pa.Table], Sequence[bool]],
    folder: Path,
) -> Iterator[Row]:
    """Yield outcomes that unfinished builds of a dataset have recorded and a snapshot has not, schema `SPARE`.

    Those of other settings, in the snapshot's files `published`, and rows that are taken down, are left out. `folder`
    is for temporary files: empty, and removed by the caller.
    """
    known = RecordedOutcomes(root, fetching, snapshots=False, unfinished=[fetching.dataset])
    unpublished = known.urls()
    for path in published:
        table = pq.read_table(path, columns=["canonical_url", "url"])
        there = pc.coalesce(table.column("canonical_url"), table.column("url"))
        unpublished = unpublished.filter(pc.invert(pc.is_in(unpublished.column("url"), there)))
    urls, sample_ids = unpublished.column("url").combine_chunks(), unpublished.column("sample_id").to_pylist()
    known.write_recorded(urls, sample_ids, folder)
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
    """Return the fetch outputs, but for those `used` by a snapshot, with an outcome that no snapshot has."""
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
    """The attempt of a dataset, 0 for its first build: each one requests failed images again."""

    number: int = 0
    is_under_way: bool = False  # until a build ends


def attempt_of(root: Path, dataset: str) -> Attempt:
    """Return a dataset's attempt."""
    path = root / "memory" / f"attempt-{dataset}.json"
    remedy = "remove it; attempts are then counted from the snapshots"
    recorded = Attempt(**read_checksummed(path, remedy=remedy)) if path.is_file() else Attempt()
    last = max((snapshot.manifest["attempt"] for snapshot in committed_snapshots(root, dataset)), default=0)
    return recorded if recorded.number >= last else Attempt(number=last)


def begin_attempt(root: Path, dataset: str) -> Attempt:
    """Begin an attempt, and record it. An attempt that has not ended continues with its number."""
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
    path = root / "memory" / f"attempt-{dataset}.json"
    failpoint("attempt.before_record", path)
    write_checksummed(path, asdict(attempt))
    failpoint("attempt.after_record", path)
