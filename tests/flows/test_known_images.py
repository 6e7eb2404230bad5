"""What a root knows of images is not asked of the web again; --retry-failed asks for what may have passed, once."""

import copy
import itertools
import os
import shutil
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data_catalog.base.errors import DamagedError, DiskError, InputError, SettingsError
from data_catalog.catalog.history import remove_snapshot, resolve, runs
from data_catalog.disk import failpoints
from data_catalog.disk.files import sha256_of
from flows.datasets import BuildReport

# Where an image is held out depends on its address, and that on the host's port.
SETTINGS = """
target_language = "it"
build = {shard_size = 6, workers = 1, fetch_workers = 1}
fetch = {allow_loopback = true, retries = 0, host_requests_per_s = 0}
repeats = {near_captions = false}
split = {val = 0.0}
"""
PATHS = [*(f"/{number}.jpg" for number in (0, 1, 2, 3, 4, 5, 6, 7, 9)), "/3-again.jpg", "/gone.jpg", "/8.jpg#x"]


class Web:
    """A host, a table of its images, and builds of it."""

    def __init__(self, host: Any, own: Any, child: Any) -> None:
        self.host, self.own, self.child, self.folder, self.root = host, own, child, own.folder, own.root
        self.write(PATHS)

    def write(self, paths: list[str]) -> None:
        """Write the upstream file: a caption each for paths on the host, or whole URLs."""
        rows = [
            (
                url if "://" in url else self.host.url(url),
                f"Un gatto nero dorme, numero {n}{' e un cane' * (n % 3 + 1)}",
            )
            for n, url in enumerate(paths)
        ]
        self.toml = SETTINGS + self.own.source("web", "url caption", rows, lang="it")

    def build(self, *overrides: str, root: Path | None = None, **more: bool) -> BuildReport:
        own = copy.copy(self.own)
        own.root = root or self.root
        report: BuildReport = own.build(self.toml, *overrides, **more)
        return report

    def interrupt(self, failpoint: str, *overrides: str, **more: bool) -> None:
        """Build until a disk fails."""
        name, _, passage = failpoint.partition(":")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(failpoints, "_armed", {name: (int(passage or 1), "eio")})
            with pytest.raises(DiskError):
                self.build(*overrides, **more)

    def kill(self, *options: str, after: int) -> None:
        """Kill a build, with all its processes, when it has asked for so many images."""
        self.own.recipe(self.toml)
        self.host.stops_after = len(self.host.asked) + after
        words = ["build", f"{self.folder}/own.toml", "--root", str(self.root), "--executor", "local", *options]
        with self.child(words, start_new_session=True) as killed:
            assert self.host.stopped.wait(60)
            os.killpg(killed.pid, signal.SIGKILL)
        while any(self._is_owner(path) for path in Path("/proc").glob("[0-9]*/cmdline")):
            time.sleep(0.01)  # until the fetching process has seen it
        self.host.stops_after = 1_000
        self.host.goes_on.set()

    def _is_owner(self, cmdline: Path) -> bool:
        with suppress(OSError):
            return {b"data_catalog.fetch.owner", bytes(self.root / "work" / ".hosts")} <= {
                *cmdline.read_bytes().split(b"\0")
            }
        return False

    def outcomes(self) -> dict[str, str]:
        rows = self.own.rows("SELECT url, coalesce(drop_reason, status) AS outcome FROM images")
        return {row["url"].rpartition("/")[2]: row["outcome"] for row in rows}

    def left_in_work(self) -> list[Path]:
        """Outputs of steps."""
        return [*(self.root / "work").rglob("commit.json")]


@pytest.fixture
def host(picture_host: Any) -> Any:
    picture_host.reset()
    return picture_host


@pytest.fixture
def web(host: Any, own: Any, child: Any) -> Web:
    return Web(host, own, child)


def published(report: BuildReport) -> dict[str, dict[str, Any]]:
    tables = [pq.read_table(path) for path in report.snapshot.files("pairs")]
    return {row["sample_id"]: row for table in tables for row in table.to_pylist()}


def test_settings_of_captions_duplicates_and_splits_ask_for_no_known_image(web: Web, host: Any) -> None:
    web.build("clean.min_words=14")
    asked = set(host.hits)
    lower = web.build("clean.min_words=2")
    assert set(host.hits) > asked
    assert set(host.hits.values()) == {1}
    host.asked.clear()
    others = [f"duplicates.{name}=false" for name in ("images", "near_images", "split_guard")]
    others += ["split.val=0.3", "check.max_words=90"]
    with_duplicates = web.build(*others)
    assert not host.hits
    assert published(with_duplicates).keys() > published(lower).keys()
    assert published(web.build(*others, root=web.folder / "fresh")) == published(with_duplicates)


def test_other_limits_and_pictures_are_asked_for_unless_originals_were_kept(web: Web, host: Any) -> None:
    small, (without, originals) = "normalise.image_size=32", (web.folder / "without", web.folder / "with")
    web.build(root=without)
    host.asked.clear()
    assert web.build("fetch.timeout_s=3", "fetch.threads=2", root=without).up_to_date
    made = web.build(small, root=without)
    assert host.hits.keys() == {path.removesuffix("#x") for path in PATHS} - {"/gone.jpg"}
    host.asked.clear()
    web.build("fetch.max_bytes=10_000_000", root=without)
    assert len(host.hits) == len(PATHS)
    web.build("normalise.keep_original=true", root=originals)
    host.asked.clear()
    again = web.build(small, root=originals)
    assert not host.hits
    assert published(again) == published(made)


@pytest.mark.slower
def test_a_killed_build_loses_nothing_to_another_dataset_or_other_settings(web: Web, host: Any) -> None:
    web.toml = web.toml.replace("shard_size = 6", "shard_size = 4")
    web.kill(after=9)  # in the third shard
    fetched = web.root / "work" / "own" / "fetch"
    done = sorted(fetched.glob("*/commit.json"))
    assert done
    host.asked.clear()
    other = web.build("name='other'", "build.shard_size=3")
    assert 0 < len(host.hits) < len(PATHS)
    assert done == sorted(fetched.glob("*/commit.json"))
    # The first dataset, with fewer captions: what its killed build knew goes into the snapshot, for those to come.
    host.asked.clear()
    web.build("clean.min_words=14")
    assert not (web.root / "work" / "own").exists()
    assert published(web.build()) == published(other)
    assert not host.hits


def test_what_was_fetched_by_other_settings_is_kept_and_is_no_fact_of_a_snapshot(web: Web, host: Any) -> None:
    web.interrupt("snapshot.before_files", "normalise.image_size=48")
    web.interrupt("snapshot.before_files", "fetch.max_bytes=10_000_000")
    host.asked.clear()
    web.build("clean.min_words=14", "normalise.image_size=32")
    small = published(web.build("normalise.image_size=32")).values()
    assert {min(row["width"], row["height"]) for row in small} == {32}
    assert web.build("normalise.image_size=32").up_to_date
    web.build("fetch.max_bytes=10_000_000")
    assert not host.hits


def test_a_url_that_several_samples_have_in_any_spelling_is_asked_for_once(web: Web, host: Any) -> None:
    web.write([f"/1.jpg?{query_}#{number}" for number, query_ in enumerate((1, 1, 2, 1, 1))])
    web.build("build.shard_size=40")
    web.write(["/1.jpg?1", "/1.jpg?2"])
    web.build()
    assert host.hits == {"/1.jpg?1": 1, "/1.jpg?2": 1}


def test_nothing_is_built_on_a_damaged_snapshot(web: Web, host: Any) -> None:
    host.trouble = {"/1.jpg": 503}
    folder, whole = web.build().snapshot.folder, web.folder / "whole"
    shutil.copytree(web.root, whole)
    host.trouble = {}
    damages = (lambda path: path.write_bytes(path.read_bytes()[:-9] + bytes(9)), Path.unlink)
    for kind, damage in itertools.product(("pairs", "images"), damages):
        shutil.rmtree(web.root)
        shutil.copytree(whole, web.root)
        for path in (folder / kind).iterdir():
            damage(path)
        for overrides, retry_failed in (([], True), (["split.salt='x'"], False)):
            with pytest.raises(DamagedError, match=r"is damaged|is missing"):
                web.build(*overrides, retry_failed=retry_failed)


def test_only_what_may_pass_is_asked_again(web: Web, host: Any) -> None:
    def lost() -> dict[str, str]:
        return {name: outcome for name, outcome in web.outcomes().items() if outcome.startswith("http")}

    host.trouble = {"/1.jpg": 503, "/2.jpg": 404, "/4.jpg": 429, "/5.jpg": 500}
    first = web.build()
    gone = {"2.jpg": "http_404", "gone.jpg": "http_404"}
    assert lost() == {"1.jpg": "http_503", "4.jpg": "http_429", "5.jpg": "http_500", **gone}
    assert first.downloads.num_retryable == 3
    assert any("--retry-failed" in finding for finding in first.downloads.findings)
    host.trouble = {"/5.jpg": 500}
    host.asked.clear()
    assert web.build().up_to_date
    assert not host.hits
    second = web.build(retry_failed=True)
    assert host.hits == {"/1.jpg": 1, "/4.jpg": 1, "/5.jpg": 1}
    assert (first.snapshot.manifest["attempt"], second.snapshot.manifest["attempt"]) == (0, 1)
    assert lost() == {"5.jpg": "http_500", **gone}
    assert "duplicate_image" in web.outcomes().values()
    assert second.snapshot.verify() == []
    assert web.build().snapshot.snapshot == second.snapshot.snapshot


def test_a_build_that_keeps_nothing_is_logged_as_itself_and_was_never_current(web: Web, host: Any) -> None:
    older, newer = web.build(), web.build("split.val=0.3")
    with pytest.raises(InputError, match="keeps none of 12 captions"):
        web.build("clean.min_words=50")
    *_, with_images, empty = runs(web.root, "own")
    assert (with_images["downloads"].keys(), empty["downloads"]) == ({"came", "gone"}, {}), "it asked for none"
    assert newer.snapshot.snapshot != empty["snapshot"] != older.snapshot.snapshot
    found = resolve(web.root, ["current", "previous"], "own")
    assert found == [newer.snapshot, older.snapshot]
    remove_snapshot(web.root, "own", older.snapshot.snapshot)
    with pytest.raises(SettingsError, match="holds no snapshot previous"):
        resolve(web.root, ["previous"], "own")


def test_trying_in_vain_leaves_the_pairs_as_they_are_and_what_is_gone_for_good_is_not_asked_again(
    web: Web, host: Any
) -> None:
    host.trouble = {"/1.jpg": 503}
    first = web.build()
    for attempt, status in enumerate((500, 410), start=1):
        host.trouble = {"/1.jpg": status}
        again = web.build(retry_failed=True)
        assert again.snapshot.manifest["attempt"] == attempt
        assert host.hits["/1.jpg"] == attempt + 1
        pairs = zip(first.snapshot.files("pairs"), again.snapshot.files("pairs"), strict=True)
        assert all(before.samefile(after) for before, after in pairs), "they take no more room"
        assert web.outcomes()["1.jpg"] == f"http_{status}"
    assert again.downloads.num_retryable == 0
    assert web.build(retry_failed=True).up_to_date
    assert host.hits["/1.jpg"] == 3


def test_a_killed_attempt_goes_on_and_ends_as_if_all_had_come_at_once(web: Web, host: Any) -> None:
    late = {"/1.jpg", "/4.jpg", "/6.jpg"}
    host.trouble = dict.fromkeys(late, 503)
    web.build()
    host.trouble = {}
    host.asked.clear()
    web.kill("--retry-failed", after=2)
    assert not web.build(retry_failed=True).up_to_date
    assert set(host.hits) == late
    done = web.build()
    assert done.snapshot.verify() == []
    at_once = web.build(root=web.folder / "fresh")
    files = [[*each.snapshot.files("captions"), *each.snapshot.files("pairs")] for each in (done, at_once)]
    kept, fresh = ({path.name: sha256_of(path) for path in each} for each in files)
    assert kept == fresh


LATE = ("catalog.after_folder_fsync", "work.after_remove", "attempt.before_record:2")


@pytest.mark.parametrize(
    "failpoint", ["snapshot.after_manifest", *(pytest.param(name, marks=pytest.mark.slow) for name in LATE)]
)
def test_an_attempt_that_ends_when_its_snapshot_is_there_is_not_made_again(failpoint: str, web: Web, host: Any) -> None:
    host.trouble = {"/1.jpg": 503, "/4.jpg": 503}
    web.build()
    host.trouble = {"/4.jpg": 503}
    web.interrupt(failpoint, retry_failed=True)
    host.asked.clear()
    again = web.build(retry_failed=True)
    assert not host.hits
    assert (again.up_to_date, again.snapshot.manifest["attempt"]) == (True, 1)
    assert web.left_in_work() == []
    web.build(retry_failed=True)
    assert host.hits == {"/4.jpg": 1}


def test_an_attempt_with_other_settings_clears_what_an_interrupted_build_left(web: Web, host: Any) -> None:
    host.trouble = {"/1.jpg": 503}
    web.interrupt("snapshot.after_pointer")
    assert web.left_in_work()
    host.trouble = {}
    host.asked.clear()
    web.build("clean.min_words=3", "fetch.timeout_s=3", "fetch.deadline_s=9", "fetch.retries=1", retry_failed=True)
    assert host.hits == {"/1.jpg": 1}
    assert web.left_in_work() == []


def test_a_picture_at_many_addresses_of_a_host_stands_for_none(web: Web, host: Any) -> None:
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


def test_what_was_dropped_for_an_image_comes_back_when_a_better_one_takes_its_place(web: Web, host: Any) -> None:
    """Of three images the first and the third look like the second, and not like each other."""
    first, second, third = (f"/4-lighter-{step}.jpg" for step in (10, 20, 30))
    web.write([first, first, first, second, second, third])
    overrides = ("duplicates.keep=['captions']",)
    host.trouble = {first: 503}
    web.build(*overrides)
    assert web.outcomes() == {first[1:]: "http_503", second[1:]: "published", third[1:]: "near_duplicate_image"}
    host.trouble = {}
    web.build(*overrides, retry_failed=True)
    assert web.outcomes() == {first[1:]: "published", second[1:]: "near_duplicate_image", third[1:]: "published"}
