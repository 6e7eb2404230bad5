"""Take-down of a host's images: no byte of them is left, builds go without them, and a killed one ends alike."""

import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_catalog.database.catalog import broken_laws, query, rebuild
from data_catalog.storage.manifest import current_snapshot_name, require_snapshot, snapshot_names
from data_catalog.storage.shards import sha256_of
from data_catalog.takedown import TakeDownResult
from data_catalog.takedown import forget as take_down
from data_catalog.tombstones import Tombstone, new_tombstone, read_tombstones
from flows.build.execution import LocalExecutor
from flows.cli import main
from flows.jobs import BuildReport, build_dataset
from flows.recipe.recipe import load_recipe
from translation.engine import Translation
from translation.memory import TranslationMemory, forget_texts

CAPTIONS = ["Un gatto nero dorme sopra una sedia di legno", "Due cani giocano con una palla rossa sulla spiaggia"]
KEPT, FORGOTTEN = "127.0.0.1", "localhost"


def forget(root: Path, more: list[Tombstone]) -> TakeDownResult:
    return take_down(root, more, forget_texts=forget_texts)


class Host(ThreadingHTTPServer):
    """Serves one picture a number at two names of this machine, and redirects; notes what is asked of which."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []
        self.is_busy: set[str] = set()

    def url(self, host: str, path: str) -> str:
        return f"http://{host}:{self.server_address[1]}{path}"

    def asked_of(self, host: str) -> list[str]:
        return [asked for asked in self.asked if asked.startswith(host) and "robots" not in asked]


def picture(seed: int, lighter: int = 0) -> bytes:
    """Blocks of grey, so that no two look alike; a little lighter, it does look alike."""
    buffer = io.BytesIO()
    blocks = Image.frombytes("L", (12, 8), random.Random(seed).randbytes(96))
    blocks = blocks.point(lambda grey: grey * 3 // 4 + lighter) if lighter else blocks
    blocks.resize((96, 64)).convert("RGB").save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


class _Handler(BaseHTTPRequestHandler):
    server: Host

    def do_GET(self) -> None:
        asked = f"{self.headers['Host'].partition(':')[0]}{self.path}"
        self.server.asked.append(asked)
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.server.url(FORGOTTEN, self.path.removeprefix("/to")))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        number, _, lighter = self.path.partition("?")[0].strip("/").removesuffix(".jpg").partition("-lighter-")
        body = picture(int(number), int(lighter or 0)) if number.isdigit() else b"no"
        busy = asked in self.server.is_busy
        body = b"busy" if busy else body
        self.send_response(503 if busy else 200 if number.isdigit() else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Silence."""


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Host() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield server
        server.shutdown()


# Host and path. 20 and 21 are the host's own; 5 is copied byte by byte; 22 is got by a redirect; 6 and 23 look alike.
IMAGES = [
    *((KEPT, f"/{number}.jpg") for number in range(5)),
    (FORGOTTEN, "/20.jpg"),
    (FORGOTTEN, "/21.jpg"),
    (FORGOTTEN, "/5.jpg"),
    (KEPT, "/5.jpg"),
    (KEPT, "/to/22.jpg"),
    (FORGOTTEN, "/23-lighter-10.jpg"),
    (KEPT, "/23-lighter-20.jpg"),
    (FORGOTTEN, "/gone.jpg"),
]
GONE = {FORGOTTEN: ["/20.jpg", "/21.jpg", "/5.jpg", "/23-lighter-10.jpg"], KEPT: ["/5.jpg", "/22.jpg"]}


@pytest.fixture(scope="module")
def recipe_file(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of the images above, one split, originals kept; two captions of some."""
    folder = tmp_path_factory.mktemp("recipe")
    urls = [host.url(name, path) for name, path in IMAGES]
    lines = [f"{url}\t{CAPTIONS[n % 2]}, numero {n}" for n, url in enumerate(urls)]
    lines += [f"{url}\tuna seconda frase che dice altre cose, {n}" for n, url in enumerate(urls[::3])]
    lines.append(f"{host.url(FORGOTTEN, '/20.jpg')}\tone field\ttoo many")
    (folder / "pairs.tsv").write_text("url\tcaption\n" + "\n".join(lines) + "\n", encoding="utf-8")
    path = folder / "web.toml"
    path.write_text(
        f"""
        target_language = "it"
        [sources.web]
        kind = "pairs"
        files = ["{folder}/pairs.tsv"]
        url_column = "url"
        caption_column = "caption"
        lang = "it"
        [build]
        shard_size = 5
        workers = 1
        fetch_workers = 1
        [fetch]
        allow_loopback = true
        retries = 0
        host_requests_per_s = 0
        [normalise]
        keep_original = true
        [duplicates]
        merge_captions = true
        [repeats]
        near_captions = false
        [split]
        val = 0.0
        """,
        encoding="utf-8",
    )
    return path


def build(recipe_file: Path, root: Path, *overrides: str, retry_failed: bool = False) -> BuildReport:
    with LocalExecutor() as executor:
        recipe = load_recipe(str(recipe_file), root=root, overrides=overrides)
        return build_dataset(recipe, root=root, executor=executor, retry_failed=retry_failed)


@pytest.fixture(scope="module")
def whole(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root before anything is forgotten, with the step outputs of a build that was killed; copied by each test."""
    root = tmp_path_factory.mktemp("whole") / "catalog"
    words = [sys.executable, "-m", "flows.cli", "build", str(recipe_file), "--root", str(root), "--executor", "local"]
    environment = {**os.environ, "VERNACLIP_FAILPOINTS": "snapshot.after_pointer=kill"}
    assert subprocess.run(words, check=False, capture_output=True, env=environment).returncode == -signal.SIGKILL
    return root


def add_derived(root: Path) -> None:
    """Whatever else holds pixels: as exports, searches and reports write it."""
    snapshot = require_snapshot(root, "web")
    export = root / "exports" / "web" / "huggingface"
    export.mkdir(parents=True)
    shutil.copytree(snapshot.folder / "pairs", export / "data")
    record = {"dataset": "web", "snapshot": snapshot.snapshot, "format": "huggingface", "tombstones": None, "files": {}}
    (export / "export.json").write_text(json.dumps(record), encoding="utf-8")
    pixels = b"".join(row for path in snapshot.all_pair_files() for row in pq.read_table(path)["original"].to_pylist())
    (root / "searches").mkdir()
    (root / "searches" / "un-gatto.png").write_bytes(pixels)
    (root / "kept-features" / "0a1b2c3d4e5f6071").mkdir(parents=True)
    (root / "kept-features" / "0a1b2c3d4e5f6071" / "features").write_bytes(pixels)
    (root / "datasets" / "web" / "report.html").write_bytes(pixels)


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    """A copy; its views, which name files by their absolute paths, are written anew."""
    copied = tmp_path / "catalog"
    shutil.copytree(whole, copied)
    rebuild(copied)
    return copied


def traces(root: Path) -> set[bytes]:
    """Bytes of the host's images in a root as it was built: as they came, as they were published, and thumbnails."""
    wanted = [picture(20), picture(21), picture(5), picture(22), picture(23, 10)]
    found = set(wanted)
    for path in (root / "work" / "web" / "normalise").rglob("*.parquet"):
        for row in pq.read_table(path).to_pylist():
            if row["original"] in wanted:
                found |= {row["bytes"], row["thumbnail"]}
    assert len(found) == 3 * len(wanted)
    return found


def holders(root: Path, wanted: set[bytes]) -> list[str]:
    """Files that hold any of some byte strings, as they lie there or in a column of a Parquet file."""
    found = []
    for path in (path for path in root.rglob("*") if path.is_file()):
        content = path.read_bytes()
        values = _values(path) if path.suffix == ".parquet" else set()
        if values & wanted or any(piece in content for piece in wanted):
            found.append(path.relative_to(root).as_posix())
    return found


def _values(path: Path) -> set[Any]:
    found: set[Any] = set()

    def walk(value: Any) -> None:
        if isinstance(value, dict | list):
            for item in value.values() if isinstance(value, dict) else value:
                walk(item)
        else:
            found.add(value)

    for row in pq.read_table(path).to_pylist():
        walk(row)
    return found


def texts_of_the_host(host: Host) -> set[str]:
    """What upstream says of the host's images."""
    urls = [host.url(name, path) for name, path in IMAGES]
    captions = {f"{CAPTIONS[n % 2]}, numero {n}" for n, (name, _) in enumerate(IMAGES) if name == FORGOTTEN}
    return {url for url in urls if FORGOTTEN in url} | captions


def published(root: Path) -> dict[str, str]:
    """sha256 of all that is published."""
    files = [path for path in (root / "datasets").glob("*/*/**/*") if path.is_file() and "fetch-log" not in str(path)]
    files += root.glob("datasets/*/current.json")
    return {path.relative_to(root).as_posix(): sha256_of(path) for path in files}


def test_no_byte_of_a_forgotten_hosts_images_is_left(
    host: Host, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_derived(root)
    wanted = traces(root)
    before = require_snapshot(root, "web")
    places = {place.split("/")[0] for place in holders(root, wanted)}
    assert places == {"work", "datasets", "exports", "kept-features", "searches"}

    assert main(["forget", "--root", str(root), "--domain", FORGOTTEN, "--reason", "the owner asks"]) == 0
    told = capsys.readouterr().out
    assert holders(root, wanted) == []
    assert all(not texts_of_the_host(host) & _values(path) for path in root.rglob("*.parquet"))
    assert not any(FORGOTTEN in str(value) for path in root.rglob("*.parquet") for value in _values(path))
    after = require_snapshot(root, "web")
    assert snapshot_names(root, "web") == [after.snapshot]
    assert after.manifest["forget_of"] == before.snapshot
    assert after.manifest["tombstones"]["digest"] == read_tombstones(root).of("web").digest
    assert after.verify() == []
    assert broken_laws(after) == []
    assert before.snapshot in told
    assert after.snapshot in told
    assert not (root / "exports" / "web" / "huggingface").exists()
    assert after.snapshot in (root / "datasets" / "web" / "report.html").read_text(encoding="utf-8")


def test_rows_say_that_they_were_forgotten_and_nothing_else(root: Path) -> None:
    # Which of the two that look alike stays depends on their addresses, and so on the host's port.
    merged = query(root, "SELECT url FROM captions WHERE merged_into IS NOT NULL").to_pylist()
    alike = [row["url"].rpartition("/")[2] for row in merged if row["url"].endswith("23-lighter-20.jpg")]
    forget(root, [new_tombstone("domain", FORGOTTEN)])
    rows = query(root, "SELECT * FROM captions WHERE step = 'forget'").to_pylist()
    samples = {row["sample_id"] for row in rows}
    others = ["/5.jpg", "/to/22.jpg", *alike]  # the last with the image that its captions were published with
    assert len(samples) == len([name for name, _ in IMAGES if name == FORGOTTEN]) + len(others)
    staying = {"dataset", "snapshot", "sample_id", "caption_id", "source", "upstream_split", "source_lang"}
    staying |= {"target_lang", "upstream_file", "upstream_line", "outcome", "step", "drop_reason"}
    for row in rows:
        assert (row["outcome"], row["drop_reason"]) == ("rejected", "forgotten")
        assert {name for name, value in row.items() if value is not None} <= staying
    outcomes = query(root, f"SELECT url FROM image_outcomes WHERE sample_id IN {tuple(samples)}").to_pylist()
    assert [row["url"].rpartition("/")[2] for row in outcomes] == alike
    funnel = query(root, "SELECT step, dropped FROM funnel ORDER BY step_number").to_pylist()
    assert funnel[1] == {"step": "forget", "dropped": len(rows)}
    noted = require_snapshot(root, "web").manifest["drop_reasons"]
    assert sum(row["dropped"] for row in noted if row["drop_reason"] == "forgotten") == len(rows)


def test_captions_of_others_do_not_stay_with_a_forgotten_image(host: Host, root: Path) -> None:
    """Of the two that look alike one was published with the captions of both."""
    merged = query(root, "SELECT sample_id, url, merged_into FROM captions WHERE merged_into IS NOT NULL").to_pylist()
    assert [row["url"] for row in merged if "23-lighter" in row["url"]]
    stays = next(row["merged_into"] for row in merged if "23-lighter" in row["url"])
    moved = next(row["sample_id"] for row in merged if "23-lighter" in row["url"])
    forget(root, [new_tombstone("sample", stays)])
    found = query(root, f"SELECT outcome, step, drop_reason FROM captions WHERE sample_id = '{moved}'").to_pylist()
    assert {tuple(row.values()) for row in found} == {("rejected", "forget", "forgotten")}
    assert query(root, f"SELECT step FROM image_outcomes WHERE sample_id = '{moved}'").num_rows == 1

    forget(root, [new_tombstone("sample", moved)])
    assert broken_laws(require_snapshot(root, "web")) == []


def test_captions_of_a_forgotten_image_do_not_stay_with_another(root: Path) -> None:
    merged = (
        "SELECT sample_id, caption_id, merged_into FROM captions WHERE merged_into IS NOT NULL AND url LIKE '%/23%'"
    )
    row = query(root, merged).to_pylist()[0]
    forget(root, [new_tombstone("sample", row["sample_id"])])
    pair = query(root, f"SELECT caption_ids FROM pairs WHERE sample_id = '{row['merged_into']}'").to_pylist()
    assert pair
    assert row["caption_id"] not in pair[0]["caption_ids"]


def test_translations_of_what_only_forgotten_captions_say_go(root: Path) -> None:
    """Nothing of them is left in the file either, also if the take-down is killed in between."""
    rows = query(root, "SELECT url, clean_caption FROM captions WHERE clean_caption IS NOT NULL").to_pylist()
    gone = {row["clean_caption"] for row in rows if f"//{FORGOTTEN}:" in row["url"]}
    stays = {row["clean_caption"] for row in rows if row["url"].endswith(("/0.jpg", "/1.jpg", "/3.jpg"))}
    assert len(gone) > 3 < len(stays)
    memory = TranslationMemory(root / "memory", "argos:it-en:1")
    captions = sorted(gone | stays)
    memory.record(captions, [Translation(text=f"of {caption}", score=None) for caption in captions])
    assert _killed_forget(root, "forget.after_memory=kill") == -signal.SIGKILL
    assert _killed_forget(root, "") == 0
    assert not gone & set(memory.known(captions))
    assert stays <= set(memory.known(captions))
    content = b"".join(path.read_bytes() for path in (root / "memory").iterdir())
    assert not [caption for caption in gone if f"of {caption}".encode() in content]


def test_builds_obey(host: Host, root: Path, recipe_file: Path) -> None:
    forget(root, [new_tombstone("domain", FORGOTTEN)])
    now = published(root)
    host.asked.clear()
    assert build(recipe_file, root).up_to_date
    assert build(recipe_file, root, retry_failed=True).up_to_date
    assert published(root) == now
    assert host.asked == []

    wanted = {picture(20), picture(21), picture(5), picture(22), picture(23, 10)}
    other = build(recipe_file, root, "normalise.image_size=48")
    assert not other.up_to_date
    assert host.asked_of(FORGOTTEN) == []
    assert holders(root, wanted) == []
    assert broken_laws(other.snapshot) == []
    rows = query(root, "SELECT count(*) AS n FROM captions WHERE drop_reason = 'forgotten'").to_pylist()
    assert rows == query(root, "SELECT dropped AS n FROM funnel WHERE step = 'forget'").to_pylist()


def test_copies_and_redirects_that_come_later_are_dropped(host: Host, recipe_file: Path, root: Path) -> None:
    """The root knows the bytes, and has never seen these addresses."""
    forget(root, [new_tombstone("domain", FORGOTTEN)])
    lines = [
        f"{host.url(KEPT, path)}\t{CAPTIONS[0]}, di nuovo {path}" for path in ("/20.jpg?copy", "/to/30.jpg", "/9.jpg")
    ]
    later = recipe_file.with_name("later.toml")
    later.write_text(recipe_file.read_text(encoding="utf-8").replace("pairs.tsv", "later.tsv"), encoding="utf-8")
    later.with_name("later.tsv").write_text("url\tcaption\n" + "\n".join(lines) + "\n", encoding="utf-8")
    report = build(later, root)
    rows = query(root, "SELECT * FROM captions WHERE dataset = 'later'").to_pylist()
    reasons = {row["upstream_line"]: (row["step"], row["drop_reason"]) for row in rows}
    assert reasons == {2: ("normalise", "forgotten"), 3: ("normalise", "forgotten"), 4: (None, None)}
    assert all(row["source_caption"] is None and row["url"] is None for row in rows if row["drop_reason"])
    assert holders(root, {picture(20), picture(30)}) == []
    assert broken_laws(report.snapshot) == []
    assert build(later, root, retry_failed=True).up_to_date


def test_trying_again_brings_others_and_nothing_forgotten(host: Host, recipe_file: Path, tmp_path: Path) -> None:
    images = [(KEPT, "/40.jpg"), (KEPT, "/41.jpg"), (FORGOTTEN, "/42.jpg"), (FORGOTTEN, "/43.jpg")]
    lines = [f"{host.url(*image)}\t{CAPTIONS[0]}, {image[1]}" for image in images]
    recipe = tmp_path / "retry.toml"
    text = recipe_file.read_text(encoding="utf-8").replace(f"{recipe_file.parent}/pairs.tsv", f"{tmp_path}/retry.tsv")
    recipe.write_text(text, encoding="utf-8")
    (tmp_path / "retry.tsv").write_text("url\tcaption\n" + "\n".join(lines) + "\n", encoding="utf-8")
    root = tmp_path / "catalog"
    host.is_busy = {f"{KEPT}/41.jpg", f"{FORGOTTEN}/43.jpg"}
    build(recipe, root)
    forget(root, [new_tombstone("domain", FORGOTTEN)])
    host.is_busy = set()
    host.asked.clear()
    again = build(recipe, root, retry_failed=True)
    assert host.asked == [f"{KEPT}/41.jpg"]
    assert again.snapshot.manifest["attempt"] == 1
    assert broken_laws(again.snapshot) == []
    rows = query(root, "SELECT upstream_line, outcome, step FROM captions ORDER BY upstream_line").to_pylist()
    assert [(row["outcome"], row["step"]) for row in rows] == [("kept", None)] * 2 + [("rejected", "forget")] * 2
    assert build(recipe, root).snapshot.snapshot == again.snapshot.snapshot


def test_a_tombstone_that_concerns_nothing_costs_nothing(host: Host, root: Path, recipe_file: Path) -> None:
    add_derived(root)
    before = require_snapshot(root, "web").snapshot
    done = forget(root, [new_tombstone("domain", "example.org")])
    assert (done.rewritten, done.removed, any(done.removed_files.values())) == ([], [], False)
    host.asked.clear()
    assert build(recipe_file, root).snapshot.snapshot == before
    build(recipe_file, root, "normalise.image_size=48")
    assert host.asked == []
    assert (root / "searches" / "un-gatto.png").is_file()


def test_by_look_within_a_distance(root: Path) -> None:
    # The first is no look-alike: of these either may stay.
    rows = query(root, "SELECT sample_id, phash FROM pairs ORDER BY url NOT LIKE '%/0.jpg', sample_id").to_pylist()
    value = int(rows[0]["phash"], 16) ^ 0b101
    done = forget(root, [new_tombstone("phash", f"{value:016x}", distance=1)])
    assert done.rewritten == []
    forget(root, [new_tombstone("phash", f"{value:016x}", distance=2)])
    left = query(root, "SELECT sample_id FROM pairs").to_pylist()
    assert {row["sample_id"] for row in left} == {row["sample_id"] for row in rows[1:]}


def test_in_one_dataset_alone(root: Path, recipe_file: Path) -> None:
    """Step outputs of another, whose build was killed, stay; of both the take-down and later builds."""
    build(recipe_file, root, "name=other")
    outputs = {path: path.stat().st_mtime_ns for path in (root / "work" / "web").rglob("*")}
    assert len(outputs) > 20
    forget(root, [new_tombstone("domain", FORGOTTEN, datasets=["other"])])
    build(recipe_file, root, "name=other", "normalise.image_size=48")
    assert {path: path.stat().st_mtime_ns for path in (root / "work" / "web").rglob("*")} == outputs
    counts = query(root, "SELECT dataset, count(*) AS n FROM rejects WHERE step = 'forget' GROUP BY ALL").to_pylist()
    assert [row["dataset"] for row in counts] == ["other"]


def test_snapshots_that_were_never_committed_go_as_well(root: Path) -> None:
    """As a build leaves them that is killed while it publishes."""
    whole = require_snapshot(root, "web").folder
    unfinished = whole.with_name("0123456789ab")
    shutil.copytree(whole, unfinished)
    (unfinished / "manifest.json").unlink()
    forget(root, [new_tombstone("domain", FORGOTTEN)])
    assert not unfinished.exists()


def test_older_snapshots_that_hold_it_go_and_others_stay(root: Path, recipe_file: Path) -> None:
    shutil.rmtree(root / "work")  # else the next snapshot takes over what only that knows
    first = require_snapshot(root, "web").snapshot
    without = recipe_file.with_name("web-without.toml")
    text = recipe_file.read_text(encoding="utf-8").replace("target_language", 'name = "web"\n target_language', 1)
    without.write_text(text.replace("pairs.tsv", "some.tsv"), encoding="utf-8")
    lines = recipe_file.with_name("pairs.tsv").read_text(encoding="utf-8").splitlines()
    some = [line for line in lines if FORGOTTEN not in line and "/5.jpg" not in line and "/to/" not in line]
    without.with_name("some.tsv").write_text("\n".join(some) + "\n", encoding="utf-8")
    second = build(without, root).snapshot.snapshot
    build(recipe_file, root)
    assert require_snapshot(root, "web").snapshot == first
    done = forget(root, [new_tombstone("domain", FORGOTTEN)])
    assert done.removed == [("web", first)]
    assert snapshot_names(root, "web") == sorted([second, done.rewritten[0].now])


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "no images are selected"),
        (["--domain", "http://a.org/"], "--domain"),
        (["--domain", "a.org", "--distance", "2"], "--distance can be used only with --phash"),
        (["--domain", "a.org", "--dataset", "wed"], "has no dataset 'wed'"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_writes_nothing(
    root: Path, words: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["forget", "--root", str(root), *words]) == 1
    assert text in capsys.readouterr().err
    assert not (root / "forgotten.json").exists()


def test_a_dry_run_lists_and_changes_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert main(["forget", "--root", str(root), "--domain", FORGOTTEN, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "/20.jpg" in told
    assert f"domain {FORGOTTEN}" in told
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


# Passages of a failpoint at which the take-down is killed, one after the other: with the tombstone not yet in force,
# while the new snapshot is written, when it is committed, and while what is left is removed.
KILLS = {
    "atomic.before_write": (1, 3, 9),
    "atomic.after_rename": (1, 2, 5, 8),
    "snapshot.after_manifest": (1,),
    "catalog.after_write": (1,),
}


def test_a_killed_take_down_is_in_force_and_ends_alike(root: Path, tmp_path: Path, recipe_file: Path) -> None:
    add_derived(root)
    wanted = traces(root)
    alike = tmp_path / "alike"
    shutil.copytree(root, alike)
    forget(alike, [new_tombstone("domain", FORGOTTEN)])
    before = require_snapshot(root, "web").snapshot
    for name in ("atomic.after_rename", "snapshot.after_manifest", "snapshot.after_pointer"):
        assert _killed_forget(root, f"{name}=kill") == -signal.SIGKILL, name
        assert read_tombstones(root).is_unfinished
    assert current_snapshot_name(root, "web") != before
    build(recipe_file, root)
    assert holders(root, wanted) == []
    assert published(root) == published(alike)
    assert read_tombstones(root).digest == read_tombstones(alike).digest
    assert not read_tombstones(root).is_unfinished


@pytest.mark.slow
@pytest.mark.parametrize("name", KILLS)
def test_killed_at_any_failpoint_it_ends_alike(root: Path, tmp_path: Path, name: str) -> None:
    wanted = traces(root)
    alike, whole = tmp_path / "alike", tmp_path / "whole"
    shutil.copytree(root, alike)
    shutil.copytree(root, whole)
    forget(alike, [new_tombstone("domain", FORGOTTEN)])
    for passage in KILLS[name]:
        shutil.rmtree(root)
        shutil.copytree(whole, root)
        assert _killed_forget(root, f"{name}:{passage}=kill") == -signal.SIGKILL, passage
        assert _killed_forget(root, "") == 0
        assert holders(root, wanted) == [], passage
        assert published(root) == published(alike), passage
        assert read_tombstones(root).digest == read_tombstones(alike).digest


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_alike(root: Path, tmp_path: Path) -> None:
    wanted = traces(root)
    alike = tmp_path / "alike"
    shutil.copytree(root, alike)
    forget(alike, [new_tombstone("domain", FORGOTTEN)])
    rng = random.Random(5)
    for _ in range(12):
        with subprocess.Popen(_command(root), start_new_session=True, stdout=subprocess.DEVNULL) as process:
            time.sleep(rng.uniform(0.3, 2.5))
            os.killpg(process.pid, signal.SIGKILL)
    assert _killed_forget(root, "") == 0
    assert holders(root, wanted) == []
    assert published(root) == published(alike)


def _command(root: Path) -> list[str]:
    return [sys.executable, "-m", "flows.cli", "forget", "--root", str(root), "--domain", FORGOTTEN]


def _killed_forget(root: Path, failpoints: str) -> int:
    environment = os.environ | {"VERNACLIP_FAILPOINTS": failpoints}
    return subprocess.run(_command(root), env=environment, check=False, capture_output=True).returncode
