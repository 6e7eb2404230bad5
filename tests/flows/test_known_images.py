"""What a root knows of images is not asked of the web again; --retry-failed asks for what may have passed, once."""

import io
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_catalog.database.catalog import query
from data_catalog.errors import DamagedError, DiskError, InputError
from data_catalog.storage import failpoints
from data_catalog.storage.shards import sha256_of
from flows.build.execution import LocalExecutor
from flows.cli import main
from flows.jobs import BuildReport, build_dataset
from flows.recipe.recipe import load_recipe

RECIPE = """
target_language = "it"
[sources.web]
kind = "pairs"
files = ["{recipe}/pairs.tsv"]
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
val = 0.0  # where an image is held out depends on its address, and that on the host's port
"""
PATHS = [*(f"/{number}.jpg" for number in (0, 1, 2, 3, 4, 5, 6, 7, 9)), "/3-again.jpg", "/gone.jpg", "/8.jpg#x"]


def picture(seed: int, lighter: int) -> bytes:
    """Twelve by eight blocks of grey, so that no two look alike; a little lighter, it does look alike."""
    buffer = io.BytesIO()
    blocks = Image.frombytes("L", (12, 8), random.Random(seed).randbytes(96))
    blocks = blocks.point(lambda grey: grey * 3 // 4 + lighter) if lighter else blocks
    blocks.resize((96, 64)).convert("RGB").save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


class Host(ThreadingHTTPServer):
    """Serves a picture a number; answers with `trouble` instead, by path; no more after `stops_after` are asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.trouble: Mapping[str, int] = {}
        self.hits: Counter[str] = Counter()
        self.stops_after = 1_000
        self.stopped, self.goes_on = threading.Event(), threading.Event()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class _Handler(BaseHTTPRequestHandler):
    server: Host

    def do_GET(self) -> None:
        if self.server.hits.total() >= self.server.stops_after:
            self.server.stopped.set()
            self.server.goes_on.wait(60)
        if self.path != "/robots.txt":
            self.server.hits[self.path] += 1
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


class Web:
    """A host, a table of its images, and builds of it."""

    def __init__(self, host: Host, folder: Path) -> None:
        self.host, self.folder, self.root, self.recipe = host, folder, folder / "catalog", folder / "web.toml"
        self.recipe.write_text(RECIPE, "utf-8")
        self.write(PATHS)

    def write(self, paths: list[str]) -> None:
        """Write the upstream file: a caption each for paths on the host, or whole URLs."""
        urls = [path if "://" in path else self.host.url(path) for path in paths]
        lines = ["url\tcaption"]
        for number, url in enumerate(urls):
            lines.append(f"{url}\tUn gatto nero dorme sopra una sedia, numero {number}{' e un cane' * (number % 3)}")
        (self.folder / "pairs.tsv").write_text("\n".join([*lines, ""]), "utf-8")

    def build(self, *overrides: str, root: Path | None = None, **more: bool) -> BuildReport:
        root = root or self.root
        with LocalExecutor() as executor:
            loaded = load_recipe(str(self.recipe), root=root, overrides=overrides)
            return build_dataset(loaded, root=root, executor=executor, **more)

    def interrupt(self, failpoint: str, *overrides: str, **more: bool) -> None:
        """Build until a disk fails."""
        name, _, passage = failpoint.partition(":")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(failpoints, "_armed", {name: (int(passage or 1), "eio")})
            with pytest.raises(DiskError):
                self.build(*overrides, **more)

    def kill(self, *options: str, after: int) -> None:
        """Kill a build, with all its processes, when it has asked for so many images."""
        self.host.stops_after = self.host.hits.total() + after
        words = [sys.executable, "-m", "flows.cli", "build", str(self.recipe), "--root", str(self.root)]
        killed = subprocess.Popen([*words, "--executor", "local", *options], start_new_session=True)
        assert self.host.stopped.wait(60)
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
        self.host.stops_after = 1_000
        self.host.goes_on.set()

    def outcomes(self) -> dict[str, str]:
        rows = query(self.root, "SELECT url, coalesce(drop_reason, status) AS outcome FROM images").to_pylist()
        return {row["url"].rpartition("/")[2]: row["outcome"] for row in rows}

    def left_in_work(self) -> list[Path]:
        """Outputs of steps."""
        return [*(self.root / "work").rglob("commit.json")]


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield server
        server.goes_on.set()
        server.shutdown()


@pytest.fixture
def web(host: Host, tmp_path: Path, quick_builds: None) -> Web:
    return Web(host, tmp_path)


def published(report: BuildReport) -> dict[str, dict[str, Any]]:
    tables = [pq.read_table(path) for path in report.snapshot.all_pair_files()]
    return {row["sample_id"]: row for table in tables for row in table.to_pylist()}


def test_settings_of_captions_duplicates_and_splits_ask_for_no_known_image(web: Web, host: Host) -> None:
    web.build("clean.min_words=14")
    asked = set(host.hits)
    lower = web.build("clean.min_words=2")
    assert set(host.hits) > asked
    assert set(host.hits.values()) == {1}
    host.hits.clear()
    web.build("split.val=0.3", "check.max_words=12")
    switched_off = [f"duplicates.{name}=false" for name in ("images", "near_images", "split_guard")]
    with_duplicates = web.build(*switched_off)
    assert not host.hits
    assert published(with_duplicates).keys() > published(lower).keys()
    assert published(web.build(*switched_off, root=web.folder / "fresh")) == published(with_duplicates)


def test_other_limits_and_pictures_are_asked_for_unless_originals_were_kept(web: Web, host: Host) -> None:
    small, (without, originals) = "normalise.image_size=32", (web.folder / "without", web.folder / "with")
    web.build(root=without)
    host.hits.clear()
    assert web.build("fetch.timeout_s=3", "fetch.threads=2", root=without).up_to_date
    made = web.build(small, root=without)
    assert host.hits.keys() == {path.removesuffix("#x") for path in PATHS} - {"/gone.jpg"}
    host.hits.clear()
    web.build("fetch.max_bytes=10_000_000", root=without)
    assert len(host.hits) == len(PATHS)
    web.build("normalise.keep_original=true", root=originals)
    host.hits.clear()
    again = web.build(small, root=originals)
    assert not host.hits
    assert published(again) == published(made)


def test_a_killed_build_loses_nothing_to_another_dataset_or_other_settings(web: Web, host: Host) -> None:
    web.kill(after=9)  # in the third shard
    done = sorted(path.parent.name for path in (web.root / "work" / "web" / "fetch").glob("*/commit.json"))
    assert done
    host.hits.clear()
    other = web.build("name='other'", "build.shard_size=3")
    assert 0 < len(host.hits) < len(PATHS)
    assert done == sorted(path.parent.name for path in (web.root / "work" / "web" / "fetch").glob("*/commit.json"))
    # The first dataset, with fewer captions: what its killed build knew goes into the snapshot, for those to come.
    host.hits.clear()
    web.build("clean.min_words=14")
    assert not (web.root / "work" / "web").exists()
    assert published(web.build()) == published(other)
    assert not host.hits


def test_a_build_that_is_up_to_date_leaves_what_an_interrupted_one_fetched(web: Web, host: Host) -> None:
    web.build()
    web.interrupt("snapshot.before_files", "fetch.max_bytes=10_000_000")
    host.hits.clear()
    assert web.build().up_to_date
    web.build("fetch.max_bytes=10_000_000")
    assert not host.hits


def test_what_was_fetched_by_other_settings_is_no_fact_of_a_snapshot(web: Web, host: Host) -> None:
    web.interrupt("snapshot.before_files", "normalise.image_size=48")
    web.interrupt("snapshot.before_files", "fetch.max_bytes=10_000_000")
    host.hits.clear()
    web.build("clean.min_words=14", "normalise.image_size=32")
    small = published(web.build("normalise.image_size=32")).values()
    assert {min(row["width"], row["height"]) for row in small} == {32}
    web.build("fetch.max_bytes=10_000_000")
    assert not host.hits


def test_a_url_that_several_samples_have_in_any_spelling_is_asked_for_once(web: Web, host: Host) -> None:
    web.write([f"/1.jpg?{query_}#{number}" for number, query_ in enumerate((1, 1, 2, 1, 1))])
    web.build("build.shard_size=40")
    web.write(["/1.jpg?1", "/1.jpg?2"])
    web.build()
    assert host.hits == {"/1.jpg?1": 1, "/1.jpg?2": 1}


def test_nothing_is_built_on_a_damaged_snapshot(web: Web, host: Host) -> None:
    host.trouble = {"/1.jpg": 503}
    snapshot = web.build().snapshot
    host.trouble = {}
    for kind in ("pairs", "images"):
        whole = {path: path.read_bytes() for path in (snapshot.folder / kind).iterdir()}
        for change in (lambda content: content[:-9] + bytes(9), None):
            for path, content in whole.items():
                path.unlink()
                if change is not None:
                    path.write_bytes(change(content))
            for overrides, retry_failed in (([], True), (["split.salt='x'"], False)):
                with pytest.raises(DamagedError, match=r"damaged.*vernaclip verify"):
                    web.build(*overrides, retry_failed=retry_failed)
        for path, content in whole.items():
            path.write_bytes(content)


def test_prune_says_how_many_urls_nothing_else_knows(web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    web.build()
    web.build("clean.min_words=14")
    fewer = query(web.root, "SELECT count(*) AS n FROM image_outcomes").to_pylist()[0]["n"]
    assert main(["prune", "--root", str(web.root)]) == 0
    assert f"the fetch outcomes of {len(PATHS) - fewer} image URLs are lost" in capsys.readouterr().out


def test_only_what_may_pass_is_asked_again(web: Web, host: Host) -> None:
    def lost() -> dict[str, str]:
        return {name: outcome for name, outcome in web.outcomes().items() if outcome.startswith("http")}

    host.trouble = {"/1.jpg": 503, "/2.jpg": 404, "/4.jpg": 429, "/5.jpg": 500}
    first = web.build()
    gone = {"2.jpg": "http_404", "gone.jpg": "http_404"}
    assert lost() == {"1.jpg": "http_503", "4.jpg": "http_429", "5.jpg": "http_500", **gone}
    assert first.downloads.num_retryable == 3
    assert any("--retry-failed" in finding for finding in first.downloads.findings)
    host.trouble = {"/5.jpg": 500}
    host.hits.clear()
    assert web.build().up_to_date
    assert not host.hits

    second = web.build(retry_failed=True)
    assert host.hits == {"/1.jpg": 1, "/4.jpg": 1, "/5.jpg": 1}
    assert not second.up_to_date
    assert (first.snapshot.manifest["attempt"], second.snapshot.manifest["attempt"]) == (0, 1)
    assert lost() == {"5.jpg": "http_500", **gone}
    assert "duplicate_image" in web.outcomes().values()
    assert second.snapshot.verify() == []
    assert web.build().snapshot.snapshot == second.snapshot.snapshot


def test_trying_in_vain_leaves_the_pairs_as_they_are_and_what_is_gone_for_good_is_not_asked_again(
    web: Web, host: Host
) -> None:
    host.trouble = {"/1.jpg": 503}
    first = web.build()
    for attempt, status in enumerate((500, 410), start=1):
        host.trouble = {"/1.jpg": status}
        again = web.build(retry_failed=True)
        assert again.snapshot.manifest["attempt"] == attempt
        assert host.hits["/1.jpg"] == attempt + 1
        pairs = zip(first.snapshot.all_pair_files(), again.snapshot.all_pair_files(), strict=True)
        assert all(before.samefile(after) for before, after in pairs), "they take no more room"
        assert web.outcomes()["1.jpg"] == f"http_{status}"
    assert again.downloads.num_retryable == 0
    assert web.build(retry_failed=True).up_to_date
    assert host.hits["/1.jpg"] == 3


def test_a_killed_attempt_goes_on_and_ends_as_if_all_had_come_at_once(web: Web, host: Host) -> None:
    late = {"/1.jpg", "/4.jpg", "/6.jpg"}
    host.trouble = dict.fromkeys(late, 503)
    web.build()
    host.trouble = {}
    host.hits.clear()
    web.kill("--retry-failed", after=2)
    assert not web.build(retry_failed=True).up_to_date
    assert set(host.hits) == late
    done = web.build()
    assert done.snapshot.verify() == []
    at_once = web.build(root=web.folder / "fresh")
    files = [[*each.snapshot.caption_files(), *each.snapshot.all_pair_files()] for each in (done, at_once)]
    kept, fresh = ({path.name: sha256_of(path) for path in each} for each in files)
    assert kept == fresh


@pytest.mark.parametrize(
    "failpoint",
    [
        "snapshot.after_manifest",
        pytest.param("catalog.after_folder_fsync", marks=pytest.mark.slow),
        pytest.param("work.after_remove", marks=pytest.mark.slow),
        pytest.param("attempt.before_record:2", marks=pytest.mark.slow),
    ],
)
def test_an_attempt_that_ends_when_its_snapshot_is_there_is_not_made_again(
    failpoint: str, web: Web, host: Host
) -> None:
    host.trouble = {"/1.jpg": 503, "/4.jpg": 503}
    web.build()
    host.trouble = {"/4.jpg": 503}
    web.interrupt(failpoint, retry_failed=True)
    host.hits.clear()
    again = web.build(retry_failed=True)
    assert not host.hits
    assert (again.up_to_date, again.snapshot.manifest["attempt"]) == (True, 1)
    assert web.left_in_work() == []
    web.build(retry_failed=True)
    assert host.hits == {"/4.jpg": 1}


def test_an_attempt_with_other_settings_clears_what_an_interrupted_build_left(web: Web, host: Host) -> None:
    host.trouble = {"/1.jpg": 503}
    web.interrupt("snapshot.after_pointer")
    assert web.left_in_work()
    host.trouble = {}
    host.hits.clear()
    web.build("clean.min_words=3", "fetch.timeout_s=3", "fetch.deadline_s=9", "fetch.retries=1", retry_failed=True)
    assert host.hits == {"/1.jpg": 1}
    assert web.left_in_work() == []


def test_a_picture_at_many_addresses_of_a_host_stands_for_none(web: Web, host: Host) -> None:
    """The tenth copy of a stand-in may come at the retry, and is noticed then."""
    copies = [f"/7.jpg?{number}" for number in range(10)]
    elsewhere = host.url("/7.jpg?elsewhere").replace("127.0.0.1", "localhost")
    web.write([*copies, "/5.jpg", elsewhere])
    host.trouble = {"/7.jpg?9": 503}
    web.build()
    assert Counter(web.outcomes().values())["duplicate_image"] == 9
    host.trouble = {}
    web.build(retry_failed=True)
    assert Counter(web.outcomes().values()) == {"placeholder_image": 11, "published": 1}
    web.write(copies)
    with pytest.raises(InputError, match="keeps none of 10 captions: deduplicate dropped 10 as placeholder_image"):
        web.build()


def test_what_was_dropped_for_an_image_comes_back_when_a_better_one_takes_its_place(web: Web, host: Host) -> None:
    """Of three images the first and the third look like the second, and not like each other."""
    first, second, third = (f"/4-lighter-{step}.jpg" for step in (10, 20, 30))
    web.write([first, first, first, second, second, third])
    overrides = ("duplicates.keep=['captions']", "duplicates.merge_captions=true")
    host.trouble = {first: 503}
    web.build(*overrides)
    assert web.outcomes() == {first[1:]: "http_503", second[1:]: "published", third[1:]: "merged"}
    host.trouble = {}
    web.build(*overrides, retry_failed=True)
    assert web.outcomes() == {first[1:]: "published", second[1:]: "merged", third[1:]: "published"}
