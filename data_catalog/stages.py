"""The two shapes of a stage, and how they are applied: pure functions over the columns of Arrow tables.

A `Transform` rewrites a column of texts and keeps every row. A `Check` answers, per text, None (keep) or a `Drop`.
Stages know neither shards nor files; options are bound by a function that returns the stage.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from data_catalog.schema import PENDING, REJECTED


@dataclass(frozen=True, slots=True)
class Drop:
    """Why a row is dropped: a reason from the step's closed set, and what was found, in a few words."""

    reason: str
    detail: str | None = None


Transform = Callable[[Sequence[str]], list[str]]
Check = Callable[[Sequence[str]], list[Drop | None]]


def apply_transform(table: pa.Table, transform: Transform, *, read: str, write: str) -> pa.Table:
    """Set column `write` to the transform of column `read` in every pending row; other rows stay as they are."""
    pending = pending_indices(table)
    texts = table.column(read).take(pending).to_pylist()
    return set_values(table, write, pending, transform(texts))


def apply_check(table: pa.Table, check: Check, *, read: str, step: str) -> pa.Table:
    """Reject, in the name of `step`, the pending rows whose `read` text the check drops."""
    pending = pending_indices(table)
    verdicts = check(table.column(read).take(pending).to_pylist())
    drops = {int(index.as_py()): verdict for index, verdict in zip(pending, verdicts, strict=True) if verdict}
    return reject(table, drops, step=step)


def reject(table: pa.Table, drops: dict[int, Drop], *, step: str) -> pa.Table:
    """Mark rows, by index, as rejected by `step`."""
    if not drops:
        return table
    indices = pa.array(sorted(drops), pa.int64())
    ordered = [drops[int(index)] for index in sorted(drops)]
    for name, values in (
        ("outcome", [REJECTED] * len(ordered)),
        ("step", [step] * len(ordered)),
        ("drop_reason", [drop.reason for drop in ordered]),
        ("detail", [drop.detail for drop in ordered]),
    ):
        table = set_values(table, name, indices, values)
    return table


def pending_indices(table: pa.Table) -> pa.Array:
    """Indices of the rows that no step has rejected yet."""
    return pc.indices_nonzero(pc.equal(table.column("outcome"), PENDING)).cast(pa.int64())


def set_values(table: pa.Table, column: str, indices: pa.Array, values: Sequence[object]) -> pa.Table:
    """A table with `values` at `indices` of `column` and everything else unchanged."""
    where = table.schema.get_field_index(column)
    field = table.schema.field(where)
    cells = table.column(column).to_pylist()
    for index, value in zip(indices.to_pylist(), values, strict=True):
        cells[index] = value
    return table.set_column(where, field, pa.chunked_array([pa.array(cells, field.type)], field.type))
