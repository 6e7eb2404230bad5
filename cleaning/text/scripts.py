"""Counting and comparison of words and letters in any script."""

import re
import unicodedata

from data_catalog.rows.caption_keys import fold_case

# Scripts written without spaces between words, and the average number of letters of a word.
_IDEOGRAPHIC = (
    r"\u3005-\u3007\u3041-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003fffd"
)
_SOUTH_EAST_ASIAN = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_IDEOGRAPHS_PER_WORD, _SOUTH_EAST_ASIAN_LETTERS_PER_WORD = 2, 4

_IDEOGRAPHIC_LETTER = re.compile(f"[{_IDEOGRAPHIC}]")
_SOUTH_EAST_ASIAN_LETTER = re.compile(f"[{_SOUTH_EAST_ASIAN}]")
_UNSPACED_LETTER = re.compile(f"[{_IDEOGRAPHIC}{_SOUTH_EAST_ASIAN}]")
# Tibetan ends a syllable with a tsheg, and has no sign between words.
_BETWEEN_WORDS = re.compile(f"[\u0f0b\u0f0c{_IDEOGRAPHIC}{_SOUTH_EAST_ASIAN}]")
# Combining marks are no word characters in `re`, and must not split a Devanagari word.
_SPACED_WORD = re.compile(r"\w(?:\S*\w)?")
_UNSPACED_TOKEN, _LETTERS = f"[{_IDEOGRAPHIC}{_SOUTH_EAST_ASIAN}]", f"[^\\W{_IDEOGRAPHIC}{_SOUTH_EAST_ASIAN}]"
# Vowel signs, points and accents of scripts with spaces; they are no word characters in `re`, either.
_MARKS = "".join(
    char
    for char in map(chr, range(0x300, 0x1E00))
    if unicodedata.category(char)[0] == "M" and not _UNSPACED_LETTER.match(char)
)
_TOKEN = re.compile(f"{_UNSPACED_TOKEN}|{_LETTERS}+(?:[{_MARKS}]+{_LETTERS}*)*")
# Words that Italian, French, Catalan and Portuguese join to the next one, which begins with a vowel or an h. English
# "y'all", "ma'am", "o'er" and "o'clock" do not match, nor does Ukrainian "об'єкт".
_ELIDED = re.compile(
    r"(?<![^\W_])(?:[cdjlmnst]|un|gl|all|anch|bell|ch|coll|com|cos|dall|dell|dov|ent|grand|mezz|nell|quand|quant|quell|"
    r"quest|sant|senz|sott|sull|trent|tutt|vent|nessun|ciascun|alcun|qualcun|qualch|qu|jusqu|lorsqu|puisqu|quelqu|"
    r"presqu|quoiqu)['\u2019](?=[haeiouyàáâäæèéêëìíîïòóôöœùúûü])",
    re.IGNORECASE,
)
# ASCII punctuation by Unicode, and the space; "$", "+", "<", "=", ">", "^", "`", "|" and "~" are symbols.
_ASCII_ENDS = " !\"#%&'()*,-./:;?@[\\]_{}"
# One ideograph tells as much about the language as about three Latin letters.
_LETTERS_PER_IDEOGRAPH = 3


def count_words(text: str) -> int:
    """Return the number of words of a text.

    A word has a letter or digit and is delimited by spaces. In scripts without spaces the number is estimated: Chinese
    and Japanese have about two characters a word; Thai, Lao, Khmer and Burmese about four; both are rounded up.
    Tibetan syllables count as words. "L'albero" and "un'orca" are two words, "don't" and "o'clock" are one.
    """
    num_elided = len(_ELIDED.findall(text)) if "'" in text or "\u2019" in text else 0
    return len(split_words(text)) + num_elided + count_unspaced_words(text)


def count_unspaced_words(text: str) -> int:
    """Return the number of words in scripts without spaces, as `count_words` counts them."""
    if text.isascii():
        return 0
    num_ideographs = len(_IDEOGRAPHIC_LETTER.findall(text))
    num_south_east_asian = len(_SOUTH_EAST_ASIAN_LETTER.findall(text))
    return -(-num_ideographs // _IDEOGRAPHS_PER_WORD) - (-num_south_east_asian // _SOUTH_EAST_ASIAN_LETTERS_PER_WORD)


def split_words(text: str) -> list[str]:
    """Return the words between spaces (of Tibetan, syllables), without outer punctuation and unspaced scripts."""
    return _SPACED_WORD.findall(text if text.isascii() else _BETWEEN_WORDS.sub(" ", text))


def count_letters(text: str) -> int:
    """Return the number of letters of a text, as a measure of its information; an ideograph or kana counts three."""
    num_letters = sum(map(str.isalpha, text))
    if text.isascii():
        return num_letters
    return num_letters + (_LETTERS_PER_IDEOGRAPH - 1) * len(_IDEOGRAPHIC_LETTER.findall(text))


def split_tokens(text: str) -> list[str]:
    """Return the runs of letters and digits; in scripts without spaces, single characters. Punctuation is left out."""
    return _TOKEN.findall(text)


def exact_key(caption: str) -> str:
    """Return a form that is equal for texts that differ only in case, forms, white space and final punctuation."""
    if caption.isascii():  # ASCII has no compatibility forms
        spaced = " ".join(caption.lower().split())
        return spaced.rstrip(_ASCII_ENDS) or spaced
    folded = unicodedata.normalize("NFKC", fold_case(unicodedata.normalize("NFKC", caption)))
    spaced = " ".join(folded.split())
    end = len(spaced)
    while end and (spaced[end - 1].isspace() or unicodedata.category(spaced[end - 1]).startswith("P")):
        end -= 1
    return spaced[:end] or spaced  # a text of punctuation only, such as "?!", is kept
