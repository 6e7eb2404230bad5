"""Engines that answer captions with texts: DeepL, OpenAI's protocol, a program.

They share one protocol, `TextEngine`, and one wrapper, which sends each caption once and checks each answer.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from threading import Lock
from typing import Protocol

from data_catalog.base.errors import InputError, TransientError
from translation.engine import STREAM_WINDOW, Translation


class TextEngine(Protocol):
    """An engine that returns texts without scores."""

    fingerprint: str  # names everything that decides the translations, see `Translator.fingerprint`
    max_chunk_size: int | None  # the most captions of a call, and so the most that a crash can lose

    def translate(self, captions: list[str]) -> Iterable[str]:
        """Return one text per caption, "" for none, in the same order; captions are distinct and never blank."""


class CheckedTranslator:
    """A `translation.engine.Translator` over a `TextEngine`.

    Blank captions are not sent, and equal ones once. Answers that were received before a `TransientError` are kept for
    the next call, which sends the others. `name` is the engine's in errors.
    """

    def __init__(self, engine: TextEngine, from_code: str, to_code: str, *, name: str) -> None:
        self.engine, self.from_code, self.to_code = engine, from_code, to_code
        self.fingerprint, self.max_chunk_size = engine.fingerprint, engine.max_chunk_size
        self._name, self._size = name, engine.max_chunk_size or STREAM_WINDOW
        self._held: dict[str, Translation] = {}
        self._lock = Lock()

    def translate(self, captions: Sequence[str], on_done: Callable[[int], object] | None = None) -> list[Translation]:
        """Return one translation per caption; see `Translator.translate`."""
        with self._lock:  # threads of a Dask worker share the engine
            return self._translate(captions, on_done)

    def _translate(self, captions: Sequence[str], on_done: Callable[[int], object] | None) -> list[Translation]:
        report, counts = on_done or (lambda _: None), Counter(captions)
        asked = [caption for caption in counts if caption.strip() and caption not in self._held]
        report(len(captions) - sum(counts[caption] for caption in asked))
        if asked and hasattr(self.engine, "require"):
            self.engine.require(asked)  # of what is paid for, before anything is sent
        try:
            for start in range(0, len(asked), self._size):
                part = asked[start : start + self._size]
                for caption, text in zip(part, self.engine.translate(part), strict=True):
                    self._require_text(text, caption)
                    self._held[caption] = Translation(text=text)
                    report(counts[caption])
        except TransientError:
            raise
        except BaseException:  # Ctrl-C included: what came before may be wrong as well
            self._held = {}
            raise
        found, self._held = self._held, {}
        return [found[caption] if caption.strip() else Translation(text="") for caption in captions]

    def _require_text(self, text: str, caption: str) -> None:
        """Refuse a text that files and databases cannot store."""
        problem = "a NUL character" if "\0" in text else "half of a surrogate pair"
        if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
            raise InputError(f"{self._name} returned {problem} in the translation of {caption!r:.60}")
