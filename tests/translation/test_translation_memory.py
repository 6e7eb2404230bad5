"""Recorded translations: kept once, forgotten without a trace, and whole after a kill."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_catalog.base.errors import DamagedError, DiskError, TransientError
from data_catalog.disk.records import is_recorded, record_problem
from translation import memory as memory_module
from translation.engine import Translation
from translation.memory import MemoryTranslator, TranslationMemory, memories

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
# Few texts, so that captions meet again; "plumless" and "buckeroo" have the same short hash.
CAPTION = TEXT | st.sampled_from(["plumless", "buckeroo", "", "\0", "a\0b", "a", "A", "é", "e\u0301", "\uffee", "😀"])
SCORE = st.none() | st.floats(max_value=0, allow_nan=False, allow_infinity=False)
TRANSLATION = st.builds(Translation, text=TEXT, score=SCORE, truncated=st.booleans(), repetitive=st.booleans())


def said(text: str, score: float = -0.5) -> Translation:
    return Translation(text=text, score=score)


def texts_of(memory: TranslationMemory) -> dict[str, str]:
    """All that the file holds; nothing if it is not there."""
    if not memory.path.exists():
        return {}
    with closing(sqlite3.connect(memory.path)) as connection:
        rows = connection.execute("SELECT source_caption, caption FROM translations").fetchall()
    assert len(dict(rows)) == len(rows), "no caption twice"
    return dict(rows)


@pytest.fixture
def memory(tmp_path: Path) -> TranslationMemory:
    return TranslationMemory(tmp_path, "x")


def test_a_memory_of_nothing_is_no_file(tmp_path: Path) -> None:
    memory = TranslationMemory(tmp_path / "memory", "x")
    memory.record([], [])
    memory.seal()
    assert memory.missing(["b", "a", "b"]) == ["b", "a"]
    assert not (tmp_path / "memory").exists()


# What version 0.1 wrote. "plumless" and "buckeroo" have the same short hash.
EARLIER = """
    PRAGMA journal_mode = WAL;
    CREATE TABLE meta (fingerprint TEXT NOT NULL);
    CREATE TABLE translations (
        id INTEGER PRIMARY KEY,
        caption_hash INTEGER NOT NULL,
        source_caption TEXT NOT NULL,
        caption TEXT NOT NULL,
        score REAL,
        truncated INTEGER NOT NULL,
        repetitive INTEGER NOT NULL
    );
    CREATE INDEX translations_by_hash ON translations (caption_hash);
    PRAGMA user_version = 1;
    INSERT INTO meta VALUES ('argos:en-it:1f3a5c7d9b0e');
    INSERT INTO translations VALUES
        (1, 1306201125, 'plumless', 'senza prugne', -0.25, 0, 1), (2, 1306201125, 'buckeroo', 'cowboy', NULL, 1, 0);
"""


def test_a_memory_of_an_earlier_version_serves(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "argos-en-it-1f3a5c7d9b0e.sqlite")) as connection:
        connection.executescript(EARLIER)
    (memory,) = memories(tmp_path)
    earlier = {
        "buckeroo": Translation(text="cowboy", truncated=True),
        "plumless": Translation(text="senza prugne", score=-0.25, repetitive=True),
    }
    assert memory.known(["plumless", "a", "buckeroo"]) == earlier
    memory.record(["plumless", "a"], [said("altro"), said("un")])
    assert memory.known(["plumless", "a", "buckeroo"]) == earlier | {"a": said("un")}


def test_engines_do_not_share_translations(tmp_path: Path) -> None:
    for fingerprint in ("argos:en-it:b", "argos:en-it:a"):
        TranslationMemory(tmp_path, fingerprint).record(["a dog"], [said(fingerprint)])
    assert TranslationMemory(tmp_path, "argos:en-it:c").missing(["a dog"]) == ["a dog"]
    found = [(memory.fingerprint, memory.known(["a dog"])["a dog"].text) for memory in memories(tmp_path)]
    assert found == [("argos:en-it:a", "argos:en-it:a"), ("argos:en-it:b", "argos:en-it:b")]
    with pytest.raises(DamagedError, match="not of argos/en-it:a"):  # whose file has the same name
        TranslationMemory(tmp_path, "argos/en-it:a")


@given(chunks=st.lists(st.lists(st.tuples(CAPTION, TRANSLATION)), max_size=4), asked=st.lists(CAPTION))
def test_memory_is_a_map_that_keeps_first_entries(
    chunks: list[list[tuple[str, Translation]]], asked: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("memory")
    memory, model = TranslationMemory(folder, "x"), dict[str, Translation]()
    for chunk in chunks:
        memory.record([caption for caption, _ in chunk], [found for _, found in chunk])
        for caption, found in chunk:
            model.setdefault(caption, found)
        everything = [*asked, *model]
        assert memory.known(asked) == {caption: model[caption] for caption in asked if caption in model}
        assert memory.missing(everything) == [name for name in dict.fromkeys(everything) if name not in model]
    assert texts_of(TranslationMemory(folder, "x")) == {caption: found.text for caption, found in model.items()}


def test_what_is_forgotten_leaves_no_byte_and_everything_else_stays(memory: TranslationMemory) -> None:
    captions = ["plumless", "buckeroo", *(f"caption {number} of many" for number in range(3000))]
    memory.record(captions, [said(f"didascalia {number}") for number in range(len(captions))])
    memory.seal()
    gone = [captions[0], *captions[10:1500], "never recorded"]
    assert memory.forget(gone) == len(gone) - 1
    assert memory.forget(gone) == 0
    left = [caption for caption in captions if caption not in set(gone)]
    assert sorted(memory.known(captions)) == sorted(left)
    assert memory.missing(captions) == gone[:-1], "however many are looked up, in their order"
    content = b"".join(path.read_bytes() for path in memory.path.parent.iterdir())
    assert not [caption for caption in gone if f"{caption}didascalia".encode() in content]
    assert f"{left[-1]}didascalia".encode() in content
    assert is_recorded(memory.path), "it was sealed, and is so again"
    memory.require_whole()


@pytest.mark.parametrize("act", ["record", "forget"])
def test_a_file_in_use_may_be_tried_again(act: str, memory: TranslationMemory, monkeypatch: Any) -> None:
    monkeypatch.setattr(memory_module, "BUSY_TIMEOUT_S", 0.01)
    memory.record(["a"], [said("1")])
    given = {"record": (["b"], [said("2")]), "forget": (["a"],)}[act]
    with closing(sqlite3.connect(memory.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE" if act == "record" else "BEGIN")
        other.execute("SELECT count(*) FROM translations").fetchall()
        with pytest.raises(TransientError, match="locked" if act == "record" else "another process is reading"):
            getattr(memory, act)(*given)
    getattr(memory, act)(*given)


def test_damage_is_named(memory: TranslationMemory) -> None:
    captions = [f"caption {number} " for number in range(2_000)]
    memory.record(captions, [said(caption.title()) for caption in captions])
    whole = memory.path.read_bytes()
    torn = [whole[: 3 * 4096], whole[:4096] + b"\x5a" * (len(whole) - 4096), b"PAR1" * 1024 + whole[4096:]]
    for damaged in (*torn, whole.replace(b"Caption 7 ", b"Caption \xff ")):
        memory.path.write_bytes(damaged)
        with pytest.raises(DamagedError, match=r"x\.sqlite is damaged"):
            TranslationMemory(memory.path.parent, "x").known(captions)


def test_what_is_no_memory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(DiskError, match="taken/memory cannot be the folder"):
        TranslationMemory(tmp_path / "taken" / "memory", "x").record(["a"], [said("1")])
    with closing(sqlite3.connect(tmp_path / "x.sqlite")) as other:
        other.execute("CREATE TABLE t (a)")
    with pytest.raises(DamagedError, match="not a translation memory"):
        TranslationMemory(tmp_path, "x")


def test_a_full_disk_is_named_and_loses_nothing(memory: TranslationMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.record(["a"], [said("1")])
    connect = sqlite3.connect

    def connect_to_a_full_disk(*arguments: Any, **options: Any) -> sqlite3.Connection:
        (connection := connect(*arguments, **options)).execute("PRAGMA max_page_count = 10")
        return connection

    monkeypatch.setattr(sqlite3, "connect", connect_to_a_full_disk)
    with pytest.raises(DiskError, match="is full"):
        memory.record([f"caption {number}" for number in range(5_000)], [said("2")] * 5_000)
    assert texts_of(TranslationMemory(memory.path.parent, "x")) == {"a": "1"}


def test_a_seal_tells_of_any_changed_byte_and_writing_takes_it_away(memory: TranslationMemory) -> None:
    memory.record([f"a dog {number}" for number in range(300)], [said("un cane")] * 300)
    assert not is_recorded(memory.path)
    memory.seal()
    assert record_problem(memory.path) is None
    assert memory.missing(["a dog 7", "a cat"]) == ["a cat"]
    assert TranslationMemory(memory.path.parent, "x").known(["a dog 7"])
    assert is_recorded(memory.path)
    memory.record(["a cat"], [said("un gatto")])
    assert not is_recorded(memory.path)
    memory.require_whole()
    memory.seal()
    assert record_problem(memory.path) is None
    memory.path.write_bytes(memory.path.read_bytes().replace(b"un cane", b"un bane", 1))
    memory.known(["a dog 7"])  # SQLite sees nothing
    with pytest.raises(DamagedError, match=r"x\.sqlite is damaged"):
        memory.require_whole()


def test_what_is_remembered_is_never_translated_again(memory: TranslationMemory, shouter: Any) -> None:
    first, second, done = shouter(fails_at="d", max_chunk_size=3), shouter(), list[int]()
    captions = ["a", "b", "a", "", "c", "d"]
    with pytest.raises(TransientError):
        MemoryTranslator(first, memory).translate(captions)
    assert first.asked == [["a", "b", ""]], "a paid engine loses no more than a chunk"
    found = MemoryTranslator(second, memory).translate(captions, done.append)
    assert [translation.text for translation in found] == ["A", "B", "A", "", "C", "D"]
    assert second.asked == [["c", "d"]]
    assert sum(done) == 6


WRITER = """
import sys
from pathlib import Path
from translation.engine import Translation
from translation.memory import TranslationMemory

memory = TranslationMemory(Path(sys.argv[1]), "x")
for chunk in range(int(sys.argv[2]), 10_000):
    captions = [f"{chunk} {number}" for number in range(300)]
    memory.record(captions, [Translation(text=name.upper(), score=-1.0) for name in captions])
    print(chunk, flush=True)
"""


@pytest.mark.parametrize("num_kills", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_a_killed_writer_leaves_whole_chunks(num_kills: int, memory: TranslationMemory) -> None:
    for seed in range(num_kills):
        start = len(texts_of(memory)) // 300
        words = [sys.executable, "-c", WRITER, str(memory.path.parent), str(start)]
        child = subprocess.Popen(words, stdout=subprocess.PIPE)
        assert child.stdout is not None
        told = [int(child.stdout.readline()) for _ in range(2)]
        time.sleep(random.Random(seed).uniform(0, 0.02))
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
        rows = texts_of(memory)
        assert len(rows) >= 300 * (told[-1] + 1), "what was recorded stays"
        assert rows == {f"{c} {n}": f"{c} {n}" for c in range(len(rows) // 300) for n in range(300)}
