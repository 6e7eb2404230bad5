"""The command that answers SQL queries, as a table or in forms that other programs read."""

import sys
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from data_catalog.errors import SettingsError
from flows.cli.options import DEFAULT_ROOT, Number, Root, Text
from flows.cli.output import require_own_file, say, say_table, speaking

if TYPE_CHECKING:
    import pyarrow as pa

    from data_catalog.database.answer_files import Batches


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

    from data_catalog.database.answer_files import distinct_names, short_value, write_parquet
    from data_catalog.database.catalog import answer
    from data_catalog.storage.shards import write_atomically
    from flows.ending import interrupted_by_sigterm

    if options.format == "table" and options.out:
        raise SettingsError("a table is for the terminal: give --format csv, json or parquet with --out")
    if options.format == "parquet" and not options.out:
        raise SettingsError("Parquet is for a file: give --out FILE with it")
    if options.max_rows < 1:
        raise SettingsError(f"--max-rows must be 1 or more, got {options.max_rows}")
    if options.out:
        require_own_file(options.out)
    with interrupted_by_sigterm(), answer(root, query) as (found, rows):
        names = distinct_names(found.names)
        schema = pa.schema([field.with_name(name) for field, name in zip(found, names, strict=True)])
        batches = (batch.rename_columns(names) for batch in rows)
        if options.format == "table":
            cells = (row for batch in batches for row in batch.to_pylist())
            shown = list(islice(cells, options.max_rows))
            say_table([{name: short_value(value) for name, value in row.items()} for row in shown])
            if next(cells, None) is not None:
                say(f"... and more: these are the first {options.max_rows:,} rows (--max-rows N; --format csv has all)")
        elif options.out is not None and options.format == "parquet":
            write_atomically(options.out, lambda path: write_parquet(path, schema, batches))
        else:
            _write_text(options, schema, batches)


def _write_text(options: AnswerOptions, schema: "pa.Schema", batches: "Batches") -> None:
    from data_catalog.database.answer_files import write_csv, write_json_lines
    from data_catalog.storage.shards import write_atomically

    write = write_csv if options.format == "csv" else write_json_lines
    if options.out is None:
        with speaking():
            write(sys.stdout, schema, batches, raw=options.raw)
        return

    def to_file(path: Path) -> None:
        with path.open("w", encoding="utf-8", newline="") as file, speaking():
            write(file, schema, batches, raw=options.raw)

    write_atomically(options.out, to_file)
