"""--retry-failed asks once more for what may have passed, and for nothing else."""

import io
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_catalog.database.catalog import query
from data_catalog.errors import DamagedError, InputError
from data_catalog.storage.shards import sha256_of
from flows.build.execution import LocalExecutor
from flows.jobs import BuildReport, build_dataset
from flows.recipe.recipe import load_recipe

CAPTIONS = ["Un gatto nero dorme sopra una sedia di legno", "Due cani giocano con una palla rossa sulla spiaggia"]


class Host(ThreadingHTTPServer):
    """Serves one picture a path; answers the statuses in `trouble` instead, by path; counts what is asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.trouble: dict[str, int] = {}
        self.hits: Counter[str] = Counter()
        self.on_hit: dict[str, threading.Event] = {}

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


def picture(seed: int, lighter: int = 0) -> bytes:
    """Twelve by eight blocks of grey, so that no two look alike; a little lighter, it does look alike."""
    buffer = io.BytesIO()
    blocks = Image.frombytes("L", (12, 8), random.Random(seed).randbytes(96))
    blocks = blocks.point(lambda grey: grey * 3 // 4 + lighter) if lighter else blocks
    blocks.resize((96, 64)).convert("RGB").save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


class _Handler(BaseHTTPRequestHandler):
    server: Host

    def do_GET(self) -> None:
        self.server.hits[self.path] += 1
        if self.path in self.server.on_hit:
            self.server.on_hit[self.path].set()
        number = self.path.partition("?")[0].strip("/").removesuffix(".jpg").removesuffix("-again")
        number, _, lighter = number.partition("-lighter-")
        status = self.server.trouble.get(self.path, 200 if number.isdigit() else 404)
        body = picture(int(number), int(lighter or 0)) if status == 200 else b"no"
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
MakePairs = Callable[[list[str]], None]


@pytest.fixture
def make_pairs(host: Host, tmp_path: Path) -> MakePairs:
    """Writes the upstream file: a caption each for paths on the host, or whole URLs."""

    def write(paths: list[str]) -> None:
        urls = [path if "://" in path else host.url(path) for path in paths]
        lines = [f"{url}\t{CAPTIONS[n % 2]}, numero {n}" for n, url in enumerate(urls)]
        (tmp_path / "pairs.tsv").write_text("url\tcaption\n" + "\n".join(lines) + "\n", encoding="utf-8")

    return write


@pytest.fixture
def recipe(make_pairs: MakePairs, tmp_path: Path) -> Path:
    """A recipe of twelve images of the host, two of them the same, and one that was never there; of one split.

    Where an image is held out depends on its address, and that on the host's port.
    """
    make_pairs([*(f"/{number}.jpg" for number in range(10)), "/3-again.jpg", "/gone.jpg"])
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
        shard_size = 5
        workers = 1
        fetch_workers = 1
        [repeats]
        near_captions = false
        [fetch]
        allow_loopback = true
        retries = 0
        host_requests_per_s = 0
        [split]
        val = 0.0
        """,
        encoding="utf-8",
    )
    return path


@pytest.fixture
def build(recipe: Path, tmp_path: Path) -> Build:
    """Builds the recipe's dataset, with overrides."""

    def run(*overrides: str, retry_failed: bool = False) -> BuildReport:
        root = tmp_path / "catalog"
        with LocalExecutor() as executor:
            loaded = load_recipe(str(recipe), root=root, overrides=overrides)
            return build_dataset(loaded, root=root, executor=executor, retry_failed=retry_failed)

    return run


@pytest.fixture
def command(recipe: Path, tmp_path: Path) -> list[str]:
    """The same by the command line."""
    words = [sys.executable, "-m", "flows.cli", "build", str(recipe), "--root", str(tmp_path / "catalog")]
    return [*words, "--executor", "local"]


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
    assert (first.snapshot.manifest["attempt"], second.snapshot.manifest["attempt"]) == (0, 1)
    after = {"2.jpg": "http_404", "5.jpg": "http_500", "gone.jpg": "http_404"}
    assert {name: outcome for name, outcome in outcomes(root).items() if outcome.startswith("http")} == after
    assert "duplicate_image" in outcomes(root).values()
    assert second.snapshot.verify() == []
    assert build().snapshot.snapshot == second.snapshot.snapshot


def published(build: BuildReport) -> dict[str, str]:
    """The files of a snapshot but its outcomes of images, which say at which attempt each came."""
    files = [*build.snapshot.caption_files(), *build.snapshot.all_pair_files()]
    return {path.name: sha256_of(path) for path in files}


def test_what_came_later_is_the_same_as_if_it_had_come_at_once(host: Host, build: Build, tmp_path: Path) -> None:
    host.trouble = {"/1.jpg": 503, "/3.jpg": 503, "/9.jpg": 503}
    build()
    host.trouble = {}
    late = build(retry_failed=True)
    assert published(build("name=other")) == published(late)


def test_when_nothing_may_pass_nothing_is_asked(host: Host, build: Build) -> None:
    first = build()
    host.hits.clear()
    assert build(retry_failed=True).up_to_date
    assert not host.hits
    assert first.downloads.num_retryable == 0


def test_trying_in_vain_leaves_the_pairs_as_they_are_and_takes_no_room_for_them(
    host: Host, build: Build, tmp_path: Path
) -> None:
    host.trouble = {"/1.jpg": 503}
    first = build()
    for attempt in (1, 2):
        host.trouble = {"/1.jpg": 500 + attempt}
        again = build(retry_failed=True)
        assert again.snapshot.manifest["attempt"] == attempt
        assert host.hits["/1.jpg"] == attempt + 1
        pairs = zip(first.snapshot.all_pair_files(), again.snapshot.all_pair_files(), strict=True)
        assert all(before.samefile(after) for before, after in pairs)
    assert outcomes(tmp_path / "catalog")["1.jpg"] == "http_502"


def test_what_turns_out_to_be_gone_for_good_is_not_asked_a_third_time(host: Host, build: Build) -> None:
    host.trouble = {"/1.jpg": 503}
    build()
    host.trouble = {"/1.jpg": 410}
    assert not build(retry_failed=True).up_to_date
    assert build(retry_failed=True).up_to_date
    assert host.hits["/1.jpg"] == 2


def test_a_killed_attempt_goes_on_and_asks_nothing_twice(
    host: Host, build: Build, tmp_path: Path, command: list[str]
) -> None:
    host.trouble = dict.fromkeys(("/1.jpg", "/4.jpg", "/6.jpg"), 503)
    build()
    host.trouble = {}
    host.hits.clear()
    host.on_hit = {"/6.jpg": threading.Event()}
    killed = subprocess.Popen([*command, "--retry-failed"], start_new_session=True, stderr=subprocess.DEVNULL)
    assert host.on_hit["/6.jpg"].wait(60)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    done = subprocess.run([*command, "--retry-failed"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(host.hits) - {"/robots.txt"} == {"/1.jpg", "/4.jpg", "/6.jpg"}
    late = build()
    assert late.snapshot.verify() == []
    assert published(build("name=other")) == published(late)


@pytest.mark.parametrize(
    "name",
    [
        "snapshot.after_manifest",
        pytest.param("catalog.after_folder_fsync", marks=pytest.mark.slow),
        pytest.param("work.after_remove", marks=pytest.mark.slow),
        pytest.param("attempt.before_record:2", marks=pytest.mark.slow),
    ],
)
def test_an_attempt_that_is_killed_when_its_snapshot_is_there_is_ended_not_made_again(
    name: str, host: Host, build: Build, tmp_path: Path, command: list[str]
) -> None:
    host.trouble = {"/1.jpg": 503, "/4.jpg": 503}
    build()
    host.trouble = {"/4.jpg": 503}
    environment = {**os.environ, "VERNACLIP_FAILPOINTS": f"{name}=kill"}
    killed = subprocess.run([*command, "--retry-failed"], check=False, capture_output=True, env=environment)
    assert killed.returncode == -signal.SIGKILL
    host.hits.clear()
    again = build(retry_failed=True)
    assert not host.hits
    assert (again.up_to_date, again.snapshot.manifest["attempt"]) == (True, 1)
    assert left_in_work(tmp_path / "catalog") == []
    build(retry_failed=True)
    assert dict(host.hits) == {"/4.jpg": 1}


def test_what_a_killed_build_left_goes_when_an_attempt_follows_it(
    host: Host, build: Build, tmp_path: Path, command: list[str]
) -> None:
    host.trouble = {"/1.jpg": 503}
    environment = {**os.environ, "VERNACLIP_FAILPOINTS": "snapshot.after_pointer=kill"}
    assert subprocess.run(command, check=False, capture_output=True, env=environment).returncode == -signal.SIGKILL
    assert left_in_work(tmp_path / "catalog")
    host.trouble = {}
    build(retry_failed=True)
    assert left_in_work(tmp_path / "catalog") == []


def left_in_work(root: Path) -> list[Path]:
    """Step outputs."""
    return [*(root / "work").rglob("commit.json")]


def test_settings_may_change_before_a_retry(host: Host, build: Build) -> None:
    host.trouble = {"/1.jpg": 503}
    build()
    host.trouble = {}
    host.hits.clear()
    build("clean.min_words=3", "fetch.timeout_s=3", "fetch.deadline_s=9", "fetch.retries=1", retry_failed=True)
    assert dict(host.hits) == {"/1.jpg": 1}


@pytest.mark.parametrize("pattern", ["pairs/*.parquet", "images/*.parquet"])
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-9] + bytes(9))])
def test_nothing_is_built_on_a_damaged_snapshot(
    pattern: str, damage: Callable[[Path], object], host: Host, build: Build
) -> None:
    host.trouble = dict.fromkeys((f"/{number}.jpg" for number in range(0, 10, 2)), 503)
    first = build()
    for path in sorted(first.snapshot.folder.glob(pattern)):
        damage(path)
    host.trouble = {}
    with pytest.raises(DamagedError, match=r"damaged.*vernaclip verify"):
        build(retry_failed=True)


def test_the_tenth_copy_of_a_stand_in_comes_at_the_retry(
    host: Host, build: Build, make_pairs: MakePairs, tmp_path: Path
) -> None:
    elsewhere = host.url("/7.jpg?elsewhere").replace("127.0.0.1", "localhost")
    make_pairs([*(f"/7.jpg?{number}" for number in range(10)), "/5.jpg", elsewhere])
    host.trouble = {"/7.jpg?9": 503}
    build()
    assert Counter(outcomes(tmp_path / "catalog").values())["duplicate_image"] == 9
    host.trouble = {}
    build(retry_failed=True)
    assert Counter(outcomes(tmp_path / "catalog").values()) == {"placeholder_image": 11, "published": 1}


def test_what_was_dropped_for_an_image_comes_back_when_a_better_one_takes_its_place(
    host: Host, build: Build, make_pairs: MakePairs, tmp_path: Path
) -> None:
    """Of three images the first and the third look like the second, and not like each other."""
    first, second, third = (f"/4-lighter-{step}.jpg" for step in (10, 20, 30))
    make_pairs([first, first, first, second, second, third])
    overrides = ("duplicates.keep=['captions']", "duplicates.merge_captions=true", "repeats.near_captions=false")
    host.trouble = {first: 503}
    build(*overrides)
    found = {second[1:]: "published", third[1:]: "merged"}
    assert outcomes(tmp_path / "catalog") == {first[1:]: "http_503", **found}
    host.trouble = {}
    build(*overrides, retry_failed=True)
    found = {first[1:]: "published", second[1:]: "merged", third[1:]: "published"}
    assert outcomes(tmp_path / "catalog") == found
    build(*overrides)


def test_one_picture_at_many_addresses_of_a_host_stands_for_none(
    build: Build, make_pairs: MakePairs, tmp_path: Path
) -> None:
    make_pairs([f"/7.jpg?{number}" for number in range(10)])
    with pytest.raises(InputError, match="keeps none of 10 captions: deduplicate dropped 10 as placeholder_image"):
        build()
    assert set(outcomes(tmp_path / "catalog").values()) == {"placeholder_image"}
