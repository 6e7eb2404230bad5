"""Near-duplicate captions among tens of millions: MinHash finds candidates, whose letters and words are then compared.

A caption is a set of runs of four characters, white space included; a run that begins with an ideograph has two
characters, since an ideograph says as much as a word. `NUM_BANDS` bands of `ROWS_PER_BAND` minima each make candidates
of two captions that share a band: 99 % of those with a Jaccard similarity of 0.7, 87 % of 0.6, 55 % of 0.5, 23 % of
0.4, one in 4,000 of 0.1.

MinHash is implemented in numpy: the drops depend on its numbers, and those of libraries change with their releases.
The libraries also return their minima one Python number at a time (`benchmarks/near_captions.py` compares).
"""

import functools
import hashlib
import itertools
import os
import re
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import fuzz, process
from rapidfuzz.distance import OSA, LCSseq

from cleaning.text.scripts import exact_key, split_tokens

Rows = NDArray[np.int64]
Words = NDArray[np.uint64]
Said = tuple[str, str]  # a caption or its `exact_key`, and the code of its language

NUM_BANDS, ROWS_PER_BAND = 25, 5
RUN, IDEOGRAPHIC_RUN = 4, 2  # characters
FIRST_IDEOGRAPH = 0x2E80  # the block of radicals; kana, ideographs and hangul syllables follow
CAPTIONS_PER_BLOCK = 1024  # they fit a core's cache
# A sketch has one bit for each minimum, in words of 64 bits; the last bits stay zero.
SKETCH_WORDS = 2
# Of 125 bits, captions of Jaccard similarity J agree in 62 (1 + J) on average, with a deviation of 5: nearly all of 0.5
# and more pass, one in twenty of 0.2.
MIN_EQUAL_BITS = 84
# Number of preceding captions that a caption is compared with in each shared band, in addition to the band's first.
# More cost time and find little, since similar captions are sorted next to each other.
NEIGHBOURS = 4
PLACES_PER_BLOCK = 500_000

_RUN_MULTIPLIERS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93], np.uint64)
_MIX = np.uint64(0xFF51AFD7ED558CCD)
_HALF = np.uint64(32)
# The permutations: odd multipliers and summands, modulo 2**32, from PCG64's raw numbers, which numpy keeps stable.
_RAW = np.random.PCG64(20_260_101).random_raw(NUM_BANDS * ROWS_PER_BAND)
_PERMUTATIONS = list(zip((_RAW >> _HALF).astype(np.uint32) | np.uint32(1), _RAW.astype(np.uint32), strict=True))

_DIGIT = re.compile(r"\d")
_NUMBER = re.compile(r"(?:(?<!\S)[-\u2212])?\d+(?:[.,:/]\d+)*")
_PLAIN_SYMBOLS = "`^|~\u00b4\u00a8"  # used for an apostrophe, an accent or a dash
_MARKED = re.compile(r"""\d|[^\w\s.,;:!?'"()-]""")  # a digit or a possible symbol


class BandFiles:
    """Bands of all captions, each in a file, and their sketches in memory (with their numbers 24 bytes a caption).

    A file takes 8 bytes a caption. Batches are exact keys, in order.
    """

    def __init__(self, folder: Path, batches: Iterable[Sequence[str]], *, threads: int = 1) -> None:
        self._paths = [folder / f"band-{number:02d}" for number in range(NUM_BANDS)]
        sketches, marks = [np.empty((0, SKETCH_WORDS), np.uint64)], [np.empty(0, np.uint64)]
        for path in self._paths:
            path.touch()
        with ThreadPoolExecutor(threads) as pool:  # numpy releases the interpreter's lock
            for batch in batches:
                starts = range(0, len(batch), CAPTIONS_PER_BLOCK)
                signed = list(pool.map(_signatures, (batch[at : at + CAPTIONS_PER_BLOCK] for at in starts)))
                sketches += [sketch for _, sketch in signed]
                marks.append(figure_marks(batch))
                for number, path in enumerate(self._paths):
                    with path.open("ab") as file:  # numpy's own writer raises no error on a full disk
                        file.write(b"".join(bands[number].tobytes() for bands, _ in signed))
        self._sketches = np.concatenate(sketches)
        self._marks = np.concatenate(marks)

    def pairs(self) -> Iterator[tuple[Rows, Rows]]:
        """Yield pairs that may be near-duplicates, block by block, the lower number first; blocks may repeat pairs."""
        for number, path in enumerate(self._paths):
            inner_keys = (np.fromfile(self._paths[number - 1], np.uint64), self._marks)
            order, bucket_starts = _crowded(np.fromfile(path, np.uint64), inner_keys)
            for start in range(0, len(order), PLACES_PER_BLOCK):
                yield self._likely_pairs(order, bucket_starts, start)

    def _likely_pairs(self, order: Rows, bucket_starts: Rows, start: int) -> tuple[Rows, Rows]:
        """Return pairs of the captions at a block of places with earlier ones, if their sketches are near enough."""
        places = np.arange(start, min(start + PLACES_PER_BLOCK, len(order)))
        starts = bucket_starts[places]
        # The nearest earlier places, and the first of the bucket; a place paired with itself is skipped.
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
    """Return captions that share the band with another, bucket by bucket, and for each the first place of its bucket.

    Within a bucket they are sorted by the inner keys, their figures and another band, so that similar captions are next
    to each other.
    """
    order = np.argsort(band, kind="stable")
    same = np.diff(band[order]) == 0
    order = order[np.append(same, False) | np.insert(same, 0, False)] if len(order) else order
    order = order[np.lexsort((*(key[order] for key in inner_keys), band[order]))]
    is_start = np.diff(band[order], prepend=~band[order][:1]) != 0
    return order, np.maximum.accumulate(np.where(is_start, np.arange(len(order)), 0))


def _signatures(keys: Sequence[str]) -> tuple[Words, Words]:
    """Return bands, shape (NUM_BANDS, captions), and sketches, (captions, SKETCH_WORDS): one mixed bit a minimum."""
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
    """Return 32 well-mixed bits for each run of all captions, in order, and the position of the first run of each."""
    padded = [_padded(key) for key in keys]
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    num_runs = np.fromiter(map(len, padded), np.int64, len(padded)) - (RUN - 1)
    starts = np.cumsum(num_runs) - num_runs
    # Runs do not reach into the next caption: each caption has three fewer runs than characters.
    places = np.arange(num_runs.sum()) + np.repeat((RUN - 1) * np.arange(len(padded)), num_runs)
    last = len(codes) - (RUN - 1)
    parts = [codes[at : last + at] * multiplier for at, multiplier in enumerate(_RUN_MULTIPLIERS)]
    short = sum(parts[1:IDEOGRAPHIC_RUN], parts[0])
    sums = np.where(codes[:last] >= FIRST_IDEOGRAPH, short, sum(parts[IDEOGRAPHIC_RUN:], short))[places]
    sums = (sums ^ (sums >> _HALF)) * _MIX
    return (sums >> _HALF).astype(np.uint32), starts


def _padded(key: str) -> str:
    """Return a caption with white space around it, so that outer words count as words and it has at least one run."""
    if key.isascii() or ord(max(key)) < FIRST_IDEOGRAPH:
        return f" {key} ".ljust(RUN)
    return f" {key}{' ' * (RUN - 1)}"


def figure_marks(keys: Sequence[str]) -> Words:
    """Return a number for each caption: equal for captions with equal `figures_of`, and zero for those without any."""
    marks = np.zeros(len(keys), np.uint64)
    for at, key in enumerate(keys):
        if figures := figures_of(key):
            digest = hashlib.blake2b(" ".join(figures).encode("utf-8", "surrogatepass"), digest_size=8).digest()
            marks[at] = int.from_bytes(digest, "little")
    return marks


def figures_of(key: str) -> list[str]:
    """Return what near-duplicates must share: numbers in order, signs included; words with digits; symbols."""
    if not _MARKED.search(key):
        return []
    words = sorted({word for word in split_tokens(key) if _DIGIT.search(word)})
    signs = (sign for sign in _MARKED.findall(key) if sign not in _PLAIN_SYMBOLS)
    symbols = sorted(sign for sign in signs if unicodedata.category(sign).startswith("S"))
    return [*_NUMBER.findall(key), *words, *symbols]


CAPTIONS_PER_BATCH = 50_000
PAIRS_PER_BATCH = 100_000
# Captions and pairs of words that are remembered: each caption is compared with several others.
REMEMBERED = 1 << 12
# Number of new pairs, or a quarter of the old ones, after which redundant pairs are removed.
MAX_NEW_PAIRS = 20_000
# Most first captions of a component that a caption is compared with, in addition to those of its neighbours.
MAX_LEADERS = 16
DIGEST = np.dtype([("first", "<u8"), ("second", "<u8")])

# Words of at least four letters with one typing error count as the same, except in the first letter: "boat" and "coat",
# "eine" and "keine" differ. A word and its plural count as the same.
MIN_LETTERS_OF_A_SLIP = 4
MIN_LETTERS_OF_A_STEM, MAX_LETTERS_OF_AN_ENDING = 3, 2
_CONTRACTED_NOT = re.compile(r"n['\u2019]t\b|\bcannot\b")  # English; other negations are separate words


def cluster_captions(
    read: Callable[[], Iterator[Sequence[Said]]],
    *,
    similarity: float,
    scratch: Path,
    function_words: Mapping[str, Mapping[str, str]],
    threads: int = 1,
) -> Rows:
    """Return for each caption the lowest row number of its cluster: its own, if no earlier caption is similar.

    Captions with equal `exact_key`s are in one cluster, and so is each caption that is similar to the *first* of a
    cluster. So no chain of small differences leads from one caption to an unrelated one; in return, two similar
    captions may be in different clusters. Two captions are similar if

    - their keys have at least the given similarity: twice the letters that they share in order, over the sum of their
      letters (rapidfuzz's `ratio`), with the words in their order or in alphabetical order; and
    - they do not differ in numbers, the order of these, words with digits, or symbols; and
    - if function words of their languages are given, those with a meaning have the same meanings in the same order; and
      each other word of one has a similar word in the other, and at most one word (of two, none) is in another
      position, without having exchanged positions with its neighbour across a function word. Words are similar if they
      begin alike and differ in one typing error, from four letters on, or in two letters at the end.

    At 0.85, "A man riding a horse on a beach" and "A man is riding a horse on the beach." are similar (0.89); "a red
    bus" and "a blue bus" are not (0.74). Letters alone cannot distinguish "two red cars in front of a small house" from
    "two blue cars in front of a small house" (0.92): with function words, these are not similar.

    Candidates come from MinHash of the words that are no function words. One pair in a hundred of those with one small
    difference is missed; more are missed if captions differ in several words or are very short.

    Args:
        read: returns the captions with their languages in order, in batches of any size; called once. Of equal captions
            in several languages, the language of the first counts.
        similarity: least similarity of near-duplicates, 0 to 1; tested from 0.8 to 0.95.
        scratch: folder for temporary files: the captions, and 200 bytes more for each distinct one.
        function_words: by language, function words in lower case, each with its meaning ("on" of "onto"), or "": these
            are ignored. Each caption has those of its own language ("man" is one in German). In other languages, all
            words must match. Empty: words are not compared.
        threads: number of threads for hashing and comparing; the result does not depend on it.

    Returns:
        Shape (captions,). Memory: about 120 bytes a caption.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as name, (Path(name) / "keys").open("x+b") as file:
        store = CaptionStore(file, read())
        comparison = CaptionSimilarity(similarity, function_words)
        forest = SimilarityForest(len(store))
        batches = (
            [comparison.content(*key) for key in store.keys(numbers)]
            for numbers in np.split(np.arange(len(store)), range(CAPTIONS_PER_BATCH, len(store), CAPTIONS_PER_BATCH))
        )
        for left, right in BandFiles(Path(name), batches, threads=threads).pairs():
            for start in range(0, len(left), PAIRS_PER_BATCH):
                end = start + PAIRS_PER_BATCH
                pairs = forest.unconnected(left[start:end], right[start:end])
                is_similar = comparison.similar_pairs(store.keys(pairs[0]), store.keys(pairs[1]), threads=threads)
                forest.connect(pairs[:, is_similar])
        leaders = cluster_leaders(forest, store, comparison.are_similar)
        return store.first_rows[leaders[store.number_of_row]]


class CaptionStore:
    """Exact keys of captions in a file that stays open, and the rows with equal ones; some 40 bytes a row in memory."""

    def __init__(self, file: BinaryIO, batches: Iterable[Sequence[Said]]) -> None:
        found, sizes = bytearray(), [np.zeros(1, np.int64)]
        codes: dict[str, int] = {}
        languages = [np.empty(0, np.uint16)]
        for batch in batches:
            raw = [exact_key(caption).encode("utf-8", "surrogatepass") for caption, _ in batch]
            languages.append(np.array([codes.setdefault(code, len(codes)) for _, code in batch], np.uint16))
            found += b"".join(hashlib.blake2b(key, digest_size=DIGEST.itemsize).digest() for key in raw)
            sizes.append(np.fromiter(map(len, raw), np.int64, len(raw)))
            file.write(b"".join(raw))
        file.flush()
        digests, ends = np.frombuffer(found, DIGEST), np.cumsum(np.concatenate(sizes))
        order = np.lexsort((digests["second"], digests["first"]))  # stable: the earliest of equal digests is first
        placed = digests[order]
        is_new = np.append(True, placed[1:] != placed[:-1])[: len(order)]
        first_of_row = np.empty(len(order), np.int64)
        first_of_row[order] = order[is_new][np.cumsum(is_new) - 1]
        is_first = first_of_row == np.arange(len(order))
        self.first_rows: Rows = np.flatnonzero(is_first)
        self.number_of_row: Rows = (np.cumsum(is_first) - 1)[first_of_row]
        # Start and end of the text of each distinct key in the file.
        self._starts, self._ends = ends[self.first_rows], ends[self.first_rows + 1]
        self._file = file.fileno()
        self._codes, self._languages = list(codes), np.concatenate(languages)[self.first_rows]

    def __len__(self) -> int:
        return len(self.first_rows)

    def keys(self, numbers: Rows) -> list[Said]:
        """Return the exact keys of distinct captions with their languages, in the given order."""
        distinct, places = np.unique(numbers, return_inverse=True)
        facts = (self._starts[distinct], self._ends[distinct], self._languages[distinct])
        found = [
            (os.pread(self._file, end - start, start).decode("utf-8", "surrogatepass"), self._codes[language])
            for start, end, language in zip(*(fact.tolist() for fact in facts), strict=True)
        ]
        return [found[place] for place in places.tolist()]


class SimilarityForest:
    """Spanning forest of similar captions: only as many pairs as are needed to connect them.

    Memory: 8 bytes a caption, 16 a pair.
    """

    def __init__(self, num_captions: int) -> None:
        self.num_captions = num_captions
        self._pairs = np.empty((2, 0), np.int64)
        self._num_settled = 0
        self._components = np.arange(num_captions)

    def unconnected(self, left: Rows, right: Rows) -> Rows:
        """Return the pairs that connect captions not yet known to be connected; shape (2, pairs)."""
        news = self._components[left] != self._components[right]
        return np.stack((left[news], right[news]))

    def connect(self, pairs: Rows) -> None:
        """Add pairs of similar captions; shape (2, pairs), the lower number first."""
        self._pairs = np.concatenate((self._pairs, pairs), axis=1)
        if self._pairs.shape[1] > self._num_settled + max(MAX_NEW_PAIRS, self._num_settled // 4):
            self.settle()

    def settle(self) -> None:
        """Remove pairs that connect nothing beyond the pairs before them."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

        if not self._pairs.size:
            return
        _, places = np.unique(self._pairs[0] * self.num_captions + self._pairs[1], return_index=True)
        self._pairs = self._pairs[:, np.sort(places)]
        nodes, ends = np.unique(self._pairs, return_inverse=True)
        ends = ends.reshape(self._pairs.shape)
        # All weights differ, so that the minimum spanning tree is unique.
        weights = np.arange(1, ends.shape[1] + 1, dtype=np.float64)
        tree = minimum_spanning_tree(coo_array((weights, ends), (len(nodes), len(nodes))).tocsr())
        self._pairs = self._pairs[:, np.sort(tree.data).astype(np.int64) - 1]
        self._num_settled = self._pairs.shape[1]
        _, labels = connected_components(tree, directed=False)
        _, firsts = np.unique(labels, return_index=True)
        self._components[nodes] = nodes[firsts][labels]

    def components(self) -> Iterator[tuple[Rows, list[Rows]]]:
        """Yield each component's captions, ascending, and for each caption the lower ones that it has a pair with."""
        self.settle()
        nodes = np.unique(self._pairs)
        nodes = nodes[np.lexsort((nodes, self._components[nodes]))]
        lower, upper = self._pairs[:, np.lexsort(self._pairs)]
        begins, ends = np.searchsorted(upper, nodes), np.searchsorted(upper, nodes, side="right")
        starts = np.flatnonzero(np.diff(self._components[nodes], prepend=-1))
        for start, stop in itertools.pairwise([*starts.tolist(), len(nodes)]):
            yield nodes[start:stop], [lower[begins[at] : ends[at]] for at in range(start, stop)]


def cluster_leaders(forest: SimilarityForest, store: CaptionStore, are_similar: Callable[[Said, Said], bool]) -> Rows:
    """Return for each caption the lowest similar one among those that are the first of a cluster."""
    leaders = np.arange(forest.num_captions)
    for members, neighbours in forest.components():
        texts = dict(zip(members.tolist(), store.keys(members), strict=True))
        firsts: list[int] = []
        for member, lower in zip(members.tolist(), neighbours, strict=True):
            near = set(lower.tolist())
            tried = sorted({*firsts[:MAX_LEADERS], *leaders[lower].tolist()})
            similar = (first for first in tried if first in near or are_similar(texts[first], texts[member]))
            leaders[member] = found = next(similar, member)
            if found == member:
                firsts.append(member)
    return leaders


class _Parts(NamedTuple):
    """Parts of a caption to compare; `content` are words that are no function words, `meanings` are of those."""

    key: str
    language: str
    figures: list[str]
    num_contracted_nots: int
    words: list[str]
    content: list[str]
    meanings: list[str]


class CaptionSimilarity:
    """Similarity of captions, given as `exact_key`s with languages; see `cluster_captions` for the arguments."""

    def __init__(self, similarity: float, function_words: Mapping[str, Mapping[str, str]]) -> None:
        self._cutoff = 100 * similarity
        self._function_words = {
            code: {exact_key(word): meaning for word, meaning in words.items()}
            for code, words in function_words.items()
        }
        self._parts = functools.lru_cache(maxsize=REMEMBERED)(self._parts_of)

    def content(self, key: str, language: str) -> str:
        """Return a caption without function words, which is used to find candidates."""
        return " ".join(self._content_of(key.split(), language)) or key

    def are_similar(self, left: Said, right: Said) -> bool:
        """Return whether two captions are near-duplicates."""
        score = fuzz.ratio(left[0], right[0])
        if score < self._cutoff:
            score = fuzz.token_sort_ratio(left[0], right[0])
        return score >= self._cutoff and not self._differ_in_content(left, right)

    def similar_pairs(self, left: Sequence[Said], right: Sequence[Said], *, threads: int = 1) -> NDArray[np.bool_]:
        """Return for each pair whether it is similar; shape (pairs,)."""
        cutoff, mine, others = self._cutoff, [key for key, _ in left], [key for key, _ in right]
        scores = process.cpdist(mine, others, scorer=fuzz.ratio, score_cutoff=cutoff, dtype=np.float64, workers=threads)
        near: NDArray[np.bool_] = scores >= cutoff
        far = np.flatnonzero(~near)
        moved, others = [mine[at] for at in far.tolist()], [others[at] for at in far.tolist()]
        near[far] = cutoff <= process.cpdist(
            moved, others, scorer=fuzz.token_sort_ratio, score_cutoff=cutoff, dtype=np.float64, workers=threads
        )
        for at in np.flatnonzero(near).tolist():
            near[at] = not self._differ_in_content(left[at], right[at])
        return near

    def _differ_in_content(self, left: Said, right: Said) -> bool:
        mine, others = self._parts(*left), self._parts(*right)
        if mine.figures != others.figures:
            return True
        return bool(self._function_words) and not self._same_content(mine, others)

    def _parts_of(self, key: str, language: str) -> _Parts:
        words = split_tokens(key)
        content, meanings = self._content_of(words, language), self._meanings_of(words, language)
        return _Parts(key, language, figures_of(key), len(_CONTRACTED_NOT.findall(key)), words, content, meanings)

    def _same_content(self, left: _Parts, right: _Parts) -> bool:
        """Return whether each content word of one has a similar one in the other, in the same order except for one."""
        if left.num_contracted_nots != right.num_contracted_nots:
            return False
        mine, others = left.content, right.content
        if len(mine) == len(others) and all(map(_same_word, mine, others)):
            return left.meanings == right.meanings
        alias = _similar_words(others, left.words)
        back = None if alias is None else _similar_words(mine, right.words)
        if alias is None or back is None:
            return False
        # A mistyped function word has the meaning of the one that it is similar to.
        meanings = self._meanings_of((back.get(word, word) for word in left.words), left.language)
        if meanings != self._meanings_of((alias.get(word, word) for word in right.words), right.language):
            return False
        others = self._content_of((alias.get(word, word) for word in others), right.language)
        # The words of the shorter one are in the order of the longer one, except for one; of two words none may move.
        shorter = min(len(mine), len(others))
        is_one_moved = shorter - int(LCSseq.similarity(mine, others)) <= (shorter > 2)
        return is_one_moved and not _are_exchanged(left.key, mine, others)

    def _content_of(self, words: Iterable[str], language: str) -> list[str]:
        function_words = self._function_words.get(language, {})
        return [word for word in words if word not in function_words]

    def _meanings_of(self, words: Iterable[str], language: str) -> list[str]:
        """Return the meanings of function words in their order; a meaning that is repeated at once counts once."""
        function_words = self._function_words.get(language, {})
        return [meaning for meaning, _ in itertools.groupby(filter(None, map(function_words.get, words)))]


def _similar_words(words: Sequence[str], others: Sequence[str]) -> dict[str, str] | None:
    """Return for each word that is not among the others the first similar one of them; None if a word has none."""
    found: dict[str, str] = {}
    for word in set(words).difference(others):
        similar = next((other for other in others if _same_word(word, other)), None)
        if similar is None:
            return None
        found[word] = similar
    return found


def _are_exchanged(key: str, words: Sequence[str], others: Sequence[str]) -> bool:
    """Return whether two words exchanged places across a function word: "a dog on a cat", "a cat on a dog"."""
    at = next((at for at, (word, other) in enumerate(zip(words, others, strict=False)) if word != other), None)
    if at is None or [*words[:at], *reversed(words[at : at + 2]), *words[at + 2 :]] != [*others]:
        return False
    return (words[at], words[at + 1]) not in set(itertools.pairwise(split_tokens(key)))


@functools.lru_cache(maxsize=REMEMBERED)
def _same_word(left: str, right: str) -> bool:
    """Return whether two words are forms of one: "horse", "hrose" and "horses", "gatto" and "gatti"."""
    if left == right:
        return True
    short, long = (left, right) if len(left) <= len(right) else (right, left)
    num_more = len(long) - len(short)
    if num_more > MAX_LETTERS_OF_AN_ENDING or len(short) < MIN_LETTERS_OF_A_STEM or short[0] != long[0]:
        return False
    if long.startswith(short):
        return True
    return num_more <= 1 and len(short) >= MIN_LETTERS_OF_A_SLIP and OSA.distance(short, long, score_cutoff=1) <= 1
