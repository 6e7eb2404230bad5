"""Reasons of images, formats and verdicts: closed tables, and what they say of a download."""

import ast
import io
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

import data_catalog.fetch
import data_catalog.images
from data_catalog.fetch.reasons import (
    CAUSES,
    FETCH_REASONS,
    HTTP_MEANINGS,
    NORMALISE_REASONS,
    RETRYABLE_STATUSES,
    cause_of,
    diagnose,
    http_reason,
    is_retryable,
)
from data_catalog.images.formats import IMAGE_FORMATS, IMAGE_SUFFIXES, READ_FORMATS, format_of, is_image_name
from data_catalog.sources.pairs import PairsConfig, read_pairs
from data_catalog.sources.rows import UpstreamRow
from data_catalog.tombstones import FORGOTTEN

REASONS = [*FETCH_REASONS, *NORMALISE_REASONS]


def test_every_reason_that_is_given_is_in_the_set_and_the_other_way_round() -> None:
    folders = [Path(package.__file__).parent for package in (data_catalog.fetch, data_catalog.images)]
    sources = [path for folder in folders for path in folder.glob("*.py") if path.name != "reasons.py"]
    nodes = [node for path in sources for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    given = {
        node.args[0].value
        for node in nodes
        if isinstance(node, ast.Call)
        and getattr(node.func, "attr", getattr(node.func, "id", "")) in ("FetchError", "ImageRejectedError", "failed")
        and node.args
        and isinstance(node.args[0], ast.Constant)
    }
    assert given - {None} <= {*REASONS}
    texts = {node.value for node in nodes if isinstance(node, ast.Constant)}
    by_status = {http_reason(status) for status in range(100, 1000)}
    assert {*REASONS} <= texts | by_status | {FORGOTTEN}  # which take-downs give
    assert len({*REASONS}) == len(REASONS), "a reason belongs to one step"


def test_what_may_pass_is_tried_again_and_nothing_else() -> None:
    assert {status for status in HTTP_MEANINGS if is_retryable(http_reason(status))} == RETRYABLE_STATUSES
    assert [is_retryable(reason) for reason in ("dns", "timeout", "fetch_lost", "http_5xx")] == [True] * 4
    final = ("http_404", "robots_txt", "private_address", "tls", "decode_error", "no such reason", None)
    assert [is_retryable(reason) for reason in final] == [False] * 7


Row = tuple[str, str | None, int]


def downloads(*rows: Row) -> pa.Table:
    """From (host, reason, number of images)."""
    types = {"host": pa.string(), "drop_reason": pa.string(), "num_images": pa.int64()}
    return pa.table({name: pa.array([row[at] for row in rows], kind) for at, (name, kind) in enumerate(types.items())})


def many_hosts(reason: str, count: int, per_host: int = 1) -> list[Row]:
    return [(f"host{number}.{reason.replace('_', '-')}.example", reason, per_host) for number in range(count)]


GOOD = ("a.example", None, 700)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([GOOD, *many_hosts("http_404", 300)], "Link rot: 30.0%"),
        ([GOOD, ("b.example", "http_404", 300)], "All 300 images of b.example are missing"),
        ([("a.example", None, 940), *many_hosts("dns", 60)], "6.0% of the images are on domains that no longer exist"),
        ([GOOD, *many_hosts("dns", 300)], "30.0% of the images are on hosts without an address"),
        ([GOOD, ("a.example", "dns", 300)], "DNS trouble: 30.0%"),
        ([("a.example", None, 500), ("b.example", "http_403", 400), ("c.example", "http_429", 100)], "400 of 500 by b"),
        ([GOOD, *many_hosts("timeout", 300)], "30.0% of the images had no connection or were too slow"),
        ([GOOD, *many_hosts("http_500", 30, 10)], "30.0% of the images failed by errors of servers"),
        ([GOOD, ("b.example", "robots_txt", 300)], "opted out of datasets"),
        ([("a.example", "dns", 15), ("b.example", "timeout", 15)], "None of 30 images could be reached"),
    ],
)
def test_each_kind_of_trouble_has_its_name(rows: list[Row], words: str) -> None:
    assert words in diagnose(downloads(*rows)).findings[0]


def test_a_good_download_needs_no_words_and_what_may_pass_is_told() -> None:
    found = diagnose(downloads(("a.example", None, 999), ("a.example", "too_small", 1)))
    assert found.findings == ()
    assert found.rows() == [
        {"what": "good images", "images": 999, "share": "99.9%"},
        {"what": "too small, too large, or not supported", "images": 1, "share": "0.1%"},
    ]
    found = diagnose(downloads(("a.example", None, 90), ("a.example", "http_503", 6), ("b.example", "http_404", 4)))
    assert found.num_retryable == 6
    assert any("6 of the missing images may come at a later try" in finding for finding in found.findings)
    nothing = diagnose(downloads())
    assert (nothing.rows(), nothing.findings, nothing.shares()) == ([], (), {})


def test_every_reason_has_a_cause_and_shares_add_up() -> None:
    reasons = [*REASONS, None, "from_the_future"]
    assert {cause_of(reason) for reason in reasons} == set(CAUSES)
    found = diagnose(downloads(*[("h.example", reason, number + 1) for number, reason in enumerate(reasons)]))
    assert sum(found.counts.values()) == len(reasons) * (len(reasons) + 1) / 2
    assert sum(found.shares().values()) == pytest.approx(1, abs=0.001)
    assert {"what": "another reason", "images": len(reasons)}.items() <= found.rows()[-1].items()


def test_what_is_read_has_pillows_names_and_suffixes() -> None:
    known = Image.registered_extensions()
    read = [each for each in IMAGE_FORMATS if each.is_read]
    assert {each.name for each in read} <= Image.OPEN.keys()
    assert all(each.suffixes for each in read)
    assert {known[suffix] for each in read for suffix in each.suffixes} == set(READ_FORMATS)
    assert len(set(IMAGE_SUFFIXES)) == len(IMAGE_SUFFIXES)
    assert all(is_image_name(f"a/B{suffix.upper()}") for suffix in IMAGE_SUFFIXES)
    assert not any(map(is_image_name, ("a.txt", "jpg", "a.jpg.txt", "")))


@pytest.mark.parametrize("kind", READ_FORMATS)
def test_a_file_that_is_read_begins_as_the_table_says(kind: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40), "red").save(buffer, kind)
    assert format_of(buffer.getvalue()) == kind


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (b"RIFF\n\n\n\nWEBP", "WEBP"),
        (b"RIFF\0\0\0\0WAVE", "RIFF"),
        (b"\0\0\0\x18ftypmsf1", "HEIF"),
        (b"\0\0\0\x18ftypheic", "HEIF"),
        (b"\0\0\0\x18ftypmp42", "ISO media"),
        (b"\0\0\0\x18ftyp", "ISO media"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"8BPS\0\1", "PSD"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript"),
        (b"II+\0", "TIFF"),
        (b"IIx\0", None),
        (b"<html><svg>", None),
        (b"<svg>", "SVG"),
        (b"", None),
    ],
)
def test_how_files_begin(raw: bytes, name: str | None) -> None:
    assert format_of(raw) == name


def test_a_quote_left_open_swallows_no_row_of_any_kind_of_image(tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    config = PairsConfig(files=(str(file),), path_column="image", caption_column="text", lang="it")
    for suffix in IMAGE_SUFFIXES:
        file.write_text(f'image,text\na{suffix},"un gatto\nb{suffix},un cane\nc{suffix},una casa"\n')
        paths = [row.path for row in read_pairs(config) if isinstance(row, UpstreamRow)]
        assert paths == [f"b{suffix}", f"c{suffix}"]
