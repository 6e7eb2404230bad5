"""Two engines in a row, by way of a language between the two: English to Catalan to Italian."""

from collections.abc import Callable, Sequence

from data_catalog.errors import DefectError
from data_catalog.storage.shards import digest
from translation.engine import Translation, Translator


class PivotTranslator:
    """A `translation.engine.Translator` from what the first engine reads to what the second one writes.

    A score is the worse of the two engines' scores, None where one of them tells none.
    """

    def __init__(self, first: Translator, second: Translator) -> None:
        """Raises DefectError where the second does not read what the first one writes."""
        if first.to_code != second.from_code:
            raise DefectError(
                f"no pivot: {first.fingerprint} writes {first.to_code}, {second.fingerprint} reads {second.from_code}"
            )
        self.from_code, self.to_code = first.from_code, second.to_code
        engines = digest([first.fingerprint, second.fingerprint])[:12]
        self.fingerprint = f"pivot:{first.from_code}-{first.to_code}-{second.to_code}:{engines}"
        sizes = [leg.max_chunk_size for leg in (first, second) if leg.max_chunk_size is not None]
        self.max_chunk_size = min(sizes, default=None)
        self._first, self._second = first, second

    def translate(self, captions: Sequence[str], on_done: Callable[[int], object] | None = None) -> list[Translation]:
        """See `Translator.translate`; a caption counts as done when both engines have done it."""
        halfway = self._first.translate(captions)
        final = self._second.translate([translation.text for translation in halfway], on_done)
        return [_combined(first, second) for first, second in zip(halfway, final, strict=True)]


def _combined(first: Translation, second: Translation) -> Translation:
    """The second translation, with what is to be said of both."""
    known = first.score is not None and second.score is not None
    scores = [score for score in (first.score, second.score) if score is not None]
    return Translation(
        text=second.text,
        score=min(scores) if known else None,
        truncated=first.truncated or second.truncated,
        repetitive=first.repetitive or second.repetitive,
    )
