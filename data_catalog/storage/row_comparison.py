"""Rows of two sets of Parquet files held against each other by an id, in DuckDB, within bounded memory."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_catalog.errors import ConfigError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

# What does not fit goes to a temporary folder.
MEMORY_LIMIT = "2GB"
ADDED, GONE, OUTCOME = "added", "gone", "outcome"

Paths = Sequence[Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What of two tables is compared.

    Args:
        id: name of the column that names a row.
        outcome: SQL for how a row ended, as people read it.
        outcome_columns: the columns that this reads.
        aspects: by name, the columns that make it; an aspect of changed rows is told by its name.
        others: name of the aspect that all other columns make.
        unread: columns that are not compared, since they are large.
    """

    id: str
    outcome: str
    outcome_columns: tuple[str, ...]
    aspects: Mapping[str, tuple[str, ...]]
    others: str
    unread: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One row of a change: its id, and by column what it was and is, where that differs or says what the row is."""

    id: str
    columns: Mapping[str, tuple[Any, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Rows that changed alike.

    Args:
        change: "added", "gone", "outcome", or where that is the same, by name the aspects that are not, with commas.
        source: of the rows.
        before: how they ended; None where they were not there.
        after: the same of now.
        rows: how many.
        examples: some, the first by id.
    """

    change: str
    source: str
    before: str | None
    after: str | None
    rows: int
    examples: tuple[Example, ...]


def compare_rows(before: Paths, after: Paths, comparison: Comparison, *, num_examples: int) -> tuple[Change, ...]:
    """Rows of the files `after` that are not, or not so, in the files `before`, and rows that are there no more.

    Returns:
        Groups of rows that changed alike, the largest first.

    Raises:
        ConfigError: a file is missing or damaged, or the disk of temporary files is full.
    """
    if not before and not after:
        return ()
    with _connection() as connection:
        columns = {name: _columns(connection, files) for name, files in (("before", before), ("after", after))}
        names = sorted({name for found in columns.values() for name in found} - set(comparison.unread))
        for side, files in (("before", before), ("after", after)):
            connection.execute(f"CREATE VIEW {side} AS {_rows(files, names, columns[side])}")
        groups = connection.execute(_query(comparison, names), {"n": max(1, num_examples)}).fetchall()
        wanted = [name for *_, ids in groups for name in ids[:num_examples]]
        examples = _examples(connection, comparison, names, wanted)
    return tuple(
        Change(
            change=change,
            source=source,
            before=was,
            after=now,
            rows=rows,
            examples=tuple(examples[name] for name in ids[:num_examples]),
        )
        for change, source, was, now, rows, ids in groups
    )


@contextmanager
def _connection() -> "Iterator[DuckDBPyConnection]":
    import duckdb

    with tempfile.TemporaryDirectory(prefix="vernaclip-diff-") as folder, duckdb.connect() as connection:
        connection.execute("SET temp_directory = $folder", {"folder": folder})
        connection.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
        connection.execute("SET preserve_insertion_order = false")
        try:
            yield connection
        except duckdb.Error as error:
            text = str(error).partition("\n")[0]
            raise ConfigError(f"the snapshots cannot be compared ({text}): see `vernaclip verify`") from error


def _columns(connection: "DuckDBPyConnection", files: Paths) -> dict[str, str]:
    """Names and types of the columns of files, some of which may lack some."""
    if not files:
        return {}
    rows = connection.execute(f"DESCRIBE SELECT * FROM {_parquet(files)}").fetchall()
    return {str(row[0]): str(row[1]) for row in rows}


def _rows(files: Paths, names: Sequence[str], there: Mapping[str, str]) -> str:
    """SQL of the rows of files, with all columns: null where the files lack one."""
    select = ", ".join(_quoted(name) if name in there else f"NULL AS {_quoted(name)}" for name in names)
    return f"SELECT {select} FROM {_parquet(files)}" if files else f"SELECT {select} WHERE false"


def _parquet(files: Paths) -> str:
    names = ", ".join("'" + str(file.absolute()).replace("'", "''") + "'" for file in files)
    return f"read_parquet([{names}], union_by_name = true, hive_partitioning = false)"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _query(comparison: Comparison, names: Sequence[str]) -> str:
    """SQL of the groups: change, source, before, after, number of rows, some ids."""
    aspects = _aspects(comparison, names)
    hashes = ", ".join(
        f"hash({', '.join(f'CAST({_quoted(name)} AS VARCHAR)' for name in columns)}) AS h{number}"
        for number, columns in enumerate(aspects.values())
    )
    side = f"SELECT {_quoted(comparison.id)} AS id, source, {comparison.outcome} AS outcome, {hashes}"
    told = ", ".join(
        f"CASE WHEN a.h{number} <> b.h{number} THEN '{aspect}' END" for number, aspect in enumerate(aspects)
    )
    return f"""
        SELECT change, source, before, after, count(*) AS rows, min(id, $n) AS ids FROM (
            SELECT coalesce(a.id, b.id) AS id, coalesce(b.source, a.source) AS source,
                   a.outcome AS before, b.outcome AS after,
                   CASE WHEN a.id IS NULL THEN '{ADDED}' WHEN b.id IS NULL THEN '{GONE}'
                        WHEN a.outcome IS DISTINCT FROM b.outcome THEN '{OUTCOME}' ELSE concat_ws(', ', {told}) END
                   AS change
            FROM ({side} FROM before) a FULL JOIN ({side} FROM after) b ON a.id = b.id
        ) WHERE change <> '' GROUP BY change, source, before, after
        ORDER BY rows DESC, change, source, before, after
    """


def _aspects(comparison: Comparison, names: Sequence[str]) -> dict[str, list[str]]:
    """The columns that are there, by aspect; none that is empty."""
    told = {comparison.id, "source", *comparison.outcome_columns}
    told.update(name for columns in comparison.aspects.values() for name in columns)
    found = {aspect: [name for name in columns if name in names] for aspect, columns in comparison.aspects.items()}
    found[comparison.others] = [name for name in names if name not in told]
    return {aspect: columns for aspect, columns in found.items() if columns}


def _examples(
    connection: "DuckDBPyConnection", comparison: Comparison, names: Sequence[str], wanted: Sequence[str]
) -> dict[str, Example]:
    sides = [_rows_by_id(connection, side, comparison.id, wanted) for side in ("before", "after")]
    found: dict[str, Example] = {}
    for name in wanted:
        was, now = (side.get(name) for side in sides)
        there = was or now or {}
        columns = {
            column: ((was or {}).get(column), (now or {}).get(column))
            for column in names
            if column != comparison.id and (was != now if was is None or now is None else was[column] != now[column])
        }
        # Of a row that came or went all is new: what it is is told by what is not null.
        told = {column: pair for column, pair in columns.items() if pair != (None, None)}
        found[name] = Example(id=name, columns=told if there else {})
    return found


def _rows_by_id(
    connection: "DuckDBPyConnection", side: str, key: str, wanted: Sequence[str]
) -> dict[str, dict[str, Any]]:
    if not wanted:
        return {}
    rows = connection.execute(f"SELECT * FROM {side} WHERE {_quoted(key)} IN (SELECT unnest($ids))", {"ids": wanted})
    names = [column[0] for column in rows.description or ()]
    found = (dict(zip(names, row, strict=True)) for row in rows.fetchall())
    return {str(row[key]): row for row in found}
