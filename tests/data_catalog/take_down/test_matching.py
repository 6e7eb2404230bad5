"""Rows are meant by whatever their table has, and by nothing that only looks like it."""

import pyarrow as pa
import pytest

from data_catalog.schema import CAPTIONS
from data_catalog.sources.urls import address_key
from data_catalog.take_down.matching import Matcher
from data_catalog.take_down.rows import STAYING, forget_rows
from data_catalog.tombstones import Tombstone, Tombstones, new_tombstone

DOMAIN, URL = new_tombstone("domain", "città.org"), new_tombstone("url", "http://other.net/a b.jpg")


def matcher(*tombstones: Tombstone) -> Matcher:
    return Matcher(Tombstones(tombstones=tombstones))


@pytest.mark.parametrize(
    ("url", "number"),
    [
        ("http://città.org/1.jpg", 0),
        ("https://img.CITTÀ.org:8443/1.jpg", 0),
        ("http://xn--citt-3na.org/1.jpg", 0),
        ("http://user@xn--citt-3na.org./1.jpg", 0),
        ("https:xn--citt-3na.org/1.jpg", 0),
        ("  http://xn--citt-3na.org", 0),
        ("http://xn--citt-3na.org.evil.net/1.jpg", -1),
        ("http://evil.net/xn--citt-3na.org/1.jpg", -1),
        ("http://evil.net?u=http://xn--citt-3na.org/", -1),
        ("http://notxn--citt-3na.org/1.jpg", -1),
        ("https://OTHER.net/a%20b.jpg", 1),
        ("http://other.net/b.jpg", -1),
        ("http://[half an address/1.jpg", -1),
        ("no address", -1),
        ("", -1),
        (None, -1),
    ],
)
@pytest.mark.parametrize("column", ["url", "page_url", "final_url"])
def test_by_address(url: str | None, number: int, column: str) -> None:
    table = pa.table({column: pa.array(["http://a.org/", url], pa.string())})
    assert matcher(DOMAIN, URL).numbers(table).tolist() == [-1, number]


@pytest.mark.parametrize(
    ("host", "line"),
    [
        ("città.org", "http://img.CITTÀ.org/1.jpg"),
        ("straße.org", "http://straße.org/1.jpg"),
        ("xn--strae-oqa.org", "http://straße.org/1.jpg"),
        ("xn--a.org", "http://xn--a.org/1.jpg"),
        ("xn--zzzzzzzzzz.org", "http://xn--zzzzzzzzzz.org/1.jpg"),
    ],
)
def test_lines_that_were_never_read_name_a_host_in_either_spelling(host: str, line: str) -> None:
    """Also names that stand for no letters at all: whoever asks for them is obeyed."""
    rows = [
        {"sample_id": str(n), "step": "ingest", "source_caption": text} for n, text in enumerate([line, "http://a.net"])
    ]
    table = pa.Table.from_pylist(rows, schema=CAPTIONS)
    assert matcher(new_tombstone("domain", host)).lines(table) == ["0"]


def test_by_address_of_a_copy() -> None:
    one = new_tombstone("sample", "wit:1").with_found([], [address_key("http://copy.net/1.jpg")])
    table = pa.table({"url": ["http://copy.net/1.jpg", "http://copy.net/2.jpg", "https://copy.net/1.jpg"]})
    assert matcher(one).numbers(table).tolist() == [0, -1, 0]


def test_by_sample_bytes_and_look() -> None:
    near = new_tombstone("phash", "00ff00ff33cc33cc", distance=2)
    found = matcher(new_tombstone("sample", "a:1").with_found(["aa"], []), near)
    table = pa.table(
        {
            "sample_id": ["a:1", "a:2", "a:3", "a:4", "a:5"],
            "sha256": [None, "aa", "bb", "cc", None],
            "phash": [None, "ffffffffffffffff", "00ff00ff33cc33cf", "00ff00ff33cc33c3", None],
        }
    )
    assert found.numbers(table).tolist() == [0, 0, 1, -1, -1]
    assert found.samples(table) == {"a:1": 0, "a:2": 0, "a:3": 1}


def test_rows_that_were_forgotten_or_never_read_are_meant_by_none() -> None:
    table = pa.table(
        {
            "sample_id": ["a:1", "a:1", "a:1", "a:1"],
            "step": [None, "ingest", "forget", "normalise"],
            "drop_reason": [None, "malformed_row", "forgotten", "forgotten"],
        }
    )
    assert matcher(new_tombstone("sample", "a:1")).numbers(table).tolist() == [0, -1, -1, -1]


def test_without_tombstones_nothing_is_meant() -> None:
    assert matcher().numbers(pa.table({"url": ["http://a.org/"]})).tolist() == [-1]


def test_a_table_of_many_chunks_and_one_without_rows() -> None:
    urls = pa.chunked_array([["http://xn--citt-3na.org/"], [], ["http://a.org/", None]], pa.string())
    assert matcher(DOMAIN).numbers(pa.table({"url": urls})).tolist() == [0, -1, -1]
    assert matcher(DOMAIN).numbers(pa.table({"url": pa.array([], pa.string())})).tolist() == []


@pytest.mark.parametrize(
    ("text", "is_meant"),
    [
        ("http://città.org/1.jpg\tUn gatto\tdi troppo", True),
        ("HTTPS://IMG.XN--CITT-3NA.ORG", True),
        ('"http://other.net/a%20b.jpg", un gatto', True),
        ("http://notxn--citt-3na.org/1.jpg", False),
        ("http://xn--citt-3na.organic/1.jpg", False),
        ("http://other.net/b.jpg", False),
        ("", False),
        (None, False),
    ],
)
@pytest.mark.parametrize("column", ["source_caption", "detail"])
def test_lines_that_were_never_read_are_meant_by_what_they_name(text: str | None, is_meant: bool, column: str) -> None:
    rows = [{"sample_id": "a:1", "step": "ingest", column: text}, {"sample_id": "a:2", "step": None, column: text}]
    schema = pa.schema([(name, pa.string()) for name in ("sample_id", "step", "source_caption", "detail")])
    table = pa.Table.from_pylist(rows, schema=schema)
    assert matcher(DOMAIN, URL).lines(table) == (["a:1"] if is_meant else [])


def test_of_a_forgotten_row_nothing_stays_that_tells_what_it_was() -> None:
    row = dict.fromkeys(CAPTIONS.names) | {
        "sample_id": "a:1",
        "caption_id": "a:1#x",
        "source": "a",
        "url": "http://a.org/mario.jpg",
        "source_caption": "Mario Rossi",
        "numbers_lost": ["7"],
        "translation_score": 0.5,
        "upstream_file": "f",
        "upstream_line": 3,
        "outcome": "kept",
    }
    table = pa.Table.from_pylist([row, row], schema=CAPTIONS)
    gone, same = forget_rows(table, pa.array([True, False])).to_pylist()
    assert same == table.to_pylist()[1]
    assert {name for name, value in gone.items() if value is not None} <= set(STAYING)
    assert (gone["outcome"], gone["step"], gone["drop_reason"]) == ("rejected", "forget", "forgotten")
    assert (gone["upstream_file"], gone["upstream_line"]) == ("f", 3)
