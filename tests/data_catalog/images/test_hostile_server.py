"""The golden table: what a hostile web gives, row by row, and the reason with which each row ends."""

import gzip
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_catalog.images.fetch import FETCH_REASONS, FetchConfig
from data_catalog.images.normalise import NormaliseConfig
from data_catalog.images.reasons import NORMALISE_REASONS
from data_catalog.images.workers import ImageWorkers
from data_catalog.schema import IMAGES, RAW_IMAGES

GOOD = (None, None)

# Path on the server -> (reason, detail) after fetching.
FETCH_TABLE = {
    "/missing.jpg": ("http_error", "HTTP 404"),
    "/broken": ("http_error", "HTTP 500"),
    "/busy": ("http_error", "HTTP 429"),
    "/not-modified": ("http_error", "HTTP 304"),
    "/no-location": ("http_error", "HTTP 302"),
    "/not-http": ("http_error", "not HTTP (BadStatusLine)"),
    "/hang": ("timeout", "no answer in time"),
    "/hang-in-body": ("timeout", "not all of the body in time"),
    "/drip-body": ("timeout", "not all of the body in time"),
    "/drip-header": ("timeout", "no answer in time"),
    "/short": ("truncated_body", "100 of 200 bytes"),
    "/short-chunked": ("truncated_body", "the connection broke off"),
    "/reset": ("connect", "Connection reset by peer"),
    "/closed": ("connect", "closed without an answer"),
    "/empty": ("empty_body", None),
    "/huge-announced": ("too_large", "5000000 bytes announced"),
    "/huge": ("too_large", "more than 1000000 bytes"),
    "/loop": ("redirects", "more than 3"),
    "/to-file": ("bad_url", "scheme file"),
    "/to-ftp": ("bad_url", "scheme ftp"),
    "/to-data": ("bad_url", "scheme data"),
    "/to-private": ("private_address", "10.0.0.1"),
    "/to-metadata": ("private_address", "169.254.169.254"),
    "/to-userinfo": ("bad_url", "userinfo"),
    "/noai": ("robots_tag", None),
    "/noindex-for-us": ("robots_tag", None),
    "/noai-for-another": GOOD,
    "/chunked.jpg": GOOD,
    "/hop": GOOD,
    "/to-plain é.jpg": GOOD,
    "/gzipped.jpg": GOOD,
    "/caffè latte.jpg": GOOD,
}

# Whole URLs -> (reason, detail) after fetching.
URL_TABLE = {
    None: ("bad_url", "empty"),
    "": ("bad_url", "empty"),
    "  ": ("bad_url", "empty"),
    "plain.jpg": ("bad_url", "no scheme"),
    "file:///etc/passwd": ("bad_url", "scheme file"),
    "data:image/png;base64,iVBORw0KGgo=": ("bad_url", "scheme data"),
    "ftp://example.org/a.jpg": ("bad_url", "scheme ftp"),
    "http://": ("bad_url", "no host"),
    "http://user:secret@example.org/a.jpg": ("bad_url", "userinfo"),
    "http://10.1.2.3/a.jpg": ("private_address", "10.1.2.3"),
    "http://[fd00::1]/a.jpg": ("private_address", "fd00::1"),
    "http://192.168.0.1:8080/a.jpg": ("private_address", "192.168.0.1"),
    "http://8.8.8.8:22/a.jpg": ("bad_url", "port 22"),
    "http://no-such-host.invalid/a.jpg": ("dns", "no address for no-such-host.invalid"),
}

# File on the server -> (reason, detail) after normalising.
NORMALISE_TABLE = {
    "plain.jpg": GOOD,
    "commented.jpg": GOOD,
    "upright.jpg": GOOD,
    "cmyk.jpg": GOOD,
    "progressive.jpg": GOOD,
    "grey.png": GOOD,
    "deep.png": ("one_colour", "#9c9c9c"),
    "clear.png": ("one_colour", "#ffffff"),
    "palette.png": GOOD,
    "bilevel.png": GOOD,
    "plain.webp": GOOD,
    "plain.bmp": GOOD,
    "plain.tif": GOOD,
    "still.gif": GOOD,
    "stereo.mpo": GOOD,
    "animated.gif": ("animated", "GIF"),
    "pages.tif": ("animated", "TIFF"),
    "float.tif": ("format_not_allowed", "TIFF of mode F"),
    "icon.ico": ("format_not_allowed", "ICO"),
    "drawing.svg": ("format_not_allowed", "SVG"),
    "cut.jpg": ("truncated", "JPEG"),
    "cut.png": ("truncated", "PNG"),
    "header.jpg": ("truncated", "JPEG"),
    "header.png": ("decode_error", "PNG with a broken header"),
    "bomb.png": ("too_many_pixels", "400000000 pixels"),
    "dot.png": ("too_small", "1x1"),
    "line.png": ("aspect", "5000x3"),
    "page.html": ("not_an_image", "HTML"),
    "noise": ("not_an_image", "unknown bytes"),
}


@pytest.fixture(scope="module")
def hostile(server: Any, pictures: dict[str, bytes]) -> Any:
    """The server with all its tricks."""
    plain = pictures["plain.jpg"]
    server.files.update({f"/{name}": body for name, body in pictures.items()})
    server.files.update({"/empty": b"", "/caffè latte.jpg": plain, "/plain é.jpg": plain})
    redirects = {
        "/loop": "/loop",
        "/to-file": "file:///etc/passwd",
        "/to-ftp": "ftp://127.0.0.1/a.jpg",
        "/to-data": "data:image/gif;base64,R0lGODlhAQABAAAAACw=",
        "/to-private": "http://10.0.0.1/a.jpg",
        "/to-metadata": "http://169.254.169.254/latest/meta-data/",
        "/to-userinfo": "http://me:secret@127.0.0.1/a.jpg",
        "/hop": "/plain.jpg",
        "/to-plain é.jpg": "/plain é.jpg".encode().decode("latin-1"),
    }
    for path, location in redirects.items():
        server.behaviours[path] = lambda it, location=location: it.answer(302, b"", Location=location)
    chunk = b"%x\r\n%b\r\n" % (len(plain), plain)
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    robots = {"/noai": "noai", "/noindex-for-us": "vernaclip: noindex", "/noai-for-another": "otherbot: noai"}
    for path, tag in robots.items():
        server.behaviours[path] = lambda it, tag=tag: it.answer(200, plain, X_Robots_Tag=tag)
    server.behaviours.update(
        {
            "/broken": lambda it: it.answer(500, b"oops"),
            "/busy": lambda it: it.answer(429, b"slow down"),
            "/not-modified": lambda it: it.answer(304, b""),
            "/no-location": lambda it: it.answer(302, b""),
            "/not-http": lambda it: it.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n"),
            "/hang": lambda it: it.server.stopping.wait(10),
            "/hang-in-body": lambda it: (it.answer(200, plain[:9], 100), it.server.stopping.wait(10)),
            "/drip-body": lambda it: it.drip(b"HTTP/1.0 200 OK\r\n\r\n", b"x"),
            "/drip-header": lambda it: it.drip(b"HTTP/1.0 200 OK\r\nX-Long: ", b"x"),
            "/short": lambda it: it.answer(200, plain[:100], 200),
            "/short-chunked": lambda it: it.wfile.write(chunked + chunk[:100]),
            "/chunked.jpg": lambda it: it.wfile.write(chunked + chunk + b"0\r\n\r\n"),
            "/reset": lambda it: it.reset(),
            "/closed": lambda it: it.connection.close(),
            "/huge-announced": lambda it: it.answer(200, b"", 5_000_000),
            "/huge": lambda it: it.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + bytes(1_200_000)),
            "/gzipped.jpg": lambda it: it.answer(200, gzip.compress(plain), Content_Encoding="gzip"),
        }
    )
    return server


@pytest.fixture(scope="module")
def refused_url() -> str:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    return f"http://127.0.0.1:{port}/a.jpg"


@pytest.fixture(scope="module")
def fetched(
    hostile: Any,
    refused_url: str,
    workers: ImageWorkers,
    quick: FetchConfig,
    make_requests: Callable[..., pa.Table],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[list[str | None], Path]:
    """All rows of all tables in one shard: (their URLs, the raw file)."""
    urls = [hostile.url(path) for path in [*FETCH_TABLE, *(f"/{name}" for name in NORMALISE_TABLE)]]
    urls += [*URL_TABLE, refused_url, hostile.url("/plain.jpg").replace("http:", "https:")]
    out = tmp_path_factory.mktemp("hostile") / "raw.parquet"
    workers.fetch(make_requests(*urls), quick, out)
    return urls, out


def test_every_row_comes_out_once_in_order(fetched: tuple[list[str | None], Path]) -> None:
    urls, out = fetched
    table = pq.read_table(out)
    assert table.schema == RAW_IMAGES
    assert table["sample_id"].to_pylist() == [f"test:{index}" for index in range(len(urls))]
    assert [path.name for path in out.parent.iterdir()] == ["raw.parquet"]


def test_fetch_reasons(fetched: tuple[list[str | None], Path], hostile: Any, refused_url: str) -> None:
    urls, out = fetched
    rows = dict(zip(urls, pq.read_table(out).to_pylist(), strict=True))
    expected = {hostile.url(path): outcome for path, outcome in FETCH_TABLE.items()} | URL_TABLE
    expected |= {hostile.url(f"/{name}"): GOOD for name in NORMALISE_TABLE}
    expected |= {refused_url: ("connect", "Connection refused")}
    found = {url: (rows[url]["drop_reason"], rows[url]["detail"]) for url in expected}
    assert {url: (found[url], expected[url]) for url in expected if found[url] != expected[url]} == {}
    assert {reason for reason, _ in found.values() if reason} <= FETCH_REASONS.keys()
    assert rows[hostile.url("/plain.jpg").replace("http:", "https:")]["drop_reason"] == "tls"


def test_bytes_come_exactly_where_there_is_no_reason(fetched: tuple[list[str | None], Path], hostile: Any) -> None:
    urls, out = fetched
    rows = pq.read_table(out).to_pylist()
    assert all((row["bytes"] is None) == (row["drop_reason"] is not None) for row in rows)
    by_url = dict(zip(urls, rows, strict=True))
    assert by_url[hostile.url("/chunked.jpg")]["bytes"] == hostile.files["/plain.jpg"]
    assert by_url[hostile.url("/hop")]["final_url"] == hostile.url("/plain.jpg")
    assert by_url[hostile.url("/caffè latte.jpg")]["final_url"] == hostile.url("/caff%C3%A8%20latte.jpg")
    assert by_url[hostile.url("/missing.jpg")]["http_status"] == 404


def test_requests_are_honest(fetched: tuple[list[str | None], Path], hostile: Any, quick: FetchConfig) -> None:
    headers = hostile.seen["/plain.jpg"]
    assert headers["User-Agent"] == quick.user_agent
    assert headers["Accept-Encoding"] == "identity"
    assert headers["Host"] == hostile.url("").removeprefix("http://")


@pytest.fixture(scope="module")
def normalised(fetched: tuple[list[str | None], Path], workers: ImageWorkers) -> dict[str | None, dict[str, Any]]:
    """Normalised rows by URL."""
    urls, raw = fetched
    out = raw.parent / "images.parquet"
    workers.normalise(raw, NormaliseConfig(image_size=32), out)
    table = pq.read_table(out)
    out.unlink()
    assert table.schema == IMAGES
    return dict(zip(urls, table.to_pylist(), strict=True))


def test_normalise_reasons(normalised: dict[str | None, dict[str, Any]], hostile: Any) -> None:
    rows = {name: normalised[hostile.url(f"/{name}")] for name in NORMALISE_TABLE}
    found = {name: (row["drop_reason"], row["detail"]) for name, row in rows.items()}
    assert {name: (found[name], NORMALISE_TABLE[name]) for name in found if found[name] != NORMALISE_TABLE[name]} == {}
    assert {reason for reason, _ in found.values() if reason} <= NORMALISE_REASONS.keys()
    assert not NORMALISE_REASONS.keys() & FETCH_REASONS.keys()
    gzipped = normalised[hostile.url("/gzipped.jpg")]
    assert (gzipped["drop_reason"], gzipped["detail"]) == ("not_an_image", "gzip")


def test_rows_that_were_not_fetched_keep_their_reason(
    normalised: dict[str | None, dict[str, Any]], hostile: Any
) -> None:
    for path, (reason, detail) in FETCH_TABLE.items():
        if reason is not None:
            row = normalised[hostile.url(path)]
            assert (row["drop_reason"], row["detail"], row["bytes"]) == (reason, detail, None)
