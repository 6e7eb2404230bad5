"""The cascade of identifiers: the fast one wherever it is sure, lingua's opinion beside its own everywhere else.

Measured by `benchmarks/language_identification.py`: on short captions both together are right where either alone is
not, since their mistakes differ, and lingua deserves three times the say.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from cleaning.language_fast import fast_languages, fast_probabilities
from cleaning.language_lingua import lingua_languages, lingua_probabilities
from cleaning.scripts import count_letters

# A caption need not be in the language of its row, but it is twice as likely to be as the engines, who are not told,
# would have it; and a tenth as likely to be in one that nobody expects.
_EXPECTED_WEIGHT = 2.0
_OUTSIDER_WEIGHT = 0.1
# Where the fast engine is as often right as both together: with so many letters and this probability of the expected
# language. That it is another one is a graver charge, as a caption may be dropped for it, and takes more.
_SURE_LETTERS = 15
_SURE_EXPECTED = 0.7
_SURE_OTHER_LETTERS = 30
_SURE_OTHER = 0.9
_HARDLY_EXPECTED = 0.02
_FAST_EXPONENT = 0.35
# No engine may rule a language out by itself.
_FLOOR = 0.001


@dataclass(frozen=True, slots=True)
class Candidates:
    """The language that captions should be in, and all that they may well be in, itself included."""

    expected: str
    languages: frozenset[str]


def cascade_probabilities(texts: Sequence[str], candidates: Candidates) -> list[Mapping[str, float]]:
    """Of each text, the probabilities of languages, a sum of 1; empty where the fast engine finds nothing."""
    raw = [fast_probabilities(text) for text in texts]
    found = [_weighted(probabilities, candidates) for probabilities in raw]
    unsure = [at for at, text in enumerate(texts) if not is_sure(text, found[at], candidates.expected)]
    opinions = lingua_probabilities([texts[at] for at in unsure], candidates.languages)
    for at, opinion in zip(unsure, opinions, strict=True):
        found[at] = _refined(found[at], raw[at], opinion, candidates)
    return found


def restricted_probabilities(texts: Sequence[str], candidates: Candidates) -> list[Mapping[str, float]]:
    """The fast engine's probabilities alone, weighted by what languages are to be expected."""
    return [_weighted(fast_probabilities(text), candidates) for text in texts]


def is_sure(text: str, probabilities: Mapping[str, float], expected: str) -> bool:
    """Whether the fast engine's weighted probabilities of a text are left as they are; nothing found is left, too."""
    if not probabilities:
        return True
    num_letters, share = count_letters(text), probabilities.get(expected, 0.0)
    if share > _HARDLY_EXPECTED:
        return share >= _SURE_EXPECTED and num_letters >= _SURE_LETTERS
    return max(probabilities.values()) >= _SURE_OTHER and num_letters >= _SURE_OTHER_LETTERS


def cascade_languages() -> frozenset[str]:
    """Languages that the fast engine knows or lingua does."""
    return fast_languages() | lingua_languages()


def _weighted(probabilities: Mapping[str, float], candidates: Candidates) -> Mapping[str, float]:
    weights = _weights(candidates)
    weighted = {language: value * weights.get(language, _OUTSIDER_WEIGHT) for language, value in probabilities.items()}
    total = sum(weighted.values())
    return {language: value / total for language, value in weighted.items()}


@functools.lru_cache(maxsize=64)
def _weights(candidates: Candidates) -> Mapping[str, float]:
    """Of the languages that are to be expected."""
    return MappingProxyType({**dict.fromkeys(candidates.languages, 1.0), candidates.expected: _EXPECTED_WEIGHT})


def _refined(
    weighted: Mapping[str, float], raw: Mapping[str, float], opinion: Mapping[str, float], candidates: Candidates
) -> Mapping[str, float]:
    """What falls on candidates that lingua knows, shared out among them by both; the rest is the fast engine's."""
    known = sorted(candidates.languages & lingua_languages())
    share = sum(weighted.get(language, 0.0) for language in known)
    if not opinion or not share:
        return weighted
    weights = _weights(candidates)
    both = {
        language: weights[language]
        * (raw.get(language, 0.0) + _FLOOR) ** _FAST_EXPONENT
        * (opinion.get(language, 0.0) + _FLOOR)
        for language in known
    }
    scale = share / sum(both.values())
    return {**weighted, **{language: value * scale for language, value in both.items()}}
