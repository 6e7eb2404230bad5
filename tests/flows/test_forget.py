"""Take-down of a host's images: no byte is left or handed out, builds go without them, a killed one ends alike."""

import json
import os
import shutil
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_catalog.catalog.duckdb_file import broken_laws, rebuild
from data_catalog.catalog.manifest import commit_snapshot, require_snapshot, snapshot_names
from data_catalog.catalog.query import query
from data_catalog.disk.failpoints import REGISTRY
from data_catalog.disk.files import sha256_of
from data_catalog.disk.records import record_folder, write_checksummed
from data_catalog.publish.takedown import TakeDown
from data_catalog.publish.takedown import forget as take_down
from data_catalog.publish.tombstones import Tombstone, Tombstones, new_tombstone, read_tombstones, write_tombstones
from flows.build.execution import LocalExecutor
from flows.cli import main
from flows.datasets import BuildReport, build_dataset
from flows.recipe.recipe import load_recipe
from translation.engine import Translation
from translation.memory import TranslationMemory, forget_texts

pytestmark = pytest.mark.usefixtures("quick_builds")
CAPTIONS = ["Un gatto nero dorme sopra una sedia di legno", "Due cani giocano con una palla rossa sulla spiaggia"]
KEPT, FORGOTTEN = "127.0.0.1", "localhost"


def forget(root: Path, *more: Tombstone) -> TakeDown:
    return take_down(root, more, forget_texts=forget_texts)


# 20 and 21 are the host's own, 5 is copied byte by byte, 22 is got by a redirect, two of 23 look alike, 41 and 43 fail.
IMAGES = [
    *((KEPT, f"/{number}.jpg") for number in range(5)),
    *((FORGOTTEN, path) for path in ("/20.jpg", "/21.jpg", "/5.jpg")),
    *((KEPT, path) for path in ("/5.jpg", "/to/22.jpg", "/23-lighter-20.jpg", "/41.jpg")),
    *((FORGOTTEN, path) for path in ("/23-lighter-10.jpg", "/gone.jpg", "/43.jpg")),
]
TEXTS = [f"{CAPTIONS[n % 2]}, numero {n}" for n in range(len(IMAGES))]
GONE = {text for text, (name, _) in zip(TEXTS, IMAGES, strict=True) if name == FORGOTTEN}
STAYING = {TEXTS[n] for n in (0, 1, 3)}
ENGINE = "argos:it-en:1"
# What else holds pixels: what is made of images, and what a command left that was killed.
MADE = (
    *("searches/un-gatto.png", "kept-features/0a1b2c3d4e5f6071/features", "datasets/web/report.html"),
    "kept-features/0a1b2c3d4e5f6071-raw/features",
    "models/web/aaaa/index/k/features.npy",
)
LEFT = (
    *("models/web/aaaa/.tmp-removed-index/k/features.npy", "datasets/web/fetch-log/.tmp-0123.parquet"),
    *(
        "exports/web/.tmp-new-urls/train.tar",
        "exports/.tmp-removed-mine/train.tar",
        "exports/web/.tmp-old-urls/train.tar",
    ),
)
PIXELS = [(20, 0), (21, 0), (5, 0), (22, 0), (23, 10)]


@pytest.fixture(scope="module")
def host(picture_host: Any) -> Any:
    return picture_host


@pytest.fixture(scope="module")
def pixels(host: Any) -> set[bytes]:
    """The pictures that are forgotten."""
    return {host.picture(*which) for which in PIXELS}


@pytest.fixture(scope="module")
def recipe_file(host: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of the images above, one split, originals kept; two captions of some."""
    folder = tmp_path_factory.mktemp("recipe")
    urls = [host.url(path, name) for name, path in IMAGES]
    lines = ["url\tcaption", *(f"{url}\t{text}" for url, text in zip(urls, TEXTS, strict=True))]
    lines += [f"{url}\tuna seconda frase che dice altre cose, {n}" for n, url in enumerate(urls[::3])]
    lines += [f"{host.url('/20.jpg', FORGOTTEN)}\tone field\ttoo many", ""]
    (folder / "pairs.tsv").write_text("\n".join(lines), "utf-8")
    path = folder / "web.toml"
    path.write_text(
        f"""
        target_language = "it"
        build = {{shard_size = 5, workers = 1, fetch_workers = 1}}
        fetch = {{allow_loopback = true, retries = 0, host_requests_per_s = 0}}
        normalise = {{keep_original = true}}
        repeats = {{near_captions = false}}
        split = {{val = 0.0}}
        [sources.web]
        kind = "pairs"
        files = ["{folder}/pairs.tsv"]
        url_column = "url"
        caption_column = "caption"
        lang = "it"
        """,
        "utf-8",
    )
    return path


def build(recipe_file: Path, root: Path, *overrides: str, retry_failed: bool = False) -> BuildReport:
    with LocalExecutor() as executor:
        recipe = load_recipe(str(recipe_file), root=root, overrides=overrides)
        return build_dataset(recipe, root=root, executor=executor, retry_failed=retry_failed)


@pytest.fixture(scope="module")
def whole(host: Any, recipe_file: Path, child: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root before anything is forgotten, with the step outputs of a build that was killed, translations, and whatever
    else holds pixels, as exports, searches and reports write it; not to be changed."""
    root = tmp_path_factory.mktemp("whole") / "catalog"
    host.trouble = {"/41.jpg": 503, "/43.jpg": 503}
    words = ["build", str(recipe_file), "--root", str(root), "--executor", "local"]
    with child(words, "snapshot.after_pointer=kill") as process:
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    host.trouble = {}
    rebuild(root)
    snapshot = require_snapshot(root, "web")
    export = root / "exports" / "web" / "huggingface"
    export.mkdir(parents=True)
    shutil.copytree(snapshot.folder / "pairs", export / "data")
    record = {"dataset": "web", "snapshot": snapshot.snapshot, "format": "huggingface", "tombstones": None, "files": {}}
    (export / "export.json").write_text(json.dumps(record), encoding="utf-8")
    pixels = b"".join(row for path in snapshot.files("pairs") for row in pq.read_table(path)["original"].to_pylist())
    for place in MADE + LEFT:
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_bytes(pixels)
    captions = sorted(GONE | STAYING)
    translations = [Translation(text=f"of {caption}", score=None) for caption in captions]
    TranslationMemory(root / "memory", ENGINE).record(captions, translations)
    # As a build leaves it that is killed while it publishes.
    shutil.copytree(snapshot.folder, snapshot.folder.with_name("0123456789ab"))
    (snapshot.folder.with_name("0123456789ab") / "manifest.json").unlink()
    return root


def copy(root: Path, folder: Path) -> Path:
    """A copy; its views, which name files by their absolute paths, are written anew."""
    copied = folder / "catalog"
    shutil.copytree(root, copied)
    rebuild(copied)
    return copied


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    return copy(whole, tmp_path)


@pytest.fixture(scope="module")
def forgotten(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root after its take-down; not to be changed."""
    root = copy(whole, tmp_path_factory.mktemp("forgotten"))
    assert main(["forget", "--root", str(root), "--domain", FORGOTTEN]) == 0
    return root


def traces(root: Path, pixels: set[bytes]) -> set[bytes]:
    """Bytes of the host's images in a root as it was built: as they came, as they were published, and thumbnails."""
    shards = (root / "work" / "web" / "normalise").rglob("*.parquet")
    rows = [row for path in shards for row in pq.read_table(path).to_pylist() if row["original"] in pixels]
    found = pixels | {row[name] for row in rows for name in ("bytes", "thumbnail")}
    assert len(found) == 3 * len(pixels)
    return found


def rows_of(path: Path) -> str:
    return str(pq.read_table(path).to_pylist()) if path.match("[!.]*.parquet") else ""


def holders(root: Path, wanted: Iterable[bytes]) -> set[str]:
    """What of a root has any of some byte strings, as they lie in a file or in a column of a Parquet file."""
    found = set()
    for path in (path for path in root.rglob("*") if path.is_file()):
        content, rows = path.read_bytes(), rows_of(path)
        if any(piece in content or repr(piece)[2:-1] in rows for piece in wanted):
            found.add(path.relative_to(root).parts[0])
    return found


def require_nothing_left(root: Path, wanted: set[bytes]) -> None:
    assert holders(root, wanted) == set()
    # The list of what is forgotten, maybe half a one that was killed; and when which host was asked.
    named = {place for place in holders(root, [FORGOTTEN.encode()]) if not place.startswith(".tmp-")}
    assert named == {"forgotten.json", "work"}
    texts = [*GONE, *(path for name, path in IMAGES if name == FORGOTTEN)]
    assert holders(root, [text.encode() for text in texts]) == set()
    assert set(TranslationMemory(root / "memory", ENGINE).known(sorted(GONE | STAYING))) == STAYING


def published(root: Path) -> dict[str, str]:
    """sha256 of all that is published."""
    files = [path for path in (root / "datasets").glob("*/*/**/*") if path.is_file() and "fetch-log" not in str(path)]
    files += root.glob("datasets/*/current.json")
    return {path.relative_to(root).as_posix(): sha256_of(path) for path in files}


def test_no_byte_of_a_forgotten_hosts_images_is_left(whole: Path, forgotten: Path, pixels: set[bytes]) -> None:
    wanted = traces(whole, pixels)
    assert holders(whole, wanted) == {"work", "datasets", "exports", *(place.split("/")[0] for place in MADE + LEFT)}
    require_nothing_left(forgotten, wanted)
    after = require_snapshot(forgotten, "web")
    assert snapshot_names(forgotten, "web") == [after.snapshot]
    assert not after.folder.with_name("0123456789ab").exists(), "what was never committed goes as well"
    assert after.manifest["forget_of"] == require_snapshot(whole, "web").snapshot
    assert after.manifest["tombstones"]["digest"] == read_tombstones(forgotten).of("web").digest
    assert after.verify() == broken_laws(after) == []
    assert not (forgotten / "exports" / "web" / "huggingface").exists()
    assert after.snapshot in (forgotten / "datasets" / "web" / "report.html").read_text(encoding="utf-8")


def test_builds_obey_and_trying_again_brings_nothing_forgotten(
    host: Any, forgotten: Path, recipe_file: Path, tmp_path: Path
) -> None:
    root = copy(forgotten, tmp_path)
    now = published(root)
    host.asked.clear()
    assert build(recipe_file, root).up_to_date
    assert published(root) == now
    assert host.asked == []
    again = build(recipe_file, root, retry_failed=True)
    assert host.asked == [f"{KEPT}/41.jpg"]
    assert again.snapshot.manifest["attempt"] == 1
    assert broken_laws(again.snapshot) == []
    assert build(recipe_file, root).snapshot.snapshot == again.snapshot.snapshot


def test_copies_and_redirects_that_come_later_are_dropped(
    host: Any, recipe_file: Path, forgotten: Path, pixels: set[bytes], tmp_path: Path
) -> None:
    """The root knows the bytes, and has never seen these addresses; those that it knows are not asked."""
    root, later = copy(forgotten, tmp_path), recipe_file.with_name("later.toml")
    lines = recipe_file.with_name("pairs.tsv").read_text("utf-8").splitlines()
    first = len(lines) + 1
    for path in ("/20.jpg?copy", "/to/30.jpg", "/9.jpg"):
        lines.append(f"{host.url(path)}\t{CAPTIONS[0]}, di nuovo {path}")
    later.write_text(recipe_file.read_text("utf-8").replace("pairs.tsv", "later.tsv"), "utf-8")
    later.with_name("later.tsv").write_text("\n".join(lines) + "\n", "utf-8")
    host.asked.clear()
    report = build(later, root)
    asked = [asked for asked in host.asked if asked.startswith(FORGOTTEN)]
    assert asked == ["localhost/30.jpg"], "by a redirect alone, of which nobody knew"
    rows = query(root, "SELECT * FROM captions WHERE dataset = 'later'").to_pylist()
    reasons = {row["upstream_line"]: (row["step"], row["drop_reason"]) for row in rows}
    assert [reasons[first + n] for n in range(3)] == [("normalise", "forgotten")] * 2 + [(None, None)]
    dropped = [row for row in rows if row["drop_reason"] == "forgotten"]
    assert all(row["source_caption"] is None and row["url"] is None for row in dropped)
    assert len(dropped) == report.snapshot.manifest["funnel"][1]["dropped"] + 2
    assert holders(root, pixels | {host.picture(30)}) == set()
    assert broken_laws(report.snapshot) == []
    assert build(later, root).up_to_date


def test_a_tombstone_that_concerns_nothing_costs_nothing(host: Any, root: Path, recipe_file: Path) -> None:
    # The first is no look-alike: of these either may stay.
    rows = query(root, "SELECT sample_id, phash FROM pairs ORDER BY url NOT LIKE '%/0.jpg', sample_id").to_pylist()
    look = f"{int(rows[0]['phash'], 16) ^ 0b101:016x}"
    before = require_snapshot(root, "web").snapshot
    done = forget(
        root,
        new_tombstone("domain", "example.org"),
        new_tombstone("domain", FORGOTTEN, datasets=["other"]),
        new_tombstone("phash", look, distance=1),
    )
    assert (done.rewritten, done.removed) == ([], [])
    host.asked.clear()
    assert build(recipe_file, root).snapshot.snapshot == before
    assert host.asked == []
    assert all((root / place).is_file() for place in MADE)

    forget(root, new_tombstone("phash", look, distance=2))
    left = query(root, "SELECT sample_id FROM pairs").to_pylist()
    assert {row["sample_id"] for row in left} == {row["sample_id"] for row in rows[1:]}


@pytest.mark.slower
def test_a_build_brings_back_what_is_forgotten_no_more(host: Any, root: Path, recipe_file: Path) -> None:
    """A tombstone that removed nothing makes no build when it is lifted."""
    forget(root, new_tombstone("domain", FORGOTTEN))
    forget(root, new_tombstone("domain", "example.org"))
    one, _ = read_tombstones(root).tombstones
    write_tombstones(root, Tombstones(tombstones=(one,)))
    assert build(recipe_file, root).up_to_date
    write_tombstones(root, Tombstones())
    host.asked.clear()
    report = build(recipe_file, root)
    assert set(host.asked) >= {f"{FORGOTTEN}{path}" for name, path in IMAGES if name == FORGOTTEN}
    assert f"{KEPT}/0.jpg" not in host.asked, "it is there"
    rows = query(root, "SELECT source_caption, drop_reason FROM captions").to_pylist()
    assert {row["source_caption"] for row in rows} >= GONE
    assert "forgotten" not in {row["drop_reason"] for row in rows}
    # Of two, the one that removed nothing is lifted: a build looks, and the next one knows.
    forget(root, new_tombstone("domain", FORGOTTEN), new_tombstone("domain", "example.org"))
    build(recipe_file, root, "split.salt=other")
    one, _ = read_tombstones(root).tombstones
    write_tombstones(root, Tombstones(tombstones=(one,)))
    build(recipe_file, root, "split.salt=other")
    assert build(recipe_file, root, "split.salt=other").up_to_date
    write_tombstones(root, Tombstones())
    report = build(recipe_file, root)
    assert broken_laws(report.snapshot) == []
    assert build(recipe_file, root).up_to_date


def test_older_snapshots_that_hold_it_go_and_others_stay(root: Path, told: Any) -> None:
    shutil.rmtree(root / "work")  # else the next snapshot takes over what only that knows
    first = require_snapshot(root, "web")
    nothing: dict[str, list[object]] = {kind: [] for kind in first.manifest["files"]}
    listed = ["forget", "--root", str(root), "--domain", FORGOTTEN, "--dry-run"]
    said = told(listed).splitlines()[-1]
    again = shutil.copytree(first.folder, first.folder.with_name("bbbbbbbbbbbb"))
    commit_snapshot(root, {**first.manifest, "snapshot": "bbbbbbbbbbbb"}, is_current=False)
    assert told(listed).splitlines()[-1] == said, "an image of two snapshots is one"
    shutil.rmtree(again)
    commit_snapshot(root, {**first.manifest, "snapshot": "aaaaaaaaaaaa", "files": nothing})
    done = forget(root, new_tombstone("domain", FORGOTTEN))
    assert (done.rewritten, done.removed) == ([], [("web", first.snapshot)])
    assert snapshot_names(root, "web") == ["aaaaaaaaaaaa"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "no images are selected"),
        (["--domain", "http://a.org/"], "--domain"),
        (["--domain", "a.org", "--distance", "2"], "--distance can be used only with --phash"),
        (["--domain", "a.org", "--dataset", "wed"], "has no dataset 'wed'"),
        (["--list", "--root", "mistyped"], "mistyped does not exist: give the root of a catalog with --root"),
        (["--domain", "a.org", "--list"], "--list only lists what was forgotten"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_writes_nothing(
    whole: Path, words: list[str], text: str, told: Any
) -> None:
    assert text in told(["forget", "--root", str(whole), *words], code=1)
    assert not (whole / "forgotten.json").exists()


def test_the_command_that_finishes_a_take_down_may_be_repeated(forgotten: Path, told: Any) -> None:
    before = (forgotten / "forgotten.json").read_bytes()
    assert "nothing to do" in told(["forget", "--root", str(forgotten)])
    assert (forgotten / "forgotten.json").read_bytes() == before


def test_a_dry_run_lists_and_changes_nothing(whole: Path, told: Any) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    out = told(["forget", "--root", str(whole), "--domain", FORGOTTEN, "--dry-run"])
    assert "/20.jpg" in out
    assert f"domain {FORGOTTEN}" in out
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


def readers(root: Path, out: Path, recipe: Path) -> list[list[str]]:
    """All commands that hand out something of a root, or that is made of it."""
    picture = out / "own.png"
    Image.new("RGB", (32, 32), "navy").save(picture)
    commands = [
        ["train", str(recipe), "--executor", "local"],
        ["evaluate", str(recipe), "--executor", "local"],
        ["export", "web", "--format", "webdataset"],
        ["export", "web", "--format", "huggingface", "--out", str(out / "export")],
        ["search", "a red circle", "--out", str(out / "sheet.png")],
        ["report", "web"],
        ["scoreboard", str(recipe), "--out", str(out / "board")],
        ["sql", "FROM pairs", "--format", "json", "--out", str(out / "pairs.json")],
        ["why", "web:1"],
        ["classify", str(picture), "a", "b"],
        ["localize", str(picture), "a"],
        ["audit", "draw", "web"],
        ["export-model", "web", "--format", "open_clip", "--out", str(out / "model")],
        *(["catalog"], ["catalog", "--rebuild"], ["diff", "current", "current"], ["snapshots"]),
        ["forget", "--domain", "example.org", "--dry-run"],
    ]
    return [[*words, "--root", str(root)] for words in commands]


def require_all_refuse(root: Path, out: Path, recipe: Path, told: Any) -> None:
    commands, before = readers(root, out, recipe), set(out.parent.rglob("*"))
    for words in commands:
        assert f"run `vernaclip forget --root {root}`" in told(words, code=1), words
    assert set(out.parent.rglob("*")) == before | {out / "own.png"}
    assert f"`vernaclip forget --root {root}`" in told(["forget", "--root", str(root), "--list"])


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder outside of the root."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


# All that a take-down passes, each in some of its passages; and several kills of one take-down: with the tombstone in
# force, when translations are gone, and when the new snapshot is committed.
PASSED = [name for name in REGISTRY if name.split(".")[0] in ("atomic", "append", "catalog", "forget")]
PASSED += [name for name in REGISTRY if name.startswith("snapshot.") and not name.endswith(("_files", "_link"))]
SEVERAL = [("atomic.after_rename", "forget.after_memory", "snapshot.after_manifest")]
KILLS = [
    pytest.param(SEVERAL, marks=pytest.mark.slower),
    *(pytest.param([(f"{name}:{n}",) for n in (1, 2, 5, 13, 34)], marks=pytest.mark.slow) for name in PASSED),
]


@pytest.mark.parametrize("take_downs", KILLS)
def test_a_killed_take_down_is_in_force_hands_out_nothing_and_ends_alike(
    whole: Path,
    forgotten: Path,
    pixels: set[bytes],
    recipe_file: Path,
    out: Path,
    take_downs: list[tuple[str, ...]],
    child: Any,
    told: Any,
) -> None:
    wanted = traces(whole, pixels)
    for number, kills in enumerate(take_downs):
        root = copy(whole, out.parent / str(number))
        write_checksummed(root / "models" / "web" / "current.json", {"model": "aa", "snapshot": "bb"})
        record_folder(root / "models" / "web" / "aa", [])
        words = ["forget", "--root", str(root), "--domain", FORGOTTEN]
        for failpoint in kills:
            with child(words, f"{failpoint}=kill") as process:
                process.communicate()
            if process.returncode != -signal.SIGKILL:
                assert number > 0, "a take-down passes it"
                return
            if read_tombstones(root).is_unfinished and failpoint == kills[0]:
                assert FORGOTTEN.encode() not in (root / ".writer-lock").read_bytes()
                require_all_refuse(root, out, recipe_file, told)
        if read_tombstones(root).is_unfinished and len(kills) > 1:
            build(recipe_file, root)
        else:
            assert main(words) == 0
        require_nothing_left(root, wanted)
        assert published(root) == published(forgotten)
        assert (root / "datasets" / "web" / "report.html").is_file(), "it is written again"
        assert read_tombstones(root).digest == read_tombstones(forgotten).digest
        assert not read_tombstones(root).is_unfinished


@pytest.mark.parametrize("kill", ["atomic.after_rename:9", "snapshot.after_manifest"])
def test_tombstones_of_all_kinds_killed_midway_publish_alike_and_leave_no_more(
    whole: Path, tmp_path: Path, kill: str, child: Any
) -> None:
    pairs = query(whole, "SELECT sample_id, phash, url FROM pairs ORDER BY sample_id").to_pylist()
    url = next(row["url"] for row in pairs if "/23-" in row["url"])
    roots = [copy(whole, tmp_path / name) for name in ("at once", "killed")]
    words = ["--sample", pairs[0]["sample_id"], "--phash", pairs[1]["phash"], "--distance", "2", "--url", url]
    with child(["forget", "--root", str(roots[1]), *words], f"{kill}=kill") as process:
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    left = []
    for root in roots:
        assert main(["forget", "--root", str(root), *words]) == 0
        assert broken_laws(require_snapshot(root, "web")) == []
        left.append({path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()})
    assert published(roots[1]) == published(roots[0])
    assert left[1] <= left[0]


@pytest.mark.parametrize(
    "command", ["sql", *(pytest.param(name, marks=pytest.mark.slow) for name in ("report", "train"))]
)
@pytest.mark.parametrize(("domain", "code"), [(FORGOTTEN, 1), ("example.org", 0)])
def test_what_was_read_before_a_take_down_is_not_written_after_it(
    root: Path, command: str, domain: str, code: int, out: Path, recipe_file: Path, small_model: str, child: Any
) -> None:
    """A command stands still, about to put something in place; a take-down of something else stops no reader."""
    (out / "small.json").write_text(small_model)
    made = root / "models" / "web" / "current.json" if command == "train" else out / "made"
    settings = [f"model={out}/small.json", "epochs=1", "vocab_size=400", "batch_size=2"]
    training = [word for setting in settings for word in ("--set", f"train.{setting}")]
    words = {
        "sql": ["FROM pairs", "--format", "json", "--out", str(made)],
        "report": ["web", "--out", str(made)],
        "train": [str(recipe_file), "--executor", "local", *training],
    }
    process = child([command, *words[command], "--root", str(root)], "atomic.after_fsync=stop")
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), status
    assert main(["forget", "--root", str(root), "--domain", domain]) == 0
    os.kill(process.pid, signal.SIGCONT)
    with process:
        error = process.communicate()[1]
    assert (process.returncode, "was taken down while it was read" in error) == (code, code == 1), error
    assert made.exists() == (code == 0)
