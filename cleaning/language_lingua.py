"""The slower and better identifier of short captions: lingua, which chooses among the languages that it is given."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from cleaning.language_codes import canonical_code, sum_by_language

# lingua sums in the order of a hash table, another one in each process: digits from the fifteenth on differ.
_DECIMALS = 4
# It holds Python's lock while it works: other threads wait for a slice, some 30 ms.
_TEXTS_PER_SLICE = 256


def lingua_probabilities(texts: Sequence[str], languages: frozenset[str]) -> list[Mapping[str, float]]:
    """Of each text, the probabilities of those of `languages` that lingua knows; empty where none has its script.

    They sum to 1, whatever the text is, and are rounded to four decimals. Texts are judged on all cores.
    """
    detector = _detector(languages)
    found: list[Mapping[str, float]] = []
    for start in range(0, len(texts), _TEXTS_PER_SLICE):
        piece = list(texts[start : start + _TEXTS_PER_SLICE])
        found += map(_rounded, detector.compute_language_confidence_values_in_parallel(piece))
    return found


def _rounded(values: Sequence[Any]) -> Mapping[str, float]:
    pairs = ((value.language.iso_code_639_1.name.lower(), round(value.value, _DECIMALS)) for value in values)
    return sum_by_language((canonical_code(code), probability) for code, probability in pairs if probability > 0)


@functools.cache
def lingua_languages() -> frozenset[str]:
    """Languages that lingua knows, as `canonical_code` names them."""
    return frozenset(map(canonical_code, _codes()))


@functools.cache
def _codes() -> Mapping[str, Any]:
    """Languages of lingua by their ISO 639-1 codes, in the order of those."""
    from lingua import Language

    codes = {language.iso_code_639_1.name.lower(): language for language in Language.all()}
    return dict(sorted(codes.items()))


@functools.cache
def _detector(languages: frozenset[str]) -> Any:
    """A detector of the languages; models are loaded when a text needs them, and shared by all detectors."""
    from lingua import LanguageDetectorBuilder

    chosen = [language for code, language in _codes().items() if canonical_code(code) in languages]
    return LanguageDetectorBuilder.from_languages(*chosen).build()
