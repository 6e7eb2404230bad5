"""Recorded translations."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_catalog.errors import ConfigError
from translation.engine import Translation
from translation.memory import MEMORY, TranslationMemory

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


def said(text: str, score: float = -0.5) -> Translation:
    return Translation(text=text, score=score)


def test_what_was_recorded_is_known_to_the_next(tmp_path: Path) -> None:
    first = TranslationMemory(tmp_path, "argos:en-it:abc")
    loop = Translation(text="un un un", score=-2.0, truncated=True, repetitive=True)
    first.record("00000", ["a dog", "one", ""], [said("un cane"), loop, said("", 0.0)])
    for memory in (first, TranslationMemory(tmp_path, "argos:en-it:abc")):
        assert memory.known(["one", "a dog", "a cat", "a dog", ""]) == {
            "one": loop,
            "a dog": said("un cane"),
            "": said("", 0.0),
        }
        assert memory.missing(["a cat", "a dog", "b", "a cat"]) == ["a cat", "b"]
    assert TranslationMemory(tmp_path, "argos:en-it:def").missing(["a dog"]) == ["a dog"]


def test_the_first_translation_holds(tmp_path: Path) -> None:
    memory = TranslationMemory(tmp_path, "x")
    memory.record("00001", ["a", "b"], [said("1"), said("2")])
    files = {file: file.read_bytes() for file in memory.folder.iterdir()}
    memory.record("00001", ["a", "b"], [said("other"), said("other")])
    assert {file: file.read_bytes() for file in memory.folder.iterdir()} == files
    memory.record("00000", ["b", "c"], [said("other"), said("3")])
    for reader in (memory, TranslationMemory(tmp_path, "x")):
        assert {name: found.text for name, found in reader.known("abc").items()} == {"a": "1", "b": "2", "c": "3"}


def test_lists_of_different_length_are_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shorter"):
        TranslationMemory(tmp_path, "x").record("0", ["a", "b"], [said("1")])


def test_files_are_byte_stable(tmp_path: Path) -> None:
    for name in ("one", "two"):
        TranslationMemory(tmp_path / name, "x").record("0", ["a", "è"], [said("1"), said("2")])
    first, second = (next((tmp_path / name).rglob("*.parquet")) for name in ("one", "two"))
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()


def test_damage_is_named(tmp_path: Path) -> None:
    memory = TranslationMemory(tmp_path, "x")
    memory.record("0", ["a"], [said("1")])
    file = next(memory.folder.iterdir())
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ConfigError, match=r"0-.*\.parquet is damaged .*: remove it"):
        TranslationMemory(tmp_path, "x").known(["a"])


@settings(deadline=None, max_examples=30)
@given(chunks=st.lists(st.lists(TEXT, unique=True), max_size=5))
def test_memory_is_a_map_that_keeps_first_entries(
    chunks: list[list[str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("memory")
    memory, expected = TranslationMemory(folder, "x"), {}
    for index, chunk in enumerate(chunks):
        found = [said(f"{index} {caption}") for caption in chunk]
        memory.record(f"{index:05}", chunk, found)
        expected = dict(zip(chunk, found, strict=True)) | expected
    everything = [caption for chunk in chunks for caption in chunk]
    assert memory.known(everything) == TranslationMemory(folder, "x").known(everything) == expected
    assert memory.missing(everything) == []


WRITER = """
import sys
from pathlib import Path
from translation.engine import Translation
from translation.memory import TranslationMemory

memory = TranslationMemory(Path(sys.argv[1]), "x")
print("ready", flush=True)
for chunk in range(10_000):
    captions = [f"{chunk} {number}" for number in range(300)]
    memory.record(f"{chunk:05}", captions, [Translation(text=name.upper(), score=-1.0) for name in captions])
"""


def test_a_killed_writer_leaves_whole_chunks(tmp_path: Path) -> None:
    for wait_s in (0.05, 0.21, 0.37):
        child = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        time.sleep(wait_s)
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
        memory = TranslationMemory(tmp_path, "x")
        files = sorted(memory.folder.glob("*.parquet"))
        assert all(pq.read_table(file, schema=MEMORY).num_rows == 300 for file in files)
        captions = [f"{chunk} {number}" for chunk in range(len(files)) for number in range(300)]
        assert {name: found.text for name, found in memory.known(captions).items()} == {
            name: name.upper() for name in captions
        }
