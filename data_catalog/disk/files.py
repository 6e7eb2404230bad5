"""Atomic writes of JSON, Parquet and tensors, hashes of files and values, and the order of samples in shards."""

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.base.boundary import about
from data_catalog.base.errors import DamagedError, SettingsError
from data_catalog.disk.barrier import block_takedowns
from data_catalog.disk.disk_errors import disk_errors
from data_catalog.disk.failpoints import failpoint

if TYPE_CHECKING:
    import torch

One = TypeVar("One")
Found = TypeVar("Found")

TEMPORARY_PREFIX = ".tmp-"
_VERIFY = "`vernaclip verify` lists all damaged files"
ROWS_PER_GROUP = 50_000
# Image bytes do not compress; small row groups keep readers' memory bounded (about 10 MB at 256 pixels).
IMAGE_ROWS_PER_GROUP = 200
# Columns whose values repeat: dictionary encoding makes them small.
_REPETITIVE = (
    *("source", "source_lang", "target_lang", "translator", "license", "upstream_file", "upstream_split", "origin"),
    *("outcome", "step", "drop_reason", "split"),
)


def sha256_of(path: Path) -> str:
    """Return the hexadecimal sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """Return the hexadecimal sha256 of the canonical JSON of `value`, which is the same on every machine."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


def sync(path: Path) -> None:
    """Force a file's bytes, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder and its missing parents, each synced to the disk, so that they survive a power cut."""
    missing: list[Path] = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for made in reversed(missing):
        made.mkdir(exist_ok=True)
        sync(made.parent)


def write_atomically(path: Path, write: Callable[[Path], object]) -> str:
    """Let `write` fill a temporary file beside `path`, then rename it to `path`; return its sha256."""
    if path.exists() and not path.is_file():
        raise SettingsError(f"{path} exists and is not a regular file: give another name")
    return _write_new(path, write, lambda _: path)[1]


def write_bytes(path: Path, content: bytes) -> str:
    """Write `content` to a file as `write_atomically` does; return its sha256."""
    return write_atomically(path, lambda temporary: temporary.write_bytes(content))


def write_named_atomically(folder: Path, name: Callable[[str], str], write: Callable[[Path], object]) -> Path:
    """Write a file atomically under the name that `name` makes of its sha256; return its path."""
    return _write_new(folder / "file", write, lambda found: folder / name(found))[0]


def _write_new(shown_path: Path, write: Callable[[Path], object], place: Callable[[str], Path]) -> tuple[Path, str]:
    """Write, fsync, rename, fsync the folder; errors and failpoints name `shown_path`."""
    with disk_errors(shown_path):
        make_folder(shown_path.parent)
        temporary = shown_path.parent / f"{TEMPORARY_PREFIX}{uuid4().hex}"
        try:  # from its creation on: Ctrl-C may come at any moment
            temporary.touch(exist_ok=False)
            mode = stat.S_IMODE(temporary.stat().st_mode)
            failpoint("atomic.before_write", shown_path)
            write(temporary)
            temporary.chmod(mode)  # `write` may have replaced the file
            failpoint("atomic.after_write", shown_path)
            sync(temporary)
            failpoint("atomic.after_fsync", shown_path)
            found = sha256_of(temporary)
            path = place(found)
            with block_takedowns():
                temporary.replace(path)
                failpoint("atomic.after_rename", shown_path)
                sync(path.parent)
            failpoint("atomic.after_folder_fsync", shown_path)
        finally:
            temporary.unlink(missing_ok=True)
    return path, found


def append_line(path: Path, line: str) -> None:
    """Append one line to a log and sync it; a partial last line of a killed process becomes a line of its own."""
    with disk_errors(path):
        make_folder(path.parent)
        with path.open("a+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            is_torn = size > 0 and os.pread(file.fileno(), 1, size - 1) != b"\n"
            failpoint("append.before_write", path)
            content = b"\n" * is_torn + line.encode() + b"\n"
            while content:  # an unbuffered write may be partial
                content = content[file.write(content) :]
            failpoint("append.after_write", path)
            os.fsync(file.fileno())
            failpoint("append.after_fsync", path)


def json_bytes(value: Any) -> bytes:
    """Return indented JSON with sorted keys; bytes of names that are not UTF-8 are written as JSON escapes."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    return text.encode(errors="backslashreplace")


def write_json(path: Path, value: Any) -> str:
    """Write `value` atomically as `json_bytes` encodes it; return the file's sha256."""
    return write_bytes(path, json_bytes(value))


def read_json(path: Path) -> Any:
    """Parse a UTF-8 JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def save_parquet(table: pa.Table, path: Path) -> None:
    """Write a table of texts directly, for callers that rename the whole folder later."""
    repetitive = [name for name in table.schema.names if name in _REPETITIVE]
    pq.write_table(
        table,
        path,
        compression="zstd",
        row_group_size=ROWS_PER_GROUP,
        use_dictionary=repetitive,
        write_page_checksum=True,
    )


def read_columns(path: Path, names: Sequence[str] | None) -> pa.Table:
    """Return columns of a file, without `read_table`, which loads pandas and takes longer."""
    with about(f"{path} cannot be read", kind=DamagedError, remedy=_VERIFY), pq.ParquetFile(path) as file:
        return file.read(columns=None if names is None else list(names))


def of_each_file(find: Callable[[One], Found], files: Iterable[One], *, most: int = 8) -> Iterator[Found]:
    """Yield the result of `find` for each file, in order; at most `most` files are worked on at a time, in threads."""
    with ThreadPoolExecutor(min(most, os.cpu_count() or 1)) as pool:
        yield from pool.map(find, files)


def column_names(path: Path) -> list[str]:
    """Return the names of a file's columns."""
    with about(f"{path} cannot be read", kind=DamagedError, remedy=_VERIFY):
        names: list[str] = pq.read_schema(path).names
        return names


def open_image_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Return a writer for rows with encoded images: uncompressed, since JPEG does not compress."""
    return pq.ParquetWriter(path, schema, compression="none", use_dictionary=False, write_page_checksum=True)


def save_tensors(tensors: Mapping[str, "torch.Tensor"], path: Path, metadata: dict[str, str]) -> str:
    """Write named tensors atomically, with at most one entry of metadata; return the file's sha256."""
    from safetensors.torch import save

    # Copies, since safetensors refuses tensors that share memory, as averaged weights may after a load. On the CPU,
    # since a GPU may have no memory for a second model and its moments.
    whole = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    # As bytes, since safetensors' own writer has an error class of its own for a full disk.
    return write_bytes(path, save(whole, metadata=metadata))


def order_key(identity: str) -> str:
    """Return a sample's place in the shuffled order of a dataset: the first 16 hexadecimal digits of its id's sha1."""
    return hashlib.sha1(identity.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()[:16]


def unit_interval(identity: str, salt: str) -> float:
    """Return a stable number in [0, 1) for an id; another salt gives an independent number."""
    return int(order_key(f"{salt}\0{identity}"), 16) / 16**16


def shard_of(key: str, num_shards: int) -> int:
    """Return the shard whose range of `order_key`s contains `key`; shards are contiguous in key order."""
    return (int(key[:8], 16) * num_shards) >> 32


def sweep_temporary(folders: Iterable[Path], *, files_only: bool = False) -> None:
    """Remove the temporary files that killed processes left in these folders. Call it with the writer's lock held.

    With `files_only` temporary folders stay, since some have a lock of their own.
    """
    for folder in folders:
        for leftover in folder.glob(f"{TEMPORARY_PREFIX}*"):
            if not leftover.is_dir():
                leftover.unlink(missing_ok=True)
            elif not files_only:
                with suppress(FileNotFoundError):  # a Dask worker tidies up a step of a killed flow
                    shutil.rmtree(leftover)


def rename_for_removal(folder: Path) -> Path:
    """Rename a folder to a temporary name, so that readers lose it at once; the next sweep removes the remains."""
    doomed = folder.with_name(f"{TEMPORARY_PREFIX}removed-{folder.name}")
    if doomed.exists():  # an earlier removal was killed
        shutil.rmtree(doomed)
    folder.rename(doomed)
    sync(doomed.parent)
    return doomed


def link_file(source: Path, target: Path) -> None:
    """Create a hard link to a file; copy the file if the disk does not support hard links."""
    make_folder(target.parent)
    try:
        os.link(source, target)
    except OSError:
        write_atomically(target, partial(shutil.copyfile, source))
    sync(target.parent)
