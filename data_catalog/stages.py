"""The shapes of a stage, and how they are applied: pure functions over the columns of Arrow tables.

A `Transform` rewrites a column of texts and keeps every row. A `Check` answers, per text, None (keep) or a `Drop`; a
`ColumnCheck` does, per row, from columns that are filled already; a `Measure` fills columns from pairs of texts.
Stages know neither shards nor files; options are bound by a function that returns the stage.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_catalog.schema import PENDING, REJECTED


@dataclass(frozen=True, slots=True)
class Reason:
    """What a step may drop a row for.

    Args:
        meaning: in a sentence.
        settings: those that decide it, by path in a recipe, such as `clean.min_words`; none: no setting does.
    """

    meaning: str
    settings: tuple[str, ...] = field(default=(), kw_only=True)


@dataclass(frozen=True, slots=True)
class Drop:
    """Why a row is dropped: a reason from the step's closed set, and what was found, in a few words."""

    reason: str
    detail: str | None = None


class Counts(TypedDict):
    """Caption rows that a step read, let pass and rejected."""

    read: int
    kept: int
    dropped: int


Transform = Callable[[Sequence[str]], list[str]]
Check = Callable[[Sequence[str]], list[Drop | None]]
ColumnCheck = Callable[[pa.Table], list[Drop | None]]
Measure = Callable[[Sequence[str], Sequence[str]], Mapping[str, Sequence[object]]]


def apply_transform(table: pa.Table, transform: Transform, *, read: str, write: str) -> pa.Table:
    """Set column `write` to the transform of column `read` in every pending row; other rows stay as they are."""
    rows = pending_rows(table)
    return set_values(table, write, rows, transform(texts(table, read, rows)))


def apply_measure(
    table: pa.Table, measure: Measure, *, source: str, target: str, where: pa.Array | None = None
) -> pa.Table:
    """Fill the columns that the measure names in every pending row, from the texts of two columns."""
    rows = pending_rows(table, where)
    for name, values in measure(texts(table, source, rows), texts(table, target, rows)).items():
        table = set_values(table, name, rows, values)
    return table


def reject(table: pa.Table, rows: Sequence[int], verdicts: Sequence[Drop | None], *, step: str) -> pa.Table:
    """Mark as rejected by `step` those of `rows` (indices) that have a verdict."""
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
    """Indices of the rows that no step has rejected yet, and where `where`, if given, is true."""
    pending = pc.equal(table.column("outcome"), PENDING)
    if where is not None:
        pending = pc.and_(pending, pc.fill_null(where, False))
    rows: list[int] = pc.indices_nonzero(pending).to_numpy().tolist()
    return rows


def texts(table: pa.Table, column: str, rows: Sequence[int]) -> list[str]:
    """Values of a text column at the given rows."""
    found: list[str] = table.column(column).take(pa.array(rows, pa.int64())).to_pylist()
    return found


def set_values(table: pa.Table, column: str, rows: Sequence[int], values: Sequence[object]) -> pa.Table:
    """A table with `values` at the given rows (distinct ones) of `column` and everything else unchanged.

    Raises:
        ValueError: there is not one value a row.
    """
    if len(rows) != len(values):
        raise ValueError(f"{len(values)} values for {len(rows)} rows")
    where = table.schema.get_field_index(column)
    field = table.schema.field(where)
    old = table.column(where)
    news = pa.array(values, field.type)
    # Each cell is taken from the old ones or, behind them, from the new ones.
    places = np.arange(len(old))
    places[rows] = len(old) + np.arange(len(news))
    cells = pa.chunked_array([*old.chunks, news], field.type).take(pa.array(places))
    return table.set_column(where, field, cells.combine_chunks())


def count_rows(before: pa.Table, after: pa.Table) -> dict[str, Counts]:
    """Count, by source, the pending rows that a step read, kept and dropped: on its input and its output apart."""
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
