"""Recorded translations."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_catalog.errors import DamagedError, DiskError, TransientError
from data_catalog.storage.integrity import is_recorded
from translation import memory as memory_module
from translation.engine import Translation
from translation.memory import TranslationMemory, memories

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
# Few texts, so that captions meet again; "plumless" and "buckeroo" have the same short hash.
CAPTION = st.sampled_from(["plumless", "buckeroo", "", "\0", "a\0b", "a", "A", "é", "e\u0301"]) | TEXT
SCORE = st.none() | st.floats(max_value=0, allow_nan=False)
TRANSLATION = st.builds(Translation, text=TEXT, score=SCORE, truncated=st.booleans(), repetitive=st.booleans())


def said(text: str, score: float | None = -0.5) -> Translation:
    return Translation(text=text, score=score)


def test_what_was_recorded_is_known_to_the_next(tmp_path: Path) -> None:
    first = TranslationMemory(tmp_path, "argos:en-it:abc")
    loop = Translation(text="un un un", score=-2.0, truncated=True, repetitive=True)
    first.record(["a dog", "one", ""], [said("un cane"), loop, said("", None)])
    for memory in (first, TranslationMemory(tmp_path, "argos:en-it:abc")):
        assert memory.known(["one", "a dog", "a cat", "a dog", ""]) == {
            "one": loop,
            "a dog": said("un cane"),
            "": said("", None),
        }
        assert memory.missing(["a cat", "a dog", "b", "a cat"]) == ["a cat", "b"]
        assert memory.count() == 3
        assert list(memory.rows()) == [("", said("", None)), ("a dog", said("un cane")), ("one", loop)]
    assert first.path == tmp_path / "argos-en-it-abc.sqlite"
    assert first.path.stat().st_size == first.num_bytes() > 0


@pytest.mark.parametrize("folder", ["taken", "taken/memory", "taken/deep/memory"])
def test_a_file_in_the_folder_s_place_is_refused_before_anything_is_translated(tmp_path: Path, folder: str) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(DiskError, match=r"cannot be the folder of the translation memories, because .*taken is a file"):
        TranslationMemory(tmp_path / folder, "x")


def test_a_file_that_takes_the_folder_s_place_later_is_named(tmp_path: Path) -> None:
    memory = TranslationMemory(tmp_path / "taken", "x")
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(DiskError, match=r"taken cannot be the folder of the translation memories: File exists"):
        memory.record(["a"], [said("b")])


def test_a_memory_of_nothing_is_no_file(tmp_path: Path) -> None:
    memory = TranslationMemory(tmp_path / "memory", "x")
    memory.record([], [])
    assert memory.known(["a"]) == {}
    assert memory.missing(["b", "a", "b"]) == ["b", "a"]
    assert (memory.count(), memory.num_bytes(), list(memory.rows())) == (0, 0, [])
    assert not (tmp_path / "memory").exists()


def test_engines_do_not_share_translations(tmp_path: Path) -> None:
    for fingerprint in ("argos:en-it:b", "argos:en-it:a"):
        TranslationMemory(tmp_path, fingerprint).record(["a dog"], [said(fingerprint)])
    assert TranslationMemory(tmp_path, "argos:en-it:c").missing(["a dog"]) == ["a dog"]
    assert [(memory.fingerprint, memory.known(["a dog"])["a dog"].text) for memory in memories(tmp_path)] == [
        ("argos:en-it:a", "argos:en-it:a"),
        ("argos:en-it:b", "argos:en-it:b"),
    ]


def test_engines_whose_files_have_one_name_are_told_apart(tmp_path: Path) -> None:
    TranslationMemory(tmp_path, "a:b").record(["c"], [said("d")])
    with pytest.raises(DamagedError, match=r"a-b\.sqlite contains the translations of a:b, not of a/b: move it away"):
        TranslationMemory(tmp_path, "a/b")


def test_the_first_translation_holds(tmp_path: Path) -> None:
    memory = TranslationMemory(tmp_path, "x")
    memory.record(["a", "b", "a"], [said("1"), said("2"), said("other")])
    before = memory.path.read_bytes()
    memory.record(["a", "b"], [said("other"), said("other")])
    assert memory.path.read_bytes() == before
    memory.record(["b", "c"], [said("other"), said("3")])
    for reader in (memory, TranslationMemory(tmp_path, "x")):
        assert {name: found.text for name, found in reader.known("abc").items()} == {"a": "1", "b": "2", "c": "3"}


def test_captions_of_one_hash_are_told_apart(tmp_path: Path) -> None:
    memory = TranslationMemory(tmp_path, "x")
    memory.record(["plumless"], [said("1")])
    assert memory.missing(["buckeroo", "plumless"]) == ["buckeroo"]
    memory.record(["buckeroo"], [said("2")])
    assert memory.known(["buckeroo", "plumless"]) == {"plumless": said("1"), "buckeroo": said("2")}


def test_what_is_forgotten_leaves_no_byte_and_everything_else_stays(tmp_path: Path) -> None:
    memory = TranslationMemory(tmp_path, "x")
    captions = ["plumless", "buckeroo", *(f"caption {number} of many" for number in range(3000))]
    memory.record(captions, [said(f"didascalia {number}") for number in range(len(captions))])
    memory.seal()
    gone = [captions[0], *captions[10:1500], "never recorded"]
    assert memory.forget(gone) == len(gone) - 1
    assert memory.forget(gone) == 0
    left = [caption for caption in captions if caption not in set(gone)]
    assert sorted(memory.known(captions)) == sorted(left)
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert not [caption for caption in gone if f"{caption}didascalia".encode() in content]
    assert f"{left[-1]}didascalia".encode() in content
    assert is_recorded(memory.path), "it was sealed, and is so again"
    memory.require_whole()


def test_what_is_forgotten_is_not_left_to_a_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "BUSY_TIMEOUT_S", 0.05)
    memory = TranslationMemory(tmp_path, "x")
    memory.record(["a", "b"], [said("1"), said("2")])
    with closing(sqlite3.connect(memory.path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM translations").fetchall()
        with pytest.raises(TransientError, match="another process is reading"):
            memory.forget(["a"])


def test_lists_of_different_length_are_a_mistake(tmp_path: Path) -> None:
    memory = TranslationMemory(tmp_path, "x")
    with pytest.raises(ValueError, match="shorter"):
        memory.record(["a", "b"], [said("1")])
    assert memory.missing(["a"]) == ["a"]


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    memory = TranslationMemory(tmp_path, "x")
    with pytest.raises(UnicodeEncodeError, match="surrogates not allowed"):
        memory.record(["a", "\ud800"], [said("1"), said("2")])
    with pytest.raises(UnicodeEncodeError, match="surrogates not allowed"):
        memory.record(["a", "b"], [said("1"), said("\ud800")])
    assert memory.missing(["a", "b"]) == ["a", "b"], "all of a chunk, or nothing"


@settings(deadline=None, max_examples=40)
@given(
    chunks=st.lists(st.lists(st.tuples(CAPTION, TRANSLATION)), max_size=4),
    asked=st.lists(CAPTION),
)
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
    assert list(TranslationMemory(folder, "x").rows()) == sorted(model.items())
    assert memory.count() == len(model)


def test_many_captions_are_looked_up_in_order(tmp_path: Path) -> None:
    memory = TranslationMemory(tmp_path, "x")
    captions = [f"caption {number}" for number in range(5_003)]
    random.Random(1).shuffle(captions)
    memory.record(captions[::2], [said(caption.upper()) for caption in captions[::2]])
    assert memory.missing(captions) == captions[1::2]
    assert {name: found.text for name, found in memory.known(captions).items()} == {
        name: name.upper() for name in captions[::2]
    }


def test_threads_share_a_memory(tmp_path: Path) -> None:
    memory = TranslationMemory(tmp_path, "x")
    problems: list[str] = []

    def work(name: str) -> None:
        for chunk in range(5):
            captions = [f"{name} {chunk} {number}" for number in range(50)]
            memory.record(captions, [said(caption.upper()) for caption in captions])
            if {found.text for found in memory.known(captions).values()} != {name.upper() for name in captions}:
                problems.append(f"{name} {chunk}")

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert memory.count() == 4 * 5 * 50


def test_a_reader_neither_waits_for_the_writer_nor_sees_half_of_a_chunk(tmp_path: Path) -> None:
    memory = TranslationMemory(tmp_path, "x")
    memory.record(["a", "b"], [said("1"), said("2")])
    slow = memory.rows()
    assert next(slow) == ("a", said("1"))
    with closing(sqlite3.connect(memory.path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM translations")
        assert memory.missing(["a", "b"]) == []
        writer.execute("COMMIT")
    assert list(slow) == [("b", said("2"))]
    assert memory.count() == 0


def test_a_locked_file_may_be_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "BUSY_TIMEOUT_S", 0.01)
    memory = TranslationMemory(tmp_path, "x")
    memory.record(["a"], [said("1")])
    with closing(sqlite3.connect(memory.path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        with pytest.raises(TransientError, match=r"x\.sqlite is locked by another process"):
            memory.record(["b"], [said("2")])
    memory.record(["b"], [said("2")])
    assert memory.count() == 2


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: 3 * 4096])


def overwrite_pages(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\x5a" * (len(content) - 4096))


def overwrite_header(path: Path) -> None:
    path.write_bytes(b"PAR1" * 1024 + path.read_bytes()[4096:])


def overwrite_a_letter(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"Caption 7 ", b"Caption \xff "))


@pytest.mark.parametrize("damage", [shorten, overwrite_pages, overwrite_header, overwrite_a_letter])
def test_damage_is_named(damage: Any, tmp_path: Path) -> None:
    captions = [f"caption {number} " for number in range(2_000)]
    memory = TranslationMemory(tmp_path, "x")
    memory.record(captions, [said(caption.title()) for caption in captions])
    damage(memory.path)
    with pytest.raises(DamagedError, match=r"x\.sqlite is damaged \(.*\)\. Remove it, and its captions are translated"):
        TranslationMemory(tmp_path, "x").known(captions)


def test_a_damaged_header_is_found_before_work_starts(tmp_path: Path) -> None:
    (tmp_path / "x.sqlite").write_text("something else, longer than the header of a file of SQLite's" * 9)
    with pytest.raises(DamagedError, match="is damaged"):
        TranslationMemory(tmp_path, "x")
    with pytest.raises(DamagedError, match="is damaged"):
        memories(tmp_path)


def test_other_databases_are_left_alone(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "x.sqlite")) as other:
        other.execute("CREATE TABLE t (a)")
    with pytest.raises(DamagedError, match="is not a translation memory of format 1: move it away"):
        TranslationMemory(tmp_path, "x")


def test_a_folder_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.sqlite").mkdir()
    with pytest.raises(DiskError, match=r"x\.sqlite cannot be read or written: unable to open"):
        TranslationMemory(tmp_path, "x")


def test_a_full_disk_is_named_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = TranslationMemory(tmp_path, "x")
    memory.record(["a"], [said("1")])
    connect = sqlite3.connect

    def connect_to_a_full_disk(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.execute("PRAGMA max_page_count = 10")
        return connection

    captions = [f"caption {number}" for number in range(5_000)]
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", connect_to_a_full_disk)
        with pytest.raises(DiskError, match=r"the disk that holds .* is full: free space and run the same command"):
            memory.record(captions, [said("2")] * len(captions))
    assert list(TranslationMemory(tmp_path, "x").rows()) == [("a", said("1"))]


WRITER = """
import sys
from pathlib import Path
from translation.engine import Translation
from translation.memory import TranslationMemory

memory = TranslationMemory(Path(sys.argv[1]), "x")
first = memory.count() // 300
print("ready", flush=True)
for chunk in range(first, 10_000):
    captions = [f"{chunk} {number}" for number in range(300)]
    memory.record(captions, [Translation(text=name.upper(), score=-1.0) for name in captions])
"""


def test_a_killed_writer_leaves_whole_chunks(tmp_path: Path) -> None:
    memory = TranslationMemory(tmp_path, "x")
    found = 0
    for seed in range(8):
        child = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        time.sleep(random.Random(seed).uniform(0.0, 0.15))
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
        rows = {caption: translation.text for caption, translation in memory.rows()}
        assert len(rows) % 300 == 0
        assert len(rows) >= found, "what was recorded stays"
        found = len(rows)
        assert rows == {f"{c} {n}": f"{c} {n}" for c in range(found // 300) for n in range(300)}
    assert found > 0
