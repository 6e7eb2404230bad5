"""Texts out of Parquet files, unpacked in a child of bounded memory, since few bytes may stand for gigabytes."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_catalog.errors import ConfigError, PipelineError
from data_catalog.sources.files import MAX_TEXT_CHARS

TOO_LONG = "vernaclip: too long"  # a column beside the texts: which of a row's columns holds more than any text has
_MAX_TEXT_BYTES = 4 * MAX_TEXT_CHARS
_ROWS_PER_BATCH = 256
_BUFFER_BYTES = 2**18  # of a column; without it the whole of its part of a row group is read at once
_CHILD_BYTES = 600 * 2**20  # beyond what the interpreter and its libraries take
_UNREADABLE, _OUT_OF_MEMORY = 3, 4
# mimalloc, and the threads of OpenBLAS, reserve memory that they never use.
_ENVIRONMENT = {"ARROW_DEFAULT_MEMORY_POOL": "system", "OPENBLAS_NUM_THREADS": "1"}
_STATM = Path("/proc/self/statm")


def read_texts(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield text columns of a Parquet file in small batches, with a column `TOO_LONG`.

    Raises:
        ConfigError: it is no whole Parquet file, or cannot be unpacked within the memory of readers.
    """
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "data_catalog.sources.parquet_texts", str(path), *columns],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | _ENVIRONMENT,
    )
    with child:
        try:
            yield from _batches(child)
            told = child.stderr.read().decode("utf-8", "replace") if child.stderr else ""
            _require_success(path, child.wait(), told)
        finally:
            child.kill()


def _batches(child: "subprocess.Popen[bytes]") -> Iterator[pa.RecordBatch]:
    try:
        with pa.ipc.open_stream(child.stdout) as stream:
            yield from stream
    except pa.ArrowInvalid:
        return  # cut off: the child's end says why


def _require_success(path: Path, status: int, told: str) -> None:
    if status == _UNREADABLE:
        raise ConfigError(f"{path} is no whole Parquet file ({told})")
    if status == _OUT_OF_MEMORY or status < 0:
        raise ConfigError(
            f"{path} cannot be unpacked within 1 GB of memory: write it anew with smaller values, pages and row groups"
        )
    if status:
        raise PipelineError(f"{path} could not be read ({told[-500:]}). This is a defect: report it")


def main(arguments: Sequence[str]) -> int:
    """Write batches to standard output, as a stream of Arrow; `arguments`: path of the file, names of the columns."""
    path, *columns = arguments
    _limit_memory()
    schema = pa.schema([(name, pa.string()) for name in (*columns, TOO_LONG)])
    try:
        with (
            pq.ParquetFile(path, read_dictionary=columns, pre_buffer=False, buffer_size=_BUFFER_BYTES) as file,
            pa.ipc.new_stream(sys.stdout.buffer, schema) as stream,
        ):
            for batch in file.iter_batches(_ROWS_PER_BATCH, columns=columns, use_threads=False):
                stream.write_batch(_bounded(batch, columns, schema))
    except MemoryError:
        return _OUT_OF_MEMORY
    except (pa.ArrowException, OSError) as error:
        sys.stderr.write(str(error))
        return _UNREADABLE
    return 0


def _limit_memory() -> None:
    # Elsewhere than on Linux there is no such file, and the limit has no effect.
    pages = int(_STATM.read_text(encoding="ascii").split()[0]) if _STATM.exists() else 0
    limit = pages * resource.getpagesize() + _CHILD_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _bounded(batch: pa.RecordBatch, columns: Sequence[str], schema: pa.Schema) -> pa.RecordBatch:
    """Return the texts, with nulls for those that are too long, and the first such column of each row."""
    texts, too_long = [], pa.nulls(batch.num_rows, pa.string())
    for name in columns:
        column = batch.column(name)
        if pa.types.is_dictionary(column.type):
            values, rows = column.dictionary, column.indices
        else:
            values, rows = column, pa.array(range(batch.num_rows), pa.int32())
        # Judged where each value stands once; copied to the rows are only the others.
        values = values.cast(pa.string())
        fits = pc.fill_null(pc.less_equal(pc.binary_length(values), _MAX_TEXT_BYTES), True)
        places = pc.if_else(fits, pc.subtract(pc.cumulative_sum(fits.cast(pa.int32())), 1), None)
        texts.append(values.filter(fits).take(places.take(rows)))
        is_long = pc.fill_null(pc.invert(fits.take(rows)), False)
        too_long = pc.if_else(pc.and_(is_long, pc.is_null(too_long)), name, too_long)
    return pa.RecordBatch.from_arrays([*texts, too_long], schema=schema)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
