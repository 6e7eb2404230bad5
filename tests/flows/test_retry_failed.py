"""--retry-failed asks once more for what may have passed, and for nothing else."""

import io
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_catalog.catalog import query
from data_catalog.shards import sha256_of
from flows.build import BuildReport, build_dataset
from flows.execution import LocalExecutor
from flows.recipe import load_recipe

CAPTIONS = ["Un gatto nero dorme sopra una sedia di legno", "Due cani giocano con una palla rossa sulla spiaggia"]


class Host(ThreadingHTTPServer):
    """Serves one picture a path; answers the statuses in `trouble` instead, by path; counts what is asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.trouble: dict[str, int] = {}
        self.hits: Counter[str] = Counter()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


def picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").rotate(seed * 7 % 360).resize((96, 64)).convert("RGB").save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


class _Handler(BaseHTTPRequestHandler):
    server: Host

    def do_GET(self) -> None:
        self.server.hits[self.path] += 1
        number = self.path.partition("?")[0].strip("/").removesuffix(".jpg").removesuffix("-again")
        status = self.server.trouble.get(self.path, 200 if number.isdigit() else 404)
        body = picture(int(number)) if status == 200 else b"no"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Silence."""


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield server
        server.shutdown()


Build = Callable[..., BuildReport]


@pytest.fixture
def build(host: Host, tmp_path: Path) -> Build:
    """Builds a dataset of twelve images of the host, two of them the same, and one that was never there."""
    paths = [*(f"/{number}.jpg" for number in range(10)), "/3-again.jpg", "/gone.jpg"]
    lines = [f"{host.url(path)}\t{CAPTIONS[n % 2]}, numero {n}" for n, path in enumerate(paths)]
    (tmp_path / "pairs.tsv").write_text("url\tcaption\n" + "\n".join(lines) + "\n", encoding="utf-8")
    recipe = tmp_path / "web.toml"
    recipe.write_text(
        f"""
        target_language = "it"
        [sources.web]
        kind = "pairs"
        files = ["{tmp_path}/pairs.tsv"]
        url_column = "url"
        caption_column = "caption"
        lang = "it"
        [build]
        shard_size = 5
        [fetch]
        allow_loopback = true
        retries = 0
        host_requests_per_s = 0
        """,
        encoding="utf-8",
    )

    def run(*overrides: str, retry_failed: bool = False) -> BuildReport:
        root = tmp_path / "catalog"
        with LocalExecutor(2) as executor:
            loaded = load_recipe(str(recipe), root=root, overrides=overrides)
            return build_dataset(loaded, root=root, executor=executor, retry_failed=retry_failed)

    return run


def outcomes(root: Path) -> dict[str, Any]:
    rows = query(root, "SELECT url, coalesce(drop_reason, status) AS outcome FROM images").to_pylist()
    return {row["url"].rpartition("/")[2]: row["outcome"] for row in rows}


def test_only_what_may_pass_is_asked_again(host: Host, build: Build, tmp_path: Path) -> None:
    host.trouble = {"/1.jpg": 503, "/2.jpg": 404, "/4.jpg": 429, "/5.jpg": 500}
    first = build()
    root = tmp_path / "catalog"
    before = {
        "1.jpg": "http_503",
        "2.jpg": "http_404",
        "4.jpg": "http_429",
        "5.jpg": "http_500",
        "gone.jpg": "http_404",
    }
    assert {name: outcome for name, outcome in outcomes(root).items() if outcome.startswith("http")} == before
    assert first.downloads.num_retryable == 3
    assert any("--retry-failed" in finding for finding in first.downloads.findings)

    host.trouble = {"/5.jpg": 500}
    host.hits.clear()
    assert build().up_to_date
    assert not host.hits

    second = build(retry_failed=True)
    assert dict(host.hits) == {"/1.jpg": 1, "/4.jpg": 1, "/5.jpg": 1}
    assert not second.up_to_date
    assert second.snapshot.manifest["retry_of"] == first.snapshot.snapshot
    after = {"2.jpg": "http_404", "5.jpg": "http_500", "gone.jpg": "http_404"}
    assert {name: outcome for name, outcome in outcomes(root).items() if outcome.startswith("http")} == after
    assert "duplicate_image" in outcomes(root).values()
    assert second.snapshot.verify() == []
    assert build().snapshot.snapshot == second.snapshot.snapshot


def test_what_came_later_is_the_same_as_if_it_had_come_at_once(host: Host, build: Build, tmp_path: Path) -> None:
    host.trouble = {"/1.jpg": 503, "/3.jpg": 503, "/9.jpg": 503}
    build()
    host.trouble = {}
    again = build(retry_failed=True)
    late = {path.name: sha256_of(path) for path in again.snapshot.folder.rglob("*.parquet")}
    atonce = build("name=other")
    assert {path.name: sha256_of(path) for path in atonce.snapshot.folder.rglob("*.parquet")} == late


def test_when_nothing_may_pass_nothing_is_asked(host: Host, build: Build) -> None:
    first = build()
    host.hits.clear()
    assert build(retry_failed=True).up_to_date
    assert not host.hits
    assert first.downloads.num_retryable == 0


def test_trying_in_vain_leaves_the_dataset_as_it_is(host: Host, build: Build) -> None:
    host.trouble = {"/1.jpg": 503}
    first = build()
    again = build(retry_failed=True)
    assert again.snapshot.snapshot == first.snapshot.snapshot
    assert host.hits["/1.jpg"] == 2
    assert build(retry_failed=True).snapshot.snapshot == first.snapshot.snapshot
    assert host.hits["/1.jpg"] == 3


def test_one_picture_at_many_addresses_of_a_host_stands_for_none(host: Host, build: Build, tmp_path: Path) -> None:
    lines = [f"{host.url(f'/7.jpg?{n}')}\t{CAPTIONS[n % 2]}, numero {n}" for n in range(10)]
    (tmp_path / "pairs.tsv").write_text("url\tcaption\n" + "\n".join(lines) + "\n", encoding="utf-8")
    build()
    assert set(outcomes(tmp_path / "catalog").values()) == {"placeholder_image"}
