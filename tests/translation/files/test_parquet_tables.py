"""A column of Parquet through a stand-in engine: types, metadata and nulls stay."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_catalog.errors import InputError, SettingsError

Translated = Callable[..., Path]  # the fixture of the same name
ADDED = ["caption_it", "caption_it_score", "caption_it_truncated", "caption_it_repetitive"]


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    """Five rows in three row groups, with nulls, nested and dictionary columns, and metadata of all sorts."""
    schema = pa.schema(
        [
            pa.field("id", pa.uint16(), nullable=False, metadata={"unit": "none"}),
            pa.field("caption", pa.large_string()),
            pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            pa.field("tags", pa.list_(pa.string())),
            pa.field("kind", pa.dictionary(pa.int8(), pa.string())),
            pa.field("taken", pa.timestamp("ms", tz="Europe/Rome")),
            pa.field("price", pa.decimal128(9, 2)),
        ],
        metadata={"huggingface": '{"info": {}}', "mine": "kept"},
    )
    rows = [
        {"id": number, "caption": caption, "image": image, "tags": tags, "kind": kind, "taken": number, "price": None}
        for number, (caption, image, tags, kind) in enumerate(
            [
                ("a dog", {"bytes": b"\x00\xff", "path": None}, ["x", "y"], "k"),
                (None, None, [], None),
                ("", {"bytes": None, "path": "p"}, None, "l"),
                ("two\nlines", None, [None], "k"),
                (None, None, None, None),
            ]
        )
    ]
    path = tmp_path / "in.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema), path, row_group_size=2)
    return path


def test_parquet_keeps_types_metadata_nulls_and_row_groups(parquet: Path, translated: Translated) -> None:
    target = translated(parquet, scores=True, window=2)
    before, after = pq.read_table(parquet), pq.read_table(target)
    assert after.select(before.column_names).equals(before, check_metadata=True)
    assert after.schema.metadata == before.schema.metadata
    assert after.column_names == before.column_names + ADDED
    assert [after.schema.field(name).type for name in ADDED] == [pa.string(), pa.float32(), pa.bool_(), pa.bool_()]
    assert after.select(ADDED).to_pylist() == [
        dict(zip(ADDED, values, strict=True))
        for values in [
            ("A DOG", -0.5, False, False),
            (None, None, None, None),
            ("", None, False, False),
            ("TWO\nLINES", -0.5, False, False),
            (None, None, None, None),
        ]
    ]
    assert pq.ParquetFile(target).num_row_groups == pq.ParquetFile(parquet).num_row_groups == 3


def test_parquet_rows_of_any_width_are_copied_in_small_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, translated: Translated
) -> None:
    monkeypatch.setattr("translation.files.BYTES_PER_COPY", 4_000)
    source = tmp_path / "in.parquet"
    images = [bytes([number]) * 1_000 for number in range(20)]
    table = pa.table({"caption": [f"caption {number}" for number in range(20)], "image": images})
    pq.write_table(table, source, compression="none", use_dictionary=False)
    target = translated(source)
    assert pq.read_table(target).drop_columns(["caption_it"]).equals(table)
    assert pq.ParquetFile(target).num_row_groups > 4


@pytest.mark.parametrize("kind", [pa.string_view(), pa.dictionary(pa.int32(), pa.string()), pa.string()])
def test_parquet_captions_of_any_text_type(tmp_path: Path, kind: pa.DataType, translated: Translated) -> None:
    source = tmp_path / "in.parquet"
    pq.write_table(pa.table({"caption": pa.array(["a", None, "b"], pa.string()).cast(kind)}), source)
    assert pq.read_table(translated(source)).column("caption_it").to_pylist() == ["A", None, "B"]


def test_parquet_from_pandas_reads_back_in_pandas(tmp_path: Path, translated: Translated) -> None:
    import pandas as pd

    frame = pd.DataFrame({"caption": ["a", None], "n": [1, 2]}, index=["first", "second"])
    frame.to_parquet(tmp_path / "in.parquet")
    found = pd.read_parquet(translated(tmp_path / "in.parquet"))
    assert found.drop(columns="caption_it").equals(frame)
    assert found.loc["first", "caption_it"] == "A"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"text": ["a"]}, "has no column 'caption': choose one of text"),
        ({"caption": [["a"]]}, "has the type list<.*>, not text"),
        ({"caption": [1]}, "has the type int64, not text"),
        ({"caption": ["a"], "caption_it": ["b"]}, "already has a column 'caption_it'"),
    ],
)
def test_parquet_without_the_column_is_refused(
    tmp_path: Path, table: dict[str, object], message: str, translated: Translated
) -> None:
    pq.write_table(pa.table(table), tmp_path / "in.parquet")
    with pytest.raises(SettingsError, match=message):
        translated(tmp_path / "in.parquet")


def test_parquet_text_that_is_not_utf8_is_refused(tmp_path: Path, translated: Translated) -> None:
    captions = pa.array([b"fine", b"caf\xe9"]).view(pa.string())
    pq.write_table(pa.table({"caption": captions}), tmp_path / "in.parquet")
    with pytest.raises(InputError, match="rows 1 to 2: the column 'caption' contains text that is not UTF-8"):
        translated(tmp_path / "in.parquet")
