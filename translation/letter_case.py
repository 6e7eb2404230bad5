"""Small letters and capitals by the rules of a language, where they differ from Unicode's."""

import re
import unicodedata

_DOTTED_AND_DOTLESS = ("tr", "az")
# Unicode has capitals for Georgian, which few fonts have and nobody writes in running text.
_WITHOUT_CAPITALS = ("ka",)


def lower_case(text: str, language: str) -> str:
    """A text in small letters; Greek gets no accents back, which its capitals lack.

    Args:
        language: ISO 639-1 code, or "" for Unicode's own rules.
    """
    if language in _DOTTED_AND_DOTLESS:
        text = text.replace("I", "ı").replace("İ", "i")
    return text.lower()


def upper_case(text: str, language: str) -> str:
    """A text in capitals, where the language has any.

    Args:
        language: ISO 639-1 code, or "" for Unicode's own rules.
    """
    if language in _WITHOUT_CAPITALS:
        return text
    if language == "el":
        return _greek_capitals(text)
    return (text.replace("i", "İ") if language in _DOTTED_AND_DOTLESS else text).upper()


# In decomposed text. An accent also tells that two vowels are no diphthong: without it, a dialytika must ("ρολόι").
_HIATUS = re.compile("([αεηιουω]\u0301[ιυ])(?![\u0300-\u0345])", re.IGNORECASE)
# Accents and breathings; the word "ή", which is "or", keeps its accent beside "η", which is "the".
_LOST_IN_CAPITALS = re.compile(
    "(?<![\\w\u0300-\u0345])(?P<kept>η\u0301)(?![\\w\u0300-\u0345])"
    "|(?<=[\u0370-\u03ff\u0308])[\u0300\u0301\u0313\u0314\u0342]+",
    re.IGNORECASE,
)


def _greek_capitals(text: str) -> str:
    """Capitals as Greek writes them, without accents, by the rules of Unicode's CLDR (its transform el-Upper)."""
    decomposed = _HIATUS.sub("\\1\u0308", unicodedata.normalize("NFD", text))
    bare = _LOST_IN_CAPITALS.sub(lambda found: found["kept"] or "", decomposed)
    return unicodedata.normalize("NFC", bare.upper())
