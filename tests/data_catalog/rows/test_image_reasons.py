"""Reasons of images, formats and verdicts: closed tables, and what they say of a download."""

from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from data_catalog.rows.fetch_reasons import (
    CAUSES,
    FETCH_REASONS,
    NORMALISE_REASONS,
    cause_of,
    diagnose,
    http_reason,
    is_retryable,
)
from data_catalog.rows.image_formats import IMAGE_FORMATS, IMAGE_SUFFIXES, READ_FORMATS, format_of, is_image_name

REASONS = [*FETCH_REASONS, *NORMALISE_REASONS]


def test_every_status_has_a_reason_and_what_may_pass_is_tried_again_and_nothing_else() -> None:
    assert {http_reason(status) for status in range(100, 1000)} <= FETCH_REASONS.keys()
    named = {status for status in range(100, 1000) if f"http_{status}" in FETCH_REASONS}
    assert {status for status in named if is_retryable(http_reason(status))} == {408, 425, 429, 500, 502, 503, 504}
    assert [is_retryable(reason) for reason in ("dns", "timeout", "fetch_lost", "http_5xx")] == [True] * 4
    final = ("http_404", "robots_txt", "private_address", "tls", "decode_error", "no such reason", None)
    assert [is_retryable(reason) for reason in final] == [False] * 7


Row = tuple[str, str | None, int]
GOOD = ("a.example", None, 700)


def found_of(*rows: Row) -> Any:
    """What is diagnosed of (host, reason, number of images)."""
    schema = pa.schema([("host", pa.string()), ("drop_reason", pa.string()), ("num_images", pa.int64())])
    return diagnose(pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema))


def many_hosts(reason: str, count: int, per_host: int = 1) -> list[Row]:
    return [(f"host{number}.{reason.replace('_', '-')}.example", reason, per_host) for number in range(count)]


def test_each_kind_of_trouble_has_its_name() -> None:
    for rows, words in (
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
    ):
        assert words in found_of(*rows).findings[0]
    found = found_of(("a.example", None, 90), ("a.example", "http_503", 6), ("b.example", "http_404", 4))
    assert found.num_retryable == 6
    assert any("6 of the missing images may come at a later try" in finding for finding in found.findings)
    good = found_of(("a.example", None, 999), ("a.example", "too_small", 1))
    assert (good.findings, good.rows()[0]) == ((), {"what": "good images", "images": 999, "share": "99.9%"})


def test_every_reason_has_a_step_and_a_cause_and_shares_add_up() -> None:
    assert len({*REASONS}) == len(REASONS)
    reasons = [*REASONS, None, "from_the_future"]
    assert {cause_of(reason) for reason in reasons} == set(CAUSES)
    found = found_of(*[("h.example", reason, number + 1) for number, reason in enumerate(reasons)])
    assert sum(found.counts.values()) == len(reasons) * (len(reasons) + 1) / 2
    assert sum(found.shares().values()) == pytest.approx(1, abs=0.001)
    assert {"what": "another reason", "images": len(reasons)}.items() <= found.rows()[-1].items()


def test_what_is_read_has_pillows_names_and_suffixes_and_begins_as_the_table_says(file_of: Any) -> None:
    known = Image.registered_extensions()
    suffixes = {each.name: each.suffixes for each in IMAGE_FORMATS if each.is_read}
    assert all(suffixes.values())
    assert {known[suffix] for each in suffixes.values() for suffix in each} == set(READ_FORMATS)
    assert all(is_image_name(f"a/B{suffix.upper()}") for suffix in IMAGE_SUFFIXES)
    assert not any(map(is_image_name, ("a.txt", "jpg", "a.jpg.txt", "")))
    assert {kind: format_of(file_of(Image.new("RGB", (40, 40)), kind)) for kind in suffixes} == {
        kind: kind for kind in suffixes
    }


BEGINNINGS = {
    "WEBP": [b"RIFF\n\n\n\nWEBP"],
    "HEIF": [b"\0\0\0\x18ftypmsf1", b"\0\0\0\x18ftypheic"],
    "ISO media": [b"\0\0\0\x18ftypmp42", b"\0\0\0\x18ftyp"],
    "TIFF": [b"II+\0"],
    "SVG": [b"<svg>"],
    None: [b"IIx\0", b"<html><svg>", b""],
}


def test_how_files_begin() -> None:
    for name, beginnings in BEGINNINGS.items():
        assert [format_of(raw) for raw in beginnings] == [name] * len(beginnings)
