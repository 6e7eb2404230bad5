"""`vernaclip mt memory`: what a root remembers, to keep and to hand on."""

import re
from pathlib import Path

import pytest

from data_catalog.storage.lock import writer_lock
from flows.cli import main
from translation.engine import Translation
from translation.memory import TranslationMemory

ENGINE = "argos:en-it:0123456789ab"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    captions = [f"caption {number}" for number in range(1_234)]
    folder = tmp_path / "catalog"
    TranslationMemory(folder / "memory", ENGINE).record(captions, [Translation(text=name.upper()) for name in captions])
    TranslationMemory(folder / "memory", "deepl:en-it").record(["a"], [Translation(text="b")])
    return folder


def test_memories_are_listed(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mt", "memory", "list", "--root", str(root)]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert listed[0].split() == ["fingerprint", "captions", "bytes"]
    assert re.fullmatch(rf"{ENGINE} +1,234 +[\d,]{{6,}}", listed[2])
    assert listed[3].split()[:2] == ["deepl:en-it", "1"]
    (tmp_path / "empty").mkdir()
    assert main(["mt", "memory", "list", "--root", str(tmp_path / "empty")]) == 0
    assert capsys.readouterr().out == f"no translation memories in {tmp_path / 'empty'}\n"


@pytest.mark.parametrize("command", [["list"], ["export", ENGINE, "out.parquet"]])
def test_a_root_that_is_not_there_is_an_error(
    tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["mt", "memory", *command, "--root", str(tmp_path / "nowhere")]) == 1
    assert "nowhere does not exist: give the root of a catalog" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()


def test_a_memory_goes_to_another_root_and_back(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, other = tmp_path / "memory.parquet", tmp_path / "other"
    assert main(["mt", "memory", "export", ENGINE, str(file), "--root", str(root)]) == 0
    assert main(["mt", "memory", "import", str(file), "--root", str(other)]) == 0
    assert main(["mt", "memory", "import", str(file), "--root", str(root)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"wrote 1,234 translations to {file}",
        f"1,234 new translations of {ENGINE}; 0 were already cached; 0 differ from the cached ones, which are kept",
        f"0 new translations of {ENGINE}; 1,234 were already cached; 0 differ from the cached ones, which are kept",
    ]
    again = tmp_path / "again.parquet"
    assert main(["mt", "memory", "export", ENGINE, str(again), "--root", str(other)]) == 0
    assert again.read_bytes() == file.read_bytes()


def test_an_unknown_engine_is_answered_with_those_there(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mt", "memory", "export", "argos:en-de:1", str(root / "out.parquet"), "--root", str(root)]) == 1
    assert (
        f"no translation memory of the engine 'argos:en-de:1'; it has: {ENGINE}, deepl:en-it" in capsys.readouterr().err
    )
    assert not (root / "out.parquet").exists()


def test_an_export_replaces_a_file_only_with_force(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "memory.parquet"
    file.write_text("mine")
    command = ["mt", "memory", "export", ENGINE, str(file), "--root", str(root)]
    assert main(command) == 1
    assert "already exists" in capsys.readouterr().err
    assert file.read_text() == "mine"
    assert main([*command, "--force"]) == 0


def test_importing_what_is_no_memory_makes_no_root(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.parquet").write_text("a,b")
    for name in ("text.parquet", "nowhere.parquet"):
        assert main(["mt", "memory", "import", str(tmp_path / name), "--root", str(tmp_path / "new")]) == 1
        assert f"{name} is missing, damaged or not a Parquet file" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_importing_waits_for_no_other_writer_and_exporting_needs_none(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "memory.parquet"
    with writer_lock(root):
        assert main(["mt", "memory", "export", ENGINE, str(file), "--root", str(root)]) == 0
        assert main(["mt", "memory", "import", str(file), "--root", str(root)]) == 75
    assert "is being written by process" in capsys.readouterr().err
