"""Pairs: every format with the same rows, and what is wrong with files and rows of each."""

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

from data_catalog.errors import InputError, SettingsError
from data_catalog.sources.pairs import PairsConfig, check_pairs, pairs_images, read_pairs
from data_catalog.sources.rows import MalformedRow, SourceRow, UpstreamRow

URL = "https://host.example/a.jpg"
ROWS: list[dict[str, str]] = [
    {
        "image": URL,
        "text": "Un gatto, nero",
        "l": "IT ",
        "by": "Anna",
        "cc": "CC0",
        "page": "https://host.example",
        "s": "val",
    },
    {"image": URL, "text": 'due\nrighe\te "virgolette"\u2028\x85', "l": "", "by": "", "cc": "", "page": "", "s": ""},
]
COLUMNS = {
    "url_column": "image",
    "caption_column": "text",
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


def read(folder: Path, name: str, content: bytes, **options: Any) -> list[SourceRow]:
    (folder / name).write_bytes(content)
    config = PairsConfig(**({"files": (str(folder / name),), "caption_column": "text"} | options))
    check_pairs(config)
    return list(read_pairs(config))


def reasons(rows: list[SourceRow]) -> list[str]:
    return [getattr(row, "reason", "row") for row in rows]


SIMPLE: dict[str, Any] = {"url_column": "image", "lang": "it"}


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".tsv", ".jsonl", ".ndjson.gz", ".parquet"])
def test_every_format_has_the_same_rows(tmp_path: Path, suffix: str) -> None:
    name, (suffix, packed) = f"pairs{suffix}", (suffix.removesuffix(".gz"), suffix.endswith(".gz"))
    content = encode(ROWS, suffix)
    first, second = read(tmp_path, name, gzip.compress(content) if packed else content, **COLUMNS)
    assert isinstance(first, UpstreamRow)
    assert isinstance(second, UpstreamRow)
    assert (first.url, first.caption, first.lang, first.split) == (URL, "Un gatto, nero", "it", "val")
    assert (first.license, first.attribution, first.page_url) == ("CC0", "Anna", "https://host.example")
    assert (second.caption, second.lang, second.license, second.split) == (ROWS[1]["text"], "en", None, None)
    assert first.sample_key == second.sample_key
    assert (first.upstream_line, second.upstream_line) == ((2, 3) if suffix in (".csv", ".tsv") else (1, 2))


CELLS = [b"image|text", b"U|a", b"U", b"U|b|c", b"|a", b"U|", b"x|a", b"U|a\0", b"U|\xe8", b"U|a"]
JSON_LINES = [
    b'{"image": "U", "text": "a"}',
    b'{"image": "U", "te',
    b"[1]",
    b'{"text": "a"}',
    b'{"image": "U", "text": null}',
    b'{"image": "x", "text": "a"}',
    b'{"image": "U", "text": "\\u0000"}',
    b'{"image": "U", "text": "\xe8"}',
    b'{"image": "U", "text": "a"}',
]


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("p.csv", [line.replace(b"|", b",") for line in CELLS]),
        ("p.tsv", [line.replace(b"|", b"\t") for line in CELLS]),
        ("p.jsonl", JSON_LINES),
    ],
)
def test_malformed_rows_affect_no_other(tmp_path: Path, name: str, lines: list[bytes]) -> None:
    found = read(tmp_path, name, b"\n".join(lines).replace(b"U", URL.encode()), **SIMPLE)
    assert reasons(found) == [
        "row",
        *["malformed_row"] * 2,
        "image_missing",
        "caption_missing",
        "image_missing",
        *["bad_encoding"] * 2,
        "row",
    ]
    first = 2 if name != "p.jsonl" else 1
    lines_read = [row.upstream_line for row in found if isinstance(row, UpstreamRow | MalformedRow)]
    assert lines_read == list(range(first, first + 9))


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_unterminated_quotes_lose_no_other_row(tmp_path: Path, suffix: str) -> None:
    delimiter = "\t" if suffix == ".tsv" else ","
    lines = ["image|text", f'{URL}|"never closed', f'{URL}|wide 24"', f'{URL}|"two\nlines"', f'{URL}|"Hi" he said']
    found = read(tmp_path, f"p{suffix}", "\n".join(lines).replace("|", delimiter).encode(), **SIMPLE)
    assert [row.caption if isinstance(row, UpstreamRow) else "" for row in found] == [
        "",
        'wide 24"',
        "two\nlines",
        '"Hi" he said',
    ]


def test_a_field_longer_than_csv_allows(tmp_path: Path) -> None:
    (row,) = read(tmp_path, "p.csv", f'image,text\n{URL},"{"è" * 200_000}"\n'.encode(), **SIMPLE)
    assert isinstance(row, UpstreamRow)
    assert len(row.caption) == 200_000


def test_parquet_has_nulls_dictionaries_and_texts_that_are_not_utf8(tmp_path: Path) -> None:
    text = pa.Array.from_buffers(pa.string(), 3, pa.array([b"a", b"\xe8", b"c"], pa.binary()).buffers())
    table = pa.table({"image": pa.array([URL, URL, None]).dictionary_encode(), "text": text})
    pq.write_table(table, tmp_path / "p.parquet")
    found = read(tmp_path, "p.parquet", (tmp_path / "p.parquet").read_bytes(), **SIMPLE)
    assert reasons(found) == ["row", "bad_encoding", "image_missing"]


def test_a_row_without_language_is_malformed(tmp_path: Path) -> None:
    rows = [{"image": URL, "text": "a", "l": ""}, {"image": URL, "text": "a", "l": "it"}]
    found = read(tmp_path, "p.csv", encode(rows, ".csv"), url_column="image", lang_column="l")
    assert reasons(found) == ["lang_missing", "row"]


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
    ("name", "content", "found"),
    [
        ("p.csv", b"url,text\nx,y\n", "no text column image: its text columns are url, text"),
        ("p.csv", b"image;text\nx;y\n", "columns are image;text"),
        ("p.csv", b"image,text,image\nx,y,z\n", "image more than once"),
        ("p.csv", b"image,text\n", "no rows"),
        ("p.csv.gz", gzip.compress(b"image,text\nx,y\n" * 999)[:-5], "truncated gzip"),
        ("p.jsonl", b'{"url": "x"}\n', "no text column image, text: its text columns are url"),
        ("p.jsonl", b"not json\n", r"columns are \(none\)"),
        ("p.parquet", b"", "not a complete Parquet"),
        ("p.parquet", encode([{"image": 1, "text": "x"}], ".parquet"), "no text column image"),
        ("p.parquet", encode([{"image": "x", "text": "y"}], ".parquet")[:-20], "not a complete Parquet"),
        ("p.xlsx", b"x", "unknown suffix"),
        ("p.parquet.gz", b"x", "unknown suffix"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, name: str, content: bytes, found: str) -> None:
    with pytest.raises(InputError, match=found) as caught:
        read(tmp_path, name, content, **SIMPLE)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"files": ()}, "files must name"),
        ({"caption_column": ""}, "caption_column"),
        ({"path_column": "p"}, "exactly one of url_column and path_column"),
        ({"url_column": None}, "exactly one of url_column and path_column"),
        ({"lang": None}, "lang or lang_column"),
        ({"images": "folder"}, "images needs path_column"),
    ],
)
def test_contradictory_settings_are_refused(options: dict[str, Any], found: str) -> None:
    with pytest.raises(SettingsError, match=found):
        PairsConfig(**({"files": ("x.csv",), "caption_column": "text"} | SIMPLE | options))


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        ('{"image": "U", "text": "a", "text": "b"}', "'text' stands twice in one object"),
        ('{"image": "U", "text": "a", "more": {"x": 1, "x": 2}}', "'x' stands twice in one object"),
        ('{"image": "U", "text": ' + "9" * 5000 + "}", "text is a number instead of a text"),
        ('{"image": 7, "text": "a"}', "image is a number instead of a text"),
        ('{"image": "U", "text": []}', "text is a list instead of a text"),
        ('{"image": "U", "text": ' + "[" * 100_000 + "}", "nests too deeply"),
        ('{"image": "U", "text": "' + "x" * 250_001 + '"}', "a text of 250,001 characters"),
    ],
)
def test_strange_json_affects_its_line_only(tmp_path: Path, line: str, detail: str) -> None:
    good = json.dumps({"image": URL, "text": "un cane"})
    content = "\n".join([good, line.replace('"U"', f'"{URL}"'), good]).encode()
    before, bad, after = read(tmp_path, "p.jsonl", content, **SIMPLE)
    assert isinstance(before, UpstreamRow)
    assert isinstance(after, UpstreamRow)
    assert isinstance(bad, MalformedRow)
    assert (bad.reason, bad.upstream_line) == ("malformed_row", 2)
    assert detail in bad.detail
