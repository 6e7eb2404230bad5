"""Pairs: every format has the same rows, and a broken row of each affects no other."""

import csv
import gzip
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_catalog.errors import SettingsError
from data_catalog.sources.pairs import PairsConfig, check_pairs, pairs_images, read_pairs
from data_catalog.sources.rows import SourceRow, UpstreamRow

URL = "https://host.example/a.jpg"
PLAIN = {"image": URL, "text": "Un gatto, nero", "l": "IT ", "by": "Anna", "cc": "CC0", "page": "http://p", "s": "val"}
ODD = dict.fromkeys(PLAIN, "") | {"image": URL, "text": 'due\nrighe\te "virgolette"\u2028\x85'}
SIMPLE: dict[str, Any] = {"caption_column": "text", "url_column": "image", "lang": "it"}
COLUMNS: dict[str, Any] = {
    **SIMPLE,
    "lang_column": "l",
    "lang": "en",
    "license_column": "cc",
    "attribution_column": "by",
    "page_column": "page",
    "split_column": "s",
}


def encode(rows: list[dict[str, Any]], suffix: str) -> bytes:
    if suffix in (".jsonl", ".ndjson"):
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    if suffix == ".parquet":
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), sink)
        return sink.getvalue()
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if suffix == ".tsv" else ",")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def reasons(rows: list[SourceRow]) -> list[str]:
    return [getattr(row, "reason", "row") for row in rows]


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".tsv", ".jsonl", ".ndjson.gz", ".parquet"])
def test_every_format_has_the_same_rows(read: Any, suffix: str) -> None:
    content = encode([PLAIN, ODD], suffix.removesuffix(".gz"))
    content = gzip.compress(content) if suffix.endswith(".gz") else content
    first, second = read("pairs", content, name=f"pairs{suffix}", **COLUMNS)
    assert (first.url, first.caption, first.lang, first.split) == (URL, "Un gatto, nero", "it", "val")
    assert (first.license, first.attribution, first.page_url) == ("CC0", "Anna", "http://p")
    assert (second.caption, second.lang, second.license, second.split) == (ODD["text"], "en", None, None)
    assert first.sample_key == second.sample_key
    assert (first.upstream_line, second.upstream_line) == ((2, 3) if suffix[1:4] in ("csv", "tsv") else (1, 2))


CELLS = "image|text\nU|a\nU\nU|b|c\n|a\nU|\nx|a\nU|a\0\nU|\xe8\nU|a"
JSON_LINES = (
    '{"image": "U", "text": "a"}\n{"image": "U", "te\n[1]\n{"text": "a"}\n{"image": "U", "text": null}\n'
    '{"image": "x", "text": "a"}\n{"image": "U", "text": "\\u0000"}\n{"image": "U", "text": "\xe8"}\n'
    '{"image": "U", "text": "a"}'
)


@pytest.mark.parametrize(
    ("name", "text", "first"),
    [("p.csv", CELLS.replace("|", ","), 2), ("p.tsv", CELLS.replace("|", "\t"), 2), ("p.jsonl", JSON_LINES, 1)],
)
def test_malformed_rows_affect_no_other(read: Any, name: str, text: str, first: int) -> None:
    found = read("pairs", text.replace("U", URL).encode("latin-1"), name=name, **SIMPLE)
    expected = ["row", "malformed_row", "malformed_row", "image_missing", "caption_missing", "image_missing"]
    assert reasons(found) == [*expected, "bad_encoding", "bad_encoding", "row"]
    assert [row.upstream_line for row in found] == list(range(first, first + 9))


def test_a_row_without_language_is_malformed_and_a_field_may_be_longer_than_csv_allows(read: Any) -> None:
    content = encode([{"image": URL, "text": "a", "l": ""}, {"image": URL, "text": "è" * 200_000, "l": "it"}], ".csv")
    found = read("pairs", content, name="p.csv", **SIMPLE | {"lang": None, "lang_column": "l"})
    assert reasons(found) == ["lang_missing", "row"]
    assert len(found[1].caption) == 200_000


def test_parquet_has_nulls_dictionaries_and_texts_that_are_not_utf8(read: Any) -> None:
    text = pa.Array.from_buffers(pa.string(), 3, pa.array([b"a", b"\xe8", b"c"], pa.binary()).buffers())
    sink = io.BytesIO()
    pq.write_table(pa.table({"image": pa.array([URL, URL, None]).dictionary_encode(), "text": text}), sink)
    found = read("pairs", sink.getvalue(), name="p.parquet", **SIMPLE)
    assert reasons(found) == ["row", "bad_encoding", "image_missing"]


def test_paths_are_in_the_folder_of_the_file_unless_images_says_otherwise(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "p.csv").write_text("image,text\nsub/a.jpg,un gatto\n")
    config = PairsConfig(files=(f"{tmp_path}/a/p.csv",), caption_column="text", path_column="image", lang="it")
    (row,) = read_pairs(config)
    assert isinstance(row, UpstreamRow)
    assert (row.path, row.url, row.sample_key) == ("sub/a.jpg", None, "sub/a.jpg")
    assert pairs_images(config) == f"{tmp_path}/a"
    assert pairs_images(replace(config, images=f"{tmp_path}/b")) == f"{tmp_path}/b"
    with pytest.raises(SettingsError, match="2 folders"):
        check_pairs(replace(config, files=(f"{tmp_path}/*/p.csv",)))


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        ('{"image": "U", "text": "a", "text": "b"}', "'text' stands twice in one object"),
        ('{"image": "U", "text": ' + "9" * 5000 + "}", "text is a number instead of a text"),
        ('{"image": 7, "text": "a"}', "image is a number instead of a text"),
        ('{"image": "U", "text": ' + "[" * 100_000 + "}", "nests too deeply"),
        ('{"image": "U", "text": "' + "x" * 250_001 + '"}', "a text of 250,001 characters"),
    ],
)
def test_strange_json_affects_its_line_only(read: Any, line: str, detail: str) -> None:
    good = json.dumps({"image": URL, "text": "un cane"})
    content = "\n".join([good, line.replace('"U"', f'"{URL}"'), good])
    before, bad, after = read("pairs", content, name="p.jsonl", **SIMPLE)
    assert reasons([before, after]) == ["row", "row"]
    assert (bad.reason, bad.upstream_line) == ("malformed_row", 2)
    assert detail in bad.detail
