"""Translations as recorded facts: what an engine once said of a caption is never asked again.

One SQLite file per engine fingerprint, `<folder>/<fingerprint>.sqlite`. A recorded chunk is one transaction: a process
that is killed leaves all of it or nothing. One process writes at a time, any number may read meanwhile.
"""

import re
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any
from zlib import crc32

from data_catalog.disk_errors import disk_errors, raise_if_disk_fails
from data_catalog.errors import ConfigError, PipelineError, TransientError
from data_catalog.failpoints import failpoint
from data_catalog.shards import make_folder, sync
from translation.engine import Translation

FILE_SUFFIX = ".sqlite"
FORMAT_VERSION = 1
CAPTIONS_PER_QUERY = 1_000
BUSY_TIMEOUT_S = 60.0

# Rows lie in the order of recording and are found by a short hash; the caption itself decides. An index of the captions
# would have most of its pages rewritten by every chunk: recording a million took three times as long.
_TABLES = (
    "CREATE TABLE meta (fingerprint TEXT NOT NULL)",
    """CREATE TABLE translations (
        id INTEGER PRIMARY KEY,
        caption_hash INTEGER NOT NULL,
        source_caption TEXT NOT NULL,
        caption TEXT NOT NULL,
        score REAL,
        truncated INTEGER NOT NULL,
        repetitive INTEGER NOT NULL
    )""",
    "CREATE INDEX translations_by_hash ON translations (caption_hash)",
    f"PRAGMA user_version = {FORMAT_VERSION}",
)
_COLUMNS = "source_caption, caption, score, truncated, repetitive"
_INSERT = f"INSERT INTO translations (caption_hash, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)"
_INSERT_UNLESS_THERE = f"""
    INSERT INTO translations (caption_hash, {_COLUMNS}) SELECT ?1, ?2, ?3, ?4, ?5, ?6
    WHERE NOT EXISTS (SELECT 1 FROM translations WHERE caption_hash = ?1 AND source_caption = ?2)
"""

Row = tuple[Any, ...]
_UNKNOWN: Row = (None,) * 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Translations of a list of captions, as columns: one value a caption, None throughout where nothing is recorded.

    See `Translation` for what they mean.
    """

    captions: list[str | None]
    scores: list[float | None]
    truncated: list[bool | None]
    repetitive: list[bool | None]


class TranslationMemory:
    """All recorded translations of one engine, on disk; may be used by several threads.

    Args:
        folder: holds the memories of all engines.
        fingerprint: of the engine, see `Translator.fingerprint`.

    Raises:
        ConfigError: the folder's place is taken by a file, or the engine's file is damaged, another engine's, or cannot
            be opened; so do all methods.
        TransientError: another process keeps the file locked; so do all methods.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self.path = folder / (re.sub(r"[^\w.+-]", "-", fingerprint) + FILE_SUFFIX)
        self._writing = threading.Lock()
        _require_no_file(folder)  # now, not after an hour of translating
        with self._reading():
            pass

    def known(self, captions: Iterable[str]) -> dict[str, Translation]:
        """The recorded translations of those of the captions that have one.

        Raises:
            UnicodeEncodeError: a caption holds a lone surrogate; so do the other methods.
        """
        return {row[0]: _translation(row) for rows in self._look_up(captions) for row in rows}

    def columns(self, captions: Sequence[str]) -> Columns:
        """The same for a list of captions with repeats, in its order."""
        known = {row[0]: row for rows in self._look_up(captions) for row in rows}
        found = [known.get(caption, _UNKNOWN) for caption in captions]
        return Columns(
            captions=[row[1] for row in found],
            scores=[row[2] for row in found],
            truncated=[None if row[3] is None else bool(row[3]) for row in found],
            repetitive=[None if row[4] is None else bool(row[4]) for row in found],
        )

    def missing(self, captions: Iterable[str]) -> list[str]:
        """The distinct captions without a recorded translation, in the order given."""
        distinct = dict.fromkeys(captions)
        known = {row[0] for rows in self._look_up(distinct, "source_caption") for row in rows}
        return [caption for caption in distinct if caption not in known]

    def has_all(self, captions: Iterable[str]) -> bool:
        """Whether every caption has a recorded translation; stops at the first that has none."""
        distinct = list(dict.fromkeys(captions))
        parts = range(0, len(distinct), CAPTIONS_PER_QUERY)
        return not any(self.missing(distinct[start : start + CAPTIONS_PER_QUERY]) for start in parts)

    def record(self, captions: Sequence[str], translations: Sequence[Translation]) -> None:
        """Record a chunk for good, all of it or nothing; captions that have a translation already keep it.

        Raises:
            ConfigError: the disk is full.
        """
        rows = [
            (crc32(caption.encode()), caption, found.text, found.score, found.truncated, found.repetitive)
            for caption, found in zip(captions, translations, strict=True)
        ]
        rows.sort(key=itemgetter(0))  # in the order of the index, whose pages are then visited once
        if not rows:
            return
        _make_folder(self.path.parent)
        is_new = not self.path.exists()
        with disk_errors(self.path), self._writing, _open(self.path, create=True) as connection:
            connection.execute("PRAGMA journal_mode = WAL")  # readers and the writer do not wait for each other
            failpoint("memory.before_record", self.path)
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                if not self._has_tables(connection):
                    for statement in _TABLES:
                        connection.execute(statement)
                    connection.execute("INSERT INTO meta VALUES (?)", [self.fingerprint])
                doubtful = _doubtful(connection, [row[0] for row in rows])
                connection.executemany(_INSERT, (row for row in rows if row[0] not in doubtful))
                connection.executemany(_INSERT_UNLESS_THERE, (row for row in rows if row[0] in doubtful))
                failpoint("memory.before_commit", self.path)
            if is_new:
                sync(self.path.parent)
            failpoint("memory.after_commit", self.path)

    def rows(self) -> Iterator[tuple[str, Translation]]:
        """All captions with their translations as they are now, sorted by the captions' code points; a stream."""
        with self._reading() as connection:
            if connection is not None:
                for row in connection.execute(f"SELECT {_COLUMNS} FROM translations ORDER BY source_caption"):
                    yield row[0], _translation(row)

    def count(self) -> int:
        """How many captions have a recorded translation."""
        with self._reading() as connection:
            if connection is None:
                return 0
            return int(connection.execute("SELECT count(*) FROM translations").fetchone()[0])

    def num_bytes(self) -> int:
        """Size on disk, with what a killed process left to be merged."""
        files = (self.path, self.path.with_name(f"{self.path.name}-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    def _look_up(self, captions: Iterable[str], columns: str = _COLUMNS) -> Iterator[list[Row]]:
        """The rows of those of the captions that have one, in the order of the index, some at a time."""
        with self._reading() as connection:
            if connection is not None:
                by_hash = sorted((crc32(caption.encode()), caption) for caption in set(captions))
                for start in range(0, len(by_hash), CAPTIONS_PER_QUERY):
                    yield _rows_of(connection, by_hash[start : start + CAPTIONS_PER_QUERY], columns)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        """A connection, or None where nothing has been recorded yet."""
        if not self.path.exists():
            yield None
            return
        with _open(self.path) as connection:
            yield connection if self._has_tables(connection) else None

    def _has_tables(self, connection: sqlite3.Connection) -> bool:
        found = _fingerprint(connection, self.path)
        if found not in (None, self.fingerprint):
            raise ConfigError(f"{self.path} holds the translations of {found}, not of {self.fingerprint}: move it away")
        return found is not None


def memories(folder: Path) -> list[TranslationMemory]:
    """The memories in a folder, sorted by file name; those in which nothing was recorded yet are left out.

    Raises:
        ConfigError: one is damaged.
    """
    found: list[TranslationMemory] = []
    for path in sorted(folder.glob(f"*{FILE_SUFFIX}")):
        with _open(path) as connection:
            fingerprint = _fingerprint(connection, path)
        if fingerprint is not None:
            found.append(TranslationMemory(folder, fingerprint))
    return found


def _require_no_file(folder: Path) -> None:
    """Make sure that `folder` is one or can become one, as far as its place goes."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise ConfigError(f"{folder} cannot be the folder of the translation memories: {there} is a file, move it away")


def _make_folder(folder: Path) -> None:
    try:
        make_folder(folder)
    except OSError as error:
        raise_if_disk_fails(error, folder)
        raise ConfigError(f"{folder} cannot be the folder of the translation memories: {error.strerror}") from error


@contextmanager
def _open(path: Path, *, create: bool = False) -> Iterator[sqlite3.Connection]:
    """A connection of its own for each use: none is shared by threads, inherited by children or left open.

    Raises:
        ConfigError: the file is damaged or cannot be opened; the disk is full.
        TransientError: it is locked.
    """
    uri = f"{path.absolute().as_uri()}?mode={'rwc' if create else 'rw'}"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as connection:
            yield connection
    except sqlite3.DatabaseError as error:
        raise _told(error, path) from error


def _told(error: sqlite3.DatabaseError, path: Path) -> PipelineError:
    """What SQLite says, as one of our errors."""
    # Without the particulars; a text that is no UTF-8 is found by Python, and has no code.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        raise_if_disk_fails(error, path)
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return ConfigError(
            f"the translation memory {path} is damaged ({error}): remove it, and its captions are "
            "translated again; beside an unfinished build remove work/plan as well"
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return TransientError(f"the translation memory {path} is locked by another process ({error})")
    return ConfigError(f"the translation memory {path} cannot be read or written: {error}")


def _fingerprint(connection: sqlite3.Connection, path: Path) -> str | None:
    """Whose translations a file holds, or None if it is new and empty."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == 0 and not connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall():
        return None
    if version != FORMAT_VERSION:
        raise ConfigError(
            f"{path} is no translation memory of format {FORMAT_VERSION}: move it away, and its captions are translated"
            " again"
        )
    return str(connection.execute("SELECT fingerprint FROM meta").fetchone()[0])


def _rows_of(connection: sqlite3.Connection, by_hash: Sequence[tuple[int, str]], columns: str) -> list[Row]:
    wanted = frozenset(caption for _, caption in by_hash)
    query = f"SELECT {columns} FROM translations WHERE caption_hash IN ({_marks(len(by_hash))})"
    return [row for row in connection.execute(query, [number for number, _ in by_hash]) if row[0] in wanted]


def _doubtful(connection: sqlite3.Connection, hashes: Sequence[int]) -> set[int]:
    """Those of the sorted hashes that come twice, or that some recorded caption has: whether its own, is to be seen."""
    found = {first for first, second in pairwise(hashes) if first == second}
    for start in range(0, len(hashes), CAPTIONS_PER_QUERY):
        batch = hashes[start : start + CAPTIONS_PER_QUERY]
        query = f"SELECT caption_hash FROM translations WHERE caption_hash IN ({_marks(len(batch))})"
        found.update(row[0] for row in connection.execute(query, batch))
    return found


def _marks(count: int) -> str:
    return ",".join("?" * count)


def _translation(row: Row) -> Translation:
    _, text, score, truncated, repetitive = row
    return Translation(text=text, score=score, truncated=bool(truncated), repetitive=bool(repetitive))
