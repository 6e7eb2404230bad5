"""Types of stages, and functions that apply them. A stage is a pure function over columns of an Arrow table.

A `Transform` rewrites texts and keeps every row. A `Check` returns for each text None (keep) or a `Drop`, a
`ColumnCheck` for each row, from columns that are filled already. A `Measure` fills columns from pairs of texts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_catalog.rows.schema import PENDING, REJECTED


@dataclass(frozen=True, slots=True)
class Drop:
    """The verdict that drops a row: a reason from the step's closed set, and what was found, in a few words."""

    reason: str
    detail: str | None = None


class Counts(TypedDict):
    """Numbers of caption rows that a step read, kept and dropped."""

    read: int
    kept: int
    dropped: int


Transform = Callable[[Sequence[str]], list[str]]
Check = Callable[[Sequence[str]], list[Drop | None]]
ColumnCheck = Callable[[pa.Table], list[Drop | None]]
Measure = Callable[[Sequence[str], Sequence[str]], Mapping[str, Sequence[object]]]


def apply_transform(table: pa.Table, transform: Transform, *, read: str, write: str) -> pa.Table:
    """Set column `write` to the transform of column `read` in every pending row; leave other rows unchanged."""
    rows = pending_rows(table)
    return set_values(table, write, rows, transform(texts(table, read, rows)))


def apply_measure(
    table: pa.Table, measure: Measure, *, source: str, target: str, where: pa.Array | None = None
) -> pa.Table:
    """Fill the columns of a measure in every pending row in which `where`, if given, is true."""
    rows = pending_rows(table, where)
    for name, values in measure(texts(table, source, rows), texts(table, target, rows)).items():
        table = set_values(table, name, rows, values)
    return table


def reject(table: pa.Table, rows: Sequence[int], verdicts: Sequence[Drop | None], *, step: str) -> pa.Table:
    """Reject those of the rows that have a verdict."""
    drops = [(row, verdict) for row, verdict in zip(rows, verdicts, strict=True) if verdict is not None]
    if not drops:
        return table
    indices = [row for row, _ in drops]
    for name, values in (
        ("outcome", [REJECTED] * len(drops)),
        ("step", [step] * len(drops)),
        ("drop_reason", [verdict.reason for _, verdict in drops]),
        ("detail", [verdict.detail for _, verdict in drops]),
    ):
        table = set_values(table, name, indices, values)
    return table


def pending_rows(table: pa.Table, where: pa.Array | None = None) -> list[int]:
    """Return indices of the rows that no step has rejected yet, and in which `where`, if given, is true."""
    pending = pc.equal(table.column("outcome"), PENDING)
    if where is not None:
        pending = pc.and_(pending, pc.fill_null(where, False))
    rows: list[int] = pc.indices_nonzero(pending).to_numpy().tolist()
    return rows


def texts(table: pa.Table, column: str, rows: Sequence[int]) -> list[str]:
    """Return values of a text column at the given rows."""
    found: list[str] = table.column(column).take(pa.array(rows, pa.int64())).to_pylist()
    return found


def set_values(table: pa.Table, column: str, rows: Sequence[int], values: Sequence[object]) -> pa.Table:
    """Return a table with `values` in `column` at the given rows, which are distinct; the rest is unchanged."""
    if len(rows) != len(values):
        raise ValueError(f"{len(values)} values for {len(rows)} rows")
    where = table.schema.get_field_index(column)
    field = table.schema.field(where)
    old = table.column(where)
    news = pa.array(values, field.type)
    # Cells are taken from the old values followed by the new ones.
    places = np.arange(len(old))
    places[rows] = len(old) + np.arange(len(news))
    cells = pa.chunked_array([*old.chunks, news], field.type).take(pa.array(places))
    return table.set_column(where, field, cells.combine_chunks())


def count_rows(before: pa.Table, after: pa.Table) -> dict[str, Counts]:
    """Count by source the pending rows that a step read, kept and dropped, from its input and its output."""
    read, kept = _by_source(before, pending=True), _by_source(after, pending=True)
    rejected, rejected_before = _by_source(after, pending=False), _by_source(before, pending=False)
    return {
        source: {
            "read": read.get(source, 0),
            "kept": kept.get(source, 0),
            "dropped": rejected.get(source, 0) - rejected_before.get(source, 0),
        }
        for source in sorted(before.column("source").unique().to_pylist())
    }


def _by_source(table: pa.Table, *, pending: bool) -> dict[str, int]:
    is_pending = pc.equal(table.column("outcome"), PENDING)
    found = pc.value_counts(table.column("source").filter(is_pending if pending else pc.invert(is_pending)))
    return dict(zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True))
