"""The translation memory: a cache on disk, so that no caption is translated twice by the same engine.

There is one SQLite file for each engine fingerprint, `<folder>/<fingerprint>.sqlite`. Each window is recorded in one
transaction: after a kill, it is there completely or not at all. One process writes at a time, any number may read.
"""

import re
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any
from zlib import crc32

from data_catalog.base.boundary import about
from data_catalog.base.errors import DamagedError, DiskError, SettingsError, TransientError
from data_catalog.base.progress import Progress
from data_catalog.disk.disk_errors import disk_errors, make_writable_folder, nearest_existing, raise_if_disk_fails
from data_catalog.disk.failpoints import failpoint
from data_catalog.disk.files import make_folder, sync
from data_catalog.disk.records import is_recorded, record_problem, remove_record, write_record
from translation.engine import STREAM_WINDOW, Translation, Translator, is_paid

FILE_SUFFIX = ".sqlite"
FORMAT_VERSION = 1
BUSY_TIMEOUT_S = 60.0
CAPTIONS_PER_QUERY = 1_000

# Rows are in the order of recording. A lookup goes by a short hash, then compares the caption. With an index of the
# captions, each window would rewrite most of the index's pages: recording a million captions took three times as long.
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
_INSERT_UNLESS_THERE = f"""
    INSERT INTO translations (caption_hash, {_COLUMNS}) SELECT ?1, ?2, ?3, ?4, ?5, ?6
    WHERE NOT EXISTS (SELECT 1 FROM translations WHERE caption_hash = ?1 AND source_caption = ?2)
"""


class TranslationMemory:
    """The recorded translations of one engine, on disk; several threads may use it.

    A damaged file, or another engine's, is a `DamagedError`; one that another process locks is a `TransientError`.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self.path = folder / (re.sub(r"[^\w.+-]", "-", fingerprint) + FILE_SUFFIX)
        self._log = self.path.with_name(f"{self.path.name}-wal")  # SQLite's write-ahead log
        self._writing = threading.Lock()
        there = nearest_existing(folder)
        if not there.is_dir():  # fails now, not after an hour of translation
            raise DiskError(f"{folder} cannot be the folder of translation memories: {there} is a file, move it away")
        with self._reading():
            pass

    def known(self, captions: Iterable[str]) -> dict[str, Translation]:
        """Return the recorded translations of these captions, by caption; captions without one are left out."""
        wanted, found = set(captions), dict[str, Translation]()
        hashes = sorted({crc32(caption.encode()) for caption in wanted})
        with self._reading() as connection:
            if connection is None:
                return {}
            for start in range(0, len(hashes), CAPTIONS_PER_QUERY):
                part = hashes[start : start + CAPTIONS_PER_QUERY]
                query = f"SELECT {_COLUMNS} FROM translations WHERE caption_hash IN ({','.join('?' * len(part))})"
                found |= (_entry(row) for row in connection.execute(query, part) if row[0] in wanted)
        return found

    def missing(self, captions: Iterable[str]) -> list[str]:
        """Return the distinct captions without a recorded translation, in the order given."""
        distinct = dict.fromkeys(captions)
        known = self.known(distinct)
        return [caption for caption in distinct if caption not in known]

    def record(self, captions: Sequence[str], translations: Sequence[Translation]) -> None:
        """Record a window of captions in one transaction; captions that already have a translation keep it."""
        if not captions:
            return
        rows = [
            (crc32(caption.encode()), caption, each.text, each.score, each.truncated, each.repetitive)
            for caption, each in zip(captions, translations, strict=True)
        ]
        rows.sort(key=itemgetter(0))  # in the order of the index, so that each of its pages is visited once
        with about(f"the folder {self.path.parent} cannot be made", kind=DiskError):
            make_folder(self.path.parent)
        is_new = not self.path.exists()
        with self._writing, self._changing() as connection:
            connection.execute("PRAGMA journal_mode = WAL")  # readers and the writer do not wait for each other
            failpoint("memory.before_record", self.path)
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                if not self._has_tables(connection):
                    for statement in _TABLES:
                        connection.execute(statement)
                    connection.execute("INSERT INTO meta VALUES (?)", [self.fingerprint])
                connection.executemany(_INSERT_UNLESS_THERE, rows)
                failpoint("memory.before_commit", self.path)
            if is_new:
                sync(self.path.parent)
            failpoint("memory.after_commit", self.path)

    def forget(self, captions: Iterable[str]) -> int:
        """Remove the translations of some captions in one transaction; return how many there were.

        While another process reads the file, which may still read the removed text, this is a `TransientError`.
        """
        there = self.known(captions)
        if not there:
            return 0
        was_sealed = is_recorded(self.path)
        with self._writing, self._changing() as connection:
            connection.execute("PRAGMA secure_delete = ON")  # overwrites the removed bytes
            failpoint("forget.before_memory", self.path)
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                rows = [(crc32(caption.encode()), caption) for caption in there]
                connection.executemany("DELETE FROM translations WHERE caption_hash = ? AND source_caption = ?", rows)
            failpoint("forget.after_memory", self.path)
            if connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                raise TransientError(f"another process is reading the translation memory {self.path}: end it first")
        if was_sealed:
            self.seal()
        return len(there)

    def seal(self) -> None:
        """Write the file's sha256 beside it, so that damage can be detected; the next recorded window removes it.

        Nothing happens if the sha256 is already there, if the file is being read (by this process, or another one that
        keeps a log beside the file), or if nothing has been recorded.
        """
        if is_recorded(self.path) or not self.path.exists():
            return
        with self._writing:
            with open_memory(self.path) as connection:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            if not self._log.exists():
                write_record(self.path)

    def require_whole(self) -> None:
        """Check the file against its sha256, if it was sealed."""
        if problem := record_problem(self.path):
            raise _damaged(self.path, problem)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        """Yield a connection, or None if nothing has been recorded yet."""
        if not self.path.exists():
            yield None
            return
        with open_memory(self.path) as connection:
            yield connection if self._has_tables(connection) else None

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection to write through, with the file's sha256 removed first."""
        with disk_errors(self.path), open_memory(self.path, create=True) as connection:
            remove_record(self.path)
            yield connection

    def _has_tables(self, connection: sqlite3.Connection) -> bool:
        found = _fingerprint(connection, self.path)
        if found not in (None, self.fingerprint):
            raise DamagedError(
                f"{self.path} contains the translations of {found}, not of {self.fingerprint}: move it away"
            )
        return found is not None


def memories(folder: Path) -> list[TranslationMemory]:
    """Return the memories in a folder, sorted by file name; those without a recorded translation are left out."""
    found: list[TranslationMemory] = []
    for path in sorted(folder.glob(f"*{FILE_SUFFIX}")):
        with open_memory(path) as connection:
            fingerprint = _fingerprint(connection, path)
        if fingerprint is not None:
            found.append(TranslationMemory(folder, fingerprint))
    return found


def forget_texts(folder: Path, texts: Collection[str]) -> int:
    """Remove translations from or into some texts from all memories in a folder; return how many there were."""
    return sum(memory.forget(texts) for memory in memories(folder))


def _fingerprint(connection: sqlite3.Connection, path: Path) -> str | None:
    """Return the fingerprint of the engine whose translations a file contains, or None for a new and empty file."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == 0 and not connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall():
        return None
    if version != FORMAT_VERSION:
        raise DamagedError(
            f"{path} is not a translation memory of format {FORMAT_VERSION}: move it away, and its captions are "
            "translated again"
        )
    return str(connection.execute("SELECT fingerprint FROM meta").fetchone()[0])


def _entry(row: Sequence[Any]) -> tuple[str, Translation]:
    """Return the caption and the translation of a row."""
    caption, text, score, truncated, repetitive = row
    return caption, Translation(text=text, score=score, truncated=bool(truncated), repetitive=bool(repetitive))


@contextmanager
def open_memory(path: Path, *, create: bool = False) -> Iterator[sqlite3.Connection]:
    """Open a connection for one use: it is not shared by threads, inherited by children or left open."""
    uri = f"{path.absolute().as_uri()}?mode={'rwc' if create else 'rw'}"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as connection:
            yield connection
    except sqlite3.DatabaseError as error:
        # The primary code. Text that is not UTF-8 is detected by Python, and its error has no code.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        raise_if_disk_fails(error, path)
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise _damaged(path, error) from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise TransientError(f"the translation memory {path} is locked by another process ({error})") from error
        raise DiskError(f"the translation memory {path} cannot be read or written: {error}") from error


def _damaged(path: Path, problem: object) -> DamagedError:
    return DamagedError(
        f"the translation memory {path} is damaged ({problem}). Remove it, and its captions are translated again"
    )


class MemoryTranslator:
    """A `translation.engine.Translator` with a memory: recorded translations are reused, new ones are recorded."""

    def __init__(self, engine: Translator, memory: TranslationMemory) -> None:
        self.fingerprint, self.max_chunk_size = engine.fingerprint, engine.max_chunk_size
        self.from_code, self.to_code = engine.from_code, engine.to_code
        self._engine, self._memory = engine, memory

    def translate(self, captions: Sequence[str], on_done: Callable[[int], object] | None = None) -> list[Translation]:
        """Return one translation per caption; each missing one is translated once, and recorded before this returns."""
        missing = self._memory.missing(captions)
        if on_done is not None:
            on_done(len(captions) - len(missing))
        return _recorded(captions, missing, self._engine, self._memory, on_done, where=str(self._memory.path))


def with_memory(engine: Translator, memory: Path | None) -> Translator:
    """Return the engine with the memory in the folder `memory`, or itself if that is None; a paid one must have it."""
    if memory is None and is_paid(engine):
        name = engine.fingerprint.partition(":")[0]
        raise SettingsError(
            f"translations of {name} cost money and are lost if the run stops: give --memory DIR to keep them"
        )
    if memory is None:
        return engine
    make_writable_folder(memory, "--memory")
    return MemoryTranslator(engine, TranslationMemory(memory, engine.fingerprint))


def translate_with_memory(
    captions: Sequence[str],
    engine: Translator,
    memory: TranslationMemory,
    *,
    title: str,
    where: str,
    window: int = STREAM_WINDOW,
) -> list[Translation]:
    """Return the translation of each caption, which may occur repeatedly, from the memory, with a progress bar.

    The missing ones are first translated and recorded window by window: after a kill, only the remaining windows are
    translated. `where` names the captions in errors.
    """
    missing = memory.missing(captions)
    with Progress(title, total=len(missing), unit="captions") as progress:
        return _recorded(captions, missing, engine, memory, progress.advance, where=where, window=window)


def _recorded(
    captions: Sequence[str],
    missing: Sequence[str],
    engine: Translator,
    memory: TranslationMemory,
    on_done: Callable[[int], object] | None,
    *,
    where: str,
    window: int = STREAM_WINDOW,
) -> list[Translation]:
    """Translate and record the missing captions, then return the translations of all captions from the memory.

    A window is smaller if the engine limits what a crash may lose.
    """
    size = min(window, engine.max_chunk_size or window)
    for start in range(0, len(missing), size):
        part = missing[start : start + size]
        memory.record(part, engine.translate(part, on_done))
    known = memory.known(captions)
    lost = next((caption for caption in captions if caption not in known), None)
    if lost is not None:
        raise DamagedError(f"{where}: the translation memory lost {lost!r}. Run the same command again")
    return [known[caption] for caption in captions]
