"""Find captions that say the same in nearly the same words, among tens of millions.

MinHash finds the candidates; their letters and words are then compared.

A caption is the set of its runs of four characters, white space included; where an ideograph begins a run, of two,
since one says as much as a word. `NUM_BANDS` bands of `ROWS_PER_BAND` minima each make candidates of two captions that
share a band: of those with a Jaccard similarity of 0.7 99 % do, of 0.6 87 %, of 0.5 55 %, of 0.4 23 %, of 0.1 one in
4,000.

The MinHash is in numpy, since what is dropped from a data set hangs on its numbers, and those of the libraries change
with their releases; and since those hand their minima over one Python number at a time (`benchmarks/near_captions.py`
compares).
"""

import hashlib
import itertools
import os
import re
import tempfile
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import fuzz, process
from rapidfuzz.distance import OSA, LCSseq

from cleaning.text.scripts import exact_key, split_tokens

Rows = NDArray[np.int64]
Words = NDArray[np.uint64]

NUM_BANDS, ROWS_PER_BAND = 25, 5
RUN, IDEOGRAPHIC_RUN = 4, 2  # characters
FIRST_IDEOGRAPH = 0x2E80  # the block of radicals; kana, ideographs and hangul syllables follow
CAPTIONS_PER_BLOCK = 1024  # what stays in a core's cache
# A sketch has a bit a minimum, in words of 64; the last bits stay zero.
SKETCH_WORDS = 2
# Of 125 bits, captions of Jaccard similarity J agree in 62 (1 + J) on average, give or take 5: nearly all of 0.5 and
# more pass, one in twenty of 0.2.
MIN_EQUAL_BITS = 84
# With so many captions before it a caption is compared in each band that it shares with others, and with the band's
# first. More of them cost time and find little: those that are alike lie beside each other.
NEIGHBOURS = 4
PLACES_PER_BLOCK = 500_000

_RUN_MULTIPLIERS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93], np.uint64)
_MIX = np.uint64(0xFF51AFD7ED558CCD)
_HALF = np.uint64(32)
# Of the permutations, odd multipliers and summands, modulo 2**32: PCG64's raw numbers, which numpy promises to keep.
_RAW = np.random.PCG64(20_260_101).random_raw(NUM_BANDS * ROWS_PER_BAND)
_PERMUTATIONS = list(zip((_RAW >> _HALF).astype(np.uint32) | np.uint32(1), _RAW.astype(np.uint32), strict=True))

_DIGIT = re.compile(r"\d")
_NUMBER = re.compile(r"(?:(?<!\S)[-\u2212])?\d+(?:[.,:/]\d+)*")
_PLAIN_SYMBOLS = "`^|~\u00b4\u00a8"  # that stand for an apostrophe, an accent or a dash
_MARKED = re.compile(r"""\d|[^\w\s.,;:!?'"()-]""")  # a digit, or what may be a symbol


class BandFiles:
    """The bands of all captions, each in a file, and their sketches in memory (with their numbers 24 bytes a caption).

    Each caption's are the same whatever its neighbours and the threads.

    Args:
        folder: an existing folder; the caller removes it. 8 bytes a caption and band.
        batches: the exact keys of captions, in order.
        threads: that hash.
    """

    def __init__(self, folder: Path, batches: Iterable[Sequence[str]], *, threads: int = 1) -> None:
        self._paths = [folder / f"band-{number:02d}" for number in range(NUM_BANDS)]
        sketches, marks = [np.empty((0, SKETCH_WORDS), np.uint64)], [np.empty(0, np.uint64)]
        for path in self._paths:
            path.touch()
        with ThreadPoolExecutor(threads) as pool:  # numpy lets go of the interpreter
            for batch in batches:
                parts = [
                    batch[start : start + CAPTIONS_PER_BLOCK] for start in range(0, len(batch), CAPTIONS_PER_BLOCK)
                ]
                signed = list(pool.map(_signatures, parts))
                sketches += [sketch for _, sketch in signed]
                marks.append(figure_marks(batch))
                for number, path in enumerate(self._paths):
                    with path.open("ab") as file:  # numpy's own writer says nothing where a small disk is full
                        file.write(b"".join(bands[number].tobytes() for bands, _ in signed))
        self._sketches = np.concatenate(sketches)
        self._marks = np.concatenate(marks)

    def pairs(self) -> Iterator[tuple[Rows, Rows]]:
        """Yield pairs that may be near-duplicates, block by block: numbers of captions, the first below the second.

        A pair may come again in another block.
        """
        for number, path in enumerate(self._paths):
            other_band = np.fromfile(self._paths[number - 1], np.uint64)
            order, bucket_starts = _crowded(np.fromfile(path, np.uint64), (other_band, self._marks))
            del other_band
            for start in range(0, len(order), PLACES_PER_BLOCK):
                yield self._likely_pairs(order, bucket_starts, start)

    def _likely_pairs(self, order: Rows, bucket_starts: Rows, start: int) -> tuple[Rows, Rows]:
        """Return pairs of the captions at a block of places with those before them whose sketches are near enough."""
        places = np.arange(start, min(start + PLACES_PER_BLOCK, len(order)))
        starts = bucket_starts[places]
        # The nearest before them, and their bucket's first; a place beside itself is compared with nothing.
        near = [np.where(places - hop >= starts, places - hop, places) for hop in range(1, NEIGHBOURS + 1)]
        found = []
        for others in (*near, np.where(places - starts > NEIGHBOURS, starts, places)):
            is_pair = others < places
            left, right = order[others[is_pair]], order[places[is_pair]]
            same_figures = self._marks[left] == self._marks[right]
            left, right = left[same_figures], right[same_figures]
            differing = np.bitwise_count(self._sketches[left] ^ self._sketches[right]).sum(axis=1, dtype=np.int64)
            likely = NUM_BANDS * ROWS_PER_BAND - differing >= MIN_EQUAL_BITS
            low, high = np.minimum(left, right)[likely], np.maximum(left, right)[likely]
            found.append(low * len(self._sketches) + high)
        return np.divmod(np.unique(np.concatenate(found)), len(self._sketches))


def _crowded(band: Words, inner_keys: Sequence[Words]) -> tuple[Rows, Rows]:
    """Return captions that share the band with another, bucket by bucket, and for each place where its bucket begins.

    Within a bucket they lie in the order of their numbers and another band: captions that are alike have the same
    numbers and often share that band too, and then lie beside each other, however crowded the bucket is.
    """
    order = np.argsort(band, kind="stable")
    same = np.diff(band[order]) == 0
    order = order[np.append(same, False) | np.insert(same, 0, False)] if len(order) else order
    order = order[np.lexsort((*(key[order] for key in inner_keys), band[order]))]
    is_start = np.diff(band[order], prepend=~band[order][:1]) != 0
    return order, np.maximum.accumulate(np.where(is_start, np.arange(len(order)), 0))


def _signatures(keys: Sequence[str]) -> tuple[Words, Words]:
    """Return what is kept of the minima of some captions.

    Returns:
        Bands, shape (NUM_BANDS, captions): equal where all minima of a band are. Sketches, shape (captions,
        SKETCH_WORDS): a well-mixed bit a minimum, from which a similarity can be guessed.
    """
    hashes, starts = _run_hashes(keys)
    minima = np.empty((len(_PERMUTATIONS), len(keys)), np.uint32)
    permuted = np.empty_like(hashes)
    for row, (multiplier, summand) in zip(minima, _PERMUTATIONS, strict=True):
        np.multiply(hashes, multiplier, out=permuted)
        np.add(permuted, summand, out=permuted)
        np.minimum.reduceat(permuted, starts, out=row)
    bands = np.zeros((NUM_BANDS, len(keys)), np.uint64)
    for rows in minima.reshape(NUM_BANDS, ROWS_PER_BAND, -1).swapaxes(0, 1):
        bands = (bands + rows) * _MIX
        bands ^= bands >> _HALF
    bits = (minima * np.uint32(0x9E3779B1)) >> np.uint32(31)
    packed = np.packbits(bits.astype(np.uint8), axis=0, bitorder="little")
    return bands, np.ascontiguousarray(packed.T).view(np.uint64)


def _run_hashes(keys: Sequence[str]) -> tuple[NDArray[np.uint32], Rows]:
    """Return 32 well-mixed bits of each of all captions' runs, one caption after the other, and where each's begin."""
    padded = [_padded(key) for key in keys]
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    num_runs = np.fromiter(map(len, padded), np.int64, len(padded)) - (RUN - 1)
    starts = np.cumsum(num_runs) - num_runs
    # A run that would reach into the next caption is none: each caption has three fewer runs than characters.
    places = np.arange(num_runs.sum()) + np.repeat((RUN - 1) * np.arange(len(padded)), num_runs)
    last = len(codes) - (RUN - 1)
    parts = [codes[at : last + at] * multiplier for at, multiplier in enumerate(_RUN_MULTIPLIERS)]
    short = sum(parts[1:IDEOGRAPHIC_RUN], parts[0])
    sums = np.where(codes[:last] >= FIRST_IDEOGRAPH, short, sum(parts[IDEOGRAPHIC_RUN:], short))[places]
    sums = (sums ^ (sums >> _HALF)) * _MIX
    return (sums >> _HALF).astype(np.uint32), starts


def _padded(key: str) -> str:
    """Put white space around a caption, so that its first and last words count as words, and it has a run at least."""
    ideographic = not key.isascii() and ord(max(key)) >= FIRST_IDEOGRAPH
    end = " " * (RUN - 1) if ideographic else " "
    return f" {key}{end}".ljust(RUN)


def figure_marks(keys: Sequence[str]) -> Words:
    """Return a number for each caption's `figures_of`: equal where those are, and zero where there are none."""
    marks = np.zeros(len(keys), np.uint64)
    for at, key in enumerate(keys):
        if figures := figures_of(key):
            digest = hashlib.blake2b(" ".join(figures).encode("utf-8", "surrogatepass"), digest_size=8).digest()
            marks[at] = int.from_bytes(digest, "little")
    return marks


def figures_of(key: str) -> list[str]:
    """Return what may not differ: numbers in their order, with sign and separators; words with digits; symbols."""
    if not _MARKED.search(key):
        return []
    words = sorted({word for word in split_tokens(key) if _DIGIT.search(word)})
    signs = (sign for sign in _MARKED.findall(key) if sign not in _PLAIN_SYMBOLS)
    symbols = sorted(sign for sign in signs if unicodedata.category(sign).startswith("S"))
    return [*_NUMBER.findall(key), *words, *symbols]


CAPTIONS_PER_BATCH = 50_000
PAIRS_PER_BATCH = 100_000
# So many new pairs are kept, or a quarter of the old ones, before those that connect nothing new are thrown away.
MAX_NEW_PAIRS = 20_000
# A caption is compared with so many first captions of those that it hangs together with, and those of its neighbours.
MAX_LEADERS = 16
DIGEST = np.dtype([("first", "<u8"), ("second", "<u8")])

# Words of four letters or more that one slip of the keyboard parts are the same word, but where it would be the first
# letter: "boat" and "coat", "eine" and "keine" are two. A word and its plural are the same.
MIN_LETTERS_OF_A_SLIP = 4
MIN_LETTERS_OF_A_STEM, MAX_LETTERS_OF_AN_ENDING = 3, 2
_CONTRACTED_NOT = re.compile(r"n['\u2019]t\b|\bcannot\b")  # English; packs name negations that are words of their own


def cluster_captions(
    read: Callable[[], Iterator[Sequence[str]]],
    *,
    similarity: float,
    scratch: Path,
    function_words: Collection[str] | None = None,
    threads: int = 1,
) -> Rows:
    """Return for each caption the lowest row number of its cluster: its own, where none before it is like it.

    Captions with equal `exact_key`s are in one cluster. So is each caption that is like the *first* of a
    cluster: no chain of small steps leads from one caption to an unlike one, at the price that two captions which are
    alike may belong to two clusters. A caption is like another if

    - their keys are at least so similar: twice the letters that they share in order, over the letters that they have
      (rapidfuzz's `ratio`), with the words as they stand or in alphabetical order; and
    - they do not differ in numbers, the order of these, words with digits, or symbols; and
    - where function words are given, each other word of one has its like in the other, and at most one (of two, none)
      stands in another place, not having changed places with its neighbour over a function word. Words are like each
      other that begin alike and differ in one slip of the keyboard, from four letters on, or in two letters at the end.

    At 0.85, "A man riding a horse on a beach" and "A man is riding a horse on the beach." are alike (0.89); "a red bus"
    and "a blue bus" are not (0.74). Letters alone cannot tell "two red cars in front of a small house" from "two blue
    cars in front of a small house" (0.92): where function words are given, these are not alike.

    Candidates come from MinHash of what the function words leave (`cleaning.duplicates.near_captions`): one pair in a
    hundred of those with one small difference is missed, more where two captions differ in several words or are very
    short. Rows may come in batches of any sizes.

    Args:
        read: the captions in order, batch by batch; called once.
        similarity: 0 to 1, of captions that are near-duplicates; tried from 0.8 to 0.95.
        scratch: a folder that may hold temporary files: the captions, and 200 bytes more a distinct one.
        function_words: of the captions' languages, lower case; an empty collection: all words tell captions apart.
            None: no words do.
        threads: that hash and compare letters; the result does not depend on it.

    Returns:
        Shape (captions,). Memory: about 120 bytes a caption.

    Raises:
        ValueError: the similarity is not above 0 and at most 1.
    """
    if not 0 < similarity <= 1:
        raise ValueError(f"similarity must be above 0 and at most 1, not {similarity}")
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as name, (Path(name) / "keys").open("x+b") as file:
        store = CaptionStore(file, read())
        likeness = Likeness(similarity, function_words)
        forest = LikeForest(len(store))
        batches = (
            [likeness.content(key) for key in store.keys(numbers)]
            for numbers in np.split(np.arange(len(store)), range(CAPTIONS_PER_BATCH, len(store), CAPTIONS_PER_BATCH))
        )
        for left, right in BandFiles(Path(name), batches, threads=threads).pairs():
            for start in range(0, len(left), PAIRS_PER_BATCH):
                end = start + PAIRS_PER_BATCH
                pairs = forest.unconnected(left[start:end], right[start:end])
                alike = likeness.alike_pairs(store.keys(pairs[0]), store.keys(pairs[1]), threads=threads)
                forest.connect(pairs[:, alike])
        leaders = first_like_captions(forest, store, likeness.alike)
        return store.first_rows[leaders[store.number_of_row]]


class CaptionStore:
    """The exact keys of captions in a file, each distinct one once, and which rows have equal ones.

    Memory: some 40 bytes a row.

    Args:
        file: an empty one, open for as long as keys are asked for.
        batches: the captions, in order.
    """

    def __init__(self, file: BinaryIO, batches: Iterable[Sequence[str]]) -> None:
        found, sizes = bytearray(), [np.zeros(1, np.int64)]
        for batch in batches:
            raw = [exact_key(caption).encode("utf-8", "surrogatepass") for caption in batch]
            found += b"".join(hashlib.blake2b(key, digest_size=DIGEST.itemsize).digest() for key in raw)
            sizes.append(np.fromiter(map(len, raw), np.int64, len(raw)))
            file.write(b"".join(raw))
        file.flush()
        digests, ends = np.frombuffer(found, DIGEST), np.cumsum(np.concatenate(sizes))
        order = np.lexsort((digests["second"], digests["first"]))  # stable: of equal digests, the earliest is first
        placed = digests[order]
        is_new = np.append(True, placed[1:] != placed[:-1])[: len(order)]
        first_of_row = np.empty(len(order), np.int64)
        first_of_row[order] = order[is_new][np.cumsum(is_new) - 1]
        is_first = first_of_row == np.arange(len(order))
        self.first_rows: Rows = np.flatnonzero(is_first)
        self.number_of_row: Rows = (np.cumsum(is_first) - 1)[first_of_row]
        # Where the text of each distinct key begins and ends.
        self._starts, self._ends = ends[self.first_rows], ends[self.first_rows + 1]
        self._file = file.fileno()

    def __len__(self) -> int:
        return len(self.first_rows)

    def keys(self, numbers: Rows) -> list[str]:
        """Return the exact keys of distinct captions, in the order asked for."""
        distinct, places = np.unique(numbers, return_inverse=True)
        found = [
            os.pread(self._file, end - start, start).decode("utf-8", "surrogatepass")
            for start, end in zip(self._starts[distinct].tolist(), self._ends[distinct].tolist(), strict=True)
        ]
        return [found[place] for place in places.tolist()]


class LikeForest:
    """Captions and pairs of them that are alike: no more pairs than are needed to connect what is connected.

    Memory: 8 bytes a caption, 16 a pair.
    """

    def __init__(self, num_captions: int) -> None:
        self.num_captions = num_captions
        self._pairs = np.empty((2, 0), np.int64)
        self._num_settled = 0
        self._components = np.arange(num_captions)

    def unconnected(self, left: Rows, right: Rows) -> Rows:
        """Return those of some pairs that would connect something, as far as is known; shape (2, pairs)."""
        news = self._components[left] != self._components[right]
        return np.stack((left[news], right[news]))

    def connect(self, pairs: Rows) -> None:
        """Add pairs that are alike; shape (2, pairs), the first number below the second."""
        self._pairs = np.concatenate((self._pairs, pairs), axis=1)
        if self._pairs.shape[1] > self._num_settled + max(MAX_NEW_PAIRS, self._num_settled // 4):
            self.settle()

    def settle(self) -> None:
        """Throw away pairs that connect nothing which those before them do not."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

        if not self._pairs.size:
            return
        _, places = np.unique(self._pairs[0] * self.num_captions + self._pairs[1], return_index=True)
        self._pairs = self._pairs[:, np.sort(places)]
        nodes, ends = np.unique(self._pairs, return_inverse=True)
        ends = ends.reshape(self._pairs.shape)
        # All weights differ, so that there is one least tree only.
        weights = np.arange(1, ends.shape[1] + 1, dtype=np.float64)
        tree = minimum_spanning_tree(coo_array((weights, ends), (len(nodes), len(nodes))).tocsr())
        self._pairs = self._pairs[:, np.sort(tree.data).astype(np.int64) - 1]
        self._num_settled = self._pairs.shape[1]
        _, labels = connected_components(tree, directed=False)
        _, firsts = np.unique(labels, return_index=True)
        self._components[nodes] = nodes[firsts][labels]

    def components(self) -> Iterator[tuple[Rows, list[Rows]]]:
        """Yield each connected component's captions, ascending, and for each the lower ones that it has a pair with."""
        self.settle()
        nodes = np.unique(self._pairs)
        nodes = nodes[np.lexsort((nodes, self._components[nodes]))]
        lower, upper = self._pairs[:, np.lexsort(self._pairs)]
        begins, ends = np.searchsorted(upper, nodes), np.searchsorted(upper, nodes, side="right")
        starts = np.flatnonzero(np.diff(self._components[nodes], prepend=-1))
        for start, stop in itertools.pairwise([*starts.tolist(), len(nodes)]):
            yield nodes[start:stop], [lower[begins[at] : ends[at]] for at in range(start, stop)]


def first_like_captions(forest: LikeForest, store: CaptionStore, alike: Callable[[str, str], bool]) -> Rows:
    """Return for each caption the lowest one that it is like, of those that are the first of a cluster themselves."""
    leaders = np.arange(forest.num_captions)
    for members, neighbours in forest.components():
        texts = dict(zip(members.tolist(), store.keys(members), strict=True))
        firsts: list[int] = []
        for member, lower in zip(members.tolist(), neighbours, strict=True):
            near = set(lower.tolist())
            tried = sorted({*firsts[:MAX_LEADERS], *leaders[lower].tolist()})
            like = (first for first in tried if first in near or alike(texts[first], texts[member]))
            leaders[member] = found = next(like, member)
            if found == member:
                firsts.append(member)
    return leaders


class Likeness:
    """When two captions are near-duplicates; see `cluster_captions` for what the arguments mean.

    All captions are given as `exact_key`s.
    """

    def __init__(self, similarity: float, function_words: Collection[str] | None) -> None:
        self._cutoff = 100 * similarity
        self._function_words = None if function_words is None else frozenset(map(exact_key, function_words))

    def content(self, key: str) -> str:
        """Return a caption without function words, by which candidates are looked for."""
        if self._function_words is None:
            return key
        return " ".join(word for word in key.split() if word not in self._function_words) or key

    def alike(self, left: str, right: str) -> bool:
        """Tell if two captions are near-duplicates."""
        score = fuzz.ratio(left, right)
        if score < self._cutoff:
            score = fuzz.token_sort_ratio(left, right)
        return score >= self._cutoff and not self._says_another_thing(left, right)

    def alike_pairs(self, left: Sequence[str], right: Sequence[str], *, threads: int = 1) -> NDArray[np.bool_]:
        """Return `alike` of each pair; shape (pairs,)."""
        cutoff = self._cutoff
        scores = process.cpdist(left, right, scorer=fuzz.ratio, score_cutoff=cutoff, dtype=np.float64, workers=threads)
        near: NDArray[np.bool_] = scores >= cutoff
        far = np.flatnonzero(~near)
        moved, others = [left[at] for at in far.tolist()], [right[at] for at in far.tolist()]
        near[far] = cutoff <= process.cpdist(
            moved, others, scorer=fuzz.token_sort_ratio, score_cutoff=cutoff, dtype=np.float64, workers=threads
        )
        for at in np.flatnonzero(near).tolist():
            near[at] = not self._says_another_thing(left[at], right[at])
        return near

    def _says_another_thing(self, left: str, right: str) -> bool:
        if figures_of(left) != figures_of(right):
            return True
        return self._function_words is not None and not self._same_content(left, right)

    def _same_content(self, left: str, right: str) -> bool:
        """Tell if each word of content of one has its like in the other, in the same order but for one."""
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
        # The words of the shorter one stand in the order of the longer one, but for one; of two, none may move.
        shorter = min(len(mine), len(others))
        is_one_moved = shorter - int(LCSseq.similarity(mine, others)) <= (shorter > 2)
        return is_one_moved and not _are_exchanged(left, mine, others)

    def _content_of(self, words: Iterable[str]) -> list[str]:
        return [word for word in words if word not in (self._function_words or ())]


def _likes(words: Sequence[str], others: Sequence[str]) -> dict[str, str] | None:
    """Return, for words that the others lack, the first of these that each is like; None where one is like no other."""
    likes: dict[str, str] = {}
    for word in set(words).difference(others):
        like = next((other for other in others if _same_word(word, other)), None)
        if like is None:
            return None
        likes[word] = like
    return likes


def _are_exchanged(key: str, words: Sequence[str], others: Sequence[str]) -> bool:
    """Tell if two words changed places over a function word: "a dog on a cat", "a cat on a dog"."""
    at = next((at for at, (word, other) in enumerate(zip(words, others, strict=False)) if word != other), None)
    if at is None or [*words[:at], *reversed(words[at : at + 2]), *words[at + 2 :]] != [*others]:
        return False
    return (words[at], words[at + 1]) not in set(itertools.pairwise(split_tokens(key)))


def _same_word(left: str, right: str) -> bool:
    """Tell if two words are one, or spellings or numbers of one: "horse", "hrose" and "horses", "gatto" and "gatti"."""
    if left == right:
        return True
    short, long = (left, right) if len(left) <= len(right) else (right, left)
    num_more = len(long) - len(short)
    if num_more > MAX_LETTERS_OF_AN_ENDING or len(short) < MIN_LETTERS_OF_A_STEM or short[0] != long[0]:
        return False
    if long.startswith(short):
        return True
    return num_more <= 1 and len(short) >= MIN_LETTERS_OF_A_SLIP and OSA.distance(short, long, score_cutoff=1) <= 1
