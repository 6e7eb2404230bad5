"""The identifier of languages that users expect by name: langdetect, made deterministic."""

import functools
import importlib.resources
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from cleaning.language_codes import canonical_code, sum_by_language

_SEED = 0
_MIN_PROBABILITY = 0.001


# Captions repeat across shards, and a verdict costs 1.3 ms.
@functools.lru_cache(maxsize=50_000)
def langdetect_probabilities(text: str) -> Mapping[str, float]:
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
    found = ((canonical_code(code), float(share)) for code, share in pairs if share > _MIN_PROBABILITY)
    return MappingProxyType(sum_by_language(found))


@functools.cache
def langdetect_languages() -> frozenset[str]:
    """Languages that langdetect has a profile of, as `canonical_code` names them."""
    return frozenset(canonical_code(entry.name) for entry in _profiles())


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
