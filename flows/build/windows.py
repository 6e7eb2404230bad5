"""Translate missing captions in fixed windows on other processes; the translation memory keeps one writer.

The windows of a shard have the captions, from the front, that neither the memory nor an earlier window has. Shards plan
their windows one after the other. So windows are the same in every run, also after a kill, and so are the bytes of
translations, whoever translates them and when.
"""

import platform
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from data_catalog.base.errors import InputError
from data_catalog.base.language_pack import LanguagePack
from data_catalog.base.progress import Progress
from translation.config import USED_BY, TranslateConfig
from translation.engine import STREAM_WINDOW, Translation, Translator
from translation.engines.registry import open_translator
from translation.memory import TranslationMemory

Spread = Callable[[Callable[[], list[Translation]]], "Future[list[Translation]]"]

# Engines that this process has opened, by fingerprint.
_opened: dict[str, Translator] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineElsewhere:
    """An engine of a build, to be opened in another process."""

    config: TranslateConfig
    route: Sequence[LanguagePack]
    """Packs of the languages from source to target."""
    cache_dir: Path
    fingerprint: str
    """That of the engine in the flow's process."""

    def translate(self, captions: Sequence[str]) -> list[Translation]:
        """Translate a window, in the process of a worker."""
        engine = _opened.get(self.fingerprint)
        if engine is None:
            config = self.config
            if config.engine in USED_BY["inter_threads"]:
                config = replace(config, inter_threads=1)  # each process of a cluster translates in one thread
            engine = open_translator(config, self.route, cache_dir=self.cache_dir)
            if engine.fingerprint != self.fingerprint:
                raise InputError(
                    f"the worker on {platform.node()} opens the engine {engine.fingerprint}, but the flow has "
                    f"{self.fingerprint}, so translations would differ: give all machines the same packages and models"
                )
            _opened[self.fingerprint] = engine
        return engine.translate(captions)


class Windows:
    """The windows of `size` captions of one engine in a build; several shards may be under way at once.

    `spread` starts a call in another process, and repeats it where a process dies.
    """

    def __init__(
        self, memory: TranslationMemory, engine: EngineElsewhere, spread: Spread, *, size: int = STREAM_WINDOW
    ) -> None:
        self._memory, self._engine, self._spread, self._size = memory, engine, spread, size
        self._pending: dict[str, Future[None]] = {}
        self._planning, self._recording = threading.Lock(), threading.Lock()

    def translate(self, captions: Sequence[str], *, title: str, planned: Callable[[], None]) -> None:
        """Translate and record the captions, some perhaps repeated, that the memory does not have.

        `planned` is called when the windows of a next shard may be planned.
        """
        with self._planning:
            waits = self._plan(captions)
        planned()
        with Progress(title, total=sum(waits.values()), unit="captions") as progress:
            for recorded, num_captions in waits.items():
                recorded.result()
                progress.advance(num_captions)

    def _plan(self, captions: Sequence[str]) -> dict["Future[None]", int]:
        """Start the windows of a shard; return what its captions wait for, each with its number of captions."""
        # Before the memory is asked: what is recorded meanwhile is in one of the two.
        pending = dict(self._pending)
        with self._recording:  # the first record makes the file
            missing = [caption for caption in self._memory.missing(captions) if caption not in pending]
        waits = {pending[caption]: 0 for caption in captions if caption in pending}
        for start in range(0, len(missing), self._size):
            window, recorded = missing[start : start + self._size], Future[None]()
            waits[recorded] = len(window)
            self._pending |= dict.fromkeys(window, recorded)
            started = self._spread(partial(self._engine.translate, window))
            started.add_done_callback(partial(self._record, window, recorded))
        return waits

    def _record(self, window: Sequence[str], recorded: "Future[None]", done: "Future[list[Translation]]") -> None:
        try:
            translations = done.result()
            with self._recording:
                self._memory.record(window, translations)
        except BaseException as error:  # noqa: BLE001  those who wait for the window raise it
            self._forget(window)
            recorded.set_exception(error)
        else:
            self._forget(window)
            recorded.set_result(None)

    def _forget(self, window: Sequence[str]) -> None:
        for caption in window:
            del self._pending[caption]
