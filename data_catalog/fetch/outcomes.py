"""What a root knows of images on the web: each URL's outcome, recorded once, and looked up before anything is asked.

The facts stay where builds leave them: in `images/` of the snapshots that are there (the pictures in `pairs/`, or, of
images that no pair has, in `images/spare-*`), and in the outputs of the fetch step of builds that are not finished.
A picture beats a failure, then the later attempt counts.
"""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_catalog.database.connections import connect_spilling
from data_catalog.errors import DamagedError
from data_catalog.fetch.reasons import FETCH_REASONS, is_retryable
from data_catalog.images.tables import Piece, PieceReader, Row, read_groups, write_rows
from data_catalog.schema import IMAGES, OUTCOMES, RAW_IMAGES
from data_catalog.storage.failpoints import failpoint
from data_catalog.storage.integrity import read_checksummed, write_checksummed
from data_catalog.storage.manifest import Snapshot, committed_snapshots, dataset_names
from data_catalog.storage.shards import digest, sha256_of
from data_catalog.storage.work import WorkStore

logger = logging.getLogger(__name__)

# Of the fetch step, raised when what it writes changes: what an earlier one left in `work/` counts for nothing then.
VERSION = 5
# Files of the fetch step: what was asked for now, then what was known, as it came and as it was normalised.
ASKED_FILE, RAW_FILE, IMAGES_FILE = "asked.parquet", "raw.parquet", "images.parquet"
# Which of these each image of the shard is in, in order.
ORDER_FILE = "order.parquet"
IN_ASKED, IN_RAW, IN_IMAGES = range(3)

# Pictures that no pair has, and what a build knew of images that its snapshot does not ask for.
SPARE = pa.schema([*OUTCOMES, IMAGES.field("bytes"), IMAGES.field("original")])

# Rows of `Known`: the kind of file that a fact is in.
_RAW, _IMAGE, _OUTCOME, _SPARE = range(4)
_FACTS = np.dtype(
    [
        ("key", "u8"),
        ("good", "?"),
        ("attempt", "i4"),
        ("kind", "i1"),
        ("own", "?"),
        ("file", "i4"),
        ("row", "i4"),
        ("picture_file", "i4"),
        ("picture_row", "i4"),
    ]
)
_RETRYABLE = sorted(name for name, reason in FETCH_REASONS.items() if reason.retryable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetching:
    """What decides whether a recorded outcome holds for a build.

    Args:
        dataset: that is built.
        attempt: its number; failures that may pass hold if they are of this attempt.
        fetch: what-settings of section `[fetch]`.
        normalise: what-settings of section `[normalise]`.
    """

    dataset: str
    attempt: int
    fetch: Mapping[str, Any]
    normalise: Mapping[str, Any]


class KnownImages:
    """The outcomes of a root that hold for a build, by URL."""

    def __init__(
        self, root: Path, fetching: Fetching, *, snapshots: bool = True, unfinished: Sequence[str] | None = None
    ) -> None:
        """Look through the snapshots and unfinished builds of a root.

        Args:
            root: of the catalog.
            fetching: decides which outcomes hold.
            snapshots: look through those of all datasets.
            unfinished: datasets whose unfinished builds are looked through; None: all.

        Raises:
            DamagedError: a snapshot's file of outcomes is damaged.
        """
        self._root, self._fetching = root, fetching
        self._files: list[_File] = []
        found = [np.zeros(0, _FACTS), *(self._snapshots() if snapshots else ())]
        found += self._unfinished(unfinished)
        facts = np.concatenate(found)
        # Between equal facts the place decides, so that a resumed build takes the same one.
        order = np.lexsort((facts["row"], facts["file"], -facts["attempt"], ~facts["good"], facts["key"]))
        facts = facts[order]
        is_first = np.ones(len(facts), np.bool_)
        is_first[1:] = facts["key"][1:] != facts["key"][:-1]
        self._facts = facts[is_first]
        self._keys = np.ascontiguousarray(self._facts["key"])

    def urls(self) -> pa.Table:
        """Return the canonical `url` and the `sample_id` of every fact, in the order of files and rows."""
        empty = pa.table({"url": pa.array([], pa.string()), "sample_id": pa.array([], pa.string())})
        tables = [empty]
        for number in np.unique(self._facts["file"]).tolist():
            rows = np.sort(self._facts["row"][self._facts["file"] == number])
            table = pq.read_table(self._files[number].path, columns=["url", "sample_id"])
            tables.append(table.take(pa.array(rows)).select(["url", "sample_id"]).cast(empty.schema))
        return pa.concat_tables(tables)

    def has(self, urls: pa.Array) -> list[bool]:
        """Tell which canonical URLs have an outcome that holds."""
        return [place is not None for place in self._places(urls)]

    def recall(self, urls: pa.Array, sample_ids: Sequence[str], folder: Path) -> list[int | None]:
        """Write what is known of some images into a folder, in their order: `RAW_FILE` and `IMAGES_FILE`.

        Args:
            urls: canonical ones; null: nothing is known.
            sample_ids: of the images.
            folder: of the fetch step; only files that have a row are written.

        Returns:
            For each image, `IN_RAW`, `IN_IMAGES`, or None: nothing is known.

        Raises:
            DamagedError: a snapshot's file is damaged.
        """
        facts = [None if place is None else self._facts[place] for place in self._places(urls)]
        rows = self._rows(facts)
        for position, url in enumerate(urls.to_pylist()):
            row = rows.get(position)
            if row is not None and row.pop("asked_url") != url:
                del rows[position]  # two URLs of one hash
            elif row is not None:
                row["url"] = url
        scratch = folder / "pictures"
        pieces = self._spill({position: facts[position] for position in rows}, scratch)
        made: dict[int, tuple[int, Row]] = {}
        for position, row in rows.items():
            made[position] = self._as_written(facts[position], row, pieces.get(position, {}), sample_ids[position])
        with PieceReader() as reader:
            for where, schema, name in ((IN_RAW, RAW_IMAGES, RAW_FILE), (IN_IMAGES, IMAGES, IMAGES_FILE)):
                chosen = [row for _, (place, row) in sorted(made.items()) if place == where]
                if chosen:
                    write_rows((_read_in(row, reader) for row in chosen), schema, folder / name)
        scratch.unlink(missing_ok=True)
        return [made[position][0] if position in made else None for position in range(len(facts))]

    def _places(self, urls: pa.Array) -> list[int | None]:
        if not len(self._facts):
            return [None] * len(urls)
        keys = _hashes(urls)
        places = np.searchsorted(self._keys, keys)
        places[places == len(self._keys)] = 0
        found = (self._keys[places] == keys) & urls.is_valid().to_numpy(zero_copy_only=False)
        return [int(place) if is_there else None for place, is_there in zip(places, found, strict=True)]

    def _snapshots(self) -> Iterator[np.ndarray[Any, Any]]:
        for dataset in dataset_names(self._root):
            for snapshot in committed_snapshots(self._root, dataset):
                if snapshot.manifest["settings"]["fetch"] == self._fetching.fetch:
                    yield from self._of_snapshot(snapshot)

    def _of_snapshot(self, snapshot: Snapshot) -> Iterator[np.ndarray[Any, Any]]:
        settings = snapshot.manifest["settings"]["normalise"]
        is_same = settings == self._fetching.normalise
        has_pictures = is_same or settings["keep_original"]
        entries = snapshot.manifest["files"]
        own = snapshot.dataset == self._fetching.dataset
        outcomes, pairs, spare = (
            [_File(path=snapshot.folder / entry["path"], sha256=entry["sha256"], is_same=is_same) for entry in found]
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
                AND ({self._holds(own, is_same=is_same)} OR ($pictures AND drop_reason IS NULL AND picture IS NOT NULL))
            """
            yield self._facts_of(query, {"pictures": has_pictures}, _OUTCOME, outcomes, pairs, own=own)
        if spare:
            query = f"""
                SELECT hash({url}) AS key, *, filename AS picture, number AS picture_row FROM {_parquet(spare)}
                WHERE url IS NOT NULL
                AND ({self._holds(own, is_same=is_same)} OR (drop_reason IS NULL AND ($pictures OR width IS NULL)))
            """
            yield self._facts_of(query, {"pictures": has_pictures}, _SPARE, spare, spare, own=own)

    def _unfinished(self, datasets: Sequence[str] | None) -> Iterator[np.ndarray[Any, Any]]:
        """Look through the fetch outputs of builds that are not finished."""
        for folder in sorted((self._root / "work").glob("*/fetch")):
            if datasets is not None and folder.parent.name not in datasets:
                continue
            own = folder.parent.name == self._fetching.dataset
            for commit, key in WorkStore(folder.parent).commits("fetch"):
                if key["version"] != VERSION or key["settings"]["config"] != self._fetching.fetch:
                    continue
                is_same = key["settings"]["normalise"] == self._fetching.normalise
                for name, kind in ((ASKED_FILE, _RAW), (RAW_FILE, _RAW), (IMAGES_FILE, _IMAGE)):
                    if name not in commit.files or (kind == _IMAGE and not is_same):
                        continue
                    file = _File(path=commit.path(name), sha256=commit.files[name], is_same=is_same)
                    if not file.is_whole():
                        logger.warning("%s is not what was written: its images are asked for again", file.path)
                        continue
                    failed_by = f"CASE WHEN drop_reason IN ({_listed(FETCH_REASONS)}) THEN 'fetch' ELSE 'normalise' END"
                    step = "'fetch'" if kind == _RAW else failed_by
                    query = f"""
                        SELECT hash(url) AS key, *, filename AS picture, number AS picture_row
                        FROM (SELECT *, {step} AS step FROM {_parquet([file])})
                        WHERE url IS NOT NULL AND ({self._holds(own, is_same=True)} OR drop_reason IS NULL)
                    """
                    yield self._facts_of(query, {}, kind, [file], [file], own=own)

    def _holds(self, own: bool, *, is_same: bool) -> str:
        """Return SQL that is true of failures that hold."""
        attempt = self._fetching.attempt
        is_new = f"attempt >= {attempt}" if own else str(attempt == 0).lower()
        fetched = f"step = 'fetch' AND (drop_reason NOT IN ({_listed(_RETRYABLE)}) OR {is_new})"
        normalised = f"step = 'normalise' AND drop_reason <> 'forgotten' AND {str(is_same).lower()}"
        return f"(drop_reason IS NOT NULL AND ({fetched} OR {normalised}))"

    def _facts_of(
        self,
        query: str,
        parameters: Mapping[str, Any],
        kind: int,
        files: "Sequence[_File]",
        pictures: "Sequence[_File]",
        *,
        own: bool,
    ) -> np.ndarray[Any, Any]:
        import duckdb

        numbers = {str(file.path): len(self._files) + number for number, file in enumerate([*files, *pictures])}
        self._files += [*files, *pictures]
        names = "key, drop_reason IS NULL AS good, attempt, filename, number, picture, picture_row"
        try:
            with connect_spilling(self._root / "work") as connection:
                table: Any = connection.sql(f"SELECT {names} FROM ({query})", params=dict(parameters)).to_arrow_table()
        except duckdb.Error as error:
            for file in (*files, *pictures):
                file.require_whole()
            raise DamagedError(f"{files[0].path.parent} cannot be read ({error}): see `vernaclip verify`") from error
        found = np.zeros(table.num_rows, _FACTS)
        found["key"], found["good"] = table.column("key").to_numpy(), table.column("good").to_numpy()
        found["attempt"] = table.column("attempt").fill_null(0).to_numpy() if own else 0
        found["kind"], found["own"] = kind, own
        found["file"] = _numbered(table.column("filename"), numbers)
        found["row"] = table.column("number").to_numpy()
        found["picture_file"] = _numbered(table.column("picture"), numbers)
        found["picture_row"] = table.column("picture_row").fill_null(0).to_numpy()
        return found

    def _rows(self, facts: Sequence[Any]) -> dict[int, Row]:
        """Return the row of each fact, by position, without bytes, with `asked_url`."""
        by_file: dict[int, list[tuple[int, int]]] = {}
        for position, fact in enumerate(facts):
            if fact is not None:
                by_file.setdefault(int(fact["file"]), []).append((int(fact["row"]), position))
        rows: dict[int, Row] = {}
        for number, places in by_file.items():
            path = self._files[number].path
            names = [name for name in pq.read_schema(path).names if name not in ("bytes", "original")]
            table = pq.read_table(path, columns=names).take(pa.array([row for row, _ in places]))
            for (_, position), row in zip(places, table.to_pylist(), strict=True):
                rows[position] = row | {"asked_url": row.pop("canonical_url", None) or row["url"]}
        return rows

    def _spill(self, facts: Mapping[int, Any], scratch: Path) -> dict[int, dict[str, Piece]]:
        """Copy the bytes of pictures into one file, by file and row, so that each row group is read once."""
        pieces: dict[int, dict[str, Piece]] = {}
        by_file: dict[int, list[tuple[int, int]]] = {}
        for position, fact in facts.items():
            if fact["good"]:
                by_file.setdefault(int(fact["picture_file"]), []).append((int(fact["picture_row"]), position))
        with scratch.open("wb") as out:
            for number, places in sorted(by_file.items()):
                self._files[number].require_whole()
                for position, name, content in _bytes_of(self._files[number].path, sorted(places)):
                    pieces.setdefault(position, {})[name] = Piece(scratch, out.tell(), len(content))
                    out.write(content)
        return pieces

    def _as_written(self, fact: Any, row: Row, pieces: Mapping[str, Piece], sample_id: str) -> tuple[int, Row]:
        """Return which file of the step a fact goes to, and its row there, with pieces for bytes."""
        shared = {"sample_id": sample_id, "attempt": int(fact["attempt"]) if fact["own"] else 0}
        is_image = fact["kind"] != _RAW and self._files[fact["file"]].is_same and row.get("width") is not None
        if row["drop_reason"] is not None and fact["kind"] != _RAW:
            is_image = row["drop_reason"] not in FETCH_REASONS
        if is_image:
            return IN_IMAGES, {name: row.get(name) for name in IMAGES.names} | shared | dict(pieces)
        content = pieces.get("original", pieces.get("bytes"))
        return IN_RAW, {name: row.get(name) for name in RAW_IMAGES.names} | shared | {"bytes": content}


@dataclass(slots=True)
class _File:
    """A file that has facts, and whether its pictures are of the build's normalisation."""

    path: Path
    sha256: str
    is_same: bool
    looked_at: bool = field(default=False)

    def is_whole(self) -> bool:
        self.looked_at = self.looked_at or (self.path.is_file() and sha256_of(self.path) == self.sha256)
        return self.looked_at

    def require_whole(self) -> None:
        if not self.is_whole():
            raise DamagedError(
                f"{self.path} is missing or damaged, so that nothing can be built on it: see `vernaclip verify`; "
                f"without the folder {self.path.parents[1]} its images are asked for again"
            )


def _bytes_of(path: Path, places: Sequence[tuple[int, int]]) -> Iterator[tuple[int, str, bytes]]:
    """Yield position, column and bytes of some rows of a file, given by row number and position, sorted."""
    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        columns = [name for name in ("image", "bytes", "original") if name in names]
        start, waiting = 0, list(places)
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            here = [(row, position) for row, position in waiting if row < start + count]
            if here:
                table = file.read_row_group(group, columns=columns).take(pa.array([row - start for row, _ in here]))
                for (_, position), found in zip(here, table.to_pylist(), strict=True):
                    image = found.pop("image", None)
                    for name, content in {**found, **({"bytes": image["bytes"]} if image else {})}.items():
                        if content is not None:
                            yield position, name, content
                waiting = waiting[len(here) :]
            start += count


def _read_in(row: Row, reader: PieceReader) -> Row:
    return {name: reader.read(value) if isinstance(value, Piece) else value for name, value in row.items()}


def _numbered(names: pa.ChunkedArray, numbers: Mapping[str, int]) -> np.ndarray[Any, Any]:
    """Return the number of each file name; -1 where there is none."""
    encoded = names.cast(pa.string()).combine_chunks().dictionary_encode()
    known = np.array([*(numbers[name] for name in encoded.dictionary.to_pylist()), -1], np.int32)
    found: np.ndarray[Any, Any] = known[encoded.indices.fill_null(len(known) - 1).to_numpy(zero_copy_only=False)]
    return found


def _hashes(urls: pa.Array) -> np.ndarray[Any, Any]:
    import duckdb

    with duckdb.connect() as connection:
        connection.register("asked", pa.table({"url": urls, "n": pa.array(range(len(urls)))}))
        table: Any = connection.sql("SELECT hash(url) AS key FROM asked ORDER BY n").to_arrow_table()
    found: np.ndarray[Any, Any] = table.column("key").to_numpy()
    return found


def _parquet(files: "Sequence[_File]") -> str:
    names = ", ".join("'" + str(file.path).replace("'", "''") + "'" for file in files)
    return (
        f"(SELECT * RENAME (file_row_number AS number) FROM read_parquet([{names}], filename = true, "
        "file_row_number = true, hive_partitioning = false))"
    )


def _listed(reasons: Sequence[str] | Mapping[str, Any]) -> str:
    return ", ".join(f"'{reason}'" for reason in reasons)


def carried(
    root: Path,
    fetching: Fetching,
    published: Sequence[Path],
    is_meant: Callable[[pa.Table], Sequence[bool]],
    folder: Path,
) -> Iterator[Row]:
    """Yield rows of the schema `SPARE`: what unfinished builds of a dataset know, and a snapshot does not.

    Args:
        root: of the catalog.
        fetching: what the snapshot was built by; what was fetched otherwise is no fact of it.
        published: the snapshot's files of outcomes.
        is_meant: tells which rows a take-down means: they are left out.
        folder: for what is read on the way; empty, and removed by the caller.
    """
    known = KnownImages(root, fetching, snapshots=False, unfinished=[fetching.dataset])
    told = known.urls()
    for path in published:
        table = pq.read_table(path, columns=["canonical_url", "url"])
        there = pc.coalesce(table.column("canonical_url"), table.column("url"))
        told = told.filter(pc.invert(pc.is_in(told.column("url"), there)))
    known.recall(told.column("url").combine_chunks(), told.column("sample_id").to_pylist(), folder)
    for name in (RAW_FILE, IMAGES_FILE):
        if not (folder / name).is_file():
            continue
        for group in read_groups(folder / name):
            rows = [_spare_row(row, is_raw=name == RAW_FILE) for row in group]
            facts = [{key: value for key, value in row.items() if key not in ("bytes", "original")} for row in rows]
            meant = is_meant(pa.Table.from_pylist(facts, schema=OUTCOMES))
            yield from (row for row, is_one in zip(rows, meant, strict=True) if not is_one)


def _spare_row(row: Row, *, is_raw: bool) -> Row:
    reason = row["drop_reason"]
    found = {name: row.get(name) for name in SPARE.names}
    found["source"] = row["sample_id"].partition(":")[0]
    found["step"] = None if reason is None else "fetch" if reason in FETCH_REASONS else "normalise"
    if is_raw:
        found["bytes"], found["original"] = None, row["bytes"]
    return found


def still_needed(root: Path, work: WorkStore, dataset: str, *, used: Collection[str] = ()) -> list[Path]:
    """Return the fetch outputs of a dataset that know an image which no snapshot knows: those of builds to come.

    Args:
        root: of the catalog.
        work: step outputs of the dataset.
        dataset: its name.
        used: keys of outputs that a snapshot was made of.
    """
    indexes: dict[str, KnownImages] = {}
    found = []
    for commit, key in work.commits("fetch"):
        if commit.folder.name in used or key["version"] != VERSION:
            continue
        settings = key["settings"]
        fetching = Fetching(dataset=dataset, attempt=0, fetch=settings["config"], normalise=settings["normalise"])
        known_by = digest(settings)
        if known_by not in indexes:
            indexes[known_by] = KnownImages(root, fetching, unfinished=())
        names = [name for name in (ASKED_FILE, RAW_FILE, IMAGES_FILE) if name in commit.files]
        columns = [pq.read_table(commit.path(name), columns=["url"]).column("url") for name in names]
        urls = pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string()).drop_null()
        if not all(indexes[known_by].has(urls.combine_chunks())):
            found.append(commit.folder)
    return found


def attempts_path(root: Path, dataset: str) -> Path:
    """Return where a root keeps the number of a dataset's attempt."""
    return root / "memory" / f"attempt-{dataset}.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """How often images of a dataset that failed were asked for once more.

    Args:
        number: 0 until they are.
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
    remedy = "remove it, and attempts are counted from the snapshots"
    recorded = Attempt(**read_checksummed(path, remedy=remedy)) if path.is_file() else Attempt()
    last = max((int(snapshot.manifest["attempt"]) for snapshot in committed_snapshots(root, dataset)), default=0)
    return recorded if recorded.number >= last else Attempt(number=last)


def begin_attempt(root: Path, dataset: str) -> Attempt:
    """Record that images which failed are to be asked for once more; one that did not end goes on under its number.

    Raises:
        DamagedError: as `attempt_of` does.
    """
    attempt = attempt_of(root, dataset)
    if not attempt.is_under_way:
        attempt = Attempt(number=attempt.number + 1, is_under_way=True)
        _record(root, dataset, attempt)
    return attempt


def end_attempt(root: Path, dataset: str) -> None:
    """Record that a build has ended: the next attempt is another one, which asks again."""
    attempt = attempt_of(root, dataset)
    if attempt.is_under_way:
        _record(root, dataset, replace(attempt, is_under_way=False))


def _record(root: Path, dataset: str, attempt: Attempt) -> None:
    failpoint("attempt.before_record", attempts_path(root, dataset))
    write_checksummed(attempts_path(root, dataset), asdict(attempt))
    failpoint("attempt.after_record", attempts_path(root, dataset))


def num_retryable(snapshot: Snapshot) -> int:
    """Count the images of a snapshot that are missing for reasons that may have passed.

    Raises:
        DamagedError: the snapshot is damaged.
    """
    count = 0
    for entry in snapshot.manifest["files"]["images"]:
        file = _File(path=snapshot.folder / entry["path"], sha256=entry["sha256"], is_same=True)
        file.require_whole()
        reasons = pq.read_table(file.path, columns=["drop_reason"]).column("drop_reason").to_pylist()
        count += sum(is_retryable(reason) for reason in reasons)
    return count
