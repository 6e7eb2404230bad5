"""How alike two captions are, by their letters and by their words: what verifies candidates for near-duplicates."""

import hashlib
import re
from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from cleaning.duplicates import exact_key
from cleaning.scripts import split_tokens

# Words of four letters or more that one slip of the keyboard parts are the same word; so are a word and its plural.
MIN_LETTERS_OF_A_SLIP = 4
MIN_LETTERS_OF_A_STEM, MAX_LETTERS_OF_AN_ENDING = 3, 2

_DIGIT = re.compile(r"\d")


class Likeness:
    """When two captions are near-duplicates; see `near_captions.cluster_captions` for what the arguments mean.

    All captions are given as `duplicates.exact_key`s.
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
        from rapidfuzz import fuzz

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
        from rapidfuzz import fuzz, process

        scorer = fuzz.token_sort_ratio if moved else fuzz.ratio
        scores = process.cpdist(
            left, right, scorer=scorer, score_cutoff=self._cutoff, dtype=np.float64, workers=threads
        )
        near: npt.NDArray[np.bool_] = scores >= self._cutoff
        return near

    def _says_another_thing(self, left: str, right: str) -> bool:
        if numbers_of(left) != numbers_of(right):
            return True
        if self._function_words is None:
            return False
        mine, other = set(split_tokens(left)), set(split_tokens(right))
        return self._says_more(mine - other, other) or self._says_more(other - mine, mine)

    def _says_more(self, words: Collection[str], others: Collection[str]) -> bool:
        """Whether one of the words is of content, and unlike all the others."""
        content = (word for word in words if word not in (self._function_words or ()))
        return any(not any(_same_word(word, other) for other in others) for word in content)


def numbers_of(key: str) -> set[str]:
    """The words of a caption that have a digit."""
    return {word for word in split_tokens(key) if _DIGIT.search(word)} if _DIGIT.search(key) else set()


def number_marks(keys: Sequence[str]) -> npt.NDArray[np.uint64]:
    """A number for each caption's `numbers_of`: equal where those are, and zero where there are none."""
    marks = np.zeros(len(keys), np.uint64)
    for at, key in enumerate(keys):
        if _DIGIT.search(key):
            words = " ".join(sorted(numbers_of(key)))
            digest = hashlib.blake2b(words.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            marks[at] = int.from_bytes(digest, "little")
    return marks


def _same_word(left: str, right: str) -> bool:
    """Whether two words are spellings or numbers of one: "horse", "hrose" and "horses", "gatto" and "gatti"."""
    from rapidfuzz.distance import OSA

    short, long = sorted((left, right), key=len)
    if len(short) >= MIN_LETTERS_OF_A_SLIP and OSA.distance(short, long, score_cutoff=1) <= 1:
        return True
    ending = len(long) - len(short)
    return len(short) >= MIN_LETTERS_OF_A_STEM and ending <= MAX_LETTERS_OF_AN_ENDING and long.startswith(short)
