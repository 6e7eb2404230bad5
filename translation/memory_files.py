"""A translation memory as one Parquet file: to keep, to hand on, and to merge into the memory of another root."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.errors import DiskError, InputError, SettingsError
from data_catalog.storage.shards import write_atomically
from translation.engine import Translation
from translation.memory import TranslationMemory

FILE_VERSION = "1"
VERSION_KEY, FINGERPRINT_KEY = b"vernaclip.translation_memory", b"vernaclip.fingerprint"
ROWS_PER_GROUP = 20_000  # held at a time, whatever the size of the file
# "argos:en-it:0123456789ab"; it becomes a file's name, which has 255 bytes at most.
_FINGERPRINT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+:-]{0,199}")

MEMORY_ROWS = pa.schema(
    [
        pa.field("source_caption", pa.string(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("score", pa.float64()),
        pa.field("truncated", pa.bool_(), nullable=False),
        pa.field("repetitive", pa.bool_(), nullable=False),
    ]
)

Entries = Sequence[tuple[str, Translation]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What became of an imported file's captions.

    Args:
        fingerprint: of the engine whose memory they went to.
        new: had no translation.
        known: had the very same translation.
        different: had, and keep, another text, score or flag.
    """

    fingerprint: str
    new: int
    known: int
    different: int


def export_memory(memory: TranslationMemory, path: Path, *, overwrite: bool = False) -> int:
    """Write a memory to a Parquet file, sorted by source caption: equal memories give equal bytes.

    Args:
        memory: the memory.
        path: the file; folders above it are made.
        overwrite: whether a file that is there may be replaced.

    Returns:
        The number of rows.

    Raises:
        SettingsError: the file is there already.
        DamagedError: the memory is damaged.
        DiskError: the file cannot be written, or the disk is full.
    """
    if path.is_dir():
        raise SettingsError(f"{path} is a folder: give the path of the file to write")
    if path.exists() and not overwrite:
        raise SettingsError(f"{path} exists already: give another path, or say --force to replace it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(f"{path.parent} cannot be a folder to write to: {error.strerror}") from error
    metadata = {VERSION_KEY: FILE_VERSION, FINGERPRINT_KEY: memory.fingerprint}
    num_rows = 0

    def write(temporary: Path) -> None:
        nonlocal num_rows
        entries = memory.rows()
        with pq.ParquetWriter(
            temporary,
            MEMORY_ROWS.with_metadata(metadata),
            compression="zstd",
            use_dictionary=False,
            write_page_checksum=True,
        ) as writer:
            while group := list(islice(entries, ROWS_PER_GROUP)):
                rows = [(caption, f.text, f.score, f.truncated, f.repetitive) for caption, f in group]
                writer.write_table(pa.table(list(zip(*rows, strict=True)), MEMORY_ROWS))
                num_rows += len(group)

    write_atomically(path, write)
    return num_rows


def read_export(path: Path) -> str:
    """Check an exported file from the first row to the last, and return the fingerprint of its engine.

    Raises:
        InputError: the file is missing, damaged, or no exported memory.
    """
    fingerprint = _fingerprint(path)
    for _ in _groups(path):
        pass
    return fingerprint


def import_memory(path: Path, folder: Path) -> Imported:
    """Merge a file that `read_export` found good into the memories in `folder`; known captions keep what they have.

    Call it with the writer's lock of the root held. If it is interrupted, call it again.

    Raises:
        InputError: the file is damaged now.
        DiskError: the folder cannot be written.
    """
    memory = TranslationMemory(folder, _fingerprint(path))
    counts: Counter[str] = Counter()
    for entries in _groups(path):
        there = memory.known(caption for caption, _ in entries)
        new: dict[str, Translation] = {}
        for caption, found in entries:
            if caption not in there:
                there[caption] = new[caption] = found
                counts["new"] += 1
            else:
                counts["known" if there[caption] == found else "different"] += 1
        memory.record(list(new), list(new.values()))
    return Imported(
        fingerprint=memory.fingerprint, new=counts["new"], known=counts["known"], different=counts["different"]
    )


def _fingerprint(path: Path) -> str:
    """Whose translations an exported file holds."""
    with _told(path):
        schema = pq.read_schema(path)
    metadata = schema.metadata or {}
    if FINGERPRINT_KEY not in metadata or not schema.equals(MEMORY_ROWS):
        raise InputError(f"{path} is no exported translation memory: write one with `vernaclip mt memory export`")
    version = metadata.get(VERSION_KEY, b"")
    if version != FILE_VERSION.encode():
        raise InputError(
            f"{path} is an exported memory of version {version.decode(errors='replace')!r}, this vernaclip reads "
            f"{FILE_VERSION!r}"
        )
    fingerprint = str(metadata[FINGERPRINT_KEY].decode(errors="replace"))
    if not _FINGERPRINT.fullmatch(fingerprint):
        raise InputError(f"{path} names no engine, but {fingerprint[:80]!r}: have it exported again")
    return fingerprint


def _groups(path: Path) -> Iterator[Entries]:
    """The rows of a file, some at a time; each is checked."""
    with _told(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        for batch in file.iter_batches(ROWS_PER_GROUP):
            captions, *columns = (column.to_pylist() for column in batch.columns)
            found = [
                Translation(text=text, score=score, truncated=truncated, repetitive=repetitive)
                for text, score, truncated, repetitive in zip(*columns, strict=True)
            ]
            for each in found:
                if each.score is not None and not (math.isfinite(each.score) and each.score <= 0):
                    raise InputError(
                        f"{path} holds the score {each.score}, which is no log probability: export it again"
                    )
            yield list(zip(captions, found, strict=True))


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Name the Parquet file that cannot be read."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is missing, damaged or no Parquet file: {error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} holds a text that is not UTF-8 ({error}): export it again") from error
