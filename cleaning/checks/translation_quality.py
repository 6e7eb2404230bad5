"""Measures of a translation against its source: one number or list for each column of a caption row.

This module only measures; `cleaning.checks.captions` applies thresholds. None means that nothing can be measured, and
never drops a translation.
"""

import re
import unicodedata
from collections.abc import Collection, Sequence

from cleaning.text.scripts import count_letters, count_unspaced_words, split_tokens, split_words
from data_catalog.base.language_pack import MIN_SHARED_LETTERS, LanguagePack
from data_catalog.rows.caption_keys import fold_case
from data_catalog.rows.stages import Measure

# Longest block of tokens whose repetitions are counted.
_MAX_NGRAM = 12
# Smaller numbers are often spelt out or written as Roman numerals.
_MIN_NUMBER = 21


def translation_measure(pack: LanguagePack) -> Measure:
    """Return a function that fills the columns measured on texts, for translations into the pack's language."""
    shared = frozenset(word.casefold() for word in pack.shared_words + pack.function_words)

    def measure(sources: Sequence[str], targets: Sequence[str]) -> dict[str, list[object]]:
        pairs = list(zip(sources, targets, strict=True))
        return {
            "length_ratio": [length_ratio(source, target) for source, target in pairs],
            "copied_share": [copied_share(source, target, shared) for source, target in pairs],
            "repeated_ngrams": [repeated_ngrams(source, target) for source, target in pairs],
            "numbers_lost": [numbers_lost(source, target, pack.tens) for source, target in pairs],
            "numbers_invented": [numbers_invented(source, target) for source, target in pairs],
        }

    return measure


def length_ratio(source: str, target: str) -> float | None:
    """Return letters of the translation per letter of the source (`comparable_letters`); None without letters."""
    num_letters = comparable_letters(source)
    return comparable_letters(target) / num_letters if num_letters else None


def comparable_letters(text: str) -> int:
    """Return the letters in terms of Latin script: an ideograph or kana counts three, a Hangul syllable two."""
    return count_letters(text) + (0 if text.isascii() else len(_HANGUL.findall(text)))


def copied_share(source: str, target: str, shared_words: Collection[str] = frozenset()) -> float | None:
    """Return the share, 0 to 1, of the translation's words that occur in the source; None if no word counts.

    Case is ignored. Words of fewer than four letters, hashtags and quoted text do not count. Some words do not count as
    copies, since good translations contain them, too: words with digits; addresses; `shared_words`, which are spelt
    alike in both languages (lower case); and names: words with a capital, unless the source is all in capitals, or they
    start a sentence that goes on in small letters.
    """
    if any(mark in target for mark in _KEPT_MARKS):
        target = _KEPT.sub(" ", target)
    words = [word for word in split_words(target.casefold()) if len(word) >= MIN_SHARED_LETTERS]
    num_words = len(words) + count_unspaced_words(target)
    if not num_words:
        return None
    suspects = set(words).intersection(split_words(source.casefold())).difference(shared_words)
    if not suspects:
        return 0.0
    # Only words of letters, their marks (vowel signs, points) and hyphens: neither words with digits nor addresses.
    spelt = (word for word in suspects if all(c == "-" or unicodedata.category(c)[0] in "LM" for c in word))
    suspects = set(spelt) - _names(source)
    return sum(word in suspects for word in words) / num_words


def repeated_ngrams(source: str, target: str) -> int:
    """Return how often in a row the translation repeats a block of up to twelve words, at most.

    It is 1 if nothing is repeated, or if the source repeats something as often. Case and punctuation do not count.
    """
    times = _copies(_words_and_numbers(target))
    return 1 if times == 1 or times <= _copies(_words_and_numbers(source)) else times


def numbers_lost(source: str, target: str, tens: Sequence[str] = ()) -> list[str]:
    """Return the distinct numbers of the source, from 21 on, that the translation lacks, as ASCII digits.

    Separators do not count (1,000 = 1.000 = 1 000 = 1 thousand; 100,000 = 1,00,000). A year may be shortened ("1985",
    "'85"). Hours of a.m. and p.m., decades ("in his 30s", "the 1920s") and centuries may be reworded. A number below
    100 that is spelt out is not lost: `tens` are stems of the words for 20 to 29, 30 to 39 ... ("vent", "trent" ...).
    """
    if not _has_digit(source):
        return []
    wanted = [number for number in _numbers(_REWORDED.sub(" ", source)) if int(number) >= _MIN_NUMBER]
    found = _numbers(target)
    # Adjacent numbers may be written as one, so the digits are joined.
    digits = "".join(found)
    zeros = [end for end, word in _SCALES.items() if word.search(target)]
    before_zeros = {*found, *(("1",) if _ONE_SCALE.search(target) else ())}

    def is_lost(number: str) -> bool:
        if number in digits or _shortened(number, digits):
            return False
        if any(number.endswith(end) and number.removesuffix(end) in before_zeros for end in zeros):
            return False
        return len(number) != 2 or not tens or fold_case(tens[int(number[0]) - 2]) not in fold_case(target)

    return list(dict.fromkeys(filter(is_lost, wanted)))


def numbers_invented(source: str, target: str) -> list[str]:
    """Return the distinct numbers of the translation that the source lacks, as ASCII digits.

    The result is empty if the source spells out an English number above twenty ("twenty-five people", "25 persone"). A
    number below 21 may be a word in the source, so it counts only if the translation lacks another such number of the
    source: "5 dogs", "6 cani".
    """
    if not _has_digit(target) or _SPELT_OUT.search(source):
        return []
    if _HOUR.search(source):
        target = _CLOCK.sub(" ", target)
    wanted, found = _numbers(source), _numbers(target)
    digits = "".join(wanted)
    invented = [n for n in found if int(n) >= _MIN_NUMBER and n not in digits and not _shortened(n, digits)]
    # Numbers below 21 that the translation has more often than the source, if it has another one less often.
    ours, theirs = ([n for n in numbers if int(n) < _MIN_NUMBER] for numbers in (wanted, found))
    if any(theirs.count(n) < ours.count(n) for n in ours):
        invented += [n for n in theirs if theirs.count(n) > ours.count(n)]
    return list(dict.fromkeys(invented))


_HANGUL = re.compile("[\uac00-\ud7a3]")
_KEPT_MARKS = '"“„«»@#'
_KEPT = re.compile(r"\"[^\"]*\"|[“„][^“”]*[“”]|«[^»]*»|»[^«]*«|[#@]\w+")
_SENTENCE_START = re.compile(r"(?:^|(?<=[.!?:])\s+)[^\w\s]*(\w\S*)(?:(?=\s+(\S*)))?")


def _names(source: str) -> set[str]:
    """Return the words of the source, in lower case, with a capital that is not due to the start of a sentence."""
    if source.islower() or source.isupper():
        return set()
    names = {word.casefold() for word in split_words(source) if word != word.lower()}
    for first, second in _SENTENCE_START.findall(source):
        if second[:1].islower():
            names.difference_update(word.casefold() for word in split_words(first) if word[1:].islower())
    return names


def _words_and_numbers(text: str) -> list[str]:
    """Return the words of a text in lower case; zeros after a separator belong to their number ("1.000.000.000")."""
    return split_tokens(_BEFORE_ZEROS.sub("", text.casefold()))


def _copies(tokens: Sequence[str]) -> int:
    """Return how many times in a row a block of tokens occurs at most; 1 if no block is repeated."""
    most = 1
    if len(set(tokens)) == len(tokens):
        return most
    for width in range(1, min(_MAX_NGRAM, len(tokens) // 2) + 1):
        equal = 0  # tokens in a row that equal the one `width` before
        for before, token in zip(tokens, tokens[width:], strict=False):
            equal = equal + 1 if before == token else 0
            most = max(most, 1 + equal // width)
    return most


# "5:30 pm", "in his 30's", "the 1920s", "the 21st century".
_HOUR = re.compile(r"\b\d{1,2}(?:[:.]\d{2})?\s?[ap]\.?m\b", re.IGNORECASE)
_REWORDED = re.compile(rf"{_HOUR.pattern}|\b\d{{1,3}}0['’]?s\b|\b\d+(?:st|nd|rd|th)[ -]centur", re.IGNORECASE)
_CLOCK = re.compile(r"\b(?:1?\d|2[0-4])(?:[:.h]\d{2})?\b")
_SPELT_OUT = re.compile(
    r"\b(?:twent|thirt|fort|fift|sixt|sevent|eight|ninet)(?:y|ies|ieth)\b|\b(?:dozen|hundred|thousand|million|billion)",
    re.IGNORECASE,
)
# Words for a thousand and ten thousand in the supported languages, or their beginnings, by the zeros that they replace:
# "21 mila", "21tys.", "21 Tausend", "21 千"; "3万".
_SCALES = {
    "000": re.compile(
        r"(?<![^\W\d_])(?:mil|mie|mij|t[uú]s[eu]n|tuhat|tis[ií]|tys|тыс|тис|хил|хиљ|χιλ|bin|ezer|ribu|elfu|"
        r"nghìn|ngàn)|tausend|duizend|тысяч|千|천|हज\u093c?ार|হাজার|ألف|آلاف|אלף|هزار|พัน",
        re.IGNORECASE,
    ),
    "0000": re.compile("[万萬만]|หมื่น"),
}
# Whole words in which 1 is left out or spelt out: "mille", "tausend", "一万".
_ONE_SCALE = re.compile(
    r"(?<![^\W\d_])(?:mille|mil|(?:ein)?tausend|duizend|tusen|tuhat|tisíc|tysiąc|тысяч[ау]?|тисяч[ау]?|хиляда|хиљад[ау]|"
    r"χίλι[αε]ς?|χίλιοι|bin|ezer|seribu|elfu)(?![^\W\d_])|[千천万萬만]|พัน|หมื่น|हज\u093c?ार|হাজার|ألف|אלף|هزار|ngh?ìn|ngàn",
    re.IGNORECASE,
)
_SEPARATORS = ".,'’٬٫ \u00a0\u202f"
_NUMBER = re.compile(rf"\d{{1,2}}(?:,\d{{2}})+,\d{{3}}(?!\d)|\d{{1,3}}(?:[{_SEPARATORS}]\d{{3}})+(?!\d)|\d{{1,18}}")
_BEFORE_ZEROS = re.compile(rf"(?<=\d)[{_SEPARATORS}](?=[0٠۰०]{{2,3}}(?!\d))")
_YEAR = re.compile(r"(?:1[89]|20)\d{2}")


def _has_digit(text: str) -> bool:
    return any(map(str.isdigit, text))


def _numbers(text: str) -> list[str]:
    """Return numbers as ASCII digits without separators or leading zeros; digits of any script count."""
    found = ("".join(str(int(char)) for char in match if char.isdecimal()) for match in _NUMBER.findall(text))
    return [number.lstrip("0") or "0" for number in found]


def _shortened(number: str, digits: str) -> bool:
    return bool(_YEAR.fullmatch(number)) and number[2:] in digits
