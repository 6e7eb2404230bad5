"""Exports as folders: what is in them, that they are whole or absent, and that nothing in them does harm."""

import csv
import hashlib
import json
import os
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from markdown_it import MarkdownIt
from PIL import Image

from data_catalog.errors import PipelineError, SettingsError
from data_catalog.exports import rights
from data_catalog.exports.export import ExportConfig, export_snapshot
from data_catalog.exports.sinks import sample_key
from data_catalog.storage.manifest import Snapshot

Make = Callable[..., Snapshot]
FORMATS = ("huggingface", "webdataset", "urls")


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pictures(snapshot: Snapshot) -> dict[str, bytes]:
    """The image of every pair of a snapshot, by sample."""
    rows = [row for path in snapshot.all_pair_files() for row in pq.read_table(path).to_pylist()]
    return {row["sample_id"]: row["image"]["bytes"] for row in rows}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, make_snapshot: Make) -> tuple[Path, Snapshot, dict[str, Any]]:
    """Exports of the snapshot of few pairs, by format, of which none is changed; the snapshot; their reports."""
    place = tmp_path_factory.mktemp("exports")
    snapshot = make_snapshot(place / "catalog")
    configs = {kind: ExportConfig(format=kind, samples_per_shard=3) for kind in FORMATS}
    return place, snapshot, {kind: export_snapshot(snapshot, configs[kind], place / kind) for kind in FORMATS}


Shared = tuple[Path, Snapshot, dict[str, Any]]


def card(folder: Path) -> tuple[dict[str, Any], str]:
    """The metadata and the text of the card of an export."""
    _, head, body = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(head), body


def exported_pictures(folder: Path) -> set[str]:
    """Samples whose image is in a Hugging Face folder."""
    return {name for path in folder.glob("data/*") for name in pq.read_table(path).column("sample_id").to_pylist()}


def test_whole_shards_are_linked_and_others_hold_what_may_go(shared: Shared) -> None:
    place, snapshot, reports = shared
    report = reports["huggingface"]
    assert report.images == {"train": 7, "val": 2, "test": 1}
    assert report.listed == {"train": 5}
    assert report.unlisted == {"photos": 1}
    assert report.marked == 1
    assert {(source, why): count for source, why, count in report.withheld} == {
        ("photos", rights.NO_CREDIT): 1,
        ("photos", rights.TRADE_FORBIDDEN): 1,
        ("photos", rights.NO_LICENSE): 2,
        ("photos", rights.UNKNOWN_LICENSE): 1,
        ("photos", rights.COPIES_FORBIDDEN): 1,
    }
    data = place / "huggingface/data"
    ours = next(path for path in snapshot.pair_files("train") if "train-00000" in path.name)
    assert (data / "train-00000.parquet").samefile(ours)
    assert pq.read_table(data / "train-00001.parquet").column("sample_id").to_pylist() == ["photos:credited"]
    assert not (data / "train-00002.parquet").exists(), "there is nothing in it that may go"


@pytest.mark.parametrize("kind", FORMATS)
def test_an_export_holds_the_pixels_of_what_may_go_and_its_record_every_file_by_its_hash(
    kind: str, shared: Shared
) -> None:
    place, snapshot, _ = shared
    files = tree(place / kind)
    record = json.loads(files.pop("export.json"))
    assert record["files"] == {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    assert (record["dataset"], record["snapshot"], record["format"]) == ("cani", "0123456789ab", kind)
    assert record["tombstones"] is None
    content = b"".join(files.values())
    found = {sample for sample, picture in pictures(snapshot).items() if picture in content}
    free = {"photos:free", "photos:../../etc/pass.wd", "photos:credited", *(f"photos:more-{n}" for n in range(4))}
    assert found == (set() if kind == "urls" else free | {"photos:val", "mine:val", "photos:test"})


@pytest.mark.parametrize("kind", FORMATS)
def test_one_snapshot_gives_the_same_bytes_anywhere(
    kind: str, make_snapshot: Make, shared: Shared, tmp_path: Path
) -> None:
    config = ExportConfig(format=kind, samples_per_shard=3)
    export_snapshot(make_snapshot(tmp_path / "catalog"), config, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(shared[0] / kind)


def test_what_goes_is_what_is_asked_for(snapshot: Snapshot, tmp_path: Path) -> None:
    def sent(name: str, **options: Any) -> set[str]:
        export_snapshot(snapshot, ExportConfig(format="huggingface", **options), tmp_path / name)
        return exported_pictures(tmp_path / name)

    licensed, everything = sent("licensed"), sent("all", pixels="all")
    assert sent("noncommercial", pixels="noncommercial") - licensed == {"photos:noncommercial"}
    assert everything == pictures(snapshot).keys() - {"photos:marked"}, "what holds a test set never goes"
    assert sent("allowed", allowed=("photos",)) == everything
    assert sent("none", pixels="none") == set()


def test_nothing_is_done_twice_until_something_changes(make_snapshot: Make, tmp_path: Path) -> None:
    snapshot, out = make_snapshot(tmp_path / "a"), tmp_path / "out"
    config = ExportConfig(format="webdataset", samples_per_shard=2)
    first = export_snapshot(snapshot, config, out)
    inode = (out / "sizes.json").stat().st_ino
    again = export_snapshot(snapshot, config, out)
    assert (first.up_to_date, again.up_to_date) == (False, True)
    assert again.withheld == first.withheld
    assert (out / "sizes.json").stat().st_ino == inode
    forgotten = make_snapshot(tmp_path / "b", tombstones={"digest": "d" * 64})
    assert not export_snapshot(forgotten, config, out).up_to_date
    assert not export_snapshot(forgotten, ExportConfig(format="webdataset"), out).up_to_date
    os.truncate(out / "train-000000.tar", 7)
    assert not export_snapshot(forgotten, ExportConfig(format="webdataset"), out).up_to_date
    assert export_snapshot(forgotten, ExportConfig(format="webdataset"), out).up_to_date
    assert not list(tmp_path.glob(".tmp-*"))


def test_a_damaged_shard_is_not_passed_on_and_the_old_export_stays(snapshot: Snapshot, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_snapshot(snapshot, ExportConfig(format="webdataset"), out)
    before = tree(out)
    shard = snapshot.pair_files("train")[0]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(PipelineError, match="is damaged"):
        export_snapshot(snapshot, ExportConfig(format="webdataset", samples_per_shard=2), out)
    assert tree(out) == before


def test_wrong_wishes_are_told(snapshot: Snapshot, tmp_path: Path) -> None:
    for wrong, text in (
        ({"format": "zip"}, "format"),
        ({"format": "urls", "pixels": "some"}, "pixels"),
        ({"format": "webdataset", "captions": "some"}, "captions"),
        ({"format": "webdataset", "samples_per_shard": 0}, "samples_per_shard"),
        ({"format": "huggingface", "published": "31.1.2026"}, "published"),
    ):
        with pytest.raises(SettingsError, match=text):
            ExportConfig(**wrong)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="birds"):
        export_snapshot(snapshot, ExportConfig(format="urls", allowed=("birds",)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("row", "options", "told"),
    [
        ({}, {}, "--allow photos .*--pixels none exports a list of the 1 "),
        ({"url": None}, {"format": "webdataset"}, "--allow photos includes them: use it if you"),
        ({"license": "CC BY-NC 4.0", "page_url": "https://a.example"}, {}, "--pixels noncommercial"),
        ({"url": None}, {"format": "urls"}, "--format huggingface .*--allow photos"),
        ({"url": None}, {"pixels": "none"}, "--pixels licensed .*--allow photos"),
        ({"source": "mine"}, {}, "remove redistribution = false"),
        (None, {}, "no pairs"),
        (None, {"format": "urls"}, "no pairs"),
    ],
)
def test_an_export_without_images_is_refused_and_the_switch_is_named(
    row: dict[str, Any] | None, options: dict[str, str], told: str, make_snapshot: Make, make_pair: Any, tmp_path: Path
) -> None:
    snapshot = make_snapshot(tmp_path / "good", {(0, "train"): [make_pair("free", 1, license="CC0")]})
    config = ExportConfig(**{"format": "huggingface", **options})
    if options.get("pixels") != "none":
        export_snapshot(snapshot, config, tmp_path / "out")
    before = tree(tmp_path / "out")
    shards = {} if row is None else {(0, "train"): [make_pair("held", 1, **row)]}
    sources = {"photos": {"license": "?"}, "mine": {"license": "?", "rights": {"redistribution": False}}}
    snapshot = make_snapshot(tmp_path / "catalog", shards, sources=sources, tombstones={"digest": "another"})
    for _ in range(2):
        with pytest.raises(SettingsError, match=f"would have no image: .*{told}"):
            export_snapshot(snapshot, config, tmp_path / "out")
    assert tree(tmp_path / "out") == before, "an earlier export stays"


def test_a_snapshot_without_free_images_is_a_list_where_none_are_asked_for(
    make_snapshot: Make, make_pair: Any, tmp_path: Path
) -> None:
    snapshot = make_snapshot(tmp_path / "catalog", {(0, "train"): [make_pair("unstated", 1)]})
    report = export_snapshot(snapshot, ExportConfig(format="huggingface", pixels="none"), tmp_path / "out")
    assert (report.images, report.listed) == ({}, {"train": 1})
    head, _ = card(tmp_path / "out")
    assert [config["config_name"] for config in head["configs"]] == ["links"]
    assert head["configs"][0]["default"] is True


def test_tars_have_a_fixed_number_of_samples_and_names_that_are_hashes(snapshot: Snapshot, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_snapshot(snapshot, ExportConfig(format="webdataset", samples_per_shard=3, captions="every"), out)
    sizes = json.loads((out / "sizes.json").read_text())
    train = {name: size for name, size in sizes.items() if name.startswith("train")}
    assert list(train.values()) == [3, 3, 3, 3, 2], "fourteen captions of seven images"
    for name, size in sizes.items():
        with tarfile.open(out / name) as tar:
            members = tar.getmembers()
        assert len(members) == 3 * size
        assert {(member.mtime, member.uid, member.gid, member.uname, member.mode) for member in members} == {
            (0, 0, 0, "", 0o644)
        }
        stems = [member.name.split(".")[0] for member in members]
        assert all(len(stem) == 28 and set(stem) <= set("0123456789abcdef-") for stem in stems)
    key = sample_key("photos:free")
    with tarfile.open(out / "train-000000.tar") as tar:
        texts = [tar.extractfile(f"{key}-{n:03d}.txt").read().decode() for n in range(2)]  # type: ignore[union-attr]
    assert texts == ["un cane numero 1", "il cane 1"]


def test_images_in_tars_are_called_what_they_are(make_snapshot: Make, make_pair: Any, tmp_path: Path) -> None:
    for encoding, suffix in (("WEBP", "webp"), ("PNG", "png")):
        Image.new("RGB", (40, 30)).save(out := BytesIO(), encoding)
        rows = [make_pair("free", 1, license="CC0", image={"bytes": out.getvalue(), "path": None})]
        snapshot, place = make_snapshot(tmp_path / suffix, {(0, "train"): rows}), tmp_path / f"out-{suffix}"
        export_snapshot(snapshot, ExportConfig(format="webdataset"), place)
        with tarfile.open(place / "train-000000.tar") as tar:
            assert [Path(name).suffix for name in tar.getnames()] == [f".{suffix}", ".json", ".txt"]
        assert card(place)[0]["dataset_info"][0]["features"][0] == {"name": suffix, "dtype": "image"}


@pytest.mark.parametrize("kind", ["huggingface", "urls"])
def test_texts_that_mean_harm_stay_text(kind: str, snapshot: Snapshot, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_snapshot(snapshot, ExportConfig(format=kind, pixels="all"), out)
    with (out / "ATTRIBUTION.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    cells = [cell for row in rows for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
    assert '\'=HYPERLINK("http://evil.example")' in cells
    assert len({len(row) for row in rows}) == 1
    for name in ("README.md", "ATTRIBUTION.md"):
        text = (out / name).read_text()
        assert not {char for char in text if ord(char) < 32 and char != "\n"} | ({"\u202e"} & set(text))
        html = MarkdownIt("commonmark", {"html": True, "linkify": False}).enable("table").render(text)
        assert "<script" not in html
        assert "<b>" not in html
        assert "javascript:" not in html.replace("(javascript:alert(1))", "")
        assert "<a " not in html
        assert "<img" not in html


def test_lists_have_rights_and_no_pixels(shared: Shared) -> None:
    place, _, reports = shared
    assert reports["urls"].listed == {"train": 12, "val": 2, "test": 1}
    rows = {row["sample_id"]: row for row in pq.read_table(place / "urls/links/val").to_pylist()}
    assert rows["mine:val"]["source_langs"] == ["en", "it"]
    assert rows["mine:val"]["translators"] == ["argos 1", "native"], "as the card says"
    assert rows["mine:val"]["license"] == "CC-BY-4.0", "the recipe's, where the row has none"
    assert rows["photos:val"]["license"] == "CC0 1.0"
    assert rows["photos:val"]["width"] == 400, "of the image as it came"
    schema = pq.read_schema(place / "urls/links/val/part-00000.parquet")
    assert not [column.name for column in schema if "binary" in str(column.type)]


def test_the_card_says_what_an_honest_card_says(shared: Shared) -> None:
    found, body = card(shared[0] / "huggingface")
    assert found["language"] == ["it", "en"]
    assert found["license"] == "other"
    assert found["size_categories"] == ["n<1K"]
    splits = {split["name"]: split["num_examples"] for split in found["dataset_info"][0]["splits"]}
    assert splits == {"train": 7, "validation": 2, "test": 1}
    for text in (
        "| all | 7 / 14 | 2 / 4 | 1 / 2 |",
        "| all | 5 / 10 |",
        "Of 30 captions, machine translation made 15 (50.0%). The fingerprint of the build's engine is `argos 1`.",
        "no classifier searched for it",
        "nothing was blurred",
        "vernaclip forget",
        "arXiv:2108.08688",
        "Conceptual Captions",
        "| photos | no license is stated | 2 |",
        "| `ingest` | 30 | 28 | 2 |",
        "There was no leak guard",
    ):
        assert text in body
    assert str(shared[0]) not in body
    html = MarkdownIt("commonmark").enable("table").render(body)
    shown = "&lt;script&gt;alert(1)&lt;/script&gt; [x](javascript:alert(1)) =1+1 gnp.exe [31m | ``` www.evil.example"
    assert shown in html, "examples are shown as they are"


def test_the_card_of_a_list_counts_what_is_listed(shared: Shared) -> None:
    head, body = card(shared[0] / "urls")
    assert (head["language"], head["multilinguality"]) == (["it", "en"], ["translation"])
    for text in (
        "There are no images with pixels.\n\nImages listed by address, without pixels.",
        "| photos | 12 / 24 | 1 / 2 | 1 / 2 |",
        "| all | 12 / 24 | 2 / 4 | 1 / 2 |",
        "Of 30 captions, machine translation made 15 (50.0%).",
        "| mine | `pairs` | CC-BY-4.0 | 0 | 1 | 0 |",
        "third parties&#60;&#47;b&#62; | 0 | 14 | 13 |",
    ):
        assert text in body


@pytest.mark.parametrize(("rights", "is_cited"), [({"redistribution": False}, True), ({"license": "CC0"}, False)])
def test_an_upstream_dataset_is_cited_unless_the_recipe_states_its_license(
    make_snapshot: Make, tmp_path: Path, rights: dict[str, object], *, is_cited: bool
) -> None:
    sources = {"photos": {"license": "CC0", "rights": rights}, "mine": {"license": "ours"}}
    export_snapshot(make_snapshot(tmp_path / "a", sources=sources), ExportConfig(format="urls"), tmp_path / "out")
    for name in ("README.md", "ATTRIBUTION.md"):
        assert ("Conceptual Captions" in (tmp_path / "out" / name).read_text()) is is_cited


def test_the_size_of_a_dataset_is_that_of_its_rows(make_snapshot: Make, make_pair: Any, tmp_path: Path) -> None:
    rows = [make_pair(str(number), number, image={"bytes": b"", "path": None}) for number in range(1001)]
    snapshot = make_snapshot(tmp_path / "catalog", {(0, "train"): rows})
    export_snapshot(snapshot, ExportConfig(format="urls"), tmp_path / "out")
    head, _ = card(tmp_path / "out")
    assert head["size_categories"] == ["1K<n<10K"]
