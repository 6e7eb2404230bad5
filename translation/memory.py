"""Translations as recorded facts: what an engine once said of a caption is never asked again.

One SQLite file per engine fingerprint, `<folder>/<fingerprint>.sqlite`. A recorded window is one transaction: a process
that is killed leaves all of it or nothing. One process writes at a time, any number may read meanwhile.
"""

import re
import sqlite3
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any
from zlib import crc32

from data_catalog.errors import DamagedError, TransientError
from data_catalog.storage.disk_errors import disk_errors
from data_catalog.storage.failpoints import failpoint
from data_catalog.storage.integrity import is_recorded, record_problem, take_record_away, write_record
from data_catalog.storage.shards import sync
from translation.engine import Translation
from translation.memory_database import damaged, make_memory_folder, open_memory, require_no_file

FILE_SUFFIX = ".sqlite"
FORMAT_VERSION = 1
CAPTIONS_PER_QUERY = 1_000

# Rows lie in the order of recording and are found by a short hash; the caption itself decides. An index of the captions
# would have most of its pages rewritten by every window: recording a million took three times as long.
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
        DamagedError: the engine's file is damaged, or another engine's; so do all methods.
        DiskError: the folder's place is taken by a file, or the engine's file cannot be opened; so do all methods.
        TransientError: another process keeps the file locked; so do all methods.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self.path = folder / (re.sub(r"[^\w.+-]", "-", fingerprint) + FILE_SUFFIX)
        self._writing = threading.Lock()
        require_no_file(folder)  # now, not after an hour of translating
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

    def record(self, captions: Sequence[str], translations: Sequence[Translation]) -> None:
        """Record a window of captions for good, all of it or nothing; captions that have a translation already keep it.

        Raises:
            DiskError: the disk is full.
        """
        rows = [
            (crc32(caption.encode()), caption, found.text, found.score, found.truncated, found.repetitive)
            for caption, found in zip(captions, translations, strict=True)
        ]
        rows.sort(key=itemgetter(0))  # in the order of the index, whose pages are then visited once
        if not rows:
            return
        make_memory_folder(self.path.parent)
        is_new = not self.path.exists()
        with disk_errors(self.path), self._writing, open_memory(self.path, create=True) as connection:
            take_record_away(self.path)
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

    def forget(self, captions: Iterable[str]) -> int:
        """Remove the translations of some captions for good, all of them or none; return how many there were.

        Raises:
            TransientError: another process goes on reading the file, and with it what was removed: call it again.
        """
        there = [row[0] for rows in self._look_up(captions, "source_caption") for row in rows]
        if not there:
            return 0
        was_sealed = is_recorded(self.path)
        with disk_errors(self.path), self._writing, open_memory(self.path) as connection:
            take_record_away(self.path)
            connection.execute("PRAGMA secure_delete = ON")  # no page keeps the bytes of what is gone
            failpoint("forget.before_memory", self.path)
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                rows = [(crc32(caption.encode()), caption) for caption in there]
                connection.executemany("DELETE FROM translations WHERE caption_hash = ? AND source_caption = ?", rows)
            failpoint("forget.after_memory", self.path)
            if connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                raise TransientError(f"the translation memory {self.path} is read by another process: end that first")
        if was_sealed:
            self.seal()
        return len(there)

    def seal(self) -> None:
        """Write down the file's sha256 beside it, by which damage shows; the next window to be recorded takes it away.

        Nothing is done where it is written down, where the file is being read (by this process, or another one that
        keeps a log beside the file), or where nothing has been recorded.
        """
        if is_recorded(self.path) or not self.path.exists():
            return
        with self._writing:
            with open_memory(self.path) as connection:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            if not self._log().exists():
                write_record(self.path)

    def require_whole(self) -> None:
        """Make sure that the file is what was sealed, if it was.

        Raises:
            DamagedError: it is damaged.
        """
        problem = record_problem(self.path)
        if problem is not None:
            raise DamagedError(damaged(self.path, problem))

    def _log(self) -> Path:
        """Where SQLite keeps what is not merged yet."""
        return self.path.with_name(f"{self.path.name}-wal")

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
        files = (self.path, self._log())
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
        with open_memory(self.path) as connection:
            yield connection if self._has_tables(connection) else None

    def _has_tables(self, connection: sqlite3.Connection) -> bool:
        found = _fingerprint(connection, self.path)
        if found not in (None, self.fingerprint):
            raise DamagedError(
                f"{self.path} holds the translations of {found}, not of {self.fingerprint}: move it away"
            )
        return found is not None


def memories(folder: Path) -> list[TranslationMemory]:
    """The memories in a folder, sorted by file name; those in which nothing was recorded yet are left out.

    Raises:
        DamagedError: one is damaged.
    """
    found: list[TranslationMemory] = []
    for path in sorted(folder.glob(f"*{FILE_SUFFIX}")):
        with open_memory(path) as connection:
            fingerprint = _fingerprint(connection, path)
        if fingerprint is not None:
            found.append(TranslationMemory(folder, fingerprint))
    return found


def forget_texts(root: Path, texts: Collection[str]) -> int:
    """Remove what the memories of a root know of some captions, and return how many entries went."""
    return sum(memory.forget(texts) for memory in memories(root / "memory"))


def _fingerprint(connection: sqlite3.Connection, path: Path) -> str | None:
    """Whose translations a file holds, or None if it is new and empty."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == 0 and not connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall():
        return None
    if version != FORMAT_VERSION:
        raise DamagedError(
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
