"""The command that answers SQL queries, as a table or in forms that other programs read."""

import csv
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TextIO

from cyclopts import Parameter

from data_catalog.errors import SettingsError
from data_catalog.plain_text import escaped_json, plain_table, spreadsheet_text
from flows.cli.options import DEFAULT_ROOT, Number, Root, Text
from flows.cli.output import require_own_file, say, speaking

if TYPE_CHECKING:
    import pyarrow as pa

# Long texts and image bytes would make a table unreadable; the other forms have everything.
MAX_CELL = 60
Batches = Iterator["pa.RecordBatch"]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """In which form an answer comes, and where it goes."""

    format: Literal["table", "csv", "json", "parquet"] = "table"
    """A table, CSV, JSON lines, or Parquet (with --out)."""
    out: Annotated[Path | None, Parameter(metavar="FILE")] = None
    """Write CSV, JSON lines or Parquet there."""
    raw: bool = False
    """CSV with all texts as they are."""
    max_rows: Number = 1000
    """Rows of a table; other forms have all."""


_DEFAULTS = AnswerOptions()


def sql(query: Text, /, *, root: Root = DEFAULT_ROOT, options: AnswerOptions = _DEFAULTS) -> None:
    """Answer an SQL query on the catalog's views, of which `FROM duckdb_views()` says what they hold.

    Examples:
      vernaclip sql "FROM funnel" --root italy
      vernaclip sql "SELECT source, count(*) FROM rejects GROUP BY ALL" --root italy --format csv --out rejects.csv
      vernaclip sql "SELECT view_name, comment FROM duckdb_views() WHERE NOT internal" --root italy

    The connection reads the datasets of this root and nothing else, and writes nothing. In tables, characters that
    steer a terminal are shown as their codes. In CSV, texts that a spreadsheet would take for formulas (they begin with
    = + - @, a tab or a carriage return) get an apostrophe in front, and control characters but tabs and line ends
    become their codes; --raw leaves texts as they are. JSON and Parquet hold everything as it is.

    Args:
        query: One statement of DuckDB's SQL.
    """
    import pyarrow as pa

    from data_catalog.database.catalog import answer
    from data_catalog.storage.shards import write_atomically
    from flows.ending import interrupted_by_sigterm

    _require_form(options)
    with interrupted_by_sigterm(), answer(root, query) as (found, rows):
        names = distinct_names(found.names)
        schema = pa.schema([field.with_name(name) for field, name in zip(found, names, strict=True)])
        batches = (batch.rename_columns(names) for batch in rows)
        if options.format == "table":
            _print_table(batches, options.max_rows)
        elif options.out is not None and options.format == "parquet":
            write_atomically(options.out, lambda path: _write_parquet(path, schema, batches))
        else:
            _write_text(options, schema, batches)


def _require_form(options: AnswerOptions) -> None:
    if options.format == "table" and options.out:
        raise SettingsError("a table is for the terminal: give --format csv, json or parquet with --out")
    if options.format == "parquet" and not options.out:
        raise SettingsError("Parquet is for a file: give --out FILE with it")
    if options.max_rows < 1:
        raise SettingsError(f"--max-rows must be 1 or more, got {options.max_rows}")
    if options.out:
        require_own_file(options.out)


def distinct_names(names: Sequence[str]) -> list[str]:
    """Return names of columns, of which no two are alike: a second `a` is `a_1`."""
    found: dict[str, None] = {}
    for name in names:
        others = (f"{name}_{number}" for number in count(1))
        found[name if name not in found else next(other for other in others if other not in found)] = None
    return list(found)


def _print_table(batches: Batches, max_rows: int) -> None:
    rows = (row for batch in batches for row in batch.to_pylist())
    shown = list(islice(rows, max_rows))
    say(plain_table([{name: short_value(value) for name, value in row.items()} for row in shown]))
    if next(rows, None) is not None:
        say(f"... and more: these are the first {max_rows:,} rows (--max-rows N; --format csv has all)")


def _write_parquet(path: Path, schema: "pa.Schema", batches: Batches) -> None:
    import pyarrow.parquet as pq

    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)


def _write_text(options: AnswerOptions, schema: "pa.Schema", batches: Batches) -> None:
    from data_catalog.storage.shards import write_atomically

    write = _write_csv if options.format == "csv" else _write_json
    if options.out is None:
        write(sys.stdout, schema, batches, raw=options.raw)
        return

    def to_file(path: Path) -> None:
        with path.open("w", encoding="utf-8", newline="") as file:
            write(file, schema, batches, raw=options.raw)

    write_atomically(options.out, to_file)


def _write_csv(file: TextIO, schema: "pa.Schema", batches: Batches, *, raw: bool) -> None:
    text: Callable[[str], str] = str if raw else spreadsheet_text
    writer = csv.writer(file)
    with speaking():
        writer.writerow([text(name) for name in schema.names])
        for batch in batches:
            columns = [column.to_pylist() for column in batch.columns]
            writer.writerows([_csv_cell(value, text) for value in row] for row in zip(*columns, strict=True))


def _csv_cell(value: object, text: Callable[[str], str]) -> object:
    if isinstance(value, bytes):
        value = value.hex()
    if isinstance(value, list | dict):
        value = json.dumps(_json_value(value), ensure_ascii=False, default=str)
    return text(value) if isinstance(value, str) else value


def _write_json(file: TextIO, _: "pa.Schema", batches: Batches, *, raw: bool) -> None:
    with speaking():
        for batch in batches:
            for row in batch.to_pylist():
                line = json.dumps(_json_value(row), ensure_ascii=False, default=str)
                file.write((line if raw else escaped_json(line)) + "\n")


def _json_value(value: object) -> object:
    """Return a value as JSON has it: bytes in hexadecimal, decimals as numbers, and null for what is no number."""
    if isinstance(value, dict):
        return {name: _json_value(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_json_value(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Decimal):
        value = _whole(value)
        return float(value) if isinstance(value, Decimal) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _whole(value: Decimal) -> int | Decimal:
    """Return an integer where a type without decimals holds it, such as that of sums."""
    return int(value) if value.as_tuple().exponent == 0 else value


def short_value(value: object) -> object:
    """Return a value as a table shows it: the number of bytes in place of them, long texts cut."""
    if isinstance(value, bytes):
        return f"<{len(value):,} bytes>"
    if isinstance(value, Decimal):
        return _whole(value)
    if isinstance(value, dict):
        value = {name: short_value(item) for name, item in value.items()}
    if isinstance(value, list | dict | str) and len(str(value)) > MAX_CELL:
        return str(value)[: MAX_CELL - 3] + "..."
    return value
