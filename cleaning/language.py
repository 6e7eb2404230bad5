"""Check: a caption is in the language it should be in, by langdetect, made deterministic.

langdetect is right on 98-99 % of whole captions but only 70-90 % of those of 2-5 words, and is as sure of itself when
wrong as when right. So a caption is dropped only if all of this holds: it has enough letters; langdetect gives the
expected language less than `min_probability`; and one other language at least `min_other_probability`. A language that
is easily mistaken for the expected one needs a quarter more letters. Everything else is kept: undecided is not wrong.
"""

import functools
import importlib.resources
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from cleaning.scripts import count_letters
from data_catalog.errors import ConfigError
from data_catalog.stages import Check, Drop

_SEED = 0
_CONFUSABLE_FACTOR = 1.25


def caption_language(
    expected: str,
    *,
    confusions: Collection[str] = (),
    min_probability: float = 0.1,
    min_other_probability: float = 0.99,
    min_letters: int = 20,
) -> Check:
    """Drop captions that are surely in another language than `expected` (langdetect's code, such as "it" or "zh-cn").

    Reason: wrong_language, with detail "de 0.99". The verdict depends on nothing but the text and the options.
    Raises ConfigError for a language that langdetect does not know.
    """
    if expected not in (known := detectable_languages()):
        raise ConfigError(f"langdetect does not know the language {expected!r}; it knows {', '.join(known)}")

    def judge(text: str) -> Drop | None:
        num_letters = count_letters(text)
        if num_letters < min_letters:
            return None
        probabilities = language_probabilities(text)
        if not probabilities or probabilities.get(expected, 0.0) >= min_probability:
            return None
        other = max(probabilities, key=lambda language: probabilities[language])
        if probabilities[other] < min_other_probability:
            return None
        if other in confusions and num_letters < _CONFUSABLE_FACTOR * min_letters:
            return None
        # Cut, not rounded: 0.999 shows as 0.99, never as certainty.
        return Drop("wrong_language", f"{other} {int(probabilities[other] * 100) / 100:.2f}")

    def check(texts: Sequence[str]) -> list[Drop | None]:
        return [judge(text) for text in texts]

    return check


# Captions repeat across shards, and native ones are judged both as source and as target; a verdict costs 1.3 ms.
@functools.lru_cache(maxsize=50_000)
def language_probabilities(text: str) -> Mapping[str, float]:
    """Probability of each language that langdetect gives more than a thousandth; empty where it finds no features."""
    from langdetect import LangDetectException

    factory = _detector_factory()
    detector = factory.create()
    # langdetect skips words in capitals altogether.
    detector.append(text.lower() if text.isupper() else text)
    try:
        detector.get_probabilities()
    except LangDetectException:  # digits, symbols, or a script that it has no profile of
        return MappingProxyType({})
    pairs = zip(factory.get_lang_list(), detector.langprob, strict=True)
    return MappingProxyType({language: float(probability) for language, probability in pairs if probability > 0.001})


@functools.cache
def detectable_languages() -> tuple[str, ...]:
    """Codes of the languages that langdetect has a profile of, sorted."""
    return tuple(sorted(entry.name for entry in _profiles()))


def _profiles() -> list[Any]:
    folder = importlib.resources.files("langdetect") / "profiles"
    return [entry for entry in folder.iterdir() if not entry.name.startswith((".", "_"))]


@functools.cache
def _detector_factory() -> Any:
    """A factory of our own with sorted profiles and its own seed.

    langdetect's shared one loads profiles in the order of the folder listing, is visible to other threads while half
    loaded, and is seeded by a class attribute that anyone may change. Each detector draws from its own generator,
    reseeded for each text, so neither the order of calls nor threads matter.
    """
    from langdetect.detector_factory import DetectorFactory

    factory = DetectorFactory()
    factory.set_seed(_SEED)
    profiles = sorted(_profiles(), key=lambda entry: str(entry.name))
    factory.load_json_profile([entry.read_text(encoding="utf-8") for entry in profiles])
    return factory
