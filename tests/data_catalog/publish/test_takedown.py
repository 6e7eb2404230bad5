"""Rows are meant by whatever their table has; what is left holds every law, and shares the files of before."""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from data_catalog.base.errors import DamagedError
from data_catalog.catalog.duckdb_file import broken_laws, recounted
from data_catalog.catalog.manifest import Snapshot, file_entry
from data_catalog.disk.files import order_key, save_parquet
from data_catalog.publish import publish
from data_catalog.publish.publish import KINDS, SplitConfig, publish_shard
from data_catalog.publish.takedown import Matches, closure, forgotten_texts, without
from data_catalog.publish.tombstones import (
    FORGET_STEP,
    Matcher,
    Tombstone,
    Tombstones,
    new_tombstone,
)
from data_catalog.rows.schema import CAPTIONS, IMAGES
from data_catalog.rows.urls import address_key

DOMAIN, URL = new_tombstone("domain", "città.org"), new_tombstone("url", "http://other.net/a b.jpg")


def matcher(*tombstones: Tombstone) -> Matcher:
    return Matcher(Tombstones(tombstones=tombstones))


ADDRESSES = {
    "http://città.org/1.jpg": 0,
    "http://user@xn--citt-3na.org./1.jpg": 0,
    "https:xn--citt-3na.org/1.jpg": 0,
    "http://xn--citt-3na.org.evil.net/1.jpg": -1,
    "http://notxn--citt-3na.org/1.jpg": -1,
    "https://OTHER.net/a%20b.jpg": 1,
    "http://other.net/b.jpg": -1,
    "": -1,
    None: -1,
}


@pytest.mark.parametrize("column", ["url", "page_url", "final_url"])
def test_rows_are_meant_by_their_addresses(column: str) -> None:
    urls = list(ADDRESSES)
    for cells in (pa.array(urls, pa.string()), pa.chunked_array([urls[:3], [], urls[3:]], pa.string())):
        found = matcher(DOMAIN, URL).numbers(pa.table({column: cells})).tolist()
        assert dict(zip(urls, found, strict=True)) == ADDRESSES
    assert matcher(DOMAIN).numbers(pa.table({column: pa.array([], pa.string())})).tolist() == []
    assert matcher().numbers(pa.table({column: ["http://a.org/"]})).tolist() == [-1]


def test_rows_are_meant_by_sample_bytes_look_and_the_address_of_a_copy() -> None:
    sample = new_tombstone("sample", "a:1").with_found(["aa"], [address_key("http://copy.net/1.jpg")])
    found = matcher(sample, new_tombstone("phash", "00ff00ff33cc33cc", distance=2))
    rows = [
        ("a:1", None, None, None),
        ("a:2", "aa", "ffffffffffffffff", None),
        ("a:3", "bb", "00ff00ff33cc33cf", None),
        ("a:4", "cc", "00ff00ff33cc33c3", "http://copy.net/2.jpg"),
        ("a:5", None, None, "https://copy.net/1.jpg"),
    ]
    table = pa.table(
        dict(zip(("sample_id", "sha256", "phash", "url"), map(list, zip(*rows, strict=True)), strict=True))
    )
    assert found.numbers(table).tolist() == [0, 0, 1, -1, 0]
    assert found.samples(table) == {"a:1": 0, "a:2": 0, "a:3": 1, "a:5": 0}
    ends = [(None, None), ("ingest", "malformed_row"), ("forget", "forgotten"), ("normalise", "forgotten")]
    steps, reasons = map(list, zip(*ends, strict=True))
    ended = pa.table({"sample_id": ["a:1"] * 4, "step": steps, "drop_reason": reasons})
    assert found.numbers(ended).tolist() == [0, -1, -1, -1], "rows that were forgotten or never read are meant by none"


LINES = {
    "http://città.org/1.jpg\tUn gatto\tdi troppo": True,
    "HTTPS://IMG.XN--CITT-3NA.ORG": True,
    '"http://other.net/a%20b.jpg", un gatto': True,
    "http://straße.org/1.jpg": True,
    "http://xn--zzzzzzzzzz.org/1.jpg": True,  # a name that stands for no letters: whoever asks for it is obeyed
    "http://notxn--citt-3na.org/1.jpg": False,
    "http://xn--citt-3na.organic/1.jpg": False,
    "http://other.net/b.jpg": False,
    None: False,
}


@pytest.mark.parametrize("column", ["source_caption", "detail"])
def test_lines_that_were_never_read_are_meant_by_what_they_name(column: str) -> None:
    rows = [{"sample_id": str(text), "step": "ingest", column: text} for text in LINES]
    rows += [{"sample_id": "read", "step": None, column: text} for text in LINES]
    schema = pa.schema([(name, pa.string()) for name in ("sample_id", "step", "source_caption", "detail")])
    hosts = [new_tombstone("domain", host) for host in ("xn--strae-oqa.org", "xn--zzzzzzzzzz.org")]
    found = matcher(DOMAIN, URL, *hosts).lines(pa.Table.from_pylist(rows, schema=schema))
    assert found == [text for text, is_meant in LINES.items() if is_meant]


Row = dict[str, Any]
STEPS = ("ingest", "clean", "fetch", "normalise", "deduplicate")
WITH_FORGET = ("ingest", "forget", "clean", "fetch", "normalise", "deduplicate")
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


def in_order(rows: Iterable[Row], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist(sorted(rows, key=lambda row: order_key(row["sample_id"])), schema=schema)


@contextmanager
def merge(merged: list[Row]) -> Iterator[None]:
    """Let `publish_shard` publish captions with the image in `merged_into`, as older versions did."""
    kept_rows, rights_of = publish._kept_rows, publish.strictest_rights

    def kept(table: pa.Table) -> dict[str, list[Row]]:
        samples = kept_rows(table.filter(pc.is_null(table.column("merged_into"))))
        for row in merged:
            if row["merged_into"] in samples:
                samples[row["merged_into"]].append(row)
        return samples

    def rights(own: list[Row]) -> Mapping[str, Row]:
        names = {row["sample_id"] for row in own}
        return rights_of(own, [row for row in merged if row["merged_into"] in names])

    with mock.patch.multiple(publish, _kept_rows=kept, strictest_rights=rights):
        yield


def published(folder: Path, shards: Sequence[tuple[list[Row], list[Row]]]) -> Snapshot:
    """A snapshot of some shards, as older versions wrote it; each is sorted as ingest sorts them."""
    files: dict[str, list[Any]] = {kind: [] for kind in KINDS}
    moved = [row for captions, _ in shards for row in captions if row["merged_into"]]
    moved.sort(key=lambda row: str(row["sample_id"]))
    settings = {"config": SplitConfig(**SPLIT), "image_rows": ("fetch", "normalise", "deduplicate")}
    for number, (captions, images) in enumerate(shards):
        save_parquet(in_order(captions, CAPTIONS), folder / "captions.parquet")
        save_parquet(in_order(images, IMAGES), folder / "images.parquet")
        written = folder / str(number)
        written.mkdir()
        sources = (folder / "captions.parquet", folder / "images.parquet", written)
        with merge(moved):
            counts = publish_shard(*sources, **settings)
        for stem, count in counts.items():
            kind = stem if stem in ("captions", "images", "spare") else "pairs"
            place = folder / "before" / ("images" if kind == "spare" else kind) / f"{stem}-{number:05d}-0.parquet"
            place.parent.mkdir(parents=True, exist_ok=True)
            (written / f"{stem}.parquet").rename(place)
            more = {"split": stem} if kind == "pairs" else {}
            files[kind].append(file_entry(place, folder / "before", rows=count, shard=number, **more))
    return snapshot(folder / "before", files, STEPS)


def snapshot(folder: Path, files: dict[str, list[Any]], steps: Sequence[str]) -> Snapshot:
    told = [{**FORGET_STEP, "step": step} for step in steps]
    manifest = {"files": files, "settings": {"split": SPLIT}, "sources": {"web": {}}, "steps": told, "funnel": []}
    manifest |= {"target_lang": "it", "translator": "native", "documents": []}
    return Snapshot(dataset="web", snapshot=folder.name, folder=folder, manifest=manifest)


def lawful(found: Snapshot) -> Snapshot:
    """The snapshot with its counts, which breaks no law."""
    found = with_manifest(found, **recounted(found))
    assert broken_laws(found) == []
    return found


def with_manifest(found: Snapshot, **changes: Any) -> Snapshot:
    return replace(found, manifest={**found.manifest, **changes})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return lawful(published(tmp_path_factory.mktemp("whole"), [(FIRST, FIRST_IMAGES), (SECOND, SECOND_IMAGES)]))


@pytest.fixture
def before(whole: Snapshot, tmp_path: Path) -> Snapshot:
    """A copy of the snapshot, which a test may change."""
    return replace(whole, folder=shutil.copytree(whole.folder, tmp_path / "before"))


def taken_down(before: Snapshot, *samples: str) -> Snapshot:
    folder = before.folder.with_name("after")
    after = lawful(snapshot(folder, without(before, folder, samples), WITH_FORGET))
    assert after.verify() == []
    assert len(captions_of(after)) == len(captions_of(before))
    return after


def captions_of(found: Snapshot) -> dict[str, Row]:
    rows = [row for path in found.files("captions") for row in pq.read_table(path).to_pylist()]
    return {row["caption_id"]: row for row in rows}


def pairs_of(found: Snapshot) -> dict[str, Row]:
    rows = [row for path in found.files("pairs") for row in pq.read_table(path).to_pylist()]
    return {row["sample_id"]: row for row in rows}


@pytest.mark.parametrize("samples", ["a", "b", "c", "f", "abcdef"])
def test_whatever_is_forgotten_the_laws_hold(before: Snapshot, samples: str) -> None:
    after = taken_down(before, *(f"web:{name}" for name in samples))
    assert not pairs_of(after).keys() & {f"web:{name}" for name in samples}
    counts = [row["dropped"] for row in after.manifest["funnel"] if row["step"] == "forget"]
    goes = [{row["sample_id"], row["merged_into"]} & {f"web:{name}" for name in samples} for row in FIRST + SECOND]
    assert counts == [sum(map(bool, goes))]
    merged = captions_of(after)["web:f#10"]
    assert (merged["drop_reason"] == "forgotten") == bool({"c", "f"} & set(samples)), "it goes with its image"
    asked = {row["sample_id"] for path in after.files("images") for row in pq.read_table(path).to_pylist()}
    assert "f" in samples or "web:f" in asked, "nobody asks the web for it again"


def test_a_pair_that_loses_a_caption_stays_where_it_is(before: Snapshot) -> None:
    """Also the one for which it was marked: no picture that was held back comes into a split by a take-down."""
    pair = pairs_of(taken_down(before, "web:b"))["web:a"]
    whole = pairs_of(before)["web:a"]
    assert (pair["split"], pair["leaks"]) == (whole["split"], whole["leaks"]) == ("marked", ["test_caption xtd10"])
    assert pair["captions"] == ["Didascalia 1", "Didascalia 2"]
    assert len(pair["source_captions"]) == len(pair["scores"]) == len(pair["translators"]) == 2
    assert pair["image"] == whole["image"]


def test_a_list_that_a_later_version_adds_stays_beside_the_others(before: Snapshot) -> None:
    files = dict(before.manifest["files"])
    for number, entry in enumerate(files["pairs"]):
        path = before.folder / entry["path"]
        table = pq.read_table(path)
        table = table.append_column("moods", pa.array([[f"of {one}" for one in ids] for ids in ids_of(table)]))
        path.unlink()
        pq.write_table(table, path)
        files["pairs"] = [*files["pairs"]]
        files["pairs"][number] = entry | file_entry(path, before.folder, rows=table.num_rows)
    after = without(with_manifest(before, files=files), before.folder.with_name("after"), ("web:b",))
    for entry in after["pairs"]:
        table = pq.read_table(before.folder.with_name("after") / entry["path"])
        assert table.column("moods").to_pylist() == [[f"of {one}" for one in ids] for ids in ids_of(table)]


def ids_of(table: pa.Table) -> list[list[str]]:
    ids: list[list[str]] = table.column("caption_ids").to_pylist()
    return ids


def stating(sample: str, line: int, license: str | None, author: str, **more: Any) -> Row:
    return caption(f"web:{sample}", line, license=license, attribution=author, **more)


# Rows that state rights: of x and of what was merged into it, in its own shard and in another.
TOO_SHORT = {"outcome": "rejected", "step": "clean", "drop_reason": "caption_too_short"}
OF_X = {"merged_into": "web:x"}
RIGHTS_FIRST = [
    stating("x", 1, "CC0", "Xenia"),
    stating("x", 5, "CC BY 4.0", "Xaver", **TOO_SHORT),
    stating("v", 2, "CC BY-NC 4.0", "Vera", **OF_X),
    stating("w", 6, "CC BY-NC 4.0", "Jane Doe"),
]
RIGHTS_SECOND = [
    stating("y", 3, "CC BY-NC 4.0", "Jane Doe", page_url="https://jane.example/y", **OF_X),
    stating("z", 4, "CC BY-SA 4.0", "Zoe", **OF_X),
    stating("u", 7, None, "Uta", page_url="https://uta.example/", **OF_X),
    stating("s", 8, "CC BY-NC 4.0", "Sam", **OF_X),
]


def with_rights(folder: Path, gone: str = "") -> Snapshot:
    """The snapshot that a build without some samples would publish."""
    folder.mkdir()
    kept = [[row for row in rows if row["sample_id"][4:] not in gone] for rows in (RIGHTS_FIRST, RIGHTS_SECOND)]
    images = [[image(name) for name in sorted({row["sample_id"] for row in rows})] for rows in kept]
    return published(folder, list(zip(kept, images, strict=True)))


def test_a_pair_that_loses_a_caption_has_the_rights_that_it_would_have_been_published_with(tmp_path: Path) -> None:
    """Nobody is named for a caption that is gone, and no ban of a row that stays is lifted."""
    everything = with_rights(tmp_path / "all")
    for samples, license, author in (
        ("", "CC BY-NC 4.0", "Jane Doe"),
        ("sy", "CC BY-NC 4.0", "Vera"),
        ("svy", "CC BY-SA 4.0", "Zoe"),
        ("suvyz", "CC BY 4.0", "Xaver"),
        ("w", "CC BY-NC 4.0", "Jane Doe"),
    ):
        folder = tmp_path / f"without {samples}"
        left = without(everything, folder, [f"web:{name}" for name in samples])
        found = pairs_of(snapshot(folder, left, WITH_FORGET))
        assert str(found) == str(pairs_of(with_rights(tmp_path / f"rest {samples}", samples)))  # scores are no numbers
        pair = found["web:x"]
        assert (pair["license"], pair["attribution"]) == (license, author)


def test_shards_that_had_nothing_of_it_are_shared_and_the_others_keep_their_names(before: Snapshot) -> None:
    after = taken_down(before, "web:d")
    for kind, shared in (("captions", [False, True]), ("images", [False, True]), ("pairs", [True] * 3)):
        paths = [after.folder / entry["path"] for entry in after.manifest["files"][kind]]
        olds = [before.folder / entry["path"] for entry in before.manifest["files"][kind]]
        assert [path.samefile(old) for path, old in zip(paths, olds, strict=True)] == shared, kind
        assert [path.name.rpartition("-")[0] for path in paths] == [old.name.rpartition("-")[0] for old in olds]


@pytest.mark.parametrize("kind", ["captions", "images", "pairs"])
def test_damage_is_not_hidden_under_a_new_sha256(before: Snapshot, kind: str) -> None:
    paths = [before.folder / entry["path"] for entry in before.manifest["files"][kind]]
    for path in paths:
        content = bytearray(path.read_bytes())
        content[len(content) // 3] ^= 1
        path.write_bytes(content)
    with pytest.raises(DamagedError, match=r"sha256 differs|cannot be read"):
        without(before, before.folder.with_name("after"), ["web:a"])


def test_texts_that_cannot_be_read_end_a_take_down_with_what_to_remove(before: Snapshot) -> None:
    (path, *_) = before.files("captions")
    with pq.ParquetFile(path) as file:
        group = file.metadata.row_group(0)
        (chunk,) = (
            each for each in map(group.column, range(group.num_columns)) if each.path_in_schema == "source_caption"
        )
    content = bytearray(path.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(content)
    stones = Tombstones(tombstones=(new_tombstone("sample", "web:a"),))
    found = [Matches(matcher=Matcher(stones), files=before.files("captions"), snapshot=before)]
    with pytest.raises(DamagedError, match=rf"{path} .* remove the folder {before.folder} and run the same"):
        forgotten_texts(before.folder.parents[2], found)


def test_forgetting_twice_is_forgetting_both_and_forgetting_nothing_changes_nothing(before: Snapshot) -> None:
    nothing = without(before, before.folder.with_name("same"), ["web:none"])
    assert nothing == before.manifest["files"]
    once = taken_down(before, "web:a")
    folder = once.folder.with_name("twice")
    twice = snapshot(folder, without(once, folder, ["web:c"]), WITH_FORGET)
    atonce = without(before, before.folder.with_name("atonce"), ["web:a", "web:c"])
    assert twice.manifest["files"] == atonce


def test_spare_pictures_of_what_is_forgotten_go(before: Snapshot) -> None:
    """Files of them: by sample, in groups of rows, with pixels; one of which nothing is left goes."""
    names = ("sample_id", "source", "url", "final_url", "sha256", "phash")
    schema = pa.schema([*((name, pa.string()) for name in names), ("bytes", pa.binary())])
    entries = []
    for shard, samples in enumerate(["dx", "d", "x"]):
        rows = [{"sample_id": f"web:{name}", "url": f"http://{name}.org/1", "bytes": name.encode()} for name in samples]
        path = before.folder / "images" / f"spare-{shard:05d}-0123456789ab.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=1)
        entries.append(file_entry(path, before.folder, rows=len(rows), shard=shard))
    spared = with_manifest(before, files={**before.manifest["files"], "spare": entries})
    one = new_tombstone("url", "http://x.org/1")
    files = [before.folder / entry["path"] for entry in entries]
    assert Matches(matcher=matcher(one), files=files).samples == {"web:x": 0}
    after = taken_down(spared, "web:x")
    left = {entry["shard"]: pq.read_table(after.folder / entry["path"]) for entry in after.manifest["files"]["spare"]}
    assert {shard: table["bytes"].to_pylist() for shard, table in left.items()} == {0: [b"d"], 1: [b"d"]}


def test_texts_that_no_row_that_stays_has_are_those_of_forgotten_rows_alone(tmp_path: Path) -> None:
    """Of step outputs, each of a dataset; what is being written has a name with a dot."""
    for name, rows in {
        "web/clean/0a": [caption("web:a", 1), caption("web:b", 2, merged_into="web:a"), caption("web:c", 3)],
        "other/clean/0b": [caption("web:d", 3), caption("web:d", 4, clean_caption="Didascalia 2")],
        "other/clean/.tmp-0c": [caption("web:e", 1)],
    }.items():
        (tmp_path / "work" / name).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=CAPTIONS), tmp_path / "work" / name / "shard.parquet")
    texts = {"Caption 1", "Didascalia 1", "Caption 2"}
    for datasets, expected in ((None, texts), (["web"], texts), (["other"], set())):
        one = new_tombstone("sample", "web:a", **({"datasets": datasets} if datasets else {}))
        assert forgotten_texts(tmp_path, closure(tmp_path, Tombstones(tombstones=(one,)))[1]) == expected
    assert forgotten_texts(tmp_path, closure(tmp_path, Tombstones())[1]) == set()
