"""What a root knows of images is not asked of the web again, whatever else a later build does otherwise."""

import io
import os
import random
import signal
import ssl
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import trustme
from PIL import Image

from data_catalog.database.catalog import query
from data_catalog.errors import DamagedError
from flows.build.execution import LocalExecutor
from flows.cli import main
from flows.jobs import BuildReport, build_dataset
from flows.recipe.recipe import load_recipe

CAPTION = "Un gatto nero dorme sopra una sedia di legno"


class Host(ThreadingHTTPServer):
    """Serves one picture a path, 404 for `/gone`; counts what is asked, and answers no more after `stops_after`."""

    daemon_threads = True

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.scheme = "https" if tls else "http"
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.hits: Counter[str] = Counter()
        self.stops_after = 1_000
        self.stopped, self.goes_on = threading.Event(), threading.Event()

    def url(self, number: int | str) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}/{number}.jpg"


class _Handler(BaseHTTPRequestHandler):
    server: Host

    def do_GET(self) -> None:
        if self.server.hits.total() >= self.server.stops_after:
            self.server.stopped.set()
            self.server.goes_on.wait(60)
        if self.path != "/robots.txt":
            self.server.hits[self.path] += 1
        number = self.path.partition("?")[0].strip("/").removesuffix(".jpg")
        status = 200 if number.isdigit() else 404
        buffer = io.BytesIO()
        if status == 200:
            blocks = Image.frombytes("L", (12, 8), random.Random(int(number) % 90).randbytes(96))
            blocks.resize((96, 64)).convert("RGB").save(buffer, "JPEG", quality=90)
        self.send_response(status)
        self.send_header("Content-Length", str(len(buffer.getvalue())))
        self.end_headers()
        self.wfile.write(buffer.getvalue())

    def log_message(self, *args: object) -> None:
        """Silence."""


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(params=[False])
def host(request: pytest.FixtureRequest, authority: trustme.CA) -> Iterator[Host]:
    """A host that speaks http; by https where a test asks for that."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if request.param else None
    if tls is not None:
        authority.issue_cert("127.0.0.1").configure_cert(tls)
    with Host(tls) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield server
        server.goes_on.set()
        server.shutdown()


@pytest.fixture
def recipe(host: Host, tmp_path: Path) -> Path:
    """Twelve images of the host, two of which are the same, one that is gone, one whose URL is spelled otherwise."""
    numbers = [*range(8), 93, "gone"]  # 93 and 3 are the same picture
    urls = [*(host.url(number) for number in numbers), f"{host.url(8)}#x"]
    lines = [f"{url}\t{CAPTION}, numero {n}{' e un cane' * (n % 3)}" for n, url in enumerate(urls)]
    (tmp_path / "pairs.tsv").write_text("url\tcaption\n" + "\n".join(lines) + "\n", encoding="utf-8")
    path = tmp_path / "web.toml"
    path.write_text(
        f"""
        target_language = "it"
        [sources.web]
        kind = "pairs"
        files = ["{tmp_path}/pairs.tsv"]
        url_column = "url"
        caption_column = "caption"
        lang = "it"
        [build]
        shard_size = 4
        workers = 1
        fetch_workers = 1
        [repeats]
        near_captions = false
        [fetch]
        allow_loopback = true
        retries = 0
        host_requests_per_s = 0
        [split]
        val = 0.3
        """,
        encoding="utf-8",
    )
    return path


def build(recipe: Path, root: Path, *overrides: str) -> BuildReport:
    with LocalExecutor() as executor:
        loaded = load_recipe(str(recipe), root=root, overrides=overrides)
        return build_dataset(loaded, root=root, executor=executor)


def published(report: BuildReport) -> dict[str, dict[str, object]]:
    tables = [pq.read_table(path) for path in report.snapshot.all_pair_files()]
    return {row["sample_id"]: row for table in tables for row in table.to_pylist()}


def test_settings_of_captions_duplicates_and_splits_ask_for_no_known_image(
    recipe: Path, host: Host, tmp_path: Path
) -> None:
    root = tmp_path / "catalog"
    build(recipe, root, "clean.min_words=14")
    asked = set(host.hits)
    lower = build(recipe, root, "clean.min_words=2")
    assert set(host.hits) > asked
    assert set(host.hits.values()) == {1}
    host.hits.clear()
    for change in ("clean.min_words=14", "split.salt='x'", "check.max_words=12"):
        build(recipe, root, change)
    switched_off = [f"duplicates.{name}=false" for name in ("images", "near_images", "split_guard")]
    with_duplicates = build(recipe, root, *switched_off)
    assert not host.hits
    assert published(with_duplicates).keys() > published(lower).keys()
    # The same as where everything was asked for at once.
    assert published(build(recipe, tmp_path / "fresh", *switched_off)) == published(with_duplicates)


def test_another_dataset_of_the_root_takes_what_is_known(recipe: Path, host: Host, tmp_path: Path) -> None:
    first = build(recipe, tmp_path / "catalog")
    host.hits.clear()
    second = build(recipe, tmp_path / "catalog", "name='other'", "build.shard_size=3")
    assert not host.hits
    assert published(second) == published(first)


def test_other_pictures_are_asked_for_unless_originals_were_kept(recipe: Path, host: Host, tmp_path: Path) -> None:
    small = "normalise.image_size=32"
    build(recipe, tmp_path / "without")
    host.hits.clear()
    build(recipe, tmp_path / "without", small)
    assert len(host.hits) == 10  # and not the one that is gone
    assert "/gone.jpg" not in host.hits
    build(recipe, tmp_path / "with", "normalise.keep_original=true")
    host.hits.clear()
    again = build(recipe, tmp_path / "with", small)
    assert not host.hits
    assert published(again) == published(build(recipe, tmp_path / "without", small))


@pytest.mark.slow
def test_other_limits_of_fetching_ask_again(recipe: Path, host: Host, tmp_path: Path) -> None:
    build(recipe, tmp_path / "catalog")
    host.hits.clear()
    build(recipe, tmp_path / "catalog", "fetch.timeout_s=3", "fetch.threads=2")
    assert not host.hits
    build(recipe, tmp_path / "catalog", "fetch.max_bytes=10_000_000")
    assert len(host.hits) == 11


def test_a_killed_build_loses_nothing_to_another_dataset_or_other_settings(
    recipe: Path, host: Host, tmp_path: Path
) -> None:
    root = tmp_path / "catalog"
    host.stops_after = 8  # in the third shard
    words = [sys.executable, "-m", "flows.cli", "build", str(recipe), "--root", str(root), "--executor", "local"]
    killed = subprocess.Popen(words, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert host.stopped.wait(60)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    host.goes_on.set()
    done = [path.parent.name for path in (root / "work" / "web" / "fetch").glob("*/commit.json")]
    assert done
    host.hits.clear()
    other = build(recipe, root, "name='other'")
    there = set(host.hits)
    assert 0 < len(there) < 11
    assert done == [path.parent.name for path in (root / "work" / "web" / "fetch").glob("*/commit.json")]
    # The first dataset, with fewer captions: what its killed build knew goes into the snapshot, for those to come.
    host.hits.clear()
    build(recipe, root, "clean.min_words=14")
    assert not host.hits
    assert not (root / "work" / "web").exists()
    assert published(build(recipe, root)) == published(other)
    assert not host.hits


@pytest.mark.slow
def test_what_only_a_killed_build_knew_goes_into_the_snapshot(recipe: Path, host: Host, tmp_path: Path) -> None:
    root = tmp_path / "catalog"
    environment = {**os.environ, "VERNACLIP_FAILPOINTS": "snapshot.before_files=kill"}
    words = [sys.executable, "-m", "flows.cli", "build", str(recipe), "--root", str(root), "--executor", "local"]
    assert subprocess.run(words, check=False, capture_output=True, env=environment).returncode == -signal.SIGKILL
    host.hits.clear()
    build(recipe, root, "clean.min_words=14")
    assert not host.hits
    assert len(list(root.rglob("images/spare-carried-*"))) == 1
    everything = build(recipe, root)
    assert not host.hits
    assert everything.snapshot.verify() == []
    assert published(everything) == published(build(recipe, tmp_path / "fresh"))


@pytest.mark.slow
def test_two_spellings_of_a_url_are_known_as_one(recipe: Path, host: Host, tmp_path: Path) -> None:
    build(recipe, tmp_path / "catalog")
    text = (tmp_path / "pairs.tsv").read_text(encoding="utf-8")
    (tmp_path / "pairs.tsv").write_text(text.replace("8.jpg#x", "8.jpg"), encoding="utf-8")
    host.hits.clear()
    build(recipe, tmp_path / "catalog")
    assert not host.hits


@pytest.mark.parametrize("name", ["pairs", pytest.param("images", marks=pytest.mark.slow)])
def test_nothing_is_built_on_what_is_damaged(name: str, recipe: Path, tmp_path: Path) -> None:
    first = build(recipe, tmp_path / "catalog")
    for path in sorted((first.snapshot.folder / name).iterdir()):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with pytest.raises(Exception, match=r"missing or damaged.*vernaclip verify"):
        build(recipe, tmp_path / "catalog", "split.salt='x'")


def test_prune_says_how_many_urls_nothing_else_knows(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "catalog"
    build(recipe, root)
    build(recipe, root, "clean.min_words=14")
    fewer = query(root, "SELECT count(*) AS n FROM image_outcomes").to_pylist()[0]["n"]
    assert main(["prune", "--root", str(root)]) == 0
    said = capsys.readouterr().out
    assert f"the fetch outcomes of {11 - fewer} image URLs are lost" in said


def killed(recipe: Path, root: Path, failpoint: str, *overrides: str) -> None:
    environment = {**os.environ, "VERNACLIP_FAILPOINTS": f"{failpoint}=kill"}
    words = [sys.executable, "-m", "flows.cli", "build", str(recipe), "--root", str(root), "--executor", "local"]
    words += [word for override in overrides for word in ("--set", override)]
    assert subprocess.run(words, check=False, capture_output=True, env=environment).returncode == -signal.SIGKILL


def test_a_build_that_is_up_to_date_leaves_what_another_killed_one_fetched(
    recipe: Path, host: Host, tmp_path: Path
) -> None:
    root = tmp_path / "catalog"
    build(recipe, root)
    killed(recipe, root, "snapshot.before_files", "fetch.max_bytes=10_000_000")
    host.hits.clear()
    assert build(recipe, root).up_to_date
    build(recipe, root, "fetch.max_bytes=10_000_000")
    assert not host.hits


def test_what_was_fetched_by_other_settings_is_no_fact_of_a_snapshot(recipe: Path, host: Host, tmp_path: Path) -> None:
    root = tmp_path / "catalog"
    killed(recipe, root, "snapshot.before_files", "normalise.image_size=48")
    killed(recipe, root, "snapshot.before_files", "fetch.max_bytes=10_000_000")
    host.hits.clear()
    small = build(recipe, root, "clean.min_words=14", "normalise.image_size=32")
    assert not host.hits
    small = build(recipe, root, "normalise.image_size=32")
    assert not host.hits
    assert {min(row["width"], row["height"]) for row in published(small).values()} == {32}
    build(recipe, root, "fetch.max_bytes=10_000_000")
    assert not host.hits


def test_a_url_that_several_samples_have_is_asked_for_once(recipe: Path, host: Host, tmp_path: Path) -> None:
    lines = [f"{host.url(1)}?{number}#{number}\t{CAPTION}, numero {number}" for number in (1, 1, 2)]
    lines += [f"{host.url(1)}?1#{number}\t{CAPTION} con un cane, numero {number}" for number in (3, 4)]
    (tmp_path / "pairs.tsv").write_text("url\tcaption\n" + "\n".join(lines) + "\n", encoding="utf-8")
    build(recipe, tmp_path / "catalog", "build.shard_size=40")
    assert set(host.hits.values()) <= {1}


@pytest.mark.slow
def test_damage_to_what_is_published_is_noticed(recipe: Path, tmp_path: Path) -> None:
    root = tmp_path / "catalog"
    killed(recipe, root, "snapshot.before_files")
    path = next((root / "work" / "web" / "publish").glob("*/train.parquet"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedError, match="was damaged and is removed"):
        build(recipe, root)
    whole = build(recipe, root)
    assert whole.snapshot.verify() == []
    assert published(whole) == published(build(recipe, tmp_path / "fresh"))


@pytest.mark.parametrize("host", [True], indirect=True)
def test_a_build_over_https_believes_a_private_authority_where_the_system_does(
    recipe: Path,
    authority: trustme.CA,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["build", str(recipe), "--root", str(tmp_path / "doubts"), "--executor", "local"]) == 1
    assert "fetch dropped 11 as tls" in capsys.readouterr().err
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    assert main(["build", str(recipe), "--root", str(tmp_path / "trusts"), "--executor", "local"]) == 0
    sql = "SELECT http_status, final_url[:8] AS scheme, count(*) AS n FROM images GROUP BY ALL ORDER BY ALL"
    rows = query(tmp_path / "trusts", sql).to_pylist()
    assert [tuple(row.values()) for row in rows] == [(200, "https://", 10), (404, "https://", 1)]
