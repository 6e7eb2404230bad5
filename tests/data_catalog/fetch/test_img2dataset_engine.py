"""Fetching with img2dataset: every row is accounted for, and originals are normalised as those of our own fetching."""

from dataclasses import replace
from typing import Any

import pytest

from data_catalog.base.errors import InputError
from data_catalog.fetch.config import FetchConfig
from data_catalog.fetch.img2dataset_engine import outcome_of


@pytest.mark.slower
def test_rows_of_img2dataset_are_ours(
    server: Any, fetch: Any, pictures: dict[str, bytes], quick: FetchConfig, tmp_path: Any
) -> None:
    names = ("plain.jpg", "upright.jpg", "clear.png", "page.html", "cut.jpg")
    server.files |= {f"/engine/{name}": pictures[name] for name in names}
    server.behaviours |= {
        "/engine/noai": lambda it: it.answer(200, pictures["plain.jpg"], X_Robots_Tag="noai"),
        "/engine/404": lambda it: it.answer(404, b""),
        "/engine/empty": lambda it: it.answer(200, b""),
        "/engine/large": lambda it: it.answer(200, bytes(quick.max_bytes + 1)),
    }
    paths = [*(f"/engine/{name}" for name in names), "/engine/noai", "/engine/404", "/engine/empty", "/engine/large"]
    urls = [*map(server.url, paths), "http://127.0.0.1:9/", "http://no.such.example.invalid/", "no url", None]
    config = replace(quick, engine="img2dataset", processes=2, threads=4)
    theirs = fetch(*urls, urls[0], config=config)
    ours = fetch(*urls, urls[0], config=quick)
    facts = ("drop_reason", "bytes", "sha256", "url")
    assert [[row[fact] for fact in facts] for row in theirs] == [[row[fact] for fact in facts] for row in ours]
    assert theirs[6]["http_status"] == 404
    assert theirs[-1]["bytes"] == pictures["plain.jpg"]


@pytest.mark.slower
def test_what_img2dataset_says_when_it_fails_is_the_error(fetch: Any, quick: FetchConfig) -> None:
    config = replace(quick, engine="img2dataset", distributor="pyspark")
    with pytest.raises(InputError, match=r"(?s)img2dataset ended with exit status 1: .*pyspark"):
        fetch("http://127.0.0.1:9/", config=config)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("HTTP Error 403: Forbidden", "http_403"),
        ("<urlopen error [Errno -2] Name or service not known>", "dns"),
        ("<urlopen error timed out>", "timeout"),
        ("The read operation timed out", "timeout"),
        ("<urlopen error [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed>", "tls"),
        ("<urlopen error [Errno 111] Connection refused>", "connect"),
        ("IncompleteRead(100 bytes read, 100 more expected)", "truncated_body"),
        ("Use of image disallowed by X-Robots-Tag directive", "robots_tag"),
        ("what nobody foresaw", "fetch_lost"),
        (None, "fetch_lost"),
    ],
)
def test_messages_of_img2dataset_are_reasons(message: str | None, reason: str) -> None:
    row = {"status": "failed_to_download", "error_message": message, "jpg": None}
    assert outcome_of(row, FetchConfig())["reason"] == reason
