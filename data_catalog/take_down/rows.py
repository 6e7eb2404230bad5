"""What is left of a row that is forgotten: that it was there, where upstream has it, and why it is gone."""

from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc

from data_catalog.images.tables import Row
from data_catalog.schema import REJECTED
from data_catalog.tombstones import FORGET, FORGOTTEN

# Texts, addresses, rights, and whatever was measured of them, go.
STAYING = (
    "sample_id",
    "caption_id",
    "source",
    "upstream_split",
    "source_lang",
    "target_lang",
    "upstream_file",
    "upstream_line",
    "outcome",
    "step",
    "drop_reason",
)


def of_samples(table: pa.Table, samples: Collection[str]) -> pa.Array:
    """Which rows are of some samples."""
    return pc.is_in(table.column("sample_id"), pa.array(sorted(samples), pa.string()))


def without_texts(table: pa.Table, where: pa.Array) -> pa.Table:
    """Caption rows of which those `where` it is true have nothing but `STAYING`."""
    for index, field in enumerate(table.schema):
        if field.name not in STAYING:
            nothing = pa.nulls(table.num_rows, field.type)
            table = table.set_column(index, field, pc.if_else(where, nothing, table.column(field.name)))
    return table


def forget_rows(table: pa.Table, where: pa.Array) -> pa.Table:
    """Caption rows of which those `where` it is true are rejected as forgotten, and have no texts."""
    table = without_texts(table, where)
    for name, value in (("outcome", REJECTED), ("step", FORGET), ("drop_reason", FORGOTTEN)):
        index = table.schema.get_field_index(name)
        table = table.set_column(index, table.schema.field(name), pc.if_else(where, value, table.column(name)))
    return table


def forgotten_image(row: Row) -> Row:
    """What is left of a row of the schema `IMAGES`."""
    return {**dict.fromkeys(row), "sample_id": row["sample_id"], "drop_reason": FORGOTTEN}
