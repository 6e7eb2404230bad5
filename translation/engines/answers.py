"""Engines that answer captions with texts: DeepL, OpenAI's protocol, Apertium, a program, and those of packages.

They share one protocol, `TextEngine`, and one wrapper, which sends each caption once and checks each answer.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from numbers import Real
from threading import Lock
from typing import Protocol

from data_catalog.base.errors import InputError, TransientError
from translation.engine import Translation

CAPTIONS_PER_CALL = 500  # for an engine without a limit of its own
_SHOWN = 60

# A text; a text and its score, the mean log-probability of its tokens, at most 0, or None; None for no translation.
Answer = str | tuple[str, float | None] | Translation | None


class TextEngine(Protocol):
    """An engine as the factory of a package returns it; `max_chunk_size` may be missing."""

    @property
    def fingerprint(self) -> str:
        """Return a name of everything that decides the translations: the package's version, a model's hash, settings.

        Translations are cached under it and never requested again. It must not change during the engine's life.
        """

    @property
    def max_chunk_size(self) -> int | None:
        """Return the most captions of a call, and so the most that a crash can lose; None if they cost only time."""

    def translate(self, captions: list[str]) -> Iterable[Answer]:
        """Return one answer per caption, in the same order; captions are distinct and never blank.

        Raises:
            ConnectionError, TimeoutError: the captions are tried again later. Any other error ends the run.
        """


class CheckedTranslator:
    """A `translation.engine.Translator` over a `TextEngine`.

    Blank captions are not sent, and equal ones once, `size` in a call. Answers that were received before a
    `TransientError` are kept for the next call, which sends the others. `name` is the engine's in errors.
    """

    def __init__(
        self, engine: TextEngine, from_code: str, to_code: str, *, name: str, size: int = CAPTIONS_PER_CALL
    ) -> None:
        self.engine, self.from_code, self.to_code = engine, from_code, to_code
        self.fingerprint, self.max_chunk_size = engine.fingerprint, engine.max_chunk_size
        self._name, self._size = name, engine.max_chunk_size or size
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
                self._ask(asked[start : start + self._size], lambda caption: report(counts[caption]))
        except TransientError:
            raise
        except BaseException:  # Ctrl-C included: what came before may be wrong as well
            self._held = {}
            raise
        found, self._held = self._held, {}
        return [found[caption] if caption.strip() else Translation(text="") for caption in captions]

    def _ask(self, captions: list[str], report: Callable[[str], object]) -> None:
        num_answers = 0
        for answer in self.engine.translate(list(captions)):
            if num_answers < len(captions):
                caption = captions[num_answers]
                self._held[caption] = self._checked(answer, caption)
                report(caption)
            num_answers += 1
        if num_answers != len(captions):
            raise InputError(f"{self._name} returned {num_answers:,} translations for {len(captions):,} captions")

    def _checked(self, answer: object, caption: str) -> Translation:
        """Return one answer as a `Translation`; white space of texts becomes single spaces."""
        text, score = answer if isinstance(answer, tuple) and len(answer) == 2 else (answer, None)
        if isinstance(answer, Translation):
            text, score = answer.text, answer.score
        text = "" if answer is None else text
        if not isinstance(text, str):
            raise InputError(
                f"{self._name} returned {shown(answer)} for the caption {shown(caption)}, not a string (and a score)"
            )
        if problem := _problem(text):
            raise InputError(f"{self._name} returned {problem} in the translation of {shown(caption)}")
        number = None if score is None else _number(score)
        if number is not None and not -math.inf < number <= 0:  # false for NaN
            raise InputError(
                f"{self._name} returned the score {shown(score)} for {shown(caption)}, not None or a number up to 0"
            )
        return answer if isinstance(answer, Translation) else Translation(text=" ".join(text.split()), score=number)


def _number(score: object) -> float:
    return math.nan if isinstance(score, bool) or not isinstance(score, Real) else float(score)


def _problem(text: str) -> str | None:
    """Return the reason why a text cannot be stored in files and databases, or None if it can."""
    if "\0" in text:
        return "a NUL character"
    return "half of a surrogate pair" if any("\ud800" <= char <= "\udfff" for char in text) else None


def shown(value: object) -> str:
    """Return a short form of any value for an error."""
    text = repr(value) if isinstance(value, str | bytes | int | float | tuple | None) else f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
