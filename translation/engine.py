"""The interface of every translation engine."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

# Captions that are translated together: enough to fill batches, few enough for memory and to share among workers.
STREAM_WINDOW = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """A caption in the target language.

    Args:
        text: the translation, "" if there was nothing to translate.
        score: mean log-probability per target token, end token included (natural logarithm, at most 0). None if the
            engine returns no scores, or if no part of the caption went to a model.
        truncated: decoding reached its length limit; the text is cut off.
        repetitive: the text repeats a block of tokens back to back more often than its source does. The second try
            did so as well.
    """

    text: str
    score: float | None = None
    truncated: bool = False
    repetitive: bool = False


class Translator(Protocol):
    """An engine for one pair of languages.

    The same captions give the same translations, in any order.
    """

    @property
    def fingerprint(self) -> str:
        """Return the name of the engine with a hash of all that decides its output, as "argos:en-it:1f3a5c7d9b0e"."""

    @property
    def from_code(self) -> str:
        """Return the ISO 639-1 code of the language that the engine reads."""

    @property
    def to_code(self) -> str:
        """Return the ISO 639-1 code of the language that the engine writes."""

    @property
    def max_chunk_size(self) -> int | None:
        """Return the most captions that a crash may lose, and so that may be paid for twice; None for no limit."""

    def translate(self, captions: Sequence[str], on_done: Callable[[int], object] | None = None) -> list[Translation]:
        """Return one translation per caption, in the same order.

        `on_done` is called from time to time with the number of captions done since its last call.
        """


def translate_stream(
    translator: Translator,
    captions: Iterable[str],
    on_done: Callable[[int], object] | None = None,
    *,
    window: int = STREAM_WINDOW,
) -> Iterator[Translation]:
    """Yield one translation per caption of a stream of any length, in the same order.

    At most one window of captions is held in memory.
    """
    remaining = iter(captions)
    size = min(window, translator.max_chunk_size or window)
    while part := list(islice(remaining, size)):
        yield from translator.translate(part, on_done)


def is_paid(engine: Translator) -> bool:
    """Return whether an engine charges for translations, so that those not yet recorded are lost money at a crash."""
    return engine.max_chunk_size is not None
