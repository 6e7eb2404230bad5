"""Rows of Parquet and Arrow files, read in a process with a limit of memory: a megabyte may unpack to gigabytes.

`python -m data_catalog.sources.row_files SOCKET` loads the library once, and forks a process for each socket that it is
sent, to read one file.
"""

import atexit
import json
import socket
import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from functools import cache
from itertools import accumulate
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from pathlib import Path
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_catalog.base.boundary import one_line
from data_catalog.disk.child_process import ChildProcess, cap_memory, fork_for_each
from data_catalog.sources.files import MAX_LINE_BYTES, reading

ROW_FORMATS = (".parquet", ".arrow")
_MEMORY_BYTES = 640 * 2**20
_ARROW_FILE = b"ARROW1"
_BUFFER_BYTES = 2**18  # per column; without it, a column's whole part of a row group is read at once
_LOCK = Lock()


class UnreadableRowsError(OSError):
    """Rows that cannot be read: all that were not read yet, up to the row `end` (from 0), where a row group begins."""

    def __init__(self, message: str, end: int) -> None:
        super().__init__(message)
        self.end = end


def table_schema(path: Path) -> pa.Schema:
    """Return the schema of a Parquet or Arrow file."""
    with reading(path):
        ((_, batch),) = _read(path, None)
        return pa.ipc.read_schema(batch.column(0)[0].as_buffer())


def table_batches(
    path: Path, columns: Sequence[str], num_rows: int, *, first: int = 0
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield columns of a Parquet or Arrow file in small batches, each with the number of its first row, from 0.

    They are texts, lists of texts, or the bytes of images. Rows before the row `first` may be left out.
    """
    return _read(path, columns, num_rows, first)


def _read(path: Path, *request: object) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield batches that a process of its own reads."""
    with closing(_process()) as ours, ours.makefile("rb") as stream:
        line = b""
        with suppress(OSError, pa.ArrowInvalid):  # its death
            ours.sendall(json.dumps([str(path.absolute()), *request]).encode() + b"\n")
            with pa.ipc.open_stream(stream) as reader, suppress(StopIteration):
                while True:
                    batch, metadata = reader.read_next_batch_with_custom_metadata()
                    yield int(metadata[b"first"]), batch
            line = stream.readline()
        error, end = json.loads(line or b"[]") or ("the process that reads it has died", sys.maxsize)
        if error:
            raise UnreadableRowsError(error, end)


@cache
def _zygote() -> ChildProcess:
    child = ChildProcess("data_catalog.sources.row_files")
    atexit.register(child.close)
    return child


def _process() -> socket.socket:
    """Return the socket of a new process."""
    ours, theirs = socket.socketpair()
    with theirs, _LOCK:
        if _zygote().socket.poll():  # it sends nothing: its end is closed
            _zygote.cache_clear()
        send_handle(_zygote().socket, theirs.fileno(), None)
    return ours


# --- The process ----------------------------------------------------------------------------------------------------


def _serve(parent: Connection) -> None:
    """Read a file for the parent: a stream of Arrow, then a line with an error and where the next row group begins."""
    with open(parent.fileno(), "rb", closefd=False) as file:
        name, columns, *more = json.loads(file.readline())
    path, error, end = Path(name), "", sys.maxsize
    with open(parent.fileno(), "wb", closefd=False) as out:
        writer: Any = None
        try:
            pa.set_memory_pool(pa.system_memory_pool())  # others reserve address space
            pa.set_io_thread_count(1)
            cap_memory(_MEMORY_BYTES + (0 if _is_parquet(path) else path.stat().st_size))  # Arrow is mapped
            found = _small_batches(path, columns, *more) if columns is not None else _schema(path)
            for first, end, batch in found:  # noqa: B007  the end is stated after an error
                if batch is not None:
                    writer = writer or pa.ipc.new_stream(out, batch.schema)
                    writer.write_batch(batch, custom_metadata={"first": str(first)})
                del batch
        except MemoryError:
            error = f"its rows take more than {_MEMORY_BYTES:,} bytes of memory"
        except (KeyError, OSError, ValueError, pa.ArrowException) as failure:
            error = one_line(failure)
        (writer or pa.ipc.new_stream(out, pa.schema([]))).close()
        out.write(json.dumps([error, end]).encode() + b"\n")


def _schema(path: Path) -> Iterator[tuple[int, int, pa.RecordBatch]]:
    with ExitStack() as stack:
        schema = pq.ParquetFile(path).schema_arrow if _is_parquet(path) else _open_arrow(path, stack)[0].schema
        # Each process would import pyarrow.fs for pq.read_schema, and pandas for pa.array.
        content = schema.serialize()
        yield 0, 0, pa.record_batch([pa.Array.from_buffers(pa.binary(content.size), 1, [None, content])], ["schema"])


def _small_batches(
    path: Path, columns: Sequence[str], num_rows: int, first: int
) -> Iterator[tuple[int, int, pa.RecordBatch | None]]:
    """Yield batches with their first row and the end of their row group, which is known before there is one."""
    with ExitStack() as stack:
        for start, end, batches in _row_groups(path, columns, num_rows, first, stack):
            yield start, end, None
            at = start
            for batch in batches:
                num_batch_rows = batch.num_rows
                if at + num_batch_rows > first:
                    for row, part in _parts(_plain(batch.select(columns), is_mapped=not _is_parquet(path)), num_rows):
                        yield at + row, end, part
                        del part
                at += num_batch_rows
                del batch  # else it depended on the batch before if there is memory for the next


def _parts(batch: pa.RecordBatch, num_rows: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield small parts of a batch, each with its first row; a row that is larger is alone."""
    for place in range(0, batch.num_rows, num_rows):
        part = batch.slice(place, num_rows)
        size = num_rows if part.nbytes <= MAX_LINE_BYTES else 1
        for row in range(0, part.num_rows, size):
            yield place + row, part.slice(row, size)


def _row_groups(
    path: Path, columns: Sequence[str], num_rows: int, first: int, stack: ExitStack
) -> Iterator[tuple[int, int, Iterable[pa.RecordBatch]]]:
    """Yield the start, the end and the batches of each row group from that of a row; a file of Arrow is one."""
    if not _is_parquet(path):
        yield 0, sys.maxsize, _open_arrow(path, stack)[1]
        return
    file = stack.enter_context(pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER_BYTES))
    ends = [0, *accumulate(file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))]
    for group in range(bisect_right(ends, first) - 1, file.num_row_groups):
        batches = file.iter_batches(num_rows, row_groups=[group], columns=columns, use_threads=False)
        yield ends[group], ends[group + 1], batches


def _open_arrow(path: Path, stack: ExitStack) -> tuple[Any, Iterable[pa.RecordBatch]]:
    """Return the reader and the batches of an Arrow file, or of a stream, as `datasets` saves."""
    file = stack.enter_context(pa.memory_map(str(path)))
    if file.read(len(_ARROW_FILE)) == _ARROW_FILE:
        reader = pa.ipc.open_file(file)
        return reader, map(reader.get_batch, range(reader.num_record_batches))
    file.seek(0)
    reader = pa.ipc.open_stream(file)
    return reader, reader


def _plain(batch: pa.RecordBatch, *, is_mapped: bool) -> pa.RecordBatch:
    """Return columns as texts, lists of texts or bytes: codes of a dictionary would unpack in the parent."""
    batch.validate(full=is_mapped)  # offsets in a file of Arrow may lead anywhere
    plain = []
    for column in batch.columns:
        is_image = pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0
        column = pc.struct_field(column, "bytes") if is_image else column
        plain.append(column.cast(_plain_type(column.type)))
    return pa.record_batch(plain, batch.schema.names)


def _plain_type(kind: pa.DataType) -> pa.DataType:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if is_list or pa.types.is_dictionary(kind):
        return pa.list_(_plain_type(kind.value_type)) if is_list else _plain_type(kind.value_type)
    known = (pa.types.is_string, pa.types.is_large_string, pa.types.is_null)
    return kind if any(is_kind(kind) for is_kind in known) else pa.large_binary()  # which no other type is cast to


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


if __name__ == "__main__":
    fork_for_each(Connection(int(sys.argv[1])), _serve)
