"""What reads a root hands out nothing that a take-down means: not after one was killed, and not while one goes on."""

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_catalog.database.catalog import query, rebuild
from data_catalog.storage.failpoints import REGISTRY
from data_catalog.storage.manifest import require_snapshot
from data_catalog.storage.reading import taking_down
from data_catalog.tombstones import read_tombstones
from flows.cli import main
from flows.jobs import BuildReport, train_model
from flows.recipe.recipe import Recipe
from translation.engine import Translation
from translation.memory import TranslationMemory

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

MEANWHILE = "was taken down while it was read"


@pytest.fixture(scope="module")
def trained(
    built: tuple[Path, BuildReport],
    english_recipe: Callable[..., Recipe],
    english_overrides: list[str],
    small_model: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, list[str]]:
    """A copy of the small sample with a model of one epoch, and the overrides of its recipe as options."""
    folder = tmp_path_factory.mktemp("trained")
    root = folder / "catalog"
    shutil.copytree(built[0], root)
    (folder / "small.json").write_text(small_model)
    more = [f"train.model={folder / 'small.json'}", "train.epochs=1", "train.vocab_size=400", "train.batch_size=16"]
    more += ["evaluate.split=val", "evaluate.bootstrap_rounds=50"]
    train_model(english_recipe(root, *more), root)
    return root, [word for override in [*english_overrides, *more] for word in ("--set", override)]


@pytest.fixture
def root(trained: tuple[Path, list[str]], tmp_path: Path) -> Path:
    copied = tmp_path / "catalog"
    shutil.copytree(trained[0], copied)
    rebuild(copied)
    return copied


@pytest.fixture
def sample(root: Path) -> str:
    """A sample that is published."""
    return str(pq.read_table(require_snapshot(root, "scenes").all_pair_files()[0])["sample_id"][0])


def child(words: list[str], failpoints: str) -> "subprocess.Popen[str]":
    environment = os.environ | {"VERNACLIP_FAILPOINTS": failpoints}
    command = [sys.executable, "-m", "flows.cli", *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kill_forget(root: Path, sample: str, failpoint: str) -> bool:
    """Forget a sample until a failpoint; whether that was passed."""
    with child(["forget", "--root", str(root), "--sample", sample], f"{failpoint}=kill") as process:
        process.communicate()
    return process.returncode == -signal.SIGKILL


def readers(root: Path, out: Path, recipe: list[str]) -> dict[str, list[str]]:
    """All commands that hand out something of a root, or that is made of it."""
    picture = out / "own.png"
    Image.new("RGB", (32, 32), "navy").save(picture)
    jobs = {name: [name, "scenes", *recipe, "--executor", "local"] for name in ("train", "evaluate")}
    commands = {
        **jobs,
        "export": ["export", "scenes", "--format", "webdataset"],
        "export elsewhere": ["export", "scenes", "--format", "huggingface", "--out", str(out / "export")],
        "search": ["search", "a red circle"],
        "search elsewhere": ["search", "a red circle", "--out", str(out / "sheet.png")],
        "report": ["report", "scenes"],
        "report elsewhere": ["report", "scenes", "--out", str(out / "report.html")],
        "scoreboard": ["scoreboard", "scenes", *recipe, "--out", str(out / "board")],
        "sql": ["sql", "FROM pairs", "--format", "json", "--out", str(out / "pairs.json")],
        "why": ["why", "scenes:1"],
        "classify": ["classify", str(picture), "a", "b"],
        "localize": ["localize", str(picture), "a"],
        "audit draw": ["audit", "draw", "scenes"],
        "export-model": ["export-model", "scenes", "--format", "open_clip", "--out", str(out / "model")],
        "catalog": ["catalog"],
        "rebuild": ["catalog", "--rebuild"],
        "diff": ["diff", "current", "current"],
        "snapshots": ["snapshots"],
        "memory": ["mt", "memory", "export", "argos:en-it:1", str(out / "memory.parquet")],
        "dry run": ["forget", "--domain", "example.org", "--dry-run"],
    }
    return {name: [*words, "--root", str(root)] for name, words in commands.items()}


def all_files(*folders: Path) -> set[Path]:
    return {path for folder in folders for path in folder.rglob("*") if path.is_file() and path.name != ".writer-lock"}


def require_all_refuse(root: Path, out: Path, recipe: list[str], capsys: pytest.CaptureFixture[str], when: str) -> None:
    commands = readers(root, out, recipe)
    before = all_files(root, out)
    for name, words in commands.items():
        capsys.readouterr()
        assert main(words) == 1, f"{name} after {when}"
        told = capsys.readouterr()
        assert f"run `vernaclip forget --root {root}`" in told.err, f"{name} after {when}: {told.err}"
        assert told.out == "", f"{name} after {when}"
    assert all_files(root, out) == before, when


# While the tombstone is put in force, when a new snapshot is committed, and while what is left is removed.
KILLS = ("atomic.after_rename", "snapshot.after_manifest", "catalog.after_write")


def test_after_a_killed_take_down_nothing_is_handed_out_until_it_is_ended(
    root: Path, sample: str, trained: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for failpoint in KILLS:
        assert kill_forget(root, sample, failpoint)
        require_all_refuse(root, out, trained[1], capsys, failpoint)
    assert main(["forget", "--root", str(root), "--list"]) == 0
    assert f"`vernaclip forget --root {root}`" in capsys.readouterr().out

    assert main(["forget", "--root", str(root)]) == 0
    assert f"sample {sample}" in capsys.readouterr().out
    assert query(root, f"SELECT 1 FROM pairs WHERE sample_id = '{sample}'").num_rows == 0
    assert main(["report", "scenes", "--root", str(root)]) == 0
    assert main(["forget", "--root", str(root)]) == 1  # nothing is left to be ended
    assert "no images are selected" in capsys.readouterr().err


# All that a take-down passes; each is looked at in some of its passages, the later ones more sparsely.
PASSED = [name for name in REGISTRY if name.split(".")[0] in ("atomic", "append", "catalog", "forget")]
PASSED += [name for name in REGISTRY if name.startswith("snapshot.") and not name.endswith(("_files", "_link"))]
PASSAGES = (1, 2, 3, 5, 8, 13, 21, 34)


@pytest.mark.slow
@pytest.mark.parametrize("failpoint", PASSED)
def test_killed_at_any_failpoint_it_hands_out_nothing(
    root: Path,
    sample: str,
    failpoint: str,
    trained: tuple[Path, list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """While it is unfinished every command refuses; when it is not, each answers without what is forgotten."""
    out, whole = tmp_path / "out", tmp_path / "whole"
    out.mkdir()
    rows = query(root, f"SELECT clean_caption FROM captions WHERE sample_id = '{sample}'").to_pylist()
    captions = [row["clean_caption"] for row in rows]
    memory = TranslationMemory(root / "memory", "argos:en-it:1")
    memory.record(captions, [Translation(text=f"di {caption}", score=None) for caption in captions])
    shutil.copytree(root, whole)
    killed = []
    for passage in PASSAGES:
        if not kill_forget(root, sample, f"{failpoint}:{passage}"):
            break
        found = read_tombstones(root)
        killed.append(bool(found.tombstones))
        if found.is_unfinished:
            require_all_refuse(root, out, trained[1], capsys, f"{failpoint}:{passage}")
        elif found.tombstones:
            require_nothing_forgotten(root, out, sample, captions, capsys)
        shutil.rmtree(root)
        shutil.copytree(whole, root)
    assert any(killed), "a take-down passes it while the tombstone is in force"


def require_nothing_forgotten(
    root: Path, out: Path, sample: str, captions: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Ask each command that answers at once; and look at all files that training reads."""
    for name, words in readers(root, out, []).items():
        if name in ("sql", "export elsewhere", "report elsewhere", "why", "memory"):
            capsys.readouterr()
            main([word.replace("scenes:1", sample) for word in words])
            assert not [caption for caption in captions if caption in capsys.readouterr().out], name
    shown = b"".join(path.read_bytes() for path in all_files(out))
    shown += b"".join(str(pq.read_table(path).to_pylist()).encode() for path in out.rglob("*.parquet"))
    assert not [caption for caption in captions if caption.encode() in shown]
    for path in require_snapshot(root, "scenes").all_pair_files():
        assert sample not in pq.read_table(path)["sample_id"].to_pylist()


def stopped(words: list[str], failpoint: str) -> "subprocess.Popen[str]":
    """A command that stands still at a failpoint."""
    process = child(words, f"{failpoint}=stop")
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), status
    return process


def go_on(process: "subprocess.Popen[str]") -> tuple[int, str]:
    os.kill(process.pid, signal.SIGCONT)
    with process:
        told = process.communicate()[1]
    return process.returncode, told


def holders(root: Path, text: str) -> set[str]:
    """Where in a root a text is, in a file or in a column; upstream files are not looked at."""
    found = set()
    for path in all_files(root) | set(root.glob(".*")):
        place = path.relative_to(root).parts[0]
        rows = str(pq.read_table(path).to_pylist()) if path.suffix == ".parquet" else ""
        if place != "upstream" and (text in rows or text.encode() in path.read_bytes()):
            found.add(place)
    return found


def test_an_address_that_is_forgotten_stays_in_the_list_of_these_alone(root: Path, sample: str) -> None:
    url = str(query(root, f"SELECT url FROM pairs WHERE sample_id = '{sample}'").to_pylist()[0]["url"])
    name = url.rpartition("/")[2]
    assert holders(root, name) >= {"datasets"}
    words = ["forget", "--root", str(root), "--url", url]
    with child(words, "snapshot.after_manifest=kill") as process:
        process.communicate()
    assert name.encode() not in (root / ".writer-lock").read_bytes()
    with child(words, "") as process:
        process.communicate()
    assert process.returncode == 0
    assert holders(root, name) == {"forgotten.json"}


# What stands still is about to put in place: features of images, a contact sheet, a page, an answer.
WRITERS = {
    "features": (["search", "a red circle"], 1),
    "sheet": (["search", "a red circle"], 3),
    "page": (["report", "scenes", "--out", "OUT/report.html"], 1),
    "answer": (["sql", "FROM pairs", "--format", "json", "--out", "OUT/pairs.json"], 1),
}


@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=pytest.mark.slow) if what in ("features", "page") else what for what in WRITERS]
)
def test_what_was_read_before_a_take_down_is_not_written_after_it(
    root: Path, sample: str, what: str, tmp_path: Path
) -> None:
    words, passage = WRITERS[what]
    out = tmp_path / "out"
    out.mkdir()
    words = [word.replace("OUT", str(out)) for word in words]
    process = stopped([*words, "--root", str(root)], f"atomic.after_fsync:{passage}")
    assert main(["forget", "--root", str(root), "--sample", sample]) == 0
    code, told = go_on(process)
    assert (code, MEANWHILE in told) == (1, True), told
    assert list(out.iterdir()) == []
    assert not [path for path in (root / "searches").rglob("*") if path.is_file()]
    assert not list((root / "models").rglob("features*"))


@pytest.mark.slow
def test_a_model_of_what_was_taken_down_meanwhile_is_not_the_current_one(
    root: Path, sample: str, trained: tuple[Path, list[str]]
) -> None:
    pointer = root / "models" / "scenes" / "current.json"
    before = pointer.read_bytes()
    words = ["train", "scenes", *trained[1], "--set", "train.seed=7", "--executor", "local", "--root", str(root)]
    process = stopped(words, "atomic.after_fsync")
    assert main(["forget", "--root", str(root), "--sample", sample]) == 0
    code, told = go_on(process)
    assert (code, MEANWHILE in told) == (1, True), told
    assert pointer.read_bytes() == before


def test_a_take_down_of_something_else_stops_no_reader(root: Path) -> None:
    process = stopped(["search", "a red circle", "--root", str(root)], "atomic.after_fsync:3")
    assert main(["forget", "--root", str(root), "--domain", "example.org"]) == 0
    assert go_on(process)[0] == 0
    assert list((root / "searches").glob("*.png"))


def test_a_sheet_that_is_being_put_in_place_is_found_by_the_take_down(root: Path, sample: str) -> None:
    process = stopped(["search", "a red circle", "--root", str(root)], "atomic.after_rename:3")
    assert list((root / "searches").glob("*.png"))
    codes: list[int] = []
    forget = Thread(target=lambda: codes.append(main(["forget", "--root", str(root), "--sample", sample])))
    forget.start()
    assert go_on(process)[0] == 0
    forget.join()
    assert codes == [0]
    assert not list((root / "searches").glob("*"))


def test_a_disk_that_has_no_lock_left_to_wait_for_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(_: int, how: int) -> None:
        if how & fcntl.LOCK_NB:
            raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK))
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("data_catalog.storage.reading.fcntl.flock", flock)
    with taking_down(tmp_path):
        pass
    assert "its disk does not support locks" in caplog.text
