"""Translations are translated back, once, and compared with their sources."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sacrebleu

from data_catalog.schema import CAPTIONS, PENDING, REJECTED
from data_catalog.storage.shards import sha256_of
from flows.recipe.recipe import load_recipe
from translation.engine import Translation
from translation.memory import TranslationMemory

BACK = {"due cerchi rossi": "two red circles", "un cane": "a wolf"}
ROWS = [
    {"clean_caption": "two red circles", "caption": "due cerchi rossi", "source_lang": "en"},
    {"clean_caption": "one dog", "caption": "un cane", "source_lang": "en"},
    {"clean_caption": "un cane", "caption": "un cane", "source_lang": "it"},
    {"clean_caption": "a cat", "caption": "", "source_lang": "en", "outcome": REJECTED},
    # Of a translation of upstream's from a third language the way back is another engine's.
    {"clean_caption": "zwei rote Kreise", "caption": "due cerchi rossi", "source_lang": "de"},
]


class Backwards:
    """An engine that knows two captions, and remembers what it was asked."""

    fingerprint, from_code, to_code, max_chunk_size = "words:it-en:1", "it", "en", 1

    def __init__(self) -> None:
        self.asked: list[str] = []

    def translate(self, captions: Sequence[str], on_done: Callable[[int], object] | None = None) -> list[Translation]:
        self.asked.extend(captions)
        if on_done is not None:
            on_done(len(captions))
        return [Translation(text=BACK[caption]) for caption in captions]


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    fixed = {"source": "pairs", "upstream_file": "a", "outcome": PENDING, "target_lang": "it"}
    rows = [
        {"sample_id": f"pairs:{n}", "caption_id": f"pairs:{n}#0", "upstream_line": n, **fixed, **row}
        for n, row in enumerate(ROWS)
    ]
    path = tmp_path / "shard.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=CAPTIONS), path)
    return path


BackAgain = Callable[[str, Backwards], Path]


@pytest.fixture
def back_again(shard: Path, tmp_path: Path, call_step: Any) -> BackAgain:
    """The shard after the step, with one memory for all calls."""

    def through_the_step(work: str, engine: Backwards) -> Path:
        memory = TranslationMemory(tmp_path / "memory", engine.fingerprint)
        tools = SimpleNamespace(reverse=engine, reverse_memory=memory)
        settings = {"engine": engine.fingerprint}
        found: Path = call_step("round-trip", tmp_path / work, {"translate": shard}, settings, tools=tools).only_file
        return found

    return through_the_step


def test_translated_rows_get_their_chrf_and_others_none(back_again: BackAgain) -> None:
    engine = Backwards()
    done = back_again("work", engine)
    wolf = sacrebleu.sentence_chrf("a wolf", ["one dog"]).score
    found = pq.read_table(done).column("round_trip_chrf").to_pylist()
    assert found == pytest.approx([100.0, wolf, None, None, None])
    assert sorted(engine.asked) == ["due cerchi rossi", "un cane"]


def test_nothing_is_translated_back_twice(back_again: BackAgain) -> None:
    first, engine = back_again("work", Backwards()), Backwards()
    second = back_again("other", engine)
    assert (first != second, engine.asked) == (True, [])
    assert sha256_of(second) == sha256_of(first)


def test_a_recipe_names_the_way_back(tmp_path: Path) -> None:
    recipe = load_recipe("scenes", root=tmp_path, overrides=["translate.round_trip=true"])
    assert recipe.translate.round_trip
    assert recipe.translate.reverse_package == ()
