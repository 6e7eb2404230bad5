"""Windows of captions that other processes translate: the same in every run, whoever translates them and when."""

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest

from data_catalog.base.errors import InputError
from flows.build.windows import EngineElsewhere, Spread, Windows
from flows.recipe.engines import engine_route
from flows.recipe.recipe import load_recipe
from translation.engine import Translation
from translation.engines.registry import open_translator
from translation.memory import TranslationMemory, translate_with_memory

SIZE = 7
# Shards with captions of their own, of earlier shards, and repeats.
SHARDS = [[f"caption {(number * 13 + place) % 150}" for place in range(30)] for number in range(20)]


class Betraying:
    """An engine whose texts tell the window that they were translated in."""

    fingerprint, from_code, to_code, max_chunk_size = "betraying:en-it:000000000000", "en", "it", None

    def translate(self, captions: Sequence[str], on_done: Any = None) -> list[Translation]:
        return [Translation(text=f"{caption} of {len(captions)} from {captions[0]}") for caption in captions]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Translation]:
    """What one process records, shard by shard."""
    memory = TranslationMemory(tmp_path_factory.mktemp("expected"), Betraying.fingerprint)
    for captions in SHARDS:
        translate_with_memory(captions, Betraying(), memory, title="", where="", window=SIZE)
    return memory.known(caption for captions in SHARDS for caption in captions)


@pytest.fixture
def spread() -> Iterator[Callable[..., Spread]]:
    """`spread(fails=3)`: starts calls in threads that take their time, of which the third fails."""
    with ThreadPoolExecutor(8) as pool:

        def start(fails: int = 0) -> Spread:
            numbers = iter(range(1, 10**6))

            def translated(call: Callable[[], list[Translation]], number: int) -> list[Translation]:
                time.sleep(random.Random(number).uniform(0, 0.01))
                if number == fails:
                    raise InputError("the engine is gone")
                return call()

            return lambda call: pool.submit(translated, call, next(numbers))

        yield start


def run(memory: TranslationMemory, spread: Spread, first: int = 0) -> list[Future[None]]:
    """Translate the shards in threads: each begins when the one before it has planned its windows, as in a lane."""
    started: list[Future[list[Translation]]] = []

    def noted(call: Callable[[], list[Translation]]) -> Future[list[Translation]]:
        started.append(spread(call))
        return started[-1]

    windows, ended = Windows(memory, Betraying(), noted, size=SIZE), []  # type: ignore[arg-type]
    with ThreadPoolExecutor(len(SHARDS)) as pool:
        for captions in SHARDS[first:]:
            planned = threading.Event()
            ended.append(pool.submit(windows.translate, captions, title="", planned=planned.set))
            ended[-1].add_done_callback(lambda _, planned=planned: planned.set())
            planned.wait()
    wait(started)
    time.sleep(0.5)  # what they record, too: a memory has one writer: the next run must not meet what this one left
    return ended


def test_windows_are_those_of_one_process_also_after_an_interruption(
    expected: dict[str, Translation], spread: Callable[..., Spread], tmp_path: Path
) -> None:
    captions = list(expected)
    whole = TranslationMemory(tmp_path / "whole", Betraying.fingerprint)
    assert [each.result() for each in run(whole, spread())] == [None] * len(SHARDS)
    assert whole.known(captions) == expected
    for fails in (1, 4, 9):
        cut = TranslationMemory(tmp_path / f"cut-{fails}", Betraying.fingerprint)
        errors = [each.exception() for each in run(cut, spread(fails))]
        assert any(isinstance(error, InputError) for error in errors)
        assert all(each.result() is None for each in run(cut, spread()))
        assert set(cut.known(captions)) == set(captions)


COMMAND = ['translate.engine="command"', 'translate.command=["cat"]', "translate.package=[]"]


@pytest.mark.parametrize("overrides", [[], COMMAND], ids=["argos", "command"])
def test_another_process_opens_the_engine_or_says_which_it_has(overrides: list[str], tmp_path: Path) -> None:
    recipe = load_recipe("scenes", root=tmp_path, overrides=overrides)
    route = engine_route(recipe)
    here = open_translator(recipe.translate, route, cache_dir=tmp_path / "packages")
    elsewhere = {"config": recipe.translate, "route": route, "cache_dir": tmp_path / "packages"}
    captions = ["two red circles", "a blue star above a green square"]
    there = EngineElsewhere(**elsewhere, fingerprint=here.fingerprint)
    assert there.translate(captions) == here.translate(captions)
    other = EngineElsewhere(**elsewhere, fingerprint="other:en-it:000000000000")
    with pytest.raises(InputError, match=f"opens the engine {here.fingerprint}, but the flow has other:en-it:0{{12}}"):
        other.translate(captions)
