"""Captions that stand in a test set, found again among millions whatever became of their punctuation and case.

A caption is compared by the 64-bit BLAKE2b digest of its key. Ten million captions against 150,000 keys have one chance
in twelve million of a single false hit: 1e7 * 1.5e5 / 2**64.
"""

import hashlib
import re
import unicodedata
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from cleaning.duplicates.near_images import require_likeness
from cleaning.text.scripts import count_words, fold_case
from data_catalog.errors import SettingsError

ACTIONS = ("drop", "mark")

_DIGEST_BYTES = 8
_KEPT_ASCII = "0123456789abcdefghijklmnopqrstuvwxyz"
_ASCII_TABLE = {code: None for code in range(128) if chr(code) not in _KEPT_ASCII}
_VARIATION_SELECTORS = frozenset([*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)])
_GREEK = re.compile("[\u0370-\u03ff\u1f00-\u1fff]")
# Signs of vowels and of reading that most people leave out, in Hebrew and Arabic; the letters that are drawn out.
_HEBREW_POINTS = range(0x0591, 0x05C8)
_ARABIC_SIGNS = (*range(0x064B, 0x0653), 0x0670)
_TATWEEL = 0x0640
_UNWRITTEN = frozenset((*_HEBREW_POINTS, *_ARABIC_SIGNS, _TATWEEL))


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaksConfig:
    """What is done with images and captions of the recipe's test sets.

    Args:
        action: "drop" them; or "mark" them: their pairs are published apart, in no split.
        by_identity: look for images by their identity: COCO's, Flickr's, Wikimedia's and Open Images' numbers and
            names, and addresses.
        by_caption: look for captions, whatever their punctuation and case.
        by_pixels: look for images of the test sets whose pixels are there, by their bytes and by how they look.
        min_caption_words: captions of fewer words are shared by chance, and count for nothing.
        max_distance: an image looks like one of a test set, or like its mirror image or a part of it, if the
            perceptual hashes differ in at most so many of 64 bits,
        max_thumbnail_difference: and the thumbnails by at most so much.
    """

    action: str = "drop"
    by_identity: bool = True
    by_caption: bool = True
    by_pixels: bool = True
    min_caption_words: int = 4
    max_distance: int = 8
    max_thumbnail_difference: float = 0.25

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise SettingsError(f"leaks.action must be one of {', '.join(ACTIONS)}, got {self.action!r}")
        if self.min_caption_words < 1:
            raise SettingsError(f"leaks.min_caption_words must be positive, got {self.min_caption_words}")
        require_likeness("leaks", self.max_distance, self.max_thumbnail_difference)


class _Kept(dict[int, int | None]):
    """A table for `str.translate` that keeps letters, digits and marks, and looks each character up only once.

    A regular expression cannot name combining marks, such as vowel signs, but by listing all 2,000, which is slow.
    """

    def __missing__(self, code: int) -> int | None:
        char = chr(code)
        is_mark = unicodedata.category(char).startswith("M") and code not in _VARIATION_SELECTORS
        self[code] = code if is_mark or char.isalnum() else None
        return self[code]


_KEPT = _Kept(dict.fromkeys(_UNWRITTEN))


def caption_key(text: str) -> str:
    """What is left of a caption for comparing: its letters, combining marks and digits, in one case and width.

    Spaces, all punctuation, symbols, emoji and invisible characters are out, so that a copy may be punctuated, spaced
    or decorated otherwise, in scripts with and without spaces. Between digits too, where a point may part decimals,
    hours or days: so "1.5 m" and "15 m" have one key, which costs a caption at times; a miss would cost the
    measurement. Accents stay ("pesca" is not "pescà"), except in Greek, which leaves them out in capitals; the points
    of Hebrew and the vowel signs of Arabic are out. "Ｃａｆé!" and "cafe\u0301" have one key. May be empty.
    """
    if text.isascii():
        return text.lower().translate(_ASCII_TABLE)
    letters = unicodedata.normalize("NFKC", text).translate(_KEPT)
    letters = unicodedata.normalize("NFC", letters)  # marks meet their letters again where something stood between
    folded = fold_case(letters) if _GREEK.search(letters) else letters.casefold()
    # Turkish has two letters i, each with a capital, which other languages and careless hands take for one.
    return unicodedata.normalize("NFKC", folded.replace("i\u0307", "i").replace("\u0131", "i"))


def caption_digest(text: str) -> int:
    """The digest of a caption's key: an unsigned 64-bit number, the same on every machine."""
    # A lone surrogate is no text, but it is no reason to stop either.
    key = caption_key(text).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(key, digest_size=_DIGEST_BYTES).digest(), "big")


def caption_digests(texts: Iterable[str], *, min_words: int) -> frozenset[int]:
    """Digests of the captions of test sets that are long enough to tell: "a cat" is nobody's.

    Args:
        texts: captions, in any languages.
        min_words: shorter ones, as `cleaning.text.scripts.count_words` counts, are left out.
    """
    return frozenset(caption_digest(text) for text in texts if count_words(text) >= min_words and caption_key(text))


def leaking_captions(texts: Sequence[str], digests: Container[int]) -> list[bool]:
    """For each text, whether a test set has it: `digests` are those of `caption_digests`."""
    return [caption_digest(text) in digests for text in texts]
