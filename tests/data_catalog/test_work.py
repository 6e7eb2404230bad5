"""A committed step is never run again; a half-written one is never seen."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from data_catalog.errors import DamagedError
from data_catalog.storage.work import StepKey, WorkStore


def key(**changes: Any) -> StepKey:
    return StepKey(**{"step": "clean", "version": 1, "inputs": ("a", "b"), "settings": {"min_words": 2}, **changes})


def produce(folder: Path) -> Mapping[str, Any]:
    (folder / "x.txt").write_text("content")
    return {"rows": 3}


def refuse(folder: Path) -> Mapping[str, Any]:
    raise AssertionError("must not run again")


def test_a_step_runs_once(tmp_path: Path) -> None:
    made = WorkStore(tmp_path).run(key(), produce)
    again = WorkStore(tmp_path).run(key(), refuse)
    assert (made.reused, again.reused) == (False, True)
    assert again.facts == {"rows": 3}
    assert again.path("x.txt").read_text() == "content"
    assert again.files.keys() == {"x.txt"}
    for changes in ({"version": 2}, {"inputs": ("b", "a")}, {"settings": {"min_words": 3}}, {"step": "check"}):
        assert key(**changes).key != key().key, "whatever changes the output changes the key"


def test_what_a_step_wrote_is_told_with_its_readable_key(tmp_path: Path) -> None:
    work = WorkStore(tmp_path)
    assert list(work.commits("clean")) == []
    versions = {work.run(key(version=version), produce).folder: version for version in (1, 2)}
    (tmp_path / "clean" / ".tmp-abc").mkdir()
    (tmp_path / "clean" / "damaged").mkdir()
    found = [(commit, read["version"], read["settings"]) for commit, read in WorkStore(tmp_path).commits("clean")]
    settings = {"min_words": 2}
    assert [(commit.folder, version, told) for commit, version, told in found] == [
        (folder, version, settings) for folder, version in sorted(versions.items())
    ]
    assert all(commit.reused and commit.files.keys() == {"x.txt"} for commit, _, _ in found)


def test_outputs_of_one_dataset_are_removed_and_a_kill_leaves_no_record_without_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    work, other = WorkStore(tmp_path / "one"), WorkStore(tmp_path / "other")
    for store in (work, other):
        store.run(key(), produce)
    with monkeypatch.context() as patch:
        patch.setattr("data_catalog.storage.work.shutil.rmtree", die)
        with pytest.raises(KeyboardInterrupt):
            work.empty()
    again = WorkStore(tmp_path / "one")
    assert list(again.commits("clean")) == []
    again.sweep()
    assert again.find(key()) is None
    assert list((tmp_path / "one").iterdir()) == []
    again.empty()
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
    assert other.find(key()) is not None


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"files": {', None])
def test_a_damaged_output_is_told_and_made_again(
    tmp_path: Path, damage: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    made = WorkStore(tmp_path).run(key(), produce)
    if damage is None:
        made.path("x.txt").unlink()
    else:
        (made.folder / "commit.json").write_bytes(damage)
    assert WorkStore(tmp_path).find(key()) is None
    assert ("x.txt" if damage is None else "commit.json") in caplog.text
    again = WorkStore(tmp_path).run(key(), produce)
    assert (again.reused, again.facts, again.path("x.txt").read_text()) == (False, {"rows": 3}, "content")
    assert [path.name for path in (tmp_path / "clean").iterdir()] == [key().key]


@pytest.mark.parametrize("damage", ["flip", "gone"])
def test_what_an_earlier_run_wrote_is_looked_at_before_a_step_reads_it(tmp_path: Path, damage: str) -> None:
    made = WorkStore(tmp_path).run(key(), produce)
    work = WorkStore(tmp_path)
    found = work.find(key())
    assert found is not None
    following = key(step="check", inputs=tuple(found.files.values()))
    if damage == "flip":
        made.path("x.txt").write_text("contenu")
    else:
        made.path("x.txt").unlink()
    for _ in range(2):  # whoever else reads it is told as well
        with pytest.raises(DamagedError, match=r"x\.txt was damaged"):
            work.run(following, refuse, reads=[found])
    again = WorkStore(tmp_path)
    again.run(key(), produce)
    assert again.run(following, produce, reads=[found]).reused is False


def test_two_shards_of_equal_content_share_an_output(tmp_path: Path) -> None:
    def produce_after_the_other(folder: Path) -> Mapping[str, Any]:
        WorkStore(tmp_path).run(key(), produce)
        return produce(folder)

    assert WorkStore(tmp_path).run(key(), produce_after_the_other).facts == {"rows": 3}


def test_a_step_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> Mapping[str, Any]:
        produce(folder)
        raise RuntimeError("died")

    with pytest.raises(RuntimeError):
        WorkStore(tmp_path).run(key(), fail)
    assert list((tmp_path / "clean").iterdir()) == []
