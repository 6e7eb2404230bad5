"""Forms of captions that are equal for texts that differ only in case, punctuation or width, in any script."""

import re
import unicodedata

_KEPT_ASCII = "0123456789abcdefghijklmnopqrstuvwxyz"
_ASCII_TABLE = {code: None for code in range(128) if chr(code) not in _KEPT_ASCII}
_VARIATION_SELECTORS = frozenset([*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)])
_GREEK = re.compile("[\u0370-\u03ff\u1f00-\u1fff]")
# Vowel and reading signs of Hebrew and Arabic, which most writers omit, and the lengthening tatweel.
_HEBREW_POINTS = range(0x0591, 0x05C8)
_ARABIC_SIGNS = (*range(0x064B, 0x0653), 0x0670)
_TATWEEL = 0x0640
_UNWRITTEN = frozenset((*_HEBREW_POINTS, *_ARABIC_SIGNS, _TATWEEL))
# Accents, dialytika and breathings, which Greek omits in words in capitals.
_GREEK_MARKS = re.compile("(?<=[\u0370-\u03ff])[\u0300-\u0345]+")


def fold_case(text: str) -> str:
    """Return a form that is equal for texts that differ only in case.

    Examples: "Straße" and "STRASSE"; "Ένας δρόμος" and "ΕΝΑΣ ΔΡΟΜΟΣ".
    """
    folded = text.casefold()
    if folded.isascii():
        return folded
    return unicodedata.normalize("NFC", _GREEK_MARKS.sub("", unicodedata.normalize("NFD", folded)))


class _KeptCharacters(dict[int, int | None]):
    """Table for `str.translate` that keeps letters, digits and marks, and classifies each character only once.

    A regular expression would have to list all 2,000 combining marks, such as vowel signs, which is slow.
    """

    def __missing__(self, code: int) -> int | None:
        char = chr(code)
        is_mark = unicodedata.category(char).startswith("M") and code not in _VARIATION_SELECTORS
        self[code] = code if is_mark or char.isalnum() else None
        return self[code]


_KEPT = _KeptCharacters(dict.fromkeys(_UNWRITTEN))


def caption_key(text: str) -> str:
    """Return a form of a caption for comparison: its letters, combining marks and digits, in one case and width.

    Copies with other punctuation, spacing or decoration match, in scripts with and without spaces, and so do "1.5 m"
    and "15 m": that may cost a caption, while a missed copy would invalidate the score. Accents stay ("pesca" is not
    "pescà"), except in Greek, which omits them in capitals; points of Hebrew and vowel signs of Arabic are removed.
    "Ｃａｆé!" and "cafe\u0301" have one key. A key may be empty.
    """
    if text.isascii():
        return text.lower().translate(_ASCII_TABLE)
    letters = unicodedata.normalize("NFKC", text).translate(_KEPT)
    letters = unicodedata.normalize("NFC", letters)  # compose marks with letters that were separated from them
    folded = fold_case(letters) if _GREEK.search(letters) else letters.casefold()
    # Turkish has a dotted and a dotless i, which are often confused.
    return unicodedata.normalize("NFKC", folded.replace("i\u0307", "i").replace("\u0131", "i"))
