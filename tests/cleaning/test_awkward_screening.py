"""What the screen step says of captions that are emoji, right to left, full of marks, empty, or very short or long."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleaning.duplicates.captions import RepeatsConfig
from cleaning.leaks import LeaksConfig
from data_catalog.schema import CAPTIONS, PENDING
from data_catalog.storage.shards import save_parquet, sha256_of
from data_catalog.storage.work import Commit
from flows.build.captions import Threads
from flows.recipe.sources import read_test_sets

FUNCTION_WORDS = ("a", "the", "un", "il", "في", "עַל", "पर", "है")
EVERY = frozenset(
    {
        "emoji",
        "arabic",
        "pointed hebrew",
        "devanagari",
        "decomposed",
        "empty",
        "one letter",
        "10,000 characters",
        "lone mark",
    }
)
# Four words, fewer of which are nobody's.
LONG_ENOUGH = EVERY - {"emoji", "empty", "one letter", "lone mark"}

Row = tuple[str, str, str]  # sample, address of its image, caption


Screened = Callable[..., list[dict[str, Any]]]
HeldOut = Callable[[Sequence[tuple[str, str]]], Commit]


@pytest.fixture
def screened(tmp_path: Path, call_step: Any) -> Screened:
    """`screened(rows, tests=(), repeats=None, leaks=None)`: the rows of a shard after the step.

    Repeats are looked for where `repeats` says how.
    """

    def through_the_steps(
        rows: Sequence[Row],
        *,
        tests: Sequence[Commit] = (),
        repeats: RepeatsConfig | None = None,
        leaks: LeaksConfig | None = None,
    ) -> list[dict[str, Any]]:
        given = [
            {
                "sample_id": f"pairs:{sample}",
                "caption_id": f"pairs:{sample}#{number}",
                "source": "pairs",
                "url": url,
                "source_caption": caption,
                "clean_caption": caption,
                "upstream_file": "a.tsv",
                "upstream_line": number,
                "outcome": PENDING,
            }
            for number, (sample, url, caption) in enumerate(rows, start=1)
        ]
        path = tmp_path / "in.parquet"
        save_parquet(pa.Table.from_pylist(given, CAPTIONS), path)
        reads: dict[str, Any] = {"clean": path, "test-set": tests}
        settings = {"config": repeats or RepeatsConfig(), "function_words": FUNCTION_WORDS}
        if repeats is not None:
            looking = {**settings, "threads": Threads(1)}
            reads["find-repeats"] = call_step("find-repeats", tmp_path / "work", {"clean": [path]}, looking)
        settings |= {"leaks": leaks or LeaksConfig(), "kinds": {"pairs": "pairs"}, "test_sets": ["held"][: len(tests)]}
        made = call_step("screen", tmp_path / "work", reads, settings)
        screened_rows: list[dict[str, Any]] = pq.read_table(made.only_file).to_pylist()
        assert [row["caption_id"] for row in screened_rows] == [row["caption_id"] for row in given]
        return screened_rows

    return through_the_steps


@pytest.fixture
def held_out(tmp_path: Path, call_step: Any) -> HeldOut:
    """`held_out(entries)`: a test set of the given addresses of images and captions."""

    def read(entries: Sequence[tuple[str, str]]) -> Commit:
        path = tmp_path / "held.jsonl"
        path.write_text("".join(json.dumps({"url": url, "caption": text}) + "\n" for url, text in entries), "utf-8")
        columns = {"kind": "pairs", "files": [str(path)], "url_column": "url", "caption_column": "caption"}
        (held,) = read_test_sets({"held": columns}, "it")
        settings = {"name": "held", "kind": held.kind.kind, "config": held.config, "images": None, "min_words": 4}
        settings["files"] = [[path.name, sha256_of(path)]]
        found: Commit = call_step("test-set", tmp_path / "work", {}, settings)
        return found

    return read


def address(name: str) -> str:
    return f"http://example.org/{name.replace(' ', '-')}.jpg"


def reasons_of(rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    return [row["drop_reason"] for row in rows]


@pytest.mark.parametrize(
    ("template", "dropped"),
    [
        ("{}", LONG_ENOUGH),
        ("  «{}» — !? 🐶", LONG_ENOUGH),
        ("\u200f{}\u200f", LONG_ENOUGH),
        ("{} y", ()),
        ("{}א", ()),
    ],
)
def test_captions_of_a_test_set(
    screened: Screened, held_out: HeldOut, awkward: Mapping[str, str], template: str, dropped: Sequence[str]
) -> None:
    held = held_out([(address(f"held {name}"), text) for name, text in awkward.items()])
    rows = [(name, address(name), template.format(text)) for name, text in awkward.items()]
    expected = {name: "test_caption" if name in dropped else None for name in awkward}
    assert awkward.keys() >= EVERY
    assert dict(zip(awkward, reasons_of(screened(rows, tests=[held])), strict=True)) == expected
    off = screened(rows, tests=[held], leaks=LeaksConfig(by_caption=False))
    assert reasons_of(off) == [None] * len(rows)


def test_images_of_a_test_set_whatever_their_captions(
    screened: Screened, held_out: HeldOut, awkward: Mapping[str, str]
) -> None:
    held = held_out([(address("held"), "")])
    rows = [("held", address("held"), text) for text in awkward.values()]
    rows += [(name, address(name), text) for name, text in awkward.items()]
    found = screened(rows, tests=[held])
    assert reasons_of(found) == ["test_image"] * len(awkward) + [None] * len(awkward)
    assert {row["detail"] for row in found[: len(awkward)]} == {"held: url:example.org/held.jpg"}


@pytest.mark.parametrize(
    ("held", "url", "reason"),
    [
        ("http://example.org/a.jpg", "https://EXAMPLE.org:443/a.jpg#x", "test_image"),
        ("http://example.org/a.jpg", "http://example.org/A.jpg", None),
        ("http://example.org/قطة.jpg", "http://example.org/%D9%82%D8%B7%D8%A9.jpg", "test_image"),
        ("http://example.org/קטה.jpg", "http://example.org/קטר.jpg", None),
        (
            "http://example.org/👩\u200d👧.jpg",
            "https://example.org/%F0%9F%91%A9%E2%80%8D%F0%9F%91%A7.jpg",
            "test_image",
        ),
        ("http://example.org/👩\u200d👧.jpg", "http://example.org/👩👧.jpg", None),
        ("http://example.org/बिल्ली.jpg", "https://example.org/बिल्ली.jpg", "test_image"),
        ("http://example.org/x", "http://example.org/y", None),
        ("http://example.org/" + "x" * 10_000, "https://example.org/" + "x" * 10_000, "test_image"),
        ("http://example.org/" + "x" * 10_000, "http://example.org/" + "x" * 9_999, None),
    ],
)
def test_images_of_a_test_set_by_their_addresses(
    screened: Screened, held_out: HeldOut, held: str, url: str, reason: str | None
) -> None:
    rows = [("1", url, "Un cane corre sulla spiaggia"), ("2", "", "Un gatto dorme sul divano")]
    assert reasons_of(screened(rows, tests=[held_out([(held, "")])])) == [reason, None]


@pytest.mark.parametrize(
    ("template", "dropped"),
    [
        ("{}", EVERY),
        (" {} ", EVERY),
        ("{} 7", ()),
        ("{} qualcosa", ()),
    ],
)
def test_repeats_of_an_image(
    screened: Screened, awkward: Mapping[str, str], template: str, dropped: Sequence[str]
) -> None:
    """Every caption of an image, then its repeat: as one of the same image, and as one of another."""
    rows = [(name, address(name), text) for name, text in awkward.items()]
    rows += [(name, address(name), template.format(text)) for name, text in awkward.items()]
    rows += [(f"{name}2", address(f"{name}2"), template.format(text)) for name, text in awkward.items()]
    found = reasons_of(screened(rows, repeats=RepeatsConfig()))
    count = len(awkward)
    expected = {name: "near_duplicate_caption" if name in dropped else None for name in awkward}
    assert dict(zip(awkward, found[count : 2 * count], strict=True)) == expected
    assert found[:count] + found[2 * count :] == [None] * 2 * count
    off = screened(rows, repeats=RepeatsConfig(near_captions=False))
    assert reasons_of(off) == [None] * len(rows)


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ("كلب صغير يلعب في الحديقة الخضراء", "كلب صغير يلعب الحديقة الخضراء", "near_duplicate_caption"),
        ("كلب صغير يلعب في الحديقة الخضراء", "قط صغير يلعب في الحديقة الخضراء", None),
        ("ילד רוכב על סוס לבן בחוף הים", "ילד רוכב על סוסים לבן בחוף הים", "near_duplicate_caption"),
        ("ילד רוכב על סוס לבן בחוף הים", "ילד רוכב על סוס שחור בחוף הים", None),
        ("एक काला कुत्ता हरी घास पर दौड़ता है", "एक काला कुत्ता हरी घास दौड़ता है", "near_duplicate_caption"),
        ("एक काला कुत्ता हरी घास पर दौड़ता है", "एक काला घोड़ा हरी घास पर दौड़ता है", None),
        (
            "un ragazzo gioca con il pallone 👩\u200d👧",
            "ragazzo gioca con il pallone 👩\u200d👧",
            "near_duplicate_caption",
        ),
        ("un ragazzo gioca con il pallone 👩\u200d👧", "un ragazzo gioca con il pallone 👩\u200d👦", None),
        ("Il caffe\u0300 piu\u0300 caldo del bar", "IL CAFFÈ PIÙ CALDO DEL BAR!", "near_duplicate_caption"),
        ("Il caffe\u0300 piu\u0300 caldo del bar", "Il caffè più freddo del bar", None),
        ("a small dog " * 833 + "runs", "a small dog " * 833 + "run", "near_duplicate_caption"),
        ("a small dog " * 833 + "runs", "a small cat " * 833 + "runs", None),
        ("", "\u0301", None),
        ("x", "y", None),
    ],
)
def test_nearly_the_same_captions_of_an_image(screened: Screened, first: str, second: str, reason: str | None) -> None:
    rows = [("1", address("1"), first), ("1", address("1"), second), ("2", address("2"), second)]
    assert reasons_of(screened(rows, repeats=RepeatsConfig())) == [None, reason, None]


@pytest.mark.parametrize(
    ("num_images", "cap", "num_dropped"),
    [(3, 1, 2), (3, 2, 1), (3, 3, 0)],
)
def test_captions_that_too_many_images_have(
    screened: Screened, awkward: Mapping[str, str], num_images: int, cap: int, num_dropped: int
) -> None:
    rows = [
        (f"{name}{image}", address(f"{name}{image}"), text)
        for image in range(num_images)
        for name, text in awkward.items()
    ]
    found = reasons_of(screened(rows, repeats=RepeatsConfig(max_images_per_caption=cap)))
    assert set(found) <= {None, "common_caption"}
    by_name = {name: found[place :: len(awkward)].count("common_caption") for place, name in enumerate(awkward)}
    assert by_name == dict.fromkeys(awkward, num_dropped)
    off = RepeatsConfig(max_images_per_caption=cap, common_captions=False)
    assert reasons_of(screened(rows, repeats=off)) == [None] * len(rows)
