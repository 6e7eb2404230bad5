"""Captions with near-duplicates of known truth: real captions recombined, some of them varied as people vary them."""

import array
import itertools
import random
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from data_folder import cc3m_captions, flickr8k_captions, multi30k
from harness import HERE, lacks, tell

WORDS_OF_A_PIECE = (2, 6)
VOWELS = "aeiouyàèéìòùäöü"


@dataclass(frozen=True, slots=True)
class Planted:
    """A caption, and which one it is a variation of.

    Args:
        caption: the text.
        base: number of the distinct caption that it is, or varies; rows of equal numbers are the truth's clusters.
        kind: name of the variation; None for the distinct caption itself.
    """

    caption: str
    base: int
    kind: str | None


def real_captions(data: Path) -> list[str]:
    """Real English captions, in the order of the files."""
    found = [*multi30k(data, "en", ("*",)), *cc3m_captions(data), *flickr8k_captions(data)]
    if not found:
        lacks(f"there are no real captions in {data}")
    return [" ".join(caption.split()) for caption in found]


class Recombined:
    """Distinct captions without end, by number: beginning, middle and end of three real captions.

    Any two of them have one of the three pieces in common at most, and no two pieces have the same words of content, so
    that no two are near-duplicates which the truth does not know.
    """

    def __init__(self, captions: Sequence[str], function_words: Collection[str]) -> None:
        thirds = [pieces_of(caption) for caption in captions]
        self._pieces = [distinct_pieces((pieces[at] for pieces in thirds), function_words) for at in range(3)]
        for at, pieces in enumerate(self._pieces):
            random.Random(at).shuffle(pieces)
        self._size = min(map(len, self._pieces))
        self.count = self._size**2

    def caption(self, number: int) -> str:
        """The caption of a number below `count`; other numbers, other captions."""
        turn, place = divmod(number, self._size)
        first, second, third = self._pieces
        size = self._size
        return f"{first[place]} {second[(place + turn) % size]} {third[(place + 2 * turn + turn // size) % size]}"


def pieces_of(caption: str) -> list[str]:
    """A caption's words in three pieces of about equal length."""
    words = caption.rstrip(" .").split()
    cuts = [len(words) * part // 3 for part in range(4)]
    return [" ".join(words[start:stop]) for start, stop in itertools.pairwise(cuts)]


def distinct_pieces(pieces: Iterable[str], function_words: Collection[str]) -> list[str]:
    """Pieces of fitting length, one of each set of words of content, endings aside."""
    low, high = WORDS_OF_A_PIECE
    found: dict[tuple[str, ...], str] = {}
    for piece in pieces:
        content = {word[:4] for word in words_of(piece) if word not in function_words}
        if low <= len(piece.split()) <= high and content:
            found.setdefault(tuple(sorted(content)), piece)
    return list(found.values())


def typo(words: list[str], numbers: random.Random, _function_words: Sequence[str]) -> list[str] | None:
    """A letter of a longer word is left out, doubled, exchanged with its neighbour, or another."""
    long = [place for place, word in enumerate(words) if len(word) >= 5 and word.isalpha()]
    if not long:
        return None
    place = numbers.choice(long)
    word, at = words[place], numbers.randrange(1, len(words[place]) - 1)
    swapped = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    other = word[:at] + numbers.choice("etaoinsr") + word[at + 1 :]
    wrong = numbers.choice([word[:at] + word[at + 1 :], word[:at] + word[at] + word[at:], swapped, other])
    return [*words[:place], wrong, *words[place + 1 :]]


def punctuation_and_case(words: list[str], numbers: random.Random, _function_words: Sequence[str]) -> list[str] | None:
    """A comma in the middle, another end, another case."""
    place = numbers.randrange(1, len(words))
    comma = " ".join([*words[:place], ",", *words[place:]]).replace(" ,", ",")
    return [numbers.choice([str.upper, str.title, str.lower])(comma) + numbers.choice([".", "!", " .", "..."])]


def singular_or_plural(words: list[str], numbers: random.Random, _function_words: Sequence[str]) -> list[str] | None:
    """A word gets an ending or loses it."""
    places = [place for place, word in enumerate(words) if len(word) >= 4 and word.isalpha()]
    if not places:
        return None
    place = numbers.choice(places)
    word = words[place]
    changed = (
        word[:-1] if word.endswith("s") else word[:-1] + numbers.choice("aeio") if word[-1] in VOWELS else word + "s"
    )
    return [*words[:place], changed, *words[place + 1 :]]


def function_word(change: str) -> Callable[[list[str], random.Random, Sequence[str]], list[str] | None]:
    """A function word another, one more or one less, by whether "changed", "added" or "dropped"."""

    def varied(words: list[str], numbers: random.Random, function_words: Sequence[str]) -> list[str] | None:
        places = [place for place, word in enumerate(words) if word.lower() in function_words]
        if change == "added":
            places = list(range(1, len(words)))
        if not places:
            return None
        place = numbers.choice(places)
        more = [] if change == "dropped" else [numbers.choice(function_words)]
        return [*words[:place], *more, *words[place + (change != "added") :]]

    return varied


def words_swapped(words: list[str], numbers: random.Random, _function_words: Sequence[str]) -> list[str] | None:
    """Two neighbours change places."""
    place = numbers.randrange(len(words) - 1)
    return [*words[:place], words[place + 1], words[place], *words[place + 2 :]]


def word_doubled(words: list[str], numbers: random.Random, _function_words: Sequence[str]) -> list[str] | None:
    """A word stands there twice."""
    place = numbers.randrange(len(words))
    return [*words[: place + 1], *words[place:]]


VARIATIONS: dict[str, Callable[[list[str], random.Random, Sequence[str]], list[str] | None]] = {
    "typo": typo,
    **{f"function word {change}": function_word(change) for change in ("changed", "added", "dropped")},
    "punctuation and case": punctuation_and_case,
    "singular or plural": singular_or_plural,
    "words swapped": words_swapped,
    "word doubled": word_doubled,
}


def varied(caption: str, kind: str, numbers: random.Random, function_words: Sequence[str]) -> str | None:
    """A caption with one variation; None where it leaves nothing else than the caption."""
    words = VARIATIONS[kind](caption.split(), numbers, function_words)
    changed = None if words is None else " ".join(words)
    return None if changed == caption else changed


def planted(captions: Sequence[str], count: int, *, share: float = 0.1, seed: int = 1) -> Iterator[Planted]:
    """`count` rows, of which about `share` vary one of the distinct captions before them, one kind after the other.

    Raises:
        ValueError: fewer distinct captions can be made than are asked for.
    """
    words = function_words()
    source, numbers, kinds = Recombined(captions, words), random.Random(seed), list(VARIATIONS)
    if count > source.count:
        raise ValueError(f"{source.count} distinct captions can be made, not {count}")
    num_bases = num_varied = 0
    for _ in range(count):
        if num_bases and numbers.random() < share:
            base, kind = numbers.randrange(num_bases), kinds[num_varied % len(kinds)]
            changed = varied(source.caption(base), kind, numbers, words)
            num_varied += 1
            if changed is not None:
                yield Planted(changed, base, kind)
                continue
        yield Planted(source.caption(num_bases), num_bases, None)
        num_bases += 1


def words_of(caption: str) -> list[str]:
    """Runs of letters and digits, lower case."""
    return re.findall(r"\w+", caption.lower())


def function_words() -> list[str]:
    """English function words, from the pack; no negations, and no single letters but "a"."""
    pack = tomllib.loads((HERE.parent / "flows" / "languages" / "en.toml").read_text("utf-8"))
    harmless = (word for word in pack["function_words"] if word not in pack["negations"])
    return [word for word in harmless if len(word) > 1 or word == "a"]


@dataclass(slots=True)
class Truth:
    """How well clusters agree with what was planted.

    Args:
        num_planted: variations, by kind.
        num_found: those of them in the cluster of the caption that they vary, by kind.
        num_joined: rows that a cluster joins to an earlier row.
        num_right: those of them whose cluster's first row is of the same base.
    """

    num_planted: Counter[str]
    num_found: Counter[str]
    num_joined: int
    num_right: int

    def tell(self) -> None:
        """Print how many of each variation are found."""
        kinds = sorted(self.num_planted.items())
        tell([{"kind": kind, "planted": n, "found": f"{self.num_found[kind] / max(n, 1):.4f}"} for kind, n in kinds])

    @property
    def recall(self) -> float:
        """Share of the variations that are found."""
        return self.num_found.total() / max(self.num_planted.total(), 1)

    @property
    def precision(self) -> float:
        """Share of the joined rows that are joined rightly."""
        return self.num_right / max(self.num_joined, 1)


class Labels:
    """What the rows of a stream are: `bases`, shape (rows,), and `kinds`, numbers of `VARIATIONS` or -1."""

    def __init__(self, rows: Iterable[tuple[int, str | None]] = ()) -> None:
        self._numbers = {kind: number for number, kind in enumerate([*VARIATIONS])} | {None: -1}
        self._bases, self._kinds = array.array("q"), array.array("b")
        for base, kind in rows:
            self.add(base, kind)

    def add(self, base: int, kind: str | None) -> None:
        """One row more."""
        self._bases.append(base)
        self._kinds.append(self._numbers[kind])

    def __len__(self) -> int:
        return len(self._bases)

    def judge(self, first_rows: npt.NDArray[np.int64]) -> Truth:
        """The first rows of the clusters of the first rows of the stream, beside what these are.

        Args:
            first_rows: row numbers, shape (rows or fewer,); -1 for a row that is to be left out.
        """
        count, rows = len(first_rows), np.arange(len(first_rows))
        bases, kinds = np.array(self._bases, np.int64)[:count], np.array(self._kinds)[:count]
        row_of_base = np.zeros(int(bases.max(initial=0)) + 1, np.int64)
        row_of_base[bases[kinds < 0]] = rows[kinds < 0]
        base_rows = row_of_base[bases]
        planted_rows = (kinds >= 0) & (first_rows >= 0) & (first_rows[base_rows] >= 0)
        found = planted_rows & (first_rows == first_rows[base_rows])
        joined = (first_rows >= 0) & (first_rows != rows)
        right = bases[joined] == bases[first_rows[joined]]
        per_kind = [self._by_kind(kinds[some]) for some in (planted_rows, found)]
        return Truth(*per_kind, num_joined=int(joined.sum()), num_right=int(right.sum()))

    @staticmethod
    def _by_kind(kinds: npt.NDArray[np.int8]) -> Counter[str]:
        return Counter(dict(zip(VARIATIONS, np.bincount(kinds, minlength=len(VARIATIONS)).tolist(), strict=True)))
