"""Shards through the decoding child: the same bytes give the same file, originals are kept where asked for."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_catalog.images.normalise import NormaliseConfig
from data_catalog.images.tables import write_rows
from data_catalog.images.workers import ImageWorkers
from data_catalog.schema import IMAGES, RAW_IMAGES


def normalise(
    bodies: list[bytes], config: NormaliseConfig, workers: ImageWorkers, folder: Path
) -> list[dict[str, Any]]:
    empty = dict.fromkeys(RAW_IMAGES.names)
    raw = ({**empty, "sample_id": f"x:{at}", "sha256": "0" * 64, "bytes": body} for at, body in enumerate(bodies))
    write_rows(raw, RAW_IMAGES, folder / "raw.parquet")
    workers.normalise(folder / "raw.parquet", config, folder / "images.parquet")
    table = pq.read_table(folder / "images.parquet")
    assert table.schema == IMAGES
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def test_the_same_bytes_give_the_same_file(workers: ImageWorkers, pictures: dict[str, bytes], tmp_path: Path) -> None:
    """From a child that has seen other files before, and from one that has not."""
    bodies = [body for name, body in sorted(pictures.items()) if name != "bomb.png"]
    for name in ("used", "fresh"):
        (tmp_path / name).mkdir()
    normalise(bodies[::-1], NormaliseConfig(image_size=32), workers, tmp_path / "used")
    normalise(bodies, NormaliseConfig(image_size=64), workers, tmp_path / "used")
    with ImageWorkers() as fresh:
        normalise(bodies, NormaliseConfig(image_size=64), fresh, tmp_path / "fresh")
    used, fresh_file = ((tmp_path / name / "images.parquet").read_bytes() for name in ("used", "fresh"))
    assert used == fresh_file


def test_original_bytes_are_kept_where_asked_for(
    workers: ImageWorkers, pictures: dict[str, bytes], tmp_path: Path
) -> None:
    bodies = [pictures["plain.jpg"], pictures["dot.png"], pictures["palette.png"]]
    for keep in (False, True):
        rows = normalise(bodies, NormaliseConfig(image_size=64, keep_original=keep), workers, tmp_path)
        assert [row["original"] for row in rows] == ([bodies[0], None, bodies[2]] if keep else [None] * 3)
        assert [row["original_format"] for row in rows] == ["JPEG", "PNG", "PNG"]
        assert [row["phash"] is None for row in rows] == [False, True, False]


def test_the_format_of_what_is_rejected_is_told(
    workers: ImageWorkers, pictures: dict[str, bytes], tmp_path: Path
) -> None:
    names = ["icon.ico", "cut.jpg", "noise", "animated.gif"]
    rows = normalise([pictures[name] for name in names], NormaliseConfig(), workers, tmp_path)
    assert [row["original_format"] for row in rows] == ["ICO", "JPEG", None, "GIF"]
