"""What deduplication and the screen step say of captions that are emoji, right to left, full of marks or very long."""

import json
import unicodedata
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleaning.duplicates.captions import RepeatsConfig, duplicate_captions
from cleaning.leaks import LeaksConfig
from data_catalog.schema import CAPTIONS, PENDING
from data_catalog.storage.shards import save_parquet, sha256_of
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


def expected(reason: str, dropped: Collection[str]) -> list[str | None]:
    """For each awkward caption the reason, where it is among those dropped."""
    return [reason if name in dropped else None for name in AWKWARD]


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
    verdicts = duplicate_captions(["a"] * len(both), both)
    found = [verdict and verdict.reason for verdict in verdicts]
    assert found == [None] * len(texts) + expected("duplicate_caption", dropped)
    others = ["a"] * len(texts) + [f"b{number}" for number in range(len(texts))]
    assert duplicate_captions(others, both) == [None] * len(both)


@pytest.fixture
def screened(tmp_path: Path, call_step: Any) -> Callable[[Sequence[tuple[str, str]], LeaksConfig], list[str | None]]:
    """`screened(rows, leaks)`: drop reasons of (sample, caption) after the step.

    A test set has the awkward captions, and an image whose address is that of the sample "held".
    """
    path = tmp_path / "held.jsonl"
    held_rows = [{"url": "https://EXAMPLE.org:443/held.jpg#x", "caption": text} for text in AWKWARD.values()]
    path.write_text("".join(json.dumps(row) + "\n" for row in held_rows), "utf-8")
    columns = {"kind": "pairs", "files": [str(path)], "url_column": "url", "caption_column": "caption"}
    (held,) = read_test_sets({"held": columns}, "it")
    settings = {"name": "held", "kind": held.kind.kind, "config": held.config, "images": None, "min_words": 4}
    test_set = call_step("test-set", tmp_path / "work", {}, {**settings, "files": [[path.name, sha256_of(path)]]})

    def through_the_step(rows: Sequence[tuple[str, str]], leaks: LeaksConfig) -> list[str | None]:
        given = [
            {
                "sample_id": f"pairs:{sample}",
                "caption_id": f"pairs:{sample}#{number}",
                "source": "pairs",
                "url": f"http://example.org/{sample.replace(' ', '-')}.jpg",
                "source_caption": caption,
                "clean_caption": caption,
                "upstream_file": "a.tsv",
                "upstream_line": number,
                "outcome": PENDING,
            }
            for number, (sample, caption) in enumerate(rows, start=1)
        ]
        path = tmp_path / "in.parquet"
        save_parquet(pa.Table.from_pylist(given, CAPTIONS), path)
        settings = {"config": RepeatsConfig(), "function_words": ("a", "un"), "leaks": leaks}
        settings |= {"kinds": {"pairs": "pairs"}, "test_sets": ["held"]}
        table = pq.read_table(
            call_step("screen", tmp_path / "work", {"clean": path, "test-set": (test_set,)}, settings).only_file
        )
        assert table.column("caption_id").to_pylist() == [row["caption_id"] for row in given]
        return table.column("drop_reason").to_pylist()  # type: ignore[no-any-return]

    return through_the_step


@pytest.mark.parametrize(
    ("template", "dropped"),
    [("  «{}» — !? 🐶", WITH_WORDS), ("\u200f{}\u200f", WITH_WORDS), ("{} y", ()), ("{}א", ())],
)
def test_captions_and_images_of_a_test_set(
    screened: Callable[..., list[str | None]], template: str, dropped: Collection[str]
) -> None:
    """Captions of four words; fewer are nobody's."""
    rows = [(name, template.format(text)) for name, text in AWKWARD.items()]
    assert screened(rows, LeaksConfig()) == expected("test_caption", dropped)
    assert screened(rows, LeaksConfig(by_caption=False)) == [None] * len(rows)
    assert screened([("held", text) for _, text in rows], LeaksConfig()) == ["test_image"] * len(rows)
