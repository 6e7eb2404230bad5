"""What every translation engine offers to the steps, whatever is inside it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """One caption in the target language.

    Args:
        text: the translation, "" where there was nothing to translate.
        score: mean log-probability per target token, end token included (natural logarithm, at most 0).
        truncated: decoding hit its length limit; the text is cut off.
        repetitive: the text repeats itself back to back more than its source does, at the second try as well.
    """

    text: str
    score: float
    truncated: bool = False
    repetitive: bool = False


class Translator(Protocol):
    """An engine for one pair of languages; the same captions give the same translations, in any order."""

    @property
    def fingerprint(self) -> str:
        """Names the engine and everything that decides its output, such as "argos:en-it:1f3a5c7d9b0e"."""

    @property
    def from_code(self) -> str:
        """ISO 639 code of the language it reads."""

    @property
    def to_code(self) -> str:
        """ISO 639 code of the language it writes."""

    def translate(self, captions: Sequence[str], on_done: Callable[[int], object] | None = None) -> list[Translation]:
        """One translation per caption, in the same order; each caption is one sentence.

        `on_done` is told, now and then, how many more captions are done.
        """
