"""An engine behind a memory, and what the memory saves it."""

from pathlib import Path
from typing import Any

import pytest

from data_catalog.errors import TransientError
from translation.memory import RememberingTranslator, TranslationMemory

Shouter = Any  # the stand-in engine of conftest


def test_what_is_remembered_is_never_translated_again(tmp_path: Path, shouter: Shouter) -> None:
    first, second = shouter(), shouter()
    memory = TranslationMemory(tmp_path, shouter.fingerprint)
    captions = ["a", "b", "a", "", "c"]
    done: list[int] = []
    found = RememberingTranslator(first, memory).translate(captions, done.append)
    assert [translation.text for translation in found] == ["A", "B", "A", "", "C"]
    assert first.asked == [["a", "b", "", "c"]]
    assert sum(done) == 5
    again = RememberingTranslator(second, TranslationMemory(tmp_path, shouter.fingerprint))
    assert again.translate([*captions, "d"])[:5] == found
    assert second.asked == [["d"]]


def test_memory_keeps_what_was_done_before_the_engine_failed(tmp_path: Path, shouter: Shouter) -> None:
    memory = TranslationMemory(tmp_path, shouter.fingerprint)
    remembering = RememberingTranslator(shouter(fails_at="c"), memory)
    remembering.translate(["a", "b"])
    with pytest.raises(TransientError):
        remembering.translate(["b", "c"])
    assert memory.missing(["a", "b", "c"]) == ["c"]
