"""Identification of the language of texts by named engines, and the check for a wrong language.

A caption is dropped only if all of this is true: it has enough letters; the expected language has less than
`min_probability`; and one other language has at least `min_other_probability`. A language that is easily confused with
the expected one needs a quarter more letters. The defaults suit the cascade and follow from
`benchmarks/language_identification.py`.
"""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from cleaning.languages.engines import (
    COMMON_LANGUAGES,
    canonical_code,
    fast_languages,
    fast_probabilities,
    langdetect_languages,
    langdetect_probabilities,
    lingua_languages,
    lingua_probabilities,
    other_names,
)
from cleaning.text.scripts import count_letters
from data_catalog.base.errors import SettingsError
from data_catalog.base.language_pack import LanguagePack
from data_catalog.rows.stages import Check, Drop

_CONFUSABLE_FACTOR = 1.25
# Longer texts are cut: more does not help, and time grows with length.
_MAX_CHARS = 1000
# Fewer digits than the columns' float32 has, and than those that differ between processes.
_DECIMALS = 4
_TIE = 2 * 10.0**-_DECIMALS  # values further apart are not equal when rounded
# Prior weights, which the engines do not know: a caption is twice as likely to be in the language of its row, and a
# tenth as likely to be in a language that is no candidate.
_EXPECTED_WEIGHT = 2.0
_OUTSIDER_WEIGHT = 0.1
# Limits from which on the fast engine alone is as accurate as both: letters and probability of the expected language.
# Those for another language are higher, since a caption may be dropped for it.
_SURE_LETTERS = 15
_SURE_EXPECTED = 0.7
_SURE_OTHER_LETTERS = 30
_SURE_OTHER = 0.9
_HARDLY_EXPECTED = 0.02
_FAST_EXPONENT = 0.35
# Added to each probability, so that no engine can rule out a language by itself.
_FLOOR = 0.001


# Prior weights of the candidates: of the languages that captions may be in, the expected one included.
Weights = Mapping[str, float]


def cascade_probabilities(texts: Sequence[str], expected: str, weights: Weights) -> list[Mapping[str, float]]:
    """Combine the fast engine with lingua, which is run only on texts where the fast engine is unsure.

    Measured by `benchmarks/language_identification.py`: on short captions the combination is more accurate than either
    engine, since their errors differ, and lingua deserves three times the weight.

    Returns:
        For each text, the probabilities of languages, which sum to 1; empty if the fast engine finds nothing.
    """
    raw = [fast_probabilities(text) for text in texts]
    found = [_weighted(probabilities, weights) for probabilities in raw]
    unsure = [at for at, text in enumerate(texts) if not is_sure(text, found[at], expected)]
    opinions = lingua_probabilities([texts[at] for at in unsure], frozenset(weights))
    for at, opinion in zip(unsure, opinions, strict=True):
        found[at] = _refined(found[at], raw[at], opinion, weights)
    return found


def is_sure(text: str, probabilities: Mapping[str, float], expected: str) -> bool:
    """Return whether the fast engine's weighted probabilities need no second engine; empty ones need none."""
    if not probabilities:
        return True
    num_letters, share = count_letters(text), probabilities.get(expected, 0.0)
    if share > _HARDLY_EXPECTED:
        return share >= _SURE_EXPECTED and num_letters >= _SURE_LETTERS
    return max(probabilities.values()) >= _SURE_OTHER and num_letters >= _SURE_OTHER_LETTERS


def _weighted(probabilities: Mapping[str, float], weights: Weights) -> Mapping[str, float]:
    weighted = {language: value * weights.get(language, _OUTSIDER_WEIGHT) for language, value in probabilities.items()}
    total = sum(weighted.values())
    return {language: value / total for language, value in weighted.items()}


def _refined(
    weighted: Mapping[str, float], raw: Mapping[str, float], opinion: Mapping[str, float], weights: Weights
) -> Mapping[str, float]:
    """Combine both engines for the candidates that lingua knows, and keep the fast engine's values for the rest."""
    known = sorted(weights.keys() & lingua_languages())
    share = sum(weighted.get(language, 0.0) for language in known)
    if not opinion or not share:
        return weighted
    both = {
        language: weights[language]
        * (raw.get(language, 0.0) + _FLOOR) ** _FAST_EXPONENT
        * (opinion.get(language, 0.0) + _FLOOR)
        for language in known
    }
    scale = share / sum(both.values())
    return {**weighted, **{language: value * scale for language, value in both.items()}}


class LanguageVerdict(NamedTuple):
    """Identified language of a text; all fields are None if none is found, as in digits and symbols."""

    language: str | None
    """ISO 639-1 code ("zh" for all of Chinese, "no" for all of Norwegian), or ISO 639-3 without such a code."""
    probability: float | None
    margin: float | None
    """Probability of the expected language minus that of the likeliest other one."""


NOTHING_FOUND = LanguageVerdict(None, None, None)
Identifier = Callable[[Sequence[str]], list[LanguageVerdict]]

Judge = Callable[[Sequence[str], str, Weights], list[Mapping[str, float]]]
# By name, a function that returns probabilities of languages, and one that returns the languages that it knows.
ENGINES: dict[str, tuple[Judge, Callable[[], frozenset[str]]]] = {
    "cascade": (cascade_probabilities, lambda: fast_languages() | lingua_languages()),
    "fast": (
        lambda texts, _, weights: [_weighted(fast_probabilities(text), weights) for text in texts],
        fast_languages,
    ),
    "lingua": (lambda texts, _, weights: lingua_probabilities(texts, frozenset(weights)), lingua_languages),
    "langdetect": (lambda texts, *_: [langdetect_probabilities(text) for text in texts], langdetect_languages),
}


def language_identifier(expected: str, *, candidates: Collection[str] = (), engine: str = "cascade") -> Identifier:
    """Return a function that identifies the languages of texts that should be in `expected`, one verdict a text.

    A verdict depends only on the text and these arguments. Models are loaded at the first text from installed packages;
    the network is never used.

    Args:
        expected: code of the expected language; a pack's code or langdetect's are accepted.
        candidates: languages that it may be confused with, or that the texts come from. lingua chooses among them,
            `expected` and `COMMON_LANGUAGES`; the fast engine gives others a low weight; langdetect chooses among all
            that it knows.
        engine: a key of `ENGINES`.
    """
    if engine not in ENGINES:
        raise SettingsError(f"there is no engine {engine!r} for languages: use one of {', '.join(ENGINES)}")
    language, (judge, known) = canonical_code(expected), ENGINES[engine]
    if language not in known():
        able = [name for name, (_, knows) in ENGINES.items() if language in knows()]
        advice = f"use {' or '.join(able)}" if able else "no engine does"
        raise SettingsError(f"the engine {engine!r} does not know the language {expected!r}: {advice}")
    for candidate in candidates:  # without any, no engine is loaded before a text comes
        if candidate not in (known_ones := detectable_languages()):
            raise SettingsError(f"no engine knows the language {candidate!r}: known are {', '.join(known_ones)}")
    weights = dict.fromkeys(map(canonical_code, (*candidates, *COMMON_LANGUAGES)), 1.0) | {language: _EXPECTED_WEIGHT}

    def identify(texts: Sequence[str]) -> list[LanguageVerdict]:
        # Captions repeat ("a photo of"), so each distinct text is judged once.
        different = [text for text in dict.fromkeys(texts) if any(map(str.isalpha, text))]
        probabilities = judge([text[:_MAX_CHARS] for text in different], language, weights)
        verdicts = {text: _verdict(found, language) for text, found in zip(different, probabilities, strict=True)}
        return [verdicts.get(text, NOTHING_FOUND) for text in texts]

    return identify


def _verdict(probabilities: Mapping[str, float], expected: str) -> LanguageVerdict:
    if not probabilities:
        return NOTHING_FOUND
    most = max(probabilities.values())
    # Rounded values may tie: the first code wins, regardless of the order of the engine.
    near = [(-round(value, _DECIMALS), code) for code, value in probabilities.items() if value > most - _TIE]
    language = min(near)[1]
    other = round(max((value for code, value in probabilities.items() if code != expected), default=0.0), _DECIMALS)
    own = round(probabilities.get(expected, 0.0), _DECIMALS)
    return LanguageVerdict(language, round(probabilities[language], _DECIMALS), round(own - other, _DECIMALS))


def wrong_language(
    verdicts: Sequence[LanguageVerdict],
    texts: Sequence[str],
    *,
    confusions: Collection[str] = (),
    min_probability: float = 0.1,
    min_other_probability: float = 0.5,
    min_letters: float = 15,
) -> list[Drop | None]:
    """Drop the texts that are almost certainly not in the expected language of the verdicts (see above).

    Reason: wrong_language, with detail "de 0.99". Letters are counted as by `cleaning.text.scripts.count_letters`;
    `confusions` are languages that need a quarter more of them.
    """
    confusable = frozenset(map(canonical_code, confusions))

    def judge(verdict: LanguageVerdict, text: str) -> Drop | None:
        if verdict.language is None or verdict.probability is None or verdict.margin is None or verdict.margin >= 0:
            return None
        # A column returns 0.9 as 0.899999976. The likeliest language is another one, so the margin gives the
        # probability of the expected one.
        probability = round(verdict.probability, _DECIMALS)
        expected_probability = round(verdict.probability + verdict.margin, _DECIMALS)
        if probability < min_other_probability or expected_probability >= min_probability:
            return None
        if count_letters(text) < min_letters * (_CONFUSABLE_FACTOR if verdict.language in confusable else 1):
            return None
        # Cut, not rounded: 0.999 is shown as 0.99, never as certainty.
        percent = min(int(round(100 * probability, 2)), 99)
        return Drop("wrong_language", f"{verdict.language} 0.{percent:02}")

    return [judge(verdict, text) for verdict, text in zip(verdicts, texts, strict=True)]


def caption_language(
    expected: str, *, confusions: Collection[str] = (), engine: str = "cascade", **limits: float
) -> Check:
    """Return a check that drops captions in another language than `expected`, by `wrong_language`."""
    identify = language_identifier(expected, candidates=confusions, engine=engine)
    return lambda texts: wrong_language(identify(texts), texts, confusions=confusions, **limits)


@functools.cache
def detectable_languages(engine: str | None = None) -> tuple[str, ...]:
    """Return the codes of languages, sorted, that an engine of `ENGINES`, or any of them, can identify."""
    known = frozenset().union(*(ENGINES[name][1]() for name in ENGINES if engine in (None, name)))
    return tuple(sorted(known | other_names(known)))


def detectable_code(pack: LanguagePack, engine: str | None = None) -> str | None:
    """Return the code of the pack's language; None if the engine, or any of them, does not know it."""
    code = pack.langdetect or pack.code
    return code if code in detectable_languages(engine) else None
