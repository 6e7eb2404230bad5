"""Splits that upstream states are kept where the recipe says so, are never ignored unasked, and share no image."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from data_catalog.base.errors import InputError, PipelineError, SettingsError
from data_catalog.publish.publish import SplitConfig, split_of
from flows.dry_run import dry_run
from flows.models import require_ready

# File name, what upstream calls its split, caption.
Row = tuple[str, str, str]

UPSTREAM, HASH = 'split.by="upstream"', 'split.by="hash"'
NAMES = {
    "train": ("train", "Training", "restval", "TRAIN"),
    "val": ("val", "valid", "validation", "dev", " Development "),
    "test": ("test", "testing", "Test "),
}


def pairs(own: Any, rows: Sequence[Row], name: str = "own") -> str:
    return str(own.source(name, "path split caption", rows))


def test_splits_are_kept_by_every_usual_name_and_the_rest_is_drawn(own: Any) -> None:
    said = [[name] for names in NAMES.values() for name in names] + [[""]] * 8
    said += [["train", "test"], ["train", "dev"], ["", "test", "val"], ["train", "held-out", ""]]
    rows = []
    for number, splits in enumerate(said):
        own.save(f"{number}.jpg", number)
        rows += [(f"{number}.jpg", split, own.caption(10 * number + place)) for place, split in enumerate(splits)]
    rows.append(("21.jpg", "val", "x"))  # too short: dropped, and what it says of the image still counts
    report = own.build(pairs(own, rows), UPSTREAM, "split.val=0.4")
    assert "for which upstream states a split" in (report.snapshot.folder / "README.md").read_text("utf-8")
    found = own.outcomes()
    kept = {name: {found[text] for _, said, text in rows[:12] if said == name} for _, name, _ in rows[:12]}
    assert kept == {name: {split} for split, names in NAMES.items() for name in names}
    drawn = [found[text] for _, _, text in rows[12:20]]
    assert set(drawn) == {"train", "val"}
    told = own.rows("SELECT upstream_split, split, count(*) AS n FROM images WHERE upstream_split IS NULL GROUP BY ALL")
    assert {(row["split"], row["n"]) for row in told} == set(Counter(drawn).items())
    # Of several splits of one image the most guarded counts.
    several = [found[text] for _, _, text in rows[20:27]]
    assert several == ["test", "test", "val", "val", "test", "test", "test"]
    # An unknown name is a reason to drop the image.
    assert {found[text] for _, _, text in rows[27:30]} == {"unknown_split"}
    rejected = own.rows("SELECT DISTINCT step, detail FROM rejects WHERE drop_reason = 'unknown_split'")
    assert [row["step"] for row in rejected] == ["ingest"]
    assert "'held-out'" in rejected[0]["detail"]
    assert own.rows("SELECT read, kept FROM funnel WHERE step = 'ingest'") == [{"read": 31, "kept": 28}]

    own.build(pairs(own, rows), HASH, "split.val=0.4")
    ignored = own.outcomes()
    assert {ignored[text] for _, _, text in rows[:30]} == {"train", "val"}
    assert [ignored[text] for _, _, text in rows[12:20]] == drawn


def test_each_split_has_its_share() -> None:
    config = SplitConfig(val=0.2, test=0.3)
    counts = Counter(split_of(f"mscoco:{number}", config) for number in range(1_000))
    assert {split: round(count, -2) for split, count in counts.items()} == {"train": 500, "val": 200, "test": 300}


@pytest.mark.parametrize("split", ["", "test"])
def test_splits_of_upstream_are_scored_whatever_the_shares_of_others(own: Any, split: str) -> None:
    source = pairs(own, [("0.jpg", "test", own.caption(0)), ("1.jpg", "train", own.caption(1))])
    settings = ["split.val=0", "split.test=0", f'evaluate.split="{split}"']
    require_ready(own.recipe(source, UPSTREAM, *settings), own.folder)
    with pytest.raises(PipelineError, match="nothing to score on"):
        require_ready(own.recipe(source, HASH, *settings), own.folder)


@pytest.mark.parametrize(
    "settings",
    [
        ["split.val=0.45", "split.test=0.5"],
        ["split.val=0", "duplicates.near_images=false", "duplicates.images=false"],
    ],
)
def test_no_copy_of_what_upstream_holds_out_is_in_another_split(own: Any, settings: list[str]) -> None:
    """Whatever source it comes from, whatever that says of it, and however its own split is drawn."""
    official, copies = [], []
    held = ["test"] * 4 + ["val"] * 4
    for number, (split, other) in enumerate(zip(held, ["train", "val", "", "", "train", "train", "", ""], strict=True)):
        own.save(f"{number}.jpg", number, quality=70)
        own.save(f"copy{number}.jpg", number, quality=95)  # the better copy, of the better source
        official.append((f"{number}.jpg", split, own.caption(number)))
        copies.append((f"copy{number}.jpg", other, own.caption(40 + number)))
    own.build(pairs(own, copies, "web") + pairs(own, official, "official"), UPSTREAM, *settings)
    found = own.outcomes()
    assert [found[text] for _, _, text in official] == held
    assert {found[text] for _, _, text in copies} == {"split_leak"}


def numbered(own: Any, start: int, splits: Sequence[str]) -> list[Row]:
    return [(f"{start + number}.jpg", split, own.caption(start + number)) for number, split in enumerate(splits)]


def flickr8k(own: Any, *, test: str = "3.jpg \n4.jpg\n9.jpg") -> str:
    tokens = "".join(f"{name}#0\t{text}\n" for name, _, text in numbered(own, 0, [""] * 6))
    (own.folder / "Flickr8k.token.txt").write_text(tokens, "utf-8")
    for split, names in (("train", "0.jpg\r\n"), ("dev", "1.jpg\n2.jpg\n"), ("test", test)):
        (own.folder / f"Flickr_8k.{split}Images.txt").write_text(names, "utf-8", newline="")
    return f'[sources.flickr8k]\nfiles = ["{own.folder}/Flickr8k.token.txt"]\nimages = "{own.photos}"\n'


def karpathy(own: Any) -> str:
    images = [
        {"filename": name, "split": split, "sentences": [{"raw": text, "sentid": number}]}
        for number, (name, split, text) in enumerate(numbered(own, 10, ("restval", "val", "val", "test", "test", "")))
    ]
    (own.folder / "flickr30k.json").write_text(json.dumps({"images": images}), "utf-8")
    return f'[sources.flickr30k]\nfiles = ["{own.folder}/flickr30k.json"]\nimages = "{own.photos}"\n'


def coco(own: Any) -> str:
    rows = list(enumerate(numbered(own, 20, ("train2014", "val2014", "val2014", "test2015", "test2015", ""))))
    images = [
        {"id": number, "file_name": name, "coco_url": f"http://images.example.org/{split}/{name}"}
        for number, (name, split, _) in rows
    ]
    annotations = [{"id": number, "image_id": number, "caption": text} for number, (_, _, text) in rows]
    (own.folder / "captions.json").write_text(json.dumps({"images": images, "annotations": annotations}), "utf-8")
    return f'[sources.mscoco]\nfiles = ["{own.folder}/captions.json"]\nimages = "{own.photos}"\n'


def test_every_source_that_states_splits_has_them_kept_and_another_list_is_another_dataset(own: Any) -> None:
    for start in (0, 10, 20):
        for number in range(start, start + 6):
            own.save(f"{number}.jpg", number)
    sources = karpathy(own) + coco(own)
    own.build(flickr8k(own) + sources, UPSTREAM, "split.val=0")
    found = own.outcomes()
    for start in (0, 10, 20):
        splits = [found[own.caption(start + number)] for number in range(6)]
        assert splits == ["train", "val", "val", "test", "test", "train"], start
    own.build(flickr8k(own, test="3.jpg\n4.jpg\n5.jpg") + sources, UPSTREAM, "split.val=0")
    assert own.outcomes()[own.caption(5)] == "test"
    dev, test = (own.folder / f"Flickr_8k.{split}Images.txt" for split in ("dev", "test"))
    (own.folder / "aside").write_bytes(dev.read_bytes())
    test.replace(dev)
    (own.folder / "aside").replace(test)
    own.build((own.folder / "own.toml").read_text("utf-8"), UPSTREAM, "split.val=0")
    found = own.outcomes()
    assert (found[own.caption(1)], found[own.caption(5)]) == ("test", "val"), "their names alone were swapped"


def test_who_does_not_say_what_becomes_of_stated_splits_is_asked_before_work_starts(own: Any, told: Any) -> None:
    own.save("0.jpg", 0)
    silent = own.source("mine", "path caption", [("0.jpg", own.caption(0))])
    stating = pairs(own, [("0.jpg", "test", own.caption(0))])
    wanted = 'own states? splits?: set \\[split\\] by = "upstream" to keep them, or "hash" to ignore them$'
    for refused in (own.build_recipe, lambda recipe: dry_run(recipe, root=own.root)):
        with pytest.raises(SettingsError, match=wanted):
            refused(own.recipe(silent + stating))
    assert not list(own.root.rglob("*.parquet"))
    words = ["build", str(own.folder / "own.toml"), "--root", str(own.root), "--executor", "local"]
    assert 'by = "upstream"' in told(words, code=1)
    assert not dry_run(own.recipe(silent + stating, HASH), root=own.root).dropped
    lists = flickr8k(own)
    for sources, settings, said in (
        (lists + silent + karpathy(own) + coco(own) + stating, (), "^sources flickr8k, flickr30k, mscoco, own state"),
        (silent, (UPSTREAM,), "no source states splits"),
        (stating, ("split.by=karpathy",), r"split\.by must be 'upstream' or 'hash', got 'karpathy'"),
    ):
        with pytest.raises(SettingsError, match=said):
            own.build(sources, *settings)
    (own.folder / "Flickr_8k.trainImages.txt").write_text("0.jpg\n3.jpg\n", "utf-8")
    with pytest.raises(InputError, match=r"3\.jpg is in .*testImages\.txt and in .*trainImages\.txt"):
        own.build(lists, UPSTREAM)
