"""Images are known by all that is written of them, so that nothing of them is overlooked where less is written."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.schema import CAPTIONS, IMAGES
from data_catalog.sources.urls import address_key
from data_catalog.take_down.leftovers import clear_work
from data_catalog.take_down.matching import Matcher
from data_catalog.take_down.sightings import with_sightings
from data_catalog.tombstones import Tombstones, new_tombstone

REQUIRED = {"caption_id": "1", "source": "a", "upstream_file": "f", "upstream_line": 1, "outcome": "pending"}
LOOK = "00ff00ff33cc33cc"


def write_step(root: Path, step: str, rows: list[dict[str, object]], schema: pa.Schema) -> Path:
    folder = root / "work" / step / "0a1b"
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "shard.parquet")
    return folder


def test_captions_of_a_local_image_go_with_it_though_they_tell_no_look_and_no_address(tmp_path: Path) -> None:
    captions: list[dict[str, object]] = [
        REQUIRED | {"sample_id": "photos:1", "path": "1.jpg", "source_caption": "Un gatto"},
        REQUIRED | {"sample_id": "web:2", "url": "http://a.net/2.jpg", "source_caption": "Un cane"},
        REQUIRED | {"sample_id": "photos:3", "path": "3.jpg", "source_caption": "Una mela"},
    ]
    images: list[dict[str, object]] = [
        {"sample_id": "photos:1", "phash": LOOK, "sha256": "aa"},
        {"sample_id": "web:2", "phash": LOOK, "sha256": "bb", "final_url": "http://a.net/2.jpg"},
        {"sample_id": "photos:3", "phash": "0" * 16, "sha256": "cc"},
    ]
    doomed = [
        write_step(tmp_path, "clean", captions, CAPTIONS),
        write_step(tmp_path, "normalise", images, IMAGES),
    ]
    stays = write_step(tmp_path, "screen", captions[2:], CAPTIONS)
    found = with_sightings(tmp_path, Tombstones(tombstones=(new_tombstone("phash", LOOK),)))
    (one,) = found.tombstones
    assert (one.images, one.addresses, one.samples) == (
        ("aa", "bb"),
        (address_key("http://a.net/2.jpg"),),
        ("photos:1",),
    )
    # As after a kill that left the captions alone: what tells the look is gone.
    (doomed[1] / "shard.parquet").unlink()
    assert clear_work(tmp_path / "work", Matcher(found)) == doomed[:1]
    assert stays.is_dir()
