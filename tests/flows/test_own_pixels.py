"""Builds of files that hold their images: exports come back whole, nobody is asked, and a take-down finds its rows."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from data_catalog.catalog.manifest import require_snapshot
from data_catalog.fetch import workers
from data_catalog.fetch.owner import FetchingProcess
from flows.cli import main
from flows.dry_run import dry_run

NUM_PHOTOS = 24


@pytest.fixture
def unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """No build may start what fetches from the web."""
    monkeypatch.delattr(FetchingProcess, "start")
    monkeypatch.delattr(workers, "fetch_by_owners")


def test_exports_come_back_whole(own: Any, unasked: None) -> None:
    rows = []
    for number in range(NUM_PHOTOS):
        own.save(f"{number}.jpg", number)
        split, page = "test" if number % 4 == 0 else "train", f"https://a.example/page/{number}"
        texts = [own.caption(number), own.caption(40 + number)] if number % 2 else [own.caption(number)]
        rows += [(f"{number}.jpg", text, split, "CC BY 4.0", f"Ada {number}", page) for text in texts]
    source = own.source("own", "path caption split license attribution page", rows)
    own.build(source, 'split.by="upstream"')
    sent = {
        hashlib.sha256(row["image"]["bytes"]).hexdigest(): row
        for row in own.rows("SELECT image, captions, split, license, attribution, page_url FROM pairs")
    }
    facts = {key: {name: value for name, value in row.items() if name != "image"} for key, row in sent.items()}
    export = ["export", "own", "--root", str(own.root), "--out"]
    assert main([*export, f"{own.folder}/tars", "--format", "webdataset", "--samples-per-shard", "5"]) == 0
    assert main([*export, f"{own.folder}/hf", "--format", "huggingface"]) == 0
    recipes = {
        "tars": f'kind = "webdataset"\nfiles = "{own.folder}/tars/*.tar"\ncaption_key = "captions"\nlang = "en"\n'
        'license_key = "license"\nattribution_key = "attribution"\npage_key = "page_url"',
        "tables": f'kind = "huggingface"\nfiles = "{own.folder}/hf/data"\ncaption_column = "captions"\nlang = "en"\n'
        'license_column = "license"\nattribution_column = "attribution"\npage_column = "page_url"',
    }
    for name, toml in recipes.items():
        settings = ['split.by="upstream"', "build.shard_size=7"]
        report = own.build(f"[sources.again]\n{toml}", *settings, name=name)
        assert len(report.snapshot.files("captions")) == 4
        found = own.rows(
            f"SELECT sha256, captions, split, license, attribution, page_url FROM pairs WHERE dataset = '{name}'"
        )
        assert {row.pop("sha256"): row for row in found} == facts
        (own.folder / "tars" / "beside.jpg").write_bytes(b"no image of theirs")
        (own.folder / "hf" / "data" / "beside.jpg").write_bytes(b"no image of theirs")
        assert own.build(f"[sources.again]\n{toml}", *settings, name=name).up_to_date


def shard(folder: Path, own: Any, numbers: range, name: str = "00000.tar", *, has_urls: bool = True) -> Path:
    """A shard of photographs as img2dataset writes it, of three hosts."""
    path = folder / name
    with tarfile.open(path, "w") as tar:
        for number in numbers:
            picture = io.BytesIO()
            own.photo(number).save(picture, "JPEG")
            url = f"https://host{number % 3}.example/{number}.jpg"
            record = {"url": url if has_urls else None, "status": "success"}
            members = {
                "jpg": picture.getvalue(),
                "txt": own.caption(number).encode(),
                "json": json.dumps(record).encode(),
            }
            for suffix, content in members.items():
                info = tarfile.TarInfo(f"{number:09d}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def test_a_take_down_finds_images_that_nobody_was_asked_for(own: Any, unasked: None) -> None:
    path = shard(own.folder, own, range(12))
    toml = f'[sources.wds]\nkind = "webdataset"\nfiles = "{path}"\nlang = "en"\n'
    assert dry_run(own.recipe(toml), root=own.root).num_images == (0, 0)
    own.build(toml, "normalise.keep_original=true")
    assert len(own.rows("SELECT * FROM pairs WHERE url IS NOT NULL AND original IS NOT NULL")) == 12
    # Outcomes of URLs are those of requests, which there were none of: a source of links would ask.
    assert own.rows("SELECT DISTINCT url FROM image_outcomes") == [{"url": None}]
    look = own.rows("SELECT phash FROM pairs WHERE url LIKE '%/5.jpg'")[0]["phash"]
    named = ["--url", "https://host1.example/1.jpg", "--domain", "host0.example", "--phash", look]
    assert main(["forget", "--root", str(own.root), *named]) == 0
    gone = {0, 1, 3, 5, 6, 9}
    left = {f"https://host{number % 3}.example/{number}.jpg" for number in set(range(12)) - gone}
    assert {row["url"] for row in own.rows("SELECT url FROM pairs")} == left
    # They stay away, also from a shard that states no URL of theirs: by their bytes.
    own.build(toml, "split.val=0.3")
    assert {row["url"] for row in own.rows("SELECT url FROM pairs")} == left
    other = shard(own.folder, own, range(12), "other.tar", has_urls=False)
    own.build(toml.replace(str(path), str(other)), name="other")
    found = own.rows("SELECT path FROM captions WHERE dataset = 'other' AND outcome = 'kept'")
    assert {int(Path(row["path"]).stem) for row in found} == set(range(12)) - gone


def test_a_test_set_of_tars_guards_training_data_by_its_pixels(own: Any, unasked: None) -> None:
    (own.folder / "held").mkdir()
    shard(own.folder / "held", own, range(100, 103), "test-0.tar")
    rows = [(f"{number}.jpg", own.caption(number)) for number in (*range(6), 60)]
    for number, (name, _) in enumerate(rows):
        own.save(name, number if number < 6 else 101, quality=60)
    held = f'[test_sets.held]\nkind = "webdataset"\nfiles = "{own.folder}/held"\n'
    own.build(own.source("own", "path caption", rows) + held)
    assert own.outcomes()[own.caption(60)] == "test_pixels"
    entry = require_snapshot(own.root, "own").manifest["test_sets"]["held"]
    assert entry["guarded_by"] == ["identity", "caption", "pixels"]
    assert len(entry["files"]) == 1
