"""Order, batches, images and leaks of pair shards."""

import io
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_catalog.errors import DamagedError, InputError
from training.data.images import ImageReader, decode
from training.data.pairs import (
    Captions,
    PairFiles,
    batches_of,
    caption_draws,
    epoch_order,
    read_captions,
    refuse_leaks,
    row_groups,
)

MakeShard = Callable[[str, Sequence[dict[str, Any]]], Path]


def places(windows: list[Any]) -> list[tuple[int, int]]:
    return [tuple(place) for window in windows for place in window.tolist()]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 40), st.integers(0, 5), st.integers(1, 7))
def test_an_epoch_holds_each_sample_once(sizes: list[int], window: int, epoch: int, batch_size: int) -> None:
    windows = epoch_order(sizes, seed=3, epoch=epoch, window=window)
    expected = [(group, row) for group, size in enumerate(sizes) for row in range(size)]
    assert sorted(places(windows)) == expected
    assert all(len(found) < window + max(sizes) for found in windows)
    batches = list(batches_of(windows, batch_size))
    assert all(len(batch) == batch_size for batch in batches)
    assert places(batches) == places(windows)[: len(expected) // batch_size * batch_size]


def test_order_depends_on_seed_and_epoch_alone() -> None:
    sizes = [50] * 8

    def order(seed: int, epoch: int) -> list[tuple[int, int]]:
        return places(epoch_order(sizes, seed=seed, epoch=epoch, window=100))

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)


def test_every_caption_of_an_image_gets_its_turn() -> None:
    captions = Captions.of(pa.chunked_array([[["z"]], [["a", "b", "c"]]]))
    drawn = [captions.texts(captions.chosen(caption_draws(2, seed=0, epoch=epoch))) for epoch in range(300)]
    assert {first for first, _ in drawn} == {"z"}
    counts = Counter(second for _, second in drawn)
    assert {caption: counts[caption] > 70 for caption in counts} == {"a": True, "b": True, "c": True}


def test_images_are_the_same_whether_all_fit_or_not(square_files: PairFiles) -> None:
    groups = row_groups(square_files.train)
    assert [group.num_rows for group in groups] == [50, 40, 50, 12]
    windows = epoch_order([group.num_rows for group in groups], seed=0, epoch=0, window=60)
    batches = list(batches_of(windows, 16))
    readers = [
        ImageReader(groups, image_size=32, num_threads=2, cache_max_bytes=size, window=60) for size in (1 << 30, 0)
    ]
    for batch in batches:
        cached, streamed = (reader.read(batch) for reader in readers)
        assert cached.shape == (16, 32, 32, 3)
        assert cached.dtype == np.uint8
        assert np.array_equal(cached, streamed)
    for reader in readers:
        reader.close()


@pytest.mark.filterwarnings("ignore")
def test_pixels_are_those_of_open_clips_own_preprocessing() -> None:
    import torch
    from open_clip.transform import PreprocessCfg, image_transform_v2

    from training.towers.model import PREPROCESSING, normalise_pixels

    noise = np.random.default_rng(0).integers(0, 255, (50, 90, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG")
    ours = normalise_pixels(torch.from_numpy(decode(buffer.getvalue(), 64))[None])[0]
    theirs = image_transform_v2(PreprocessCfg(size=64, **PREPROCESSING), is_train=False)(Image.open(buffer))
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_a_shard_that_does_not_decode_is_named(make_shard: MakeShard, square_rows: Any, tmp_path: Path) -> None:
    rows = square_rows("train", 3, seed=0)
    rows[1]["image"]["bytes"] = b"<html>gone</html>"
    reader = ImageReader(
        row_groups([make_shard("broken", rows)]), image_size=32, num_threads=1, cache_max_bytes=1 << 20, window=10
    )
    with pytest.raises(DamagedError, match="does not decode"):
        reader.read(np.array([[0, 0], [0, 1]]))
    reader.close()
    with pytest.raises(DamagedError, match=r"absent\.parquet cannot be read"):
        row_groups([tmp_path / "absent.parquet"])
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DamagedError, match="cannot be read as a pair shard"):
        read_captions([tmp_path / "torn.parquet"])


def test_columns_are_read_in_the_order_of_the_files(square_files: PairFiles) -> None:
    assert read_captions(square_files.train)[90].as_py() == read_captions(square_files.train[1:])[0].as_py()


@pytest.mark.parametrize(("column", "other"), [("sample_id", "test"), ("sha256", "test"), ("sha256", "val")])
def test_a_training_set_that_contains_a_held_out_image_is_refused(
    make_shard: MakeShard, square_rows: Any, square_files: PairFiles, column: str, other: str
) -> None:
    refuse_leaks(square_files)
    rows = square_rows(other, 4, seed=9)
    rows[2][column] = square_rows("train", 5, seed=1)[3][column]
    leaking = {"train": square_files.train, other: (make_shard("leak", rows),)}
    with pytest.raises(InputError, match=f"{column} .* is in both the train and the {other} split"):
        refuse_leaks(PairFiles(**leaking))


def test_a_sample_without_captions_is_refused(make_shard: MakeShard, square_rows: Any) -> None:
    rows = square_rows("train", 3, seed=0)
    rows[1]["captions"] = []
    with pytest.raises(DamagedError, match="without captions"):
        read_captions([make_shard("mute", rows)])
