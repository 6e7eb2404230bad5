"""Files that are either whole or absent: atomic writes of JSON, Parquet and tensors, hashes, and names of shards."""

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.errors import DamagedError, SettingsError
from data_catalog.storage.disk_errors import disk_errors
from data_catalog.storage.failpoints import failpoint
from data_catalog.storage.reading import putting_in_place

if TYPE_CHECKING:
    import torch

TEMPORARY_PREFIX = ".tmp-"
ROWS_PER_GROUP = 50_000
# Image bytes do not compress; small row groups keep readers' memory bounded (about 10 MB at 256 pixels).
IMAGE_ROWS_PER_GROUP = 200
# Columns whose values repeat: a dictionary makes them small.
_REPETITIVE = (
    *("source", "source_lang", "target_lang", "translator", "license", "upstream_file", "upstream_split", "origin"),
    *("outcome", "step", "drop_reason", "split"),
)


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """Hexadecimal sha256 of the canonical JSON of `value`: equal values, equal digests, on every machine."""
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
    """Make a folder, and those above it that are not there, so that a power cut does not unmake them."""
    missing: list[Path] = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for made in reversed(missing):
        made.mkdir(exist_ok=True)
        sync(made.parent)


def write_atomically(path: Path, write: Callable[[Path], object]) -> str:
    """Let `write` fill a temporary file beside `path`, then put it in place in one step.

    The file has the permissions of any new file, by the umask or the folder's rules.

    Returns:
        The sha256 of the file.

    Raises:
        DiskError: the disk is full, or fails.
        SettingsError: a folder, a pipe or a device has that name.
    """
    if path.exists() and not path.is_file():
        raise SettingsError(f"{path} is no file, so no file can take its place: give another name")
    return _write_new(path, write, lambda _: path)[1]


def write_bytes(path: Path, content: bytes) -> str:
    """Make `content` a file, as `write_atomically` does; returns its sha256."""
    return write_atomically(path, lambda temporary: temporary.write_bytes(content))


def write_named_atomically(folder: Path, name: Callable[[str], str], write: Callable[[Path], object]) -> Path:
    """The same for a file whose name `name` makes of its sha256; returns its path."""
    return _write_new(folder / "file", write, lambda found: folder / name(found))[0]


def _write_new(told: Path, write: Callable[[Path], object], place: Callable[[str], Path]) -> tuple[Path, str]:
    """Write, fsync, rename, fsync the folder; errors name the path `told`."""
    with disk_errors(told):
        make_folder(told.parent)
        temporary, mode = _new_temporary(told.parent)
        try:
            failpoint("atomic.before_write", told)
            write(temporary)
            temporary.chmod(mode)  # `write` may have put another file there
            failpoint("atomic.after_write", told)
            sync(temporary)
            failpoint("atomic.after_fsync", told)
            found = sha256_of(temporary)
            path = place(found)
            with putting_in_place():
                temporary.replace(path)
                failpoint("atomic.after_rename", told)
                sync(path.parent)
            failpoint("atomic.after_folder_fsync", told)
        finally:
            temporary.unlink(missing_ok=True)
    return path, found


def _new_temporary(folder: Path) -> tuple[Path, int]:
    """An empty file under a name of its own, and the mode that it got: only a new file tells the umask to threads."""
    temporary = folder / f"{TEMPORARY_PREFIX}{uuid4().hex}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        return temporary, stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)


def append_line(path: Path, line: str) -> None:
    """Add one line to a log, for good; what a killed process left of its last line becomes a line of its own.

    Raises:
        DiskError: the disk is full, or fails.
    """
    with disk_errors(path):
        make_folder(path.parent)
        with path.open("a+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            is_torn = size > 0 and os.pread(file.fileno(), 1, size - 1) != b"\n"
            failpoint("append.before_write", path)
            content = b"\n" * is_torn + line.encode() + b"\n"
            while content:  # an unbuffered file may take less than it is given
                content = content[file.write(content) :]
            failpoint("append.after_write", path)
            os.fsync(file.fileno())
            failpoint("append.after_fsync", path)


def json_bytes(value: Any) -> bytes:
    """Return indented JSON with sorted keys; of names that are not UTF-8, JSON's escapes stand for the odd bytes."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    return text.encode(errors="backslashreplace")


def write_json(path: Path, value: Any) -> str:
    """Write `value` atomically as `json_bytes`; returns the file's sha256."""
    return write_bytes(path, json_bytes(value))


def read_json(path: Path) -> Any:
    """Parse a UTF-8 JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def save_parquet(table: pa.Table, path: Path) -> None:
    """Write a table of texts in place, for callers that rename a whole folder later."""
    repetitive = [name for name in table.schema.names if name in _REPETITIVE]
    pq.write_table(
        table,
        path,
        compression="zstd",
        row_group_size=ROWS_PER_GROUP,
        use_dictionary=repetitive,
        write_page_checksum=True,
    )


@contextmanager
def damage_told(path: Path) -> Iterator[None]:
    """While a Parquet file is read, say in a sentence that it is damaged or missing.

    Raises:
        DamagedError: it is.
    """
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise DamagedError(f"{path} cannot be read ({error}): `vernaclip verify` lists all that is damaged") from error


def read_columns(path: Path, names: Sequence[str] | None) -> pa.Table:
    """Return columns of a file; `read_table`, as any scalar of Arrow, would load pandas, which takes longer.

    Raises:
        DamagedError: the file is damaged or missing.
    """
    with damage_told(path), pq.ParquetFile(path) as file:
        return file.read(columns=None if names is None else list(names))


def column_names(path: Path) -> list[str]:
    """Return the names of the columns that a file has.

    Raises:
        DamagedError: the file is damaged or missing.
    """
    with damage_told(path):
        names: list[str] = pq.read_schema(path).names
        return names


def open_image_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer for rows that hold encoded images: uncompressed, since JPEG does not compress."""
    return pq.ParquetWriter(path, schema, compression="none", use_dictionary=False, write_page_checksum=True)


def save_tensors(tensors: Mapping[str, "torch.Tensor"], path: Path, metadata: dict[str, str]) -> str:
    """Write named tensors atomically; returns the file's sha256.

    Args:
        metadata: one entry only, since safetensors writes several in random order.

    Raises:
        DiskError: the disk is full.
    """
    from safetensors.torch import save

    # Copies: safetensors refuses tensors that share memory, as averaged weights may after a load. They are the
    # processor's: a GPU's memory may have no room for a second model and its moments.
    whole = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    # As bytes: safetensors' own writer leaves a temporary file of its own behind when it is killed, and tells of a full
    # disk by an error of its own.
    content = save(whole, metadata=metadata)
    return write_bytes(path, content)


def order_key(identity: str) -> str:
    """Where an identity lies in the shuffled order of a dataset: the first 16 hexadecimal digits of its sha1."""
    return hashlib.sha1(identity.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()[:16]


def unit_interval(identity: str, salt: str) -> float:
    """A stable number in [0, 1) drawn from an identity; other salts give independent numbers."""
    return int(order_key(f"{salt}\0{identity}"), 16) / 16**16


def shard_of(key: str, num_shards: int) -> int:
    """The shard whose range of `order_key`s holds `key`; shards are contiguous in key order."""
    return (int(key[:8], 16) * num_shards) >> 32


def sweep_temporary(folders: Iterable[Path], *, files_only: bool = False) -> None:
    """Remove what killed processes left behind in these folders. Call it with the writer's lock held only.

    With `files_only` temporary folders stay: some have a lock of their own.
    """
    for folder in folders:
        for leftover in folder.glob(f"{TEMPORARY_PREFIX}*"):
            if leftover.is_dir():
                if not files_only:
                    shutil.rmtree(leftover)
            else:
                leftover.unlink(missing_ok=True)


def take_away(folder: Path) -> Path:
    """Give a folder a temporary name, in one move for its readers; the next sweep removes what is left of it."""
    doomed = folder.with_name(f"{TEMPORARY_PREFIX}removed-{folder.name}")
    if doomed.exists():  # of a removal that was killed
        shutil.rmtree(doomed)
    folder.rename(doomed)
    sync(doomed.parent)
    return doomed


def link_file(source: Path, target: Path) -> None:
    """Give a file a second name, so that it is not written twice; or a copy, where the disk knows no second names."""
    make_folder(target.parent)
    try:
        os.link(source, target)
    except OSError:
        write_atomically(target, partial(shutil.copyfile, source))
    sync(target.parent)
