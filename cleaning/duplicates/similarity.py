"""How alike two captions are, by their letters and by their words: what verifies candidates for near-duplicates."""

import hashlib
import itertools
import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence

import numpy as np
import numpy.typing as npt
from rapidfuzz import fuzz, process
from rapidfuzz.distance import OSA, LCSseq

from cleaning.text.scripts import exact_key, split_tokens

# Words of four letters or more that one slip of the keyboard parts are the same word, but where it would be the first
# letter: "boat" and "coat", "eine" and "keine" are two. A word and its plural are the same.
MIN_LETTERS_OF_A_SLIP = 4
MIN_LETTERS_OF_A_STEM, MAX_LETTERS_OF_AN_ENDING = 3, 2

_DIGIT = re.compile(r"\d")
_NUMBER = re.compile(r"(?:(?<!\S)[-\u2212])?\d+(?:[.,:/]\d+)*")
_CONTRACTED_NOT = re.compile(r"n['\u2019]t\b|\bcannot\b")  # English; packs name negations that are words of their own
_PLAIN_SYMBOLS = "`^|~\u00b4\u00a8"  # that stand for an apostrophe, an accent or a dash
_MARKED = re.compile(r"""\d|[^\w\s.,;:!?'"()-]""")  # a digit, or what may be a symbol


class Likeness:
    """When two captions are near-duplicates; see `captions.cluster_captions` for what the arguments mean.

    All captions are given as `exact_key`s.
    """

    def __init__(self, similarity: float, function_words: Collection[str] | None) -> None:
        self._cutoff = 100 * similarity
        self._function_words = None if function_words is None else frozenset(map(exact_key, function_words))

    def content(self, key: str) -> str:
        """A caption without function words, by which candidates are looked for: what is compared besides letters."""
        if self._function_words is None:
            return key
        return " ".join(word for word in key.split() if word not in self._function_words) or key

    def alike(self, left: str, right: str) -> bool:
        """Whether two captions are near-duplicates."""
        score = fuzz.ratio(left, right)
        if score < self._cutoff:
            score = fuzz.token_sort_ratio(left, right)
        return score >= self._cutoff and not self._says_another_thing(left, right)

    def alike_pairs(self, left: Sequence[str], right: Sequence[str], *, threads: int = 1) -> npt.NDArray[np.bool_]:
        """`alike` of each pair; shape (pairs,)."""
        near = self._near(left, right, moved=False, threads=threads)
        far = np.flatnonzero(~near)
        texts = [left[at] for at in far.tolist()], [right[at] for at in far.tolist()]
        near[far] = self._near(*texts, moved=True, threads=threads)
        for at in np.flatnonzero(near).tolist():
            near[at] = not self._says_another_thing(left[at], right[at])
        return near

    def _near(self, left: Sequence[str], right: Sequence[str], *, moved: bool, threads: int) -> npt.NDArray[np.bool_]:
        """Whether the letters of each pair are similar enough, with the words moved into alphabetical order or not."""
        scorer = fuzz.token_sort_ratio if moved else fuzz.ratio
        scores = process.cpdist(
            left, right, scorer=scorer, score_cutoff=self._cutoff, dtype=np.float64, workers=threads
        )
        near: npt.NDArray[np.bool_] = scores >= self._cutoff
        return near

    def _says_another_thing(self, left: str, right: str) -> bool:
        if figures_of(left) != figures_of(right):
            return True
        return self._function_words is not None and not self._same_content(left, right)

    def _same_content(self, left: str, right: str) -> bool:
        """Whether each word of content of one has its like in the other, in the same order but for one."""
        if len(_CONTRACTED_NOT.findall(left)) != len(_CONTRACTED_NOT.findall(right)):
            return False
        all_mine, all_others = split_tokens(left), split_tokens(right)
        mine, others = self._content_of(all_mine), self._content_of(all_others)
        if len(mine) == len(others) and all(map(_same_word, mine, others)):
            return True
        alias = _likes(others, all_mine)
        if alias is None or _likes(mine, all_others) is None:
            return False
        others = self._content_of(alias.get(word, word) for word in others)
        return _is_one_moved(mine, others) and not self._is_exchanged(left, mine, others)

    def _is_exchanged(self, key: str, words: Sequence[str], others: Sequence[str]) -> bool:
        """Whether two words changed places over a function word: "a dog on a cat", "a cat on a dog"."""
        at = next((at for at, (word, other) in enumerate(zip(words, others, strict=False)) if word != other), None)
        if at is None or [*words[:at], *reversed(words[at : at + 2]), *words[at + 2 :]] != [*others]:
            return False
        neighbours = set(itertools.pairwise(split_tokens(key)))
        return (words[at], words[at + 1]) not in neighbours

    def _content_of(self, words: Iterable[str]) -> list[str]:
        return [word for word in words if word not in (self._function_words or ())]


def figures_of(key: str) -> list[str]:
    """What may not differ at all: numbers in their order, with sign and separators; words with digits; symbols."""
    if not _MARKED.search(key):
        return []
    words = sorted({word for word in split_tokens(key) if _DIGIT.search(word)})
    signs = (sign for sign in _MARKED.findall(key) if sign not in _PLAIN_SYMBOLS)
    symbols = sorted(sign for sign in signs if unicodedata.category(sign).startswith("S"))
    return [*_NUMBER.findall(key), *words, *symbols]


def figure_marks(keys: Sequence[str]) -> npt.NDArray[np.uint64]:
    """A number for each caption's `figures_of`: equal where those are, and zero where there are none."""
    marks = np.zeros(len(keys), np.uint64)
    for at, key in enumerate(keys):
        figures = figures_of(key)
        if figures:
            digest = hashlib.blake2b(" ".join(figures).encode("utf-8", "surrogatepass"), digest_size=8).digest()
            marks[at] = int.from_bytes(digest, "little")
    return marks


def _likes(words: Sequence[str], others: Sequence[str]) -> dict[str, str] | None:
    """For words that the others lack, the first of these that each is like; None where one is like no other."""
    likes: dict[str, str] = {}
    for word in set(words).difference(others):
        like = next((other for other in others if _same_word(word, other)), None)
        if like is None:
            return None
        likes[word] = like
    return likes


def _is_one_moved(left: Sequence[str], right: Sequence[str]) -> bool:
    """Whether the words of the shorter one stand in the order of the longer one, but for one; of two, none may move."""
    shorter = min(len(left), len(right))
    return shorter - int(LCSseq.similarity(left, right)) <= (shorter > 2)


def _same_word(left: str, right: str) -> bool:
    """Whether two words are one, or spellings or numbers of one: "horse", "hrose" and "horses", "gatto" and "gatti"."""
    if left == right:
        return True
    short, long = (left, right) if len(left) <= len(right) else (right, left)
    num_more = len(long) - len(short)
    if num_more > MAX_LETTERS_OF_AN_ENDING or len(short) < MIN_LETTERS_OF_A_STEM or short[0] != long[0]:
        return False
    if long.startswith(short):
        return True
    return num_more <= 1 and len(short) >= MIN_LETTERS_OF_A_SLIP and OSA.distance(short, long, score_cutoff=1) <= 1
