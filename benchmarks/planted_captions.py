"""Captions with known near-duplicates: recombined from real captions, some of them varied as people would."""

import itertools
import random
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from data_folder import cc3m_captions, flickr8k_captions, multi30k
from harness import HERE, exit_without, print_table

WORDS_OF_A_PIECE = (2, 6)
VOWELS = "aeiouyàèéìòùäöü"
Variation = Callable[[list[str], random.Random, Sequence[str]], list[str] | None]


class Planted(NamedTuple):
    """A caption, with the caption that it is a variation of.

    Args:
        caption: the text.
        base: number of the distinct caption that it is, or varies; rows with equal numbers are the true clusters.
        kind: name of the variation; None for the distinct caption itself.
    """

    caption: str
    base: int
    kind: str | None


def real_captions(data: Path) -> list[str]:
    """Return real English captions, in the order of the files."""
    found = [*multi30k(data, "en", ("*",)), *cc3m_captions(data), *flickr8k_captions(data)]
    if not found:
        exit_without(f"{data} contains no real captions")
    return [" ".join(caption.split()) for caption in found]


class Recombined:
    """Distinct captions by number, each with the beginning, middle and end of three real captions.

    Any two of them share at most one of the three pieces, and no two pieces have the same content words. So no two are
    near-duplicates that the truth does not contain.
    """

    def __init__(self, captions: Sequence[str], function_words: Collection[str]) -> None:
        thirds = [pieces_of(caption) for caption in captions]
        self._pieces = [distinct_pieces((pieces[at] for pieces in thirds), function_words) for at in range(3)]
        for at, pieces in enumerate(self._pieces):
            random.Random(at).shuffle(pieces)
        self._size = min(map(len, self._pieces))
        self.count = self._size**2

    def caption(self, number: int) -> str:
        """Return the caption of a number below `count`; different numbers give different captions."""
        turn, place = divmod(number, self._size)
        first, second, third = self._pieces
        size = self._size
        return f"{first[place]} {second[(place + turn) % size]} {third[(place + 2 * turn + turn // size) % size]}"


def pieces_of(caption: str) -> list[str]:
    """Return a caption's words in three pieces of about equal length."""
    words = caption.rstrip(" .").split()
    cuts = [len(words) * part // 3 for part in range(4)]
    return [" ".join(words[start:stop]) for start, stop in itertools.pairwise(cuts)]


def distinct_pieces(pieces: Iterable[str], function_words: Collection[str]) -> list[str]:
    """Return pieces of suitable length, one for each set of content words without their endings."""
    low, high = WORDS_OF_A_PIECE
    found: dict[tuple[str, ...], str] = {}
    for piece in pieces:
        content = {word[:4] for word in re.findall(r"\w+", piece.lower()) if word not in function_words}
        if low <= len(piece.split()) <= high and content:
            found.setdefault(tuple(sorted(content)), piece)
    return list(found.values())


def one_word(change: Callable[[str, random.Random], str], letters: int) -> Variation:
    """Return a variation that changes one word with at least `letters` letters."""

    def varied(words: list[str], numbers: random.Random, _function_words: Sequence[str]) -> list[str] | None:
        places = [place for place, word in enumerate(words) if len(word) >= letters and word.isalpha()]
        if not places:
            return None
        place = numbers.choice(places)
        return [*words[:place], change(words[place], numbers), *words[place + 1 :]]

    return varied


def typo(word: str, numbers: random.Random) -> str:
    """Return a word with a letter omitted, doubled, swapped with its neighbour, or replaced."""
    at = numbers.randrange(1, len(word) - 1)
    swapped = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    other = word[:at] + numbers.choice("etaoinsr") + word[at + 1 :]
    return numbers.choice([word[:at] + word[at + 1 :], word[:at] + word[at] + word[at:], swapped, other])


def singular_or_plural(word: str, numbers: random.Random) -> str:
    """Return a word with an ending added or removed."""
    if word.endswith("s"):
        return word[:-1]
    return word[:-1] + numbers.choice("aeio") if word[-1] in VOWELS else word + "s"


def function_word(change: str) -> Variation:
    """Return a variation of one function word: "changed", "added" or "dropped"."""

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


def punctuation_and_case(words: list[str], numbers: random.Random, _function_words: Sequence[str]) -> list[str] | None:
    """Return the words with a comma in the middle, another end and another case."""
    place = numbers.randrange(1, len(words))
    comma = " ".join([*words[:place], ",", *words[place:]]).replace(" ,", ",")
    return [numbers.choice([str.upper, str.title, str.lower])(comma) + numbers.choice([".", "!", " .", "..."])]


def words_swapped(words: list[str], numbers: random.Random, _function_words: Sequence[str]) -> list[str] | None:
    """Return the words with two neighbours swapped."""
    place = numbers.randrange(len(words) - 1)
    return [*words[:place], words[place + 1], words[place], *words[place + 2 :]]


VARIATIONS: dict[str, Variation] = {
    "typo": one_word(typo, 5),
    **{f"function word {change}": function_word(change) for change in ("changed", "added", "dropped")},
    "punctuation and case": punctuation_and_case,
    "singular or plural": one_word(singular_or_plural, 4),
    "words swapped": words_swapped,
    "word doubled": one_word(lambda word, _: f"{word} {word}", 1),
}


def varied(caption: str, kind: str, numbers: random.Random, function_words: Sequence[str]) -> str | None:
    """Return a caption with one variation, or None if it does not change the caption."""
    words = VARIATIONS[kind](caption.split(), numbers, function_words)
    changed = None if words is None else " ".join(words)
    return None if changed == caption else changed


def planted(captions: Sequence[str], count: int, *, share: float = 0.1, seed: int = 1) -> Iterator[Planted]:
    """Yield `count` rows, of which about `share` vary one of the distinct captions before them; kinds take turns.

    Raises:
        ValueError: there are fewer distinct captions than `count`.
    """
    words = function_words()
    source, numbers, kinds = Recombined(captions, words), random.Random(seed), itertools.cycle(VARIATIONS)
    if count > source.count:
        raise ValueError(f"{source.count} distinct captions can be made, not {count}")
    num_bases = 0
    for _ in range(count):
        if num_bases and numbers.random() < share:
            base, kind = numbers.randrange(num_bases), next(kinds)
            changed = varied(source.caption(base), kind, numbers, words)
            if changed is not None:
                yield Planted(changed, base, kind)
                continue
        yield Planted(source.caption(num_bases), num_bases, None)
        num_bases += 1


def function_words() -> list[str]:
    """Return English function words that near-duplicates may differ in, without single letters other than "a"."""
    harmless = (word for word, meaning in english_meanings()["en"].items() if not meaning)
    return [word for word in harmless if len(word) > 1 or word == "a"]


def english_meanings() -> dict[str, dict[str, str]]:
    """Return the function words of the English language pack with their meanings; importing `flows` takes seconds."""
    from data_catalog.base.language_pack import LanguagePack, function_word_meanings

    found = tomllib.loads((HERE.parent / "flows" / "languages" / "en.toml").read_text("utf-8"))
    words = {name: tuple(found[name]) for name in ("function_words", "negations")}
    return function_word_meanings(
        {"en": LanguagePack(code="en", contrasts=tuple(map(tuple, found["contrasts"])), **words)}
    )


@dataclass(slots=True)
class Labels:
    """The true base and variation of each row of a stream."""

    bases: list[int] = field(default_factory=list)
    kinds: list[str | None] = field(default_factory=list)

    def add(self, rows: Iterable[Planted]) -> None:
        """Add rows."""
        for row in rows:
            self.bases.append(row.base)
            self.kinds.append(row.kind)

    def judge(self, first_rows: npt.NDArray[np.int64], *, shown: bool = False) -> tuple[float, float]:
        """Return recall (of variations) and precision (of joined rows) of the clusters of the stream's first rows.

        Args:
            first_rows: the first row of each row's cluster, shape (rows or fewer,); -1 for rows that are left out.
            shown: print the found share of each variation.
        """
        count, rows = len(first_rows), np.arange(len(first_rows))
        bases, is_varied = np.array(self.bases[:count]), np.array([kind is not None for kind in self.kinds[:count]])
        row_of_base = np.zeros(int(bases.max(initial=0)) + 1, np.int64)
        row_of_base[bases[~is_varied]] = rows[~is_varied]
        base_rows = row_of_base[bases]
        planted_rows = is_varied & (first_rows >= 0) & (first_rows[base_rows] >= 0)
        found = planted_rows & (first_rows == first_rows[base_rows])
        joined = (first_rows >= 0) & (first_rows != rows)
        right = bases[joined] == bases[first_rows[joined]]
        if shown:
            counts, hits = (Counter(self.kinds[row] for row in np.flatnonzero(some)) for some in (planted_rows, found))
            print_table([{"kind": kind, "planted": n, "found": f"{hits[kind] / n:.4f}"} for kind, n in counts.items()])
        return float(found.sum() / max(planted_rows.sum(), 1)), float(right.sum() / max(joined.sum(), 1))
