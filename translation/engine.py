"""What every translation engine offers to the steps, whatever is inside it."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

# Captions of a stream that are looked at together: enough that their batches are full, few enough to be held.
STREAM_WINDOW = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """One caption in the target language.

    Args:
        text: the translation, "" where there was nothing to translate.
        score: mean log-probability per target token, end token included (natural logarithm, at most 0); None where
            the engine tells none, or where nothing was left to a model.
        truncated: decoding hit its length limit; the text is cut off.
        repetitive: the text repeats itself back to back more than its source does, at the second try as well.
    """

    text: str
    score: float | None = None
    truncated: bool = False
    repetitive: bool = False


class Translator(Protocol):
    """An engine for one pair of languages; the same captions give the same translations, in any order."""

    @property
    def fingerprint(self) -> str:
        """Names the engine and everything that decides its output, such as "argos:en-it:1f3a5c7d9b0e"."""

    @property
    def from_code(self) -> str:
        """ISO 639-1 code of the language it reads."""

    @property
    def to_code(self) -> str:
        """ISO 639-1 code of the language it writes."""

    @property
    def max_chunk_size(self) -> int | None:
        """Most captions that may be lost, and so be paid for twice, at a crash; None: as many as one likes."""

    def translate(self, captions: Sequence[str], on_done: Callable[[int], object] | None = None) -> list[Translation]:
        """One translation per caption, in the same order.

        `on_done` is told, now and then, how many more captions are done.

        Raises:
            SettingsError: the engine cannot work as it is set up.
            InputError: it refuses to work, or answers what is no translation.
            TransientError: it cannot work just now.
        """


def translate_stream(
    translator: Translator,
    captions: Iterable[str],
    on_done: Callable[[int], object] | None = None,
    *,
    window: int = STREAM_WINDOW,
) -> Iterator[Translation]:
    """One translation per caption of a stream of any length, in the same order, holding one window of captions."""
    remaining = iter(captions)
    size = min(window, translator.max_chunk_size or window)
    while part := list(islice(remaining, size)):
        yield from translator.translate(part, on_done)


def translate_distinct(
    captions: Sequence[str],
    translate: Callable[[list[str]], Sequence[Translation]],
    on_done: Callable[[int], object] | None,
    *,
    size: int,
) -> list[Translation]:
    """Return one translation per caption, of which equal ones are asked for once; blank ones stay empty, unasked.

    Args:
        captions: with repeats.
        translate: asks the engine for at most `size` distinct captions.
        on_done: is told how many more captions are done.
        size: most captions that are asked for together.
    """
    report, counts = on_done or (lambda _: None), Counter(captions)
    asked = [caption for caption in counts if caption.strip()]
    report(len(captions) - sum(counts[caption] for caption in asked))
    found: dict[str, Translation] = {}
    for start in range(0, len(asked), size):
        part = asked[start : start + size]
        found.update(zip(part, translate(part), strict=True))
        report(sum(counts[caption] for caption in part))
    return [found.get(caption, Translation(text="")) for caption in captions]


def is_paid(engine: Translator) -> bool:
    """Tell if what an engine translates is lost money if the run stops before it is kept."""
    return engine.max_chunk_size is not None
