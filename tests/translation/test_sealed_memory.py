"""The sha256 beside a translation memory, by which damage shows."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from data_catalog.errors import DamagedError
from data_catalog.storage.integrity import is_recorded, record_problem
from translation.engine import Translation
from translation.memory import TranslationMemory


@pytest.fixture
def memory(tmp_path: Path) -> TranslationMemory:
    memory = TranslationMemory(tmp_path, "x")
    memory.record([f"a dog {number}" for number in range(300)], [Translation(text="un cane")] * 300)
    return memory


def test_reading_does_not_break_a_seal_and_writing_takes_it_away(memory: TranslationMemory) -> None:
    assert not is_recorded(memory.path)
    memory.seal()
    assert record_problem(memory.path) is None
    assert memory.count() == 300
    assert memory.missing(["a dog 7", "a cat"]) == ["a cat"]
    assert TranslationMemory(memory.path.parent, "x").known(["a dog 7"])
    assert is_recorded(memory.path)
    memory.require_whole()
    memory.record(["a cat"], [Translation(text="un gatto")])
    assert not is_recorded(memory.path)
    memory.require_whole()
    memory.seal()
    assert is_recorded(memory.path)
    assert record_problem(memory.path) is None


def test_damage_that_sqlite_does_not_see_is_seen(memory: TranslationMemory) -> None:
    memory.seal()
    content = memory.path.read_bytes()
    place = content.index(b"un cane")
    memory.path.write_bytes(content[:place] + b"un bane" + content[place + 7 :])
    with closing(sqlite3.connect(memory.path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    with pytest.raises(DamagedError, match=r"x\.sqlite is damaged .*: remove it, and its captions are translated"):
        memory.require_whole()


def test_what_lies_in_a_log_is_not_sealed(memory: TranslationMemory) -> None:
    with closing(sqlite3.connect(memory.path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM translations").fetchone()
        memory.record(["a cat"], [Translation(text="un gatto")])
        memory.seal()
        assert not is_recorded(memory.path)
    memory.seal()
    assert is_recorded(memory.path)


def test_nothing_is_sealed_where_nothing_is_recorded(tmp_path: Path) -> None:
    TranslationMemory(tmp_path, "x").seal()
    assert list(tmp_path.iterdir()) == []
