"""Codes of languages, as engines and packs write them, and as verdicts do: ISO 639-1, or 639-3 where that has none."""

from collections.abc import Iterable

# The languages of most captions of the web, wherever they should not be. Each costs lingua some 25 MB once a text in
# its script is met, and every other language some of its accuracy.
COMMON_LANGUAGES = ("ar", "de", "en", "es", "fr", "it", "ja", "ko", "nl", "pl", "pt", "ru", "sv", "tr", "zh")

# What engines or packs call by other names, or part more finely than captions can be parted.
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
    """The code by which verdicts name a language: "zh" for "zh-cn", "no" for "nb"; itself where it has no other."""
    return _ALIASES.get(code, code)


def other_names(codes: Iterable[str]) -> set[str]:
    """The other codes that stand for one of these languages, such as "zh-cn" for "zh"."""
    known = set(codes)
    return {alias for alias, code in _ALIASES.items() if code in known}


def sum_by_language(probabilities: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Probabilities by language, where several of an engine's codes may stand for one language."""
    found: dict[str, float] = {}
    for language, probability in probabilities:
        found[language] = found.get(language, 0.0) + probability
    return found
