"""Exports as folders: what is in them, that they are whole or absent, and that nothing in them does harm."""

import csv
import hashlib
import json
import os
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from markdown_it import MarkdownIt
from PIL import Image

from data_catalog.base.errors import BusyError, DamagedError, PipelineError, SettingsError
from data_catalog.catalog.export_formats import ExportConfig
from data_catalog.catalog.manifest import Snapshot
from data_catalog.disk.lock import place_lock
from data_catalog.exports import rights
from data_catalog.exports.export import ExportReport, export_snapshot
from data_catalog.exports.sinks import sample_key

KINDS = ("huggingface", "webdataset", "list")
FREE = {"photos:free", "photos:../../etc/pass.wd", "photos:credited", *(f"photos:more-{n}" for n in range(4))}
Shared = tuple[Path, Snapshot, dict[str, Any]]


def export(snapshot: Snapshot, place: Path, kind: str = "huggingface", **options: Any) -> ExportReport:
    """Export in a format, or a list of addresses without pixels."""
    if kind == "list":
        kind, options = "huggingface", {**options, "pixels": "none"}
    return export_snapshot(snapshot, ExportConfig(format=kind, **options), place)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def pictures(snapshot: Snapshot) -> dict[str, bytes]:
    """The image of every pair of a snapshot, by sample."""
    rows = [row for path in snapshot.files("pairs") for row in pq.read_table(path).to_pylist()]
    return {row["sample_id"]: row["image"]["bytes"] for row in rows}


def card(folder: Path) -> tuple[dict[str, Any], str]:
    """The metadata and the text of the card of an export."""
    _, head, body = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(head), body


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, make_snapshot: Any) -> Shared:
    """Exports of the snapshot of few pairs, by format, of which none is changed; the snapshot; their reports."""
    place = tmp_path_factory.mktemp("exports")
    snapshot = make_snapshot(place / "catalog")
    return place, snapshot, {kind: export(snapshot, place / kind, kind, samples_per_shard=3) for kind in KINDS}


def test_whole_shards_are_linked_and_others_hold_what_may_go(shared: Shared) -> None:
    place, snapshot, reports = shared
    report = reports["huggingface"]
    assert report.images == {"train": 7, "val": 2, "test": 1}
    assert (report.listed, report.unlisted, report.marked) == ({"train": 5}, {"photos": 1}, 1)
    withheld = dict.fromkeys((rights.NO_CREDIT, rights.TRADE_FORBIDDEN, rights.COPIES_FORBIDDEN), 1)
    withheld |= {rights.UNKNOWN_LICENSE: 1, rights.NO_LICENSE: 2}
    assert sorted(report.withheld) == sorted(["photos", why, count] for why, count in withheld.items())
    data = place / "huggingface/data"
    ours = next(path for path in snapshot.pair_files("train") if "train-00000" in path.name)
    assert (data / "train-00000.parquet").samefile(ours)
    assert pq.read_table(data / "train-00001.parquet").column("sample_id").to_pylist() == ["photos:credited"]
    assert not (data / "train-00002.parquet").exists(), "there is nothing in it that may go"


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_holds_the_pixels_of_what_may_go_and_is_the_same_anywhere(
    kind: str, shared: Shared, make_snapshot: Any, tmp_path: Path
) -> None:
    place, snapshot, _ = shared
    files = tree(place / kind)
    export(make_snapshot(tmp_path / "catalog"), tmp_path / "out", kind, samples_per_shard=3)
    assert tree(tmp_path / "out") == files
    record = json.loads(files.pop("export.json"))
    assert record["files"] == {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    assert (record["dataset"], record["snapshot"], record["format"]) == (
        "cani",
        "0123456789ab",
        kind.replace("list", "huggingface"),
    )
    assert record["tombstones"] is None
    content = b"".join(files.values())
    found = {sample for sample, picture in pictures(snapshot).items() if picture in content}
    assert found == (set() if kind == "list" else FREE | {"photos:val", "mine:val", "photos:test"})


def test_what_goes_is_what_is_asked_for(snapshot: Snapshot, tmp_path: Path) -> None:
    def sent(name: str, **options: Any) -> set[str]:
        export(snapshot, tmp_path / name, **options)
        files = tmp_path.glob(f"{name}/data/*")
        return {sample for path in files for sample in pq.read_table(path).column("sample_id").to_pylist()}

    licensed, everything = sent("licensed"), sent("all", pixels="all")
    assert sent("noncommercial", pixels="noncommercial") - licensed == {"photos:noncommercial"}
    assert everything == pictures(snapshot).keys() - {"photos:marked"}, "what holds a test set never goes"
    assert sent("allowed", allowed=("photos",)) == everything
    assert sent("none", pixels="none") == set()
    with pytest.raises(SettingsError, match="birds"):
        export(snapshot, tmp_path / "out", allowed=("birds",))
    assert not (tmp_path / "out").exists()


def test_nothing_is_done_twice_until_something_changes(make_snapshot: Any, tmp_path: Path) -> None:
    snapshot, out = make_snapshot(tmp_path / "a"), tmp_path / "out"
    first = export(snapshot, out, "webdataset", samples_per_shard=2)
    inode = (out / "sizes.json").stat().st_ino
    again = export(snapshot, out, "webdataset", samples_per_shard=2)
    assert (first.up_to_date, again.up_to_date) == (False, True)
    assert again.withheld == first.withheld
    assert (out / "sizes.json").stat().st_ino == inode
    forgotten = make_snapshot(tmp_path / "b", tombstones={"digest": "d" * 64})
    assert not export(forgotten, out, "webdataset", samples_per_shard=2).up_to_date
    assert not export(forgotten, out, "webdataset").up_to_date
    os.truncate(out / "train-000000.tar", 7)
    assert [export(forgotten, out, "webdataset").up_to_date for _ in range(2)] == [False, True]
    assert not list(tmp_path.glob(".tmp-*"))
    before = tree(out)
    damage(forgotten.pair_files("train")[0])
    with pytest.raises(PipelineError, match="is damaged"):
        export(forgotten, out, "webdataset", samples_per_shard=2)
    assert tree(out) == before, "a damaged shard is not passed on"


@pytest.mark.parametrize(
    ("row", "options", "told"),
    [
        ({}, {}, "1 of photos are withheld, since no license is stated. --allow SOURCE"),
        ({"license": "CC BY-NC 4.0", "page_url": "https://a.example"}, {}, "--pixels noncommercial"),
        ({"url": None}, {"kind": "list"}, "made without pixels"),
        ({"source": "mine"}, {}, "the recipe forbids passing on"),
        (None, {}, "no pairs"),
    ],
)
def test_an_export_without_images_is_refused_and_the_switch_is_named(
    row: dict[str, Any] | None, options: dict[str, str], told: str, make_snapshot: Any, make_pair: Any, tmp_path: Path
) -> None:
    snapshot = make_snapshot(tmp_path / "good", {(0, "train"): [make_pair("free", 1, license="CC0")]})
    export(snapshot, tmp_path / "out", **options)
    before = tree(tmp_path / "out")
    shards = {} if row is None else {(0, "train"): [make_pair("held", 1, **row)]}
    sources = {"photos": {"license": "?"}, "mine": {"license": "?", "rights": {"redistribution": False}}}
    snapshot = make_snapshot(tmp_path / "catalog", shards, sources=sources, tombstones={"digest": "another"})
    with pytest.raises(SettingsError, match=f"would have no image: .*{told}"):
        export(snapshot, tmp_path / "out", **options)
    assert tree(tmp_path / "out") == before, "an earlier export stays"


def test_tars_have_a_fixed_number_of_samples_and_names_that_are_hashes(snapshot: Snapshot, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(snapshot, out, "webdataset", samples_per_shard=3, captions="every")
    sizes = json.loads((out / "sizes.json").read_text())
    train = [size for name, size in sizes.items() if name.startswith("train")]
    assert train == [3, 3, 3, 3, 2], "fourteen captions of seven images"
    for name, size in sizes.items():
        with tarfile.open(out / name) as tar:
            members = tar.getmembers()
        assert len(members) == 3 * size
        facts = {(member.mtime, member.uid, member.gid, member.uname, member.mode) for member in members}
        assert facts == {(0, 0, 0, "", 0o644)}
        stems = [member.name.split(".")[0] for member in members]
        assert all(len(stem) == 28 and set(stem) <= set("0123456789abcdef-") for stem in stems)
    key = sample_key("photos:free")
    with tarfile.open(out / "train-000000.tar") as tar:
        texts = [tar.extractfile(f"{key}-{n:03d}.txt").read().decode() for n in range(2)]  # type: ignore[union-attr]
    assert texts == ["un cane numero 1", "il cane 1"]


def test_images_in_tars_are_called_what_they_are(make_snapshot: Any, make_pair: Any, tmp_path: Path) -> None:
    for encoding, suffix in (("WEBP", "webp"), ("PNG", "png")):
        Image.new("RGB", (40, 30)).save(out := BytesIO(), encoding)
        rows = [make_pair("free", 1, license="CC0", image={"bytes": out.getvalue(), "path": None})]
        place = tmp_path / f"out-{suffix}"
        export(make_snapshot(tmp_path / suffix, {(0, "train"): rows}), place, "webdataset")
        with tarfile.open(place / "train-000000.tar") as tar:
            assert [Path(name).suffix for name in tar.getnames()] == [f".{suffix}", ".json", ".txt"]
        assert card(place)[0]["dataset_info"][0]["features"][0] == {"name": suffix, "dtype": "image"}


def test_lists_have_rights_and_no_pixels(shared: Shared) -> None:
    place, _, reports = shared
    assert reports["list"].listed == {"train": 12, "val": 2, "test": 1}
    table = pq.read_table(place / "list/links/val")
    rows = {row["sample_id"]: row for row in table.to_pylist()}
    mine = {"source_langs": ["en", "it"], "translators": ["argos 1", "native"], "license": "CC-BY-4.0"}
    assert mine.items() <= rows["mine:val"].items(), "as the card says; the recipe's license, where the row has none"
    assert (rows["photos:val"]["license"], rows["photos:val"]["width"]) == ("CC0 1.0", 400), "of the image as it came"
    assert not [column.name for column in table.schema if "binary" in str(column.type)]


CARDS = {
    "huggingface": [
        "| all | 7 / 14 | 2 / 4 | 1 / 2 |",
        "| all | 5 / 10 |",
        "Of 30 captions, machine translation made 15 (50.0%). The fingerprint of the build's engine is `argos 1`.",
        *("no classifier searched for it", "nothing was blurred", "vernaclip forget", "There was no leak guard"),
        *("arXiv:2108.08688", "Conceptual Captions"),
        "| photos | no license is stated | 2 |",
        "| `ingest` | 30 | 28 | 2 |",
    ],
    "list": [
        "There are no images with pixels.\n\nImages listed by address, without pixels.",
        "| photos | 12 / 24 | 1 / 2 | 1 / 2 |",
        "| all | 12 / 24 | 2 / 4 | 1 / 2 |",
        "Of 30 captions, machine translation made 15 (50.0%).",
        "| mine | `pairs` | CC-BY-4.0 | 0 | 1 | 0 |",
        "third parties&#60;&#47;b&#62; | 0 | 14 | 13 |",
    ],
}


@pytest.mark.parametrize("kind", CARDS)
def test_the_card_says_what_an_honest_card_says(kind: str, shared: Shared) -> None:
    head, body = card(shared[0] / kind)
    assert (head["language"], head["multilinguality"], head["license"]) == (["it", "en"], ["translation"], "other")
    assert [text for text in CARDS[kind] if text not in body] == []
    assert str(shared[0]) not in body
    if kind == "huggingface":
        assert head["size_categories"] == ["n<1K"]
        splits = {split["name"]: split["num_examples"] for split in head["dataset_info"][0]["splits"]}
        assert splits == {"train": 7, "validation": 2, "test": 1}
        html = MarkdownIt("commonmark").enable("table").render(body)
        shown = "&lt;script&gt;alert(1)&lt;/script&gt; [x](javascript:alert(1)) =1+1 gnp.exe [31m | ``` www.evil"
        assert shown in html, "examples are shown as they are"


def test_a_card_of_images_by_img2dataset_does_not_claim_that_robots_txt_was_followed(
    make_snapshot: Any, tmp_path: Path
) -> None:
    settings = make_snapshot(tmp_path / "polite").manifest["settings"] | {"fetch": {"engine": "img2dataset"}}
    export(make_snapshot(tmp_path / "catalog", settings=settings), tmp_path / "out", "list")
    _, body = card(tmp_path / "out")
    assert "it reads no robots.txt, keeps no pace of a host" in body
    assert "`robots.txt` and `X-Robots-Tag` were followed" not in body


def test_credits_are_one_line_each_and_no_formula(make_snapshot: Any, make_pair: Any, tmp_path: Path) -> None:
    shown = {
        "=1+1": "'=1+1",
        " +1": "'+1",
        "＝1": "'＝1",
        "'Ndrangheta": "'Ndrangheta",
        "A.\n\u202eB.": "A. B.",
        "": "",
    }
    rows = [make_pair(str(number), number, license="CC BY 4.0", attribution=text) for number, text in enumerate(shown)]
    export(make_snapshot(tmp_path / "catalog", {(0, "train"): rows}), tmp_path / "out", "list")
    with (tmp_path / "out" / "ATTRIBUTION.csv").open(encoding="utf-8", newline="") as file:
        assert [row["attribution"] for row in csv.DictReader(file)] == list(shown.values())


def test_an_upstream_dataset_is_cited_unless_the_recipe_states_its_license(make_snapshot: Any, tmp_path: Path) -> None:
    for number, stated in enumerate(({"license": "CC0"}, {"redistribution": False})):
        sources = {"photos": {"license": "CC0", "rights": stated}, "mine": {"license": "ours"}}
        out = tmp_path / f"out{number}"
        export(make_snapshot(tmp_path / str(number), sources=sources), out, "list")
        for name in ("README.md", "ATTRIBUTION.md"):
            assert ("Conceptual Captions" in (out / name).read_text()) is bool(number)


# Where exports go


@pytest.fixture
def out(snapshot: Snapshot, tmp_path: Path) -> Path:
    """A list of URLs in `tmp_path / "out"`."""
    export(snapshot, tmp_path / "out", "list")
    return tmp_path / "out"


@pytest.mark.parametrize("record", [None, '{"files": {}, "format": "x"}'])
def test_a_folder_of_somebody_elses_is_never_replaced(snapshot: Snapshot, tmp_path: Path, record: str | None) -> None:
    """Nor is one that has a file of the record's name."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("years of work")
    if record:
        (tmp_path / "out/export.json").write_text(record)
    with pytest.raises(DamagedError if record else SettingsError, match="name another"):
        export(snapshot, tmp_path / "out")
    assert (tmp_path / "out/thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("name", ["links/train/notes.txt", "README.md"])
def test_what_somebody_added_or_edited_is_never_replaced(out: Path, snapshot: Snapshot, name: str) -> None:
    (out / name).write_text("write to me@example.org")
    with pytest.raises(SettingsError, match=f"{out / name} was added to the export or edited"):
        export(snapshot, out, "huggingface")
    assert (out / name).read_text() == "write to me@example.org"


@pytest.mark.parametrize("place", ["datasets/cani/mine", "models/cani", "link/x"])
def test_none_goes_where_a_root_keeps_its_own(snapshot: Snapshot, tmp_path: Path, place: str) -> None:
    root = tmp_path / "catalog"
    (root / "link").symlink_to(root / "datasets")
    with pytest.raises(SettingsError, match="not for exports"):
        export(snapshot, root / place)
    assert not (root / place / "README.md").exists()
    assert not export(snapshot, root / "mine").up_to_date


def test_leftovers_of_a_killed_export_are_removed(out: Path, snapshot: Snapshot, tmp_path: Path) -> None:
    for kind, is_done in (("list", True), ("webdataset", False)):
        for name in (".tmp-new-out", ".tmp-old-out"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "train-000009.tar").write_bytes(b"half")
        assert export(snapshot, out, kind).up_to_date is is_done
        assert not list(tmp_path.glob(".tmp-*")), "also where nothing else is to be done"
        assert not (out / "train-000009.tar").exists()


@pytest.mark.parametrize("gone", [None, "export.json", "links/train/part-00000.parquet"])
def test_an_export_that_a_killed_one_had_moved_away_is_put_back_and_half_of_one_is_not(
    out: Path, snapshot: Snapshot, gone: str | None
) -> None:
    whole = tree(out)
    out.rename(out.with_name(".tmp-old-out"))  # killed between the two renames
    out.with_name(".tmp-new-out").mkdir()
    if gone is not None:  # or while it was removed, and the new one lost since
        (out.with_name(".tmp-old-out") / gone).unlink()
    damage(snapshot.pair_files("train")[0])
    with pytest.raises(PipelineError, match="damaged"):
        export(snapshot, out, "webdataset")
    assert tree(out) == (whole if gone is None else {})
    assert not list(out.parent.glob(".tmp-*"))


def test_two_exports_to_one_place_do_not_harm_each_other(out: Path, snapshot: Snapshot) -> None:
    half = out.with_name(".tmp-new-out")
    half.mkdir()
    (half / "train-000000.tar").write_bytes(b"half")
    with place_lock(out):
        for kind in ("list", "webdataset"):
            with pytest.raises(BusyError, match=f"process {os.getpid()}"):
                export(snapshot, out, kind)
        assert (half / "train-000000.tar").read_bytes() == b"half"
