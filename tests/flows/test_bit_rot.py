"""`vernaclip verify`: any flipped bit of any file of a catalog is found, told in a sentence, and never a traceback."""

import errno
import json
import random
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from data_catalog.base.errors import DamagedError
from data_catalog.catalog.duckdb_file import rebuild
from data_catalog.catalog.history import append_run
from data_catalog.catalog.manifest import commit_snapshot, find_snapshot, point_to, require_snapshot
from data_catalog.catalog.verify import Finding, checks, run_checks
from data_catalog.catalog.work import StepKey, WorkStore
from data_catalog.disk.files import write_json
from data_catalog.disk.lock import writer_lock
from data_catalog.disk.records import record_folder, recorded, write_checksummed
from flows.build.execution import LocalExecutor
from flows.cli import main
from flows.datasets import build_dataset
from translation.engine import Translation
from translation.memory import TranslationMemory
from translation.packages.package import open_package

PACKAGE = Path(__file__).resolve().parents[2] / "flows" / "packages" / "scenes-en_it.argosmodel"
# Not of the catalog: the lock, and upstream files, which are the user's.
OTHERS = {".writer-lock", "upstream"}


@pytest.fixture(scope="module")
def whole(built: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog with all that one may hold."""
    root = tmp_path_factory.mktemp("whole") / "catalog"
    shutil.copytree(built[0], root, ignore=shutil.ignore_patterns("work"))
    current = require_snapshot(root, "scenes")
    shutil.copytree(current.folder, current.folder.with_name("0123456789ab"))
    commit_snapshot(root, {**current.manifest, "snapshot": "0123456789ab", "build_key": "another"})
    append_run(root, "scenes", snapshot="0123456789ab")
    point_to(root, "scenes", current.snapshot)
    append_run(root, "scenes", snapshot=current.snapshot)
    memory = TranslationMemory(root / "memory", "argos:en-it:abc")
    memory.record([f"a dog {number}" for number in range(50)], [Translation(text="un cane", score=-0.1)] * 50)
    memory.seal()
    model = root / "models" / "scenes" / "0123456789ab"
    for name in ("model.safetensors", "effort.json", "result.json"):
        write_json(model / name, {"weights": list(range(100))})
    record_folder(model, ["model.safetensors", "effort.json", "result.json"])
    write_checksummed(model.parent / "current.json", {"model": model.name, "snapshot": current.snapshot})
    open_package(PACKAGE, root / "packages")
    write_checksummed(root / "memory" / "attempt-scenes.json", {"number": 0, "is_under_way": False})
    key = StepKey(step="fetch", version=1, inputs=("a",))
    WorkStore(root / "work" / "scenes").run(key, lambda folder: {"rows": (folder / "rows").write_bytes(b"some rows")})
    assert main(["forget", "--domain", "example.org", "--root", str(root)]) == 0
    assert main(["export", "scenes", "--format", "huggingface", "--root", str(root)]) == 0
    rebuild(root)
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    """The same, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "catalog", ignore=shutil.ignore_patterns(*OTHERS)))


def catalog_files(root: Path) -> list[Path]:
    """All files of the catalog."""
    return sorted(path for path in root.rglob("*") if path.is_file() and path.relative_to(root).parts[0] not in OTHERS)


@contextmanager
def flipped(path: Path, place: int) -> Iterator[None]:
    """While it lasts, one bit of a file is another."""
    content = path.read_bytes()
    path.write_bytes(content[:place] + bytes([content[place] ^ 8]) + content[place + 1 :])
    try:
        yield
    finally:
        path.write_bytes(content)


def is_about(finding: Finding, path: Path) -> bool:
    """Whether a finding, in one line, names the file, or the one whose record it is."""
    return str(path).startswith(str(finding.path)) and str(finding.path) in finding.text and "\n" not in finding.text


def verify(root: Path) -> list[Finding]:
    return [finding for findings in run_checks(checks(root)) for finding in findings]


def damage(root: Path) -> list[Finding]:
    return [finding for finding in verify(root) if finding.kind == "damage"]


def only_damage(root: Path, path: Path) -> str:
    """The text of the one finding there is, which is about a file."""
    [found] = damage(root)
    assert is_about(found, path)
    return found.text


# What may happen to a file: whether it can happen to this one.
DRAW = random.Random(7)


def flip_a_bit(path: Path) -> bool:
    content = bytearray(path.read_bytes())
    content[DRAW.randrange(len(content))] ^= 1 << DRAW.randrange(8)
    path.write_bytes(content)
    return True


def remove(path: Path) -> bool:
    path.unlink()
    # These can be learnt again, or nobody can tell that they were there.
    return path.name not in ("file-hashes.json", "forgotten.json", "attempt-scenes.json")


def remove_the_checksum(path: Path) -> bool:
    if path.suffix != ".json" or b'\n "checksum"' not in path.read_bytes():
        return False
    write_json(path, {name: value for name, value in json.loads(path.read_bytes()).items() if name != "checksum"})
    return True


def require_found(root: Path, happen: Callable[[Path], bool], files: Iterable[Path]) -> None:
    """Let it happen to each file in turn: every time, the damage is found."""
    for path in files:
        before = path.read_bytes()
        if happen(path):
            assert any(is_about(finding, path) for finding in damage(root)), path
        path.write_bytes(before)


@pytest.mark.parametrize("happen", [flip_a_bit, remove, remove_the_checksum])
def test_whatever_happens_to_any_file_is_found(root: Path, happen: Callable[[Path], bool]) -> None:
    files = catalog_files(root)
    names = "forgotten.json export.json README.md current.json files.json model.bin file-hashes.json report.html"
    assert {path.name for path in files} >= {*names.split(), "catalog.duckdb", "commit.json"}, "there is one of each"
    before = {path: path.read_bytes() for path in files}
    require_found(root, happen, files)
    assert verify(root) == []
    assert {path: path.read_bytes() for path in catalog_files(root)} == before, "it changes no byte"


@pytest.mark.slower
def test_300_flipped_bits_and_100_removed_files_are_found(root: Path) -> None:
    files = catalog_files(root)
    require_found(root, flip_a_bit, DRAW.choices(files, k=300))
    require_found(root, remove, DRAW.choices(files, k=100))


def test_a_lost_or_changed_line_of_a_log_is_found(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = root / "datasets" / "scenes" / "runs.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) >= 3
    cut = [lines[:number] + lines[number + 1 :] for number in range(len(lines))]
    for left in (*cut, [], lines[::-1], [*lines, lines[-1]]):
        path.write_bytes(b"".join(left))
        assert any(is_about(finding, path) for finding in damage(root)), left
    with recorded(path):
        path.write_bytes(b"".join(lines).replace(b'"checksum": ', b'"sum": ', 1))
    assert any(is_about(finding, path) for finding in damage(root))
    path.write_bytes(b"".join(lines[1:]))
    append_run(root, "scenes", snapshot="0123456789ab")
    assert f"{path} is damaged" in caplog.text, "a run that ends later does not hide it"


def test_what_a_writer_is_about_to_record_is_no_damage(root: Path) -> None:
    """A build that is under way takes records away and writes them anew."""
    gone = (root / "catalog.duckdb.json", root / "datasets" / "scenes" / "current.json")
    for path in gone:
        path.unlink()
    with writer_lock(root):
        assert {finding.kind for finding in verify(root)} == {"note"}
    assert len(damage(root)) == len(gone)


def test_commands_that_meet_a_damaged_manifest_say_so(root: Path, told: Any, english_recipe: Any) -> None:
    manifest = require_snapshot(root, "scenes").folder / "manifest.json"
    with flipped(manifest, manifest.stat().st_size // 2):
        with pytest.raises(DamagedError, match=r"restore it from a copy, or remove the folder .* and build again"):
            find_snapshot(root, "scenes", "any", 0)
        with pytest.raises(DamagedError, match=r"manifest\.json is damaged"), LocalExecutor() as executor:
            build_dataset(english_recipe(root), root=root, executor=executor)
        assert any(is_about(finding, manifest) for finding in damage(root))
        for words in (
            "catalog --rebuild",
            "snapshots",
            "prune",
            "diff current previous",
            "train scenes --executor local",
        ):
            assert "manifest.json is damaged" in told([*words.split(), "--root", str(root)], code=1), words


def test_training_on_a_damaged_file_advises_a_copy_before_the_images_are_thrown_away(root: Path, told: Any) -> None:
    card = require_snapshot(root, "scenes").folder / "README.md"
    with flipped(card, 1):
        error = told(["train", "scenes", "--executor", "local", "--root", str(root)], code=1)
    assert f"{card} is damaged: its sha256 differs from the recorded one: restore the file from a copy" in error


def test_damaged_views_are_told_and_written_anew(root: Path, told: Any) -> None:
    path = root / "catalog.duckdb"
    for place in (10, path.stat().st_size // 2):
        with flipped(path, place):
            assert any(is_about(finding, path) for finding in damage(root))
            assert "scenes" in told(["sql", "FROM builds", "--root", str(root)])
            told(["catalog", "--rebuild", "--root", str(root)])
            told(["verify", "--root", str(root)])


def test_what_is_missing_stray_or_unvouched_for_is_told(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = require_snapshot(root, "scenes").folder
    gone = next(folder.glob("captions/*.parquet"))
    gone.unlink()
    (folder / "pairs" / "other.parquet").write_bytes(b"")
    (folder.parent / "fedcba987654" / "pairs").mkdir(parents=True)
    (root / "catalog.duckdb.json").unlink()
    record = root / "datasets" / "scenes" / "runs.jsonl.json"
    record.unlink()
    record.mkdir()
    assert main(["verify", "--root", str(root)]) == 1
    out = capsys.readouterr().out
    for line in (
        rf"damage: {gone} is missing: restore it from a copy",
        r"stray: .*other.parquet is not listed in manifest.json: nothing reads it",
        r".*fedcba987654 has no manifest.json: its build is running, or was killed",
        r".*catalog.duckdb has no catalog.duckdb.json",
        r".*runs.jsonl.json cannot be read: Is a directory",
    ):
        assert re.search(f"^{line}", out, re.MULTILINE), line
    assert out.splitlines()[-1].startswith(f"{root}: 3 damaged (")


@pytest.mark.parametrize("place", ["datasets/scenes", "datasets/scenes/fetch-log", "exports/scenes", "models"])
def test_a_folder_that_cannot_be_read_is_told_once_and_the_others_are_looked_at(
    root: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_folder = Path.iterdir

    def iterdir(folder: Path) -> Iterator[Path]:
        if folder == root / place:
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return list_folder(folder)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert "cannot be read: Permission denied" in only_damage(root, root / place)
    assert len(checks(root)) > 3


@pytest.mark.parametrize("name", ["runs.jsonl.json", "report.html"])
def test_a_read_that_fails_without_naming_its_file_is_told(root: Path, name: str) -> None:
    path = root / "datasets" / "scenes" / name
    path.unlink()
    path.symlink_to("/proc/self/mem")
    found = [finding for finding in damage(root) if "cannot be read: Input/output error" in finding.text]
    assert len(found) == 1


def test_a_model_that_is_not_there_is_told_and_one_without_a_record_as_well(root: Path) -> None:
    model = root / "models" / "scenes" / "0123456789ab"
    current = model.parent / "current.json"
    (model / "files.json").unlink()
    only_damage(root, model / "files.json")
    (model / "result.json").rename(root / "result.json")
    only_damage(root, current)
    current.unlink()  # as while it is being trained
    assert verify(root) == []
    write_checksummed(current, {"model": model.name, "snapshot": "0123456789ab"})
    shutil.rmtree(model)
    assert "names the model 0123456789ab, which does not exist" in only_damage(root, current)


def test_a_distilled_model_needs_neither_a_pointer_nor_a_dataset(root: Path, tmp_path: Path, told: Any) -> None:
    model = tmp_path / "other" / "models" / "german" / "0123456789ab"
    write_json(model / "run.json", {"settings": {"model": "distil small", "distil": {}}})
    write_json(model / "result.json", {})
    record_folder(model, ["run.json", "result.json"])
    assert "sound (3 files checked)" in told(["verify", "--root", str(tmp_path / "other"), "--dataset", "german"])
    assert verify(tmp_path / "other") == []
    shutil.copytree(model.parent, root / "models" / "german")
    assert verify(root) == []
    with flipped(model / "result.json", 1):
        only_damage(tmp_path / "other", model / "result.json")


def test_a_root_whose_first_build_was_killed_is_sound(tmp_path: Path, told: Any) -> None:
    (tmp_path / "datasets" / "scenes" / "fetch-log").mkdir(parents=True)
    assert "sound" in told(["verify", "--root", str(tmp_path)])


def test_tombstones_that_are_lost_are_told_where_a_dataset_was_made_under_some(root: Path) -> None:
    (root / "forgotten.json").unlink()
    assert verify(root) == []
    commit_snapshot(root, {**require_snapshot(root, "scenes").manifest, "tombstones": {"digest": "0" * 64}})
    assert "is missing: restore it from a copy" in only_damage(root, root / "forgotten.json")


def test_a_single_dataset_or_snapshot_can_be_looked_at(root: Path, told: Any) -> None:
    snapshot = require_snapshot(root, "scenes").snapshot

    def code(*more: str) -> int:
        return main(["verify", "--root", str(root), *more])

    with flipped(root / "catalog.duckdb", 100):
        assert (code(), code("--dataset", "scenes"), code("--snapshot", snapshot)) == (1, 0, 0)
    with flipped(root / "datasets" / "scenes" / "runs.jsonl", 100):
        assert (code("--dataset", "scenes"), code("--snapshot", snapshot)) == (1, 0)
    for wrong in (["--dataset", "scene"], ["--snapshot", "0123"], ["--snapshot", "fetch-log"], ["--snapshot", ""]):
        assert "holds no" in told(["verify", "--root", str(root), *wrong], code=1)
