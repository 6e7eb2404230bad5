"""Captions of nearly the same words: clusters, that scale and never change, and the cap on how many images have one."""

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleaning.duplicates.captions import RepeatsConfig, cap_captions, crowded_rows, drop_repeats, label_repeats
from cleaning.duplicates.near_captions import Said, cluster_captions
from cleaning.text.scripts import exact_key
from data_catalog.disk.files import save_parquet
from data_catalog.rows.schema import CAPTIONS, PENDING

FUNCTION_WORDS = dict.fromkeys(("a", "an", "the", "is", "are", "on", "in", "of", "to", "with", "there", "and"), "")
NOUNS = ("harbour", "lantern", "giraffe", "bicycle", "teacher", "mountain", "umbrella", "sandwich", "guitar", "blanket")
VERBS = ("watches", "carries", "paints", "follows", "repairs", "admires", "forgets", "collects", "measures")
PLACES = ("station", "garden", "village", "market", "bridge", "library", "stadium", "desert", "island", "airport")


def batches(captions: Sequence[str], size: int, *, lang: str = "en") -> Callable[[], Iterator[Sequence[Said]]]:
    said = [(caption, lang) for caption in captions]
    return lambda: iter([said[start : start + size] for start in range(0, len(said), size)])


def clusters(captions: Sequence[str], scratch: Path, *, size: int = 1000, **options: object) -> list[int]:
    settings = {"similarity": 0.85, "function_words": {"en": FUNCTION_WORDS, "de": {"man": "", "hat": ""}}, **options}
    found = cluster_captions(batches(captions, size), scratch=scratch, **settings)  # type: ignore[arg-type]
    assert found.dtype == np.int64
    return [int(row) for row in found]


def invented(count: int, seed: int = 0) -> list[str]:
    """Captions of one grammar: hard to tell apart by their letters."""
    numbers = random.Random(seed)

    def noun() -> str:
        return f"{numbers.choice(NOUNS)} with the {numbers.choice(NOUNS)}"

    return [f"the {noun()} {numbers.choice(VERBS)} a {noun()} in the {numbers.choice(PLACES)}" for _ in range(count)]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("A man riding a horse on a beach", "A man is riding a horse on the beach."),
        ("A man riding a horse on a beach", "A man a riding horse on a beach"),
        ("two zebras in a field are eating the grass", "two zebras are eating the grass in a field"),
        ("一只红色的狗在沙滩上奔跑着追球", "一只红色的狗在沙滩上奔跑着追着球"),
        ("a cafe\u0301 table 😀 under the tall trees", "a café table 😀 under the tall tree"),
        ("a small dog sleeps " * 500 + "outside", "a small dog sleeps " * 500 + "outsides"),
    ],
)
def test_nearly_the_same_words_are_one_cluster(left: str, right: str, tmp_path: Path) -> None:
    assert clusters([left, "something else entirely", right], tmp_path) == [0, 1, 0]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("a man in front of a very small old house", "a woman in front of a very small old house"),
        ("a photograph of the harbour, 1967", "a photograph of the harbour, 1968"),
        # More than the other says, either way round.
        ("a man playing a guitar in the crowded park", "an old man playing a guitar in the crowded park"),
        ("😀", "😀😀😀"),
        # The same words in another order.
        ("a dog bites a man in the park", "a man bites a dog in the park"),
        ("the dog on the cat in the green garden", "the cat on the dog in the green garden"),
        # German function words are English nouns.
        ("a girl gives a flower to a man", "a man gives a flower to a girl"),
        # Signs and separators.
        ("a sign that says 5 > 3 on the wall", "a sign that says 5 < 3 on the wall"),
    ],
)
def test_another_thing_is_another_cluster(left: str, right: str, tmp_path: Path) -> None:
    assert clusters([left, right], tmp_path) == [0, 1]


def test_each_caption_has_the_function_words_of_its_own_language(tmp_path: Path) -> None:
    """A German caption of upstream, with its English original, and English captions that are translated later."""
    words = {"en": FUNCTION_WORDS, "de": dict.fromkeys(("auf", "der", "ein", "einer", "man"), "")}
    said = [
        ("a dog runs", "Der Hund läuft auf der großen grünen Wiese"),
        ("a dog runs", "Ein Hund läuft auf einer großen grünen Wiese"),
        ("a girl gives a flower to a man", None),
        ("a man gives a flower to a girl", None),
        ("the man gives a flower to the girl", None),
    ]
    shared = {"sample_id": "a:1", "outcome": PENDING, "source_lang": "en", "target_lang": "de", "source": "a"}
    shared |= {"upstream_file": "a.tsv", "upstream_line": 1}
    rows = [
        {**shared, "caption_id": f"a:1#{at}", "source_caption": text, "clean_caption": text, "caption": caption}
        for at, (text, caption) in enumerate(said)
    ]
    table = pa.Table.from_pylist(rows, CAPTIONS)
    save_parquet(table, tmp_path / "shard.parquet")
    (tmp_path / "out").mkdir()
    config = RepeatsConfig()
    label_repeats([tmp_path / "shard.parquet"], tmp_path / "out", config, function_words=words)
    labels = dict(enumerate(pq.read_table(tmp_path / "out" / "00000.parquet").to_pylist()))
    found = drop_repeats(table, labels, config, words, step="screen").column("detail").to_pylist()
    assert found == [None, f"like: {said[0][1]}", None, None, f"like: {said[3][0]}"]


def test_without_function_words_letters_decide(tmp_path: Path) -> None:
    pair = ["two red cars in front of a small house", "two blue cars in front of a small house"]
    assert clusters(pair, tmp_path, function_words={}) == [0, 0]
    assert clusters(pair, tmp_path, function_words={}, similarity=0.95) == [0, 1]
    assert clusters(["A man riding a horse", "The man riding a horse"], tmp_path, function_words={"en": {}}) == [0, 1]
    french = batches(["deux voitures rouges devant une maison", "deux voitures bleues devant une maison"], 2, lang="fr")
    words = {"it": {"di": "", "una": ""}}
    assert cluster_captions(french, similarity=0.85, scratch=tmp_path, function_words=words).tolist() == [0, 1]
    assert clusters([], tmp_path) == []
    assert clusters(["", "", "."], tmp_path) == [0, 0, 2]


def test_batches_and_threads_change_nothing(tmp_path: Path) -> None:
    captions = invented(400, seed=2)
    expected = clusters(captions, tmp_path, size=400, function_words={})
    assert len(set(expected)) < len(captions)
    for size, threads in ((1, 1), (7, 3), (399, 2)):
        assert clusters(captions, tmp_path, size=size, threads=threads, function_words={}) == expected


@given(captions=st.lists(st.text(max_size=12), max_size=30))
def test_any_text_has_a_cluster_and_equal_keys_have_one(
    captions: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    found = clusters(captions, tmp_path_factory.mktemp("any"), size=7)
    keys = [exact_key(caption) for caption in captions]
    assert len(found) == len(captions)
    for row, key in enumerate(keys):
        assert found[row] == found[keys.index(key)] <= row


@pytest.mark.parametrize("count", [5_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_many_captions_of_one_template_are_told_apart(tmp_path: Path, count: int) -> None:
    """All of them share bands: of 100,000, 5,000 million pairs that nobody looks at."""
    template = "view of the old harbour of the town at sunset from the castle, photograph number {}"
    captions = [template.format(number) for number in range(count)]
    planted = random.Random(5).sample(range(count), 300)
    captions += [captions[number].replace("castle", "the castel").upper() for number in planted]
    found = clusters(captions, tmp_path)
    assert found[:count] == list(range(count))
    assert sum(first == number for first, number in zip(found[count:], planted, strict=True)) >= 295


def test_no_cluster_keeps_more_than_the_cap() -> None:
    found = np.array([0, 0, 2, 0, 2, 5, 0, 0])
    ids = [f"s:{row}#0" for row in range(8)]
    dropped = cap_captions(found, ids, cap=2)
    assert [sum(~dropped[found == cluster]) for cluster in (0, 2, 5)] == [2, 2, 1]
    assert crowded_rows(found, 2).tolist() == [0, 1, 3, 6, 7]
    assert crowded_rows(found, 5).tolist() == []
    assert [cap_captions(found, ids, cap=cap).sum() for cap in (4, 5)] == [1, 0]
    assert cap_captions(np.array([], np.int64), [], cap=1).tolist() == []


@given(found=st.lists(st.integers(-3, 4), max_size=40), cap=st.integers(1, 5), order=st.randoms(use_true_random=False))
def test_which_rows_stay_does_not_depend_on_their_order(found: list[int], cap: int, order: random.Random) -> None:
    rows = [(cluster, f"id-{number}") for number, cluster in enumerate(found)]
    shuffled = order.sample(rows, len(rows))

    def kept(some: list[tuple[int, str]]) -> set[str]:
        dropped = cap_captions(np.array([row[0] for row in some], np.int64), [row[1] for row in some], cap=cap)
        return {row[1] for row, is_dropped in zip(some, dropped, strict=True) if not is_dropped}

    assert kept(rows) == kept(shuffled)
    for cluster in set(found):
        members = {identity for number, identity in rows if number == cluster}
        assert len(kept(rows) & members) == min(cap, len(members))
    larger = cap_captions(np.array(found, np.int64), [row[1] for row in rows], cap=cap + 1)
    assert kept(rows) <= {row[1] for row, is_dropped in zip(rows, larger, strict=True) if not is_dropped}
