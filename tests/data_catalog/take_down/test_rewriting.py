"""Snapshots without some samples hold every conservation law, and share the shards that had nothing of them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_catalog.database.catalog import broken_laws
from data_catalog.errors import ConfigError
from data_catalog.publish import SplitConfig, publish_shard
from data_catalog.schema import CAPTIONS, IMAGES
from data_catalog.storage.manifest import Snapshot
from data_catalog.storage.shards import order_key, save_parquet
from data_catalog.take_down.rewriting import recounted_funnel, rewrite_files

Row = dict[str, Any]
STEPS = ("ingest", "clean", "fetch", "normalise", "deduplicate")
SPLIT: dict[str, Any] = {"val": 0.3, "test": 0.2, "salt": "x"}


def caption(sample: str, line: int, **more: Any) -> Row:
    found = dict.fromkeys(CAPTIONS.names) | {
        "sample_id": sample,
        "caption_id": f"{sample}#{line}",
        "source": "web",
        "url": f"http://{sample.partition(':')[2]}.org/1.jpg",
        "source_caption": f"Caption {line}",
        "caption": f"Didascalia {line}",
        "translator": "native",
        "translation_score": float("nan"),
        "upstream_file": "f.tsv",
        "upstream_line": line,
        "outcome": "pending",
    }
    return found | more


def dropped(sample: str, line: int, step: str, reason: str) -> Row:
    return caption(sample, line, outcome="rejected", step=step, drop_reason=reason)


def image(sample: str, **more: Any) -> Row:
    found = dict.fromkeys(IMAGES.names) | {"sample_id": sample, "bytes": sample.encode(), "width": 8, "height": 8}
    found |= {"original_width": 8, "original_height": 8, "sha256": sample, "phash": "0" * 16, "thumbnail": b"t"}
    return found | more


# The image of a:1 is published with a caption of b:1, which a test set has, and that of c:1 with one of a:2.
FIRST = [
    caption("web:a", 1),
    caption("web:a", 2),
    caption("web:b", 3, merged_into="web:a", leaks=["test_caption xtd10"]),
    dropped("web:b", 4, "deduplicate", "duplicate_image"),
    dropped("web:c", 5, "clean", "caption_too_short"),
    caption("web:c", 6),
    dropped("web:d", 7, "fetch", "http_404"),
    dropped("web:malformed-1", 8, "ingest", "malformed_row"),
]
FIRST_IMAGES = [image("web:a"), image("web:b"), image("web:c"), image("web:d", drop_reason="http_404", bytes=None)]
SECOND = [caption("web:e", 9), caption("web:f", 10, merged_into="web:c")]
SECOND_IMAGES = [image("web:e"), image("web:f")]


def published(folder: Path, shards: Sequence[tuple[list[Row], list[Row]]]) -> Snapshot:
    """A snapshot of some shards; each is sorted as ingest sorts them."""
    files: dict[str, list[Any]] = {"pairs": [], "captions": [], "images": []}
    everything = [row for captions, _ in shards for row in captions]
    merged = [row for row in everything if row["merged_into"]]
    pq.write_table(pa.Table.from_pylist(merged, schema=CAPTIONS), folder / "merged")
    for number, (captions, images) in enumerate(shards):
        save_parquet(pa.Table.from_pylist(in_order(captions), schema=CAPTIONS), folder / "captions.parquet")
        save_parquet(pa.Table.from_pylist(in_order(images), schema=IMAGES), folder / "images.parquet")
        entries = publish_shard(
            folder / "captions.parquet",
            folder / "images.parquet",
            folder / "before",
            shard_id=number,
            config=SplitConfig(**SPLIT),
            merged=folder / "merged",
        )
        for kind in files:
            files[kind] += entries[kind]
    return snapshot(folder / "before", files, [{"source": "web", "step": step} for step in STEPS])


def in_order(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: order_key(row["sample_id"]))


def snapshot(folder: Path, files: dict[str, list[Any]], funnel: Sequence[Row]) -> Snapshot:
    captions = [folder / entry["path"] for entry in files["captions"]]
    manifest = {
        "files": files,
        "documents": [],
        "settings": {"split": SPLIT},
        "funnel": recounted_funnel(funnel, captions),
        "target_lang": "it",
        "translator": "native",
    }
    return Snapshot(dataset="web", snapshot=folder.name, folder=folder, manifest=manifest)


@pytest.fixture
def before(tmp_path: Path) -> Snapshot:
    found = published(tmp_path, [(FIRST, FIRST_IMAGES), (SECOND, SECOND_IMAGES)])
    assert broken_laws(found) == []
    return found


def without(before: Snapshot, *samples: str) -> Snapshot:
    folder = before.folder.with_name("after")
    after = snapshot(folder, rewrite_files(before, folder, samples), before.manifest["funnel"])
    assert broken_laws(after) == []
    assert after.verify() == []
    assert len(captions_of(after)) == len(captions_of(before))
    return after


def captions_of(found: Snapshot) -> dict[str, Row]:
    rows = [row for path in found.caption_files() for row in pq.read_table(path).to_pylist()]
    return {row["caption_id"]: row for row in rows}


def pairs_of(found: Snapshot) -> dict[str, Row]:
    rows = [row for path in found.all_pair_files() for row in pq.read_table(path).to_pylist()]
    return {row["sample_id"]: row for row in rows}


@pytest.mark.parametrize("samples", [[name] for name in "abcdef"] + [["a", "b"], ["a", "c", "e"], list("abcdef")])
def test_whatever_is_forgotten_the_laws_hold(before: Snapshot, samples: list[str]) -> None:
    after = without(before, *(f"web:{name}" for name in samples))
    assert not pairs_of(after).keys() & {f"web:{name}" for name in samples}
    counts = [row["dropped"] for row in after.manifest["funnel"] if row["step"] == "forget"]
    assert counts == [sum(row["sample_id"].removeprefix("web:") in samples for row in FIRST + SECOND)]


def test_a_pair_that_loses_the_caption_for_which_it_was_marked_goes_back_to_its_split(before: Snapshot) -> None:
    assert pairs_of(before)["web:a"]["split"] == "marked"
    pair = pairs_of(without(before, "web:b"))["web:a"]
    assert pair["split"] in ("train", "val", "test")
    assert pair["leaks"] is None
    assert pair["captions"] == ["Didascalia 1", "Didascalia 2"]
    assert len(pair["source_captions"]) == len(pair["scores"]) == len(pair["translators"]) == 2


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_pair_that_goes_back_to_its_split_goes_to_the_one_that_upstream_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str
) -> None:
    monkeypatch.setitem(SPLIT, "by", "upstream")
    stated = [row | {"upstream_split": split} if row["caption_id"] == "web:a#2" else row for row in FIRST]
    before = published(tmp_path, [(stated, FIRST_IMAGES), (SECOND, SECOND_IMAGES)])
    assert pairs_of(before)["web:a"]["split"] == "marked"
    assert pairs_of(without(before, "web:b"))["web:a"]["split"] == split


def test_captions_that_were_published_with_a_forgotten_image_are_those_of_a_duplicate(before: Snapshot) -> None:
    row = captions_of(without(before, "web:c"))["web:f#10"]
    assert (row["outcome"], row["step"], row["drop_reason"]) == ("rejected", "deduplicate", "near_duplicate_image")
    assert (row["detail"], row["merged_into"], row["caption"]) == ("looks like web:c", None, "Didascalia 10")


def test_shards_that_had_nothing_of_it_are_shared_and_the_others_keep_their_names(before: Snapshot) -> None:
    after = without(before, "web:d")
    for kind, shared in (("captions", [False, True]), ("images", [False, True]), ("pairs", [True] * 3)):
        paths = [after.folder / entry["path"] for entry in after.manifest["files"][kind]]
        olds = [before.folder / entry["path"] for entry in before.manifest["files"][kind]]
        assert [path.samefile(old) for path, old in zip(paths, olds, strict=True)] == shared, kind
        assert [path.name.rpartition("-")[0] for path in paths] == [old.name.rpartition("-")[0] for old in olds]


def test_lines_that_were_never_read_stay_rejected_without_their_text(before: Snapshot) -> None:
    folder = before.folder.with_name("after")
    files = rewrite_files(before, folder, [], ["web:malformed-1"])
    after = snapshot(folder, files, before.manifest["funnel"])
    row = captions_of(after)["web:malformed-1#8"]
    assert (row["step"], row["drop_reason"], row["source_caption"]) == ("ingest", "malformed_row", None)
    assert after.manifest["funnel"] == before.manifest["funnel"]
    assert broken_laws(after) == []


@pytest.mark.parametrize("kind", ["captions", "images", "pairs"])
def test_damage_is_not_hidden_under_a_new_sha256(before: Snapshot, kind: str) -> None:
    paths = [before.folder / entry["path"] for entry in before.manifest["files"][kind]]
    for path in paths:
        content = bytearray(path.read_bytes())
        content[len(content) // 3] ^= 1
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"sha256 differs.*restore it from a copy"):
        rewrite_files(before, before.folder.with_name("after"), ["web:a"])


def test_forgetting_nothing_changes_nothing(before: Snapshot) -> None:
    after = without(before, "web:none")
    assert after.manifest["files"] == before.manifest["files"]
    assert after.manifest["funnel"] == before.manifest["funnel"]


def test_forgetting_twice_is_forgetting_both(before: Snapshot) -> None:
    once = without(before, "web:a")
    folder = once.folder.with_name("twice")
    twice = snapshot(folder, rewrite_files(once, folder, ["web:c"]), once.manifest["funnel"])
    atonce = rewrite_files(before, before.folder.with_name("atonce"), ["web:a", "web:c"])
    assert twice.manifest["files"] == atonce
