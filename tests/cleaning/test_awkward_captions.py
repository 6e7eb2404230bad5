"""What deduplication and the leak guard say of captions in every script, of emoji, marks and great length."""

import json
import string
import unicodedata
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleaning.duplicates.captions import RepeatsConfig, duplicate_captions
from cleaning.leaks import LeaksConfig, caption_digest, caption_digests, leaking_captions
from data_catalog.disk.files import save_parquet, sha256_of
from data_catalog.rows.caption_keys import caption_key
from data_catalog.rows.schema import CAPTIONS, PENDING
from flows.recipe.sources import read_test_sets

AWKWARD = {
    "emoji": "\U0001f469\u200d\U0001f467 \U0001f3f3\ufe0f\u200d\U0001f308 \U0001f44d\U0001f3fd",  # each of several
    "arabic": "كلب صغير يلعب في الحديقة الخضراء",
    "pointed hebrew": "יֶלֶד רוֹכֵב עַל סוּס לָבָן",
    "devanagari": "एक काला कुत्ता हरी घास पर दौड़ता है",
    "decomposed": unicodedata.normalize("NFD", "Il caffè più caldo è già lì"),
    "empty": "",
    "one letter": "x",
    "10,000 characters": "a small dog " * 833 + "runs",
    "lone mark": "\u0301",
}
EVERY = frozenset(AWKWARD)
WITH_WORDS = EVERY - {"emoji", "empty", "lone mark", "one letter"}


@pytest.mark.parametrize(
    ("repeat", "dropped"),
    [
        (lambda text: f"  {unicodedata.normalize('NFC', text).upper()} ", EVERY),
        # A stop that is all there is says something else than nothing.
        (lambda text: f"{text}!", EVERY - {"empty"}),
        (lambda text: f"\u200f{text}y", ()),
    ],
)
def test_repeats_of_an_image_are_duplicates_and_those_of_others_are_not(
    repeat: Callable[[str], str], dropped: Collection[str]
) -> None:
    texts = list(AWKWARD.values())
    both = [*texts, *map(repeat, texts)]
    found = [verdict and verdict.reason for verdict in duplicate_captions(["a"] * len(both), both)]
    assert found == [None] * len(texts) + ["duplicate_caption" if name in dropped else None for name in AWKWARD]
    others = ["a"] * len(texts) + [f"b{number}" for number in range(len(texts))]
    assert duplicate_captions(others, both) == [None] * len(both)


@pytest.mark.parametrize(
    ("template", "leaking"),
    [("  «{}» — !? 🐶", WITH_WORDS), ("\u200f{}\u200f", WITH_WORDS), ("{} y", ()), ("{}א", ())],
)
def test_captions_of_a_test_set_are_found_where_they_have_four_words(template: str, leaking: Collection[str]) -> None:
    digests = caption_digests(AWKWARD.values(), min_words=4)
    texts = [template.format(text) for text in AWKWARD.values()]
    assert leaking_captions(texts, digests) == [name in leaking for name in AWKWARD]


def test_the_screen_step_looks_for_images_first_and_for_what_it_is_told_to(tmp_path: Path, call_step: Any) -> None:
    caption, path = AWKWARD["arabic"], tmp_path / "held.jsonl"
    path.write_text(json.dumps({"url": "https://EXAMPLE.org:443/held.jpg#x", "caption": caption}), "utf-8")
    columns = {"kind": "pairs", "files": [str(path)], "url_column": "url", "caption_column": "caption"}
    (held,) = read_test_sets({"held": columns}, "it")
    settings = {"name": "held", "kind": held.kind.kind, "config": held.config, "images": None, "min_words": 4}
    test_set = call_step("test-set", tmp_path / "work", {}, {**settings, "files": [[path.name, sha256_of(path)]]})
    row = {"source": "pairs", "upstream_file": "a.tsv", "upstream_line": 1, "outcome": PENDING}
    row |= {"source_caption": caption, "clean_caption": caption}
    named = [{"sample_id": f"pairs:{name}", "caption_id": f"pairs:{name}#1"} for name in ("held", "other")]
    rows = [{**row, **names, "url": f"http://example.org/{names['sample_id'][6:]}.jpg"} for names in named]
    save_parquet(pa.Table.from_pylist(rows, CAPTIONS), tmp_path / "in.parquet")
    for switches, reasons in (
        ({}, ["test_image", "test_caption"]),
        ({"by_caption": False}, ["test_image", None]),
        ({"by_identity": False}, ["test_caption", "test_caption"]),
    ):
        settings = {"config": RepeatsConfig(), "function_words": {"it": {"a": ""}}, "leaks": LeaksConfig(**switches)}
        settings |= {"kinds": {"pairs": "pairs"}, "test_sets": ["held"]}
        inputs = {"clean": tmp_path / "in.parquet", "test-set": (test_set,)}
        table = pq.read_table(call_step("screen", tmp_path / "work", inputs, settings).only_file)
        assert table.column("drop_reason").to_pylist() == reasons


def test_copies_have_one_key() -> None:
    for text, copy in (
        ("A dog runs on the beach", "«A dog — runs on the beach!» 🐶"),
        ("Ｃａｆé!", "cafe\u0301"),
        ("İstanbul köprüsü", "istanbul köprüsü"),  # "İ" in small letters is "i" and a dot above
        ("مُعَلِّم هٰذا", "معلم هذا"),  # vowel signs, which most people leave out
        ("כֶּלֶב רָץ", "כלב רץ"),
        ("1,500 dogs.", "1500 dogs"),
        ("1.5 m", "15 m"),  # the price: a needless drop costs one caption, a miss the measurement
        ("한국어 개", unicodedata.normalize("NFD", "한국어개")),
    ):
        assert caption_key(text) == caption_key(copy)
        assert caption_digest(text) == caption_digest(copy)


def test_others_have_not() -> None:
    for text, other in (
        ("5 dogs", "6 dogs"),
        ("का", "कि"),  # vowel signs are marks, which `re` takes for punctuation
        ("أسد", "اسد"),  # the hamza is no vowel sign
        ("บ้าน", "บาน"),
    ):
        assert caption_key(text) != caption_key(other)


@given(
    st.text(max_size=60),
    st.lists(st.tuples(st.integers(0, 60), st.sampled_from(string.punctuation + " \u200b。؟…"))),
)
def test_punctuation_anywhere_changes_nothing(text: str, insertions: list[tuple[int, str]]) -> None:
    copy = text
    for place, mark in insertions:
        copy = copy[:place] + mark + copy[place:]
    assert caption_key(copy) == caption_key(text)
    assert caption_key(text + "\u2026") == caption_key(text), "ASCII is no special case"


def test_short_captions_are_nobodys() -> None:
    digests = caption_digests(["a cat", "A cat sits on a mat.", "两只狗在沙滩上奔跑", "?!", ""], min_words=4)
    assert len(digests) == 2
    texts = ["A cat!", "acatsitsonamat", "两只狗在沙滩上奔跑！", "a cat sits on the mat", "", "…"]
    assert leaking_captions(texts, digests) == [False, True, True, False, False, False]
    assert caption_digests(["?!", "", "🐶 🐶 🐶"], min_words=0) == frozenset(), "empty keys never count"


def test_digests_stay_the_same() -> None:
    # They may be kept in files: a change of this number is a change of format.
    assert caption_digest("A dog runs on the beach.") == caption_digest("adogrunsonthebeach") < 2**64
    assert caption_digest("A dog runs on the beach.") == 3862603974185542550
