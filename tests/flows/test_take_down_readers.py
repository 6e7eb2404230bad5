"""What reads a root hands out nothing that a take-down means: not after one was killed, and not while one goes on."""

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_catalog.database.catalog import query, rebuild
from data_catalog.storage.failpoints import REGISTRY
from data_catalog.storage.integrity import record_folder, write_checksummed
from data_catalog.storage.manifest import require_snapshot
from data_catalog.storage.reading import taking_down
from data_catalog.tombstones import read_tombstones
from flows.cli import main
from flows.jobs import BuildReport
from translation.engine import Translation
from translation.memory import TranslationMemory

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

MEANWHILE = "was taken down while it was read"


@pytest.fixture(scope="module")
def recipe(english_overrides: list[str], small_model: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The recipe of the small sample and of a model of one epoch, as options."""
    model = tmp_path_factory.mktemp("model") / "small.json"
    model.write_text(small_model)
    more = [f"train.model={model}", "train.epochs=1", "train.vocab_size=400", "train.batch_size=16"]
    overrides = [*english_overrides, *more, "evaluate.split=val"]
    return [word for override in overrides for word in ("--set", override)]


@pytest.fixture
def root(built: tuple[Path, BuildReport], tmp_path: Path) -> Path:
    root = Path(shutil.copytree(built[0], tmp_path / "catalog"))
    rebuild(root)
    return root


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder outside of the root."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def published_sample(root: Path) -> str:
    return str(pq.read_table(require_snapshot(root, "scenes").all_pair_files()[0])["sample_id"][0])


def child(words: list[str], failpoints: str) -> "subprocess.Popen[str]":
    environment = os.environ | {"VERNACLIP_FAILPOINTS": failpoints}
    command = [sys.executable, "-m", "flows.cli", *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


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


# All that a take-down passes; each is looked at in some of its passages, the later ones more sparsely.
PASSED = [name for name in REGISTRY if name.split(".")[0] in ("atomic", "append", "catalog", "forget")]
PASSED += [name for name in REGISTRY if name.startswith("snapshot.") and not name.endswith(("_files", "_link"))]
PASSAGES = dict.fromkeys(PASSED, (1, 2, 3, 5, 8, 13, 21, 34))


@pytest.mark.parametrize(
    ("failpoint", "passages"),
    [
        ("atomic.after_rename", (1,)),
        *(pytest.param(*passage, marks=pytest.mark.slow) for passage in PASSAGES.items()),
    ],
)
def test_killed_at_any_failpoint_it_hands_out_nothing(
    root: Path,
    failpoint: str,
    passages: tuple[int, ...],
    recipe: list[str],
    out: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """While it is unfinished every command refuses; when it is not, each answers without what is forgotten."""
    write_checksummed(root / "models" / "scenes" / "current.json", {"model": "aa", "snapshot": "bb"})
    record_folder(root / "models" / "scenes" / "aa", [])
    sample = published_sample(root)
    rows = query(root, f"SELECT clean_caption FROM captions WHERE sample_id = '{sample}'").to_pylist()
    captions = [row["clean_caption"] for row in rows]
    memory = TranslationMemory(root / "memory", "argos:en-it:1")
    memory.record(captions, [Translation(text=f"di {caption}", score=None) for caption in captions])
    whole = shutil.copytree(root, out.with_name("whole"))
    killed = []
    for passage in passages:
        with child(["forget", "--root", str(root), "--sample", sample], f"{failpoint}:{passage}=kill") as process:
            process.communicate()
        if process.returncode != -signal.SIGKILL:
            break
        found = read_tombstones(root)
        killed.append(bool(found.tombstones))
        if found.is_unfinished:
            require_all_refuse(root, out, recipe, capsys, f"{failpoint}:{passage}")
            assert main(["forget", "--root", str(root), "--list"]) == 0
            assert f"`vernaclip forget --root {root}`" in capsys.readouterr().out
            assert main(["forget", "--root", str(root)]) == 0
            assert f"sample {sample}" in capsys.readouterr().out
        if found.tombstones:
            require_nothing_forgotten(root, out, sample, captions, capsys)
            assert main(["forget", "--root", str(root)]) == 1, "nothing is left to be ended"
            assert "no images are selected" in capsys.readouterr().err
        shutil.rmtree(root)
        shutil.copytree(whole, root)
    assert any(killed), "a take-down passes it while the tombstone is in force"


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


def test_an_address_that_is_forgotten_stays_in_the_list_of_these_alone(root: Path) -> None:
    [row] = query(root, "SELECT url FROM pairs WHERE url IS NOT NULL ORDER BY url LIMIT 1").to_pylist()
    name = row["url"].rpartition("/")[2]
    words = ["forget", "--root", str(root), "--url", row["url"]]
    with child(words, "snapshot.after_manifest=kill") as process:
        process.communicate()
    assert "datasets" in holders(root, name)
    assert name.encode() not in (root / ".writer-lock").read_bytes()
    assert main(words) == 0
    assert holders(root, name) == {"forgotten.json"}


# What stands still is about to put in place: an answer, a page.
WRITERS = [
    ["sql", "FROM pairs", "--format", "json", "--out", "OUT/pairs.json"],
    pytest.param(["report", "scenes", "--out", "OUT/report.html"], marks=pytest.mark.slow),
]


@pytest.mark.parametrize("words", WRITERS)
@pytest.mark.parametrize("is_meant", [True, False])
def test_what_was_read_before_a_take_down_is_not_written_after_it(
    root: Path, words: list[str], out: Path, is_meant: bool
) -> None:
    """A take-down of something else stops no reader."""
    process = stopped([*(word.replace("OUT", str(out)) for word in words), "--root", str(root)], "atomic.after_fsync")
    meant = ["--sample", published_sample(root)] if is_meant else ["--domain", "example.org"]
    assert main(["forget", "--root", str(root), *meant]) == 0
    code, told = go_on(process)
    assert (code, MEANWHILE in told) == ((1, True) if is_meant else (0, False)), told
    assert len(list(out.iterdir())) == (0 if is_meant else 1)


@pytest.mark.slow
def test_a_model_of_what_was_taken_down_meanwhile_is_not_the_current_one(root: Path, recipe: list[str]) -> None:
    words = ["train", "scenes", *recipe, "--executor", "local", "--root", str(root)]
    process = stopped(words, "atomic.after_fsync")
    assert main(["forget", "--root", str(root), "--sample", published_sample(root)]) == 0
    code, told = go_on(process)
    assert (code, MEANWHILE in told) == (1, True), told
    assert not (root / "models" / "scenes" / "current.json").exists()


def test_a_disk_that_has_no_lock_left_to_wait_for_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(_: int, how: int) -> None:
        number = errno.EWOULDBLOCK if how & fcntl.LOCK_NB else errno.ENOLCK
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("data_catalog.storage.reading.fcntl.flock", flock)
    with taking_down(tmp_path):
        pass
    assert "its disk does not support locks" in caplog.text
