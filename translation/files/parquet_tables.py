"""A column of a Parquet file, translated as it streams by; all other columns keep their types, values and metadata."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.errors import InputError, SettingsError
from data_catalog.storage.shards import ROWS_PER_GROUP
from translation.files.columns import Columns, Values
from translation.files.text_tables import Stream

CAPTIONS_PER_READ = 20_000
# Of each column: without it, and by default, the whole of a row group is read ahead, which may be the whole file.
BUFFER_BYTES = 2**18
# Rows are copied in pieces of at most about so many bytes, and never across two row groups: images make large rows.
BYTES_PER_COPY = 16 * 2**20

# Of the new columns, as `Columns.added` names them.
_TYPES = (pa.string(), pa.float32(), pa.bool_(), pa.bool_())


def count_rows(path: Path) -> int:
    """How many rows a file has, as it says itself.

    Raises:
        InputError: it is no whole Parquet file.
    """
    with _open(path) as file:
        rows: int = file.metadata.num_rows
        return rows


def check_columns(path: Path, columns: Columns) -> None:
    """Make sure that the column of captions can be read and the new ones written.

    Raises:
        SettingsError: it is not there or holds no text, or a new one is there already.
        InputError: this is no whole Parquet file.
    """
    schema = _schema(path)
    kind = schema.field(columns.place_among(schema.names, str(path))).type
    if not _holds_text(kind):
        raise SettingsError(
            f"{path}: the column {columns.read!r} holds {kind} instead of text: name another (--column)"
        )


def translate_parquet(path: Path, out: Path, stream: Stream, columns: Columns) -> None:
    """Write a file anew with translations beside its captions, row group by row group; null stays null.

    Raises:
        InputError: a caption is not UTF-8.
        PipelineError: as `check_columns` or the engine does.
    """
    check_columns(path, columns)
    translations = stream(caption or "" for caption in _captions(path, columns.read))
    schema = _widened(_schema(path), columns)
    with pq.ParquetWriter(out, schema, compression="zstd", write_page_checksum=True) as writer:
        for batch in _pieces(path):
            nulls = batch.column(columns.read).is_null().to_pylist()
            found = islice(translations, batch.num_rows)
            rows = [
                (None,) * len(columns.added) if null else columns.values(translation)
                for null, translation in zip(nulls, found, strict=True)
            ]
            writer.write_batch(_with_columns(batch, rows, schema))


def _pieces(path: Path) -> Iterator[pa.RecordBatch]:
    with _open(path) as file:
        for number in range(file.num_row_groups):
            group = file.metadata.row_group(number)
            rows = min(ROWS_PER_GROUP, group.num_rows * BYTES_PER_COPY // max(group.total_byte_size, 1))
            yield from file.iter_batches(batch_size=max(rows, 1), row_groups=[number])


def _captions(path: Path, column: str) -> Iterator[str | None]:
    """The captions alone, far ahead of the rows that hold them."""
    with _open(path) as file:
        done = 0
        for batch in file.iter_batches(batch_size=CAPTIONS_PER_READ, columns=[column]):
            try:
                captions = batch.column(0).to_pylist()
            except UnicodeDecodeError as error:
                rows = f"rows {done + 1:,} to {done + batch.num_rows:,}"
                raise InputError(f"{path}, {rows}: the column {column!r} holds text that is not UTF-8") from error
            done += batch.num_rows
            yield from captions


def _schema(path: Path) -> pa.Schema:
    with _open(path) as file:
        return file.schema_arrow


def _widened(schema: pa.Schema, columns: Columns) -> pa.Schema:
    for name, kind in zip(columns.added, _TYPES, strict=False):
        schema = schema.append(pa.field(name, kind))
    return schema


def _with_columns(batch: pa.RecordBatch, rows: Sequence[Values], schema: pa.Schema) -> pa.RecordBatch:
    added = [schema.field(number) for number in range(batch.num_columns, len(schema))]
    values = [pa.array([row[place] for row in rows], field.type) for place, field in enumerate(added)]
    return pa.RecordBatch.from_arrays([*batch.columns, *values], schema=schema)


@contextmanager
def _open(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER_BYTES) as file:
            yield file
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is no whole Parquet file ({error})") from error


def _holds_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _holds_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
