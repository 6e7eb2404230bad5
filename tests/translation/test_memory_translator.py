"""An engine behind a memory, and what the memory saves it."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from data_catalog.errors import TransientError
from translation.memory import MemoryTranslator, TranslationMemory

Shouter = Any  # the stand-in engine of conftest


def test_what_is_remembered_is_never_translated_again(tmp_path: Path, shouter: Shouter) -> None:
    first, second = shouter(), shouter()
    memory = TranslationMemory(tmp_path, shouter.fingerprint)
    captions = ["a", "b", "a", "", "c"]
    done: list[int] = []
    found = MemoryTranslator(first, memory).translate(captions, done.append)
    assert [translation.text for translation in found] == ["A", "B", "A", "", "C"]
    assert first.asked == [["a", "b", "", "c"]]
    assert sum(done) == 5
    again = MemoryTranslator(second, TranslationMemory(tmp_path, shouter.fingerprint))
    assert again.translate([*captions, "d"])[:5] == found
    assert second.asked == [["d"]]


def test_memory_keeps_what_was_done_before_the_engine_failed(tmp_path: Path, shouter: Shouter) -> None:
    memory = TranslationMemory(tmp_path, shouter.fingerprint)
    with_memory = MemoryTranslator(shouter(fails_at="c"), memory)
    with_memory.translate(["a", "b"])
    with pytest.raises(TransientError):
        with_memory.translate(["b", "c"])
    assert memory.missing(["a", "b", "c"]) == ["c"]


def test_the_memory_is_looked_into_once(tmp_path: Path, shouter: Shouter) -> None:
    looked: list[set[str]] = []

    class Watched(TranslationMemory):
        def _look_up(self, captions: Iterable[str], columns: str = "") -> Iterator[tuple[Any, ...]]:
            looked.append(set(captions))
            return super()._look_up(looked[-1], *([columns] if columns else []))

    with_memory = MemoryTranslator(shouter(), Watched(tmp_path, shouter.fingerprint))
    for captions in (["a", "b"], ["a", "b", "c"]):
        assert [found.text for found in with_memory.translate(captions)] == [caption.upper() for caption in captions]
    assert looked == [{"a", "b"}, {"a", "b", "c"}]


def test_a_paid_engine_loses_no_more_than_a_chunk(tmp_path: Path, shouter: Shouter) -> None:
    engine = shouter(fails_at="c")
    engine.max_chunk_size = 2
    memory = TranslationMemory(tmp_path, shouter.fingerprint)
    with pytest.raises(TransientError):
        MemoryTranslator(engine, memory).translate(["a", "b", "c"])
    assert memory.missing(["a", "b", "c"]) == ["c"]
