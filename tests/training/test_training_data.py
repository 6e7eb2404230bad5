"""What a training reads: order, captions, batches made ahead, images and their augmentations; leaks and damage."""

import io
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data_catalog.errors import DamagedError, InputError
from training.config import AUGMENTATION_SETS, AUGMENTATIONS, TrainConfig
from training.data.augment import CHANGES, changed_images
from training.data.batches import Prefetched, epoch_batches, open_train_split
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

MakeShard = Callable[..., Path]


def places(windows: list[Any]) -> list[tuple[int, int]]:
    return [tuple(place) for window in windows for place in window.tolist()]


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
    def order(seed: int, epoch: int) -> list[tuple[int, int]]:
        return places(epoch_order([50] * 8, seed=seed, epoch=epoch, window=100))

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)


def test_every_caption_of_an_image_gets_its_turn_or_the_first_alone(square_files: PairFiles) -> None:
    captions = Captions.of(pa.chunked_array([[["z"]], [["a", "b", "c"]]]))
    drawn = [captions.texts(captions.chosen(caption_draws(2, seed=0, epoch=epoch))) for epoch in range(300)]
    assert {first for first, _ in drawn} == {"z"}
    counts = Counter(second for _, second in drawn)
    assert {caption: counts[caption] > 70 for caption in counts} == {"a": True, "b": True, "c": True}
    for captions_of, expected in (("first", {0}), ("random", {0, 1})):
        config = TrainConfig(captions=captions_of)
        split = open_train_split(square_files.train, config, image_size=32, num_threads=1)
        plans = list(epoch_batches(split, config, epoch=0, batch_size=16))
        assert {int(index) % 2 for plan in plans for index in plan.captions} == expected  # two captions an image
        assert all((plan.captions // 2 == plan.samples).all() for plan in plans)
        split.images.close()


def test_images_are_the_same_whether_all_fit_or_not(square_files: PairFiles) -> None:
    groups = row_groups(square_files.train)
    assert [group.num_rows for group in groups] == [50, 40, 50, 12]
    windows = epoch_order([group.num_rows for group in groups], seed=0, epoch=0, window=60)
    readers = [
        ImageReader(groups, image_size=32, num_threads=2, cache_max_bytes=size, window=60) for size in (1 << 30, 0)
    ]
    for batch in batches_of(windows, 16):
        cached, streamed = (reader.read(batch) for reader in readers)
        assert (cached.shape, cached.dtype) == ((16, 32, 32, 3), np.uint8)
        assert np.array_equal(cached, streamed)
    for reader in readers:
        reader.close()


@pytest.mark.filterwarnings("ignore")
def test_pixels_are_those_of_open_clips_own_preprocessing() -> None:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    from training.towers.model import PREPROCESSING, normalise_pixels

    noise = np.random.default_rng(0).integers(0, 255, (50, 90, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG")
    ours = normalise_pixels(torch.from_numpy(decode(buffer.getvalue(), 64))[None])[0]
    theirs = image_transform_v2(PreprocessCfg(size=64, **PREPROCESSING), is_train=False)(Image.open(buffer))
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_a_shard_that_is_damaged_is_named(make_shard: MakeShard, square_rows: Any, tmp_path: Path) -> None:
    rows = square_rows("train", 3, seed=0)
    rows[1]["image"]["bytes"], rows[2]["captions"] = b"<html>gone</html>", []
    shard = make_shard("broken", rows)
    reader = ImageReader(row_groups([shard]), image_size=32, num_threads=1, cache_max_bytes=1 << 20, window=10)
    with pytest.raises(DamagedError, match="does not decode"):
        reader.read(np.array([[0, 0], [0, 1]]))
    reader.close()
    with pytest.raises(DamagedError, match="without captions"):
        read_captions([shard])
    with pytest.raises(DamagedError, match=r"absent\.parquet"):
        row_groups([tmp_path / "absent.parquet"])
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DamagedError, match="cannot be read as a pair shard"):
        read_captions([tmp_path / "torn.parquet"])


def test_captions_are_read_in_the_order_of_the_files(square_files: PairFiles) -> None:
    assert read_captions(square_files.train)[90].as_py() == read_captions(square_files.train[1:])[0].as_py()


@pytest.mark.parametrize(("column", "other"), [("sample_id", "test"), ("sha256", "test"), ("sha256", "val")])
def test_a_training_set_that_contains_a_held_out_image_is_refused(
    make_shard: MakeShard, square_rows: Any, square_files: PairFiles, column: str, other: str
) -> None:
    refuse_leaks(square_files)
    rows = square_rows(other, 4, seed=9)
    rows[2][column] = square_rows("train", 5, seed=1)[3][column]
    with pytest.raises(InputError, match=f"{column} .* is in both the train and the {other} split"):
        refuse_leaks(replace(square_files, **{other: (make_shard("leak", rows),)}))


def test_batches_made_ahead_come_once_in_order_with_errors_in_their_places() -> None:
    def broken() -> Iterator[int]:
        yield from range(10)
        raise KeyError("the tenth")

    with Prefetched(range(50)) as numbers:
        assert list(numbers) == list(range(50))
    with Prefetched(broken()) as numbers:
        assert [next(numbers) for _ in range(10)] == list(range(10))
        with pytest.raises(KeyError, match="the tenth"):
            next(numbers)


def test_whoever_stops_early_leaves_no_thread_behind() -> None:
    before, asked = threading.active_count(), []

    def counted() -> Iterator[int]:
        for number in range(1000):
            asked.append(number)
            yield number

    with Prefetched(counted()) as numbers:
        assert next(numbers) == 0
    assert threading.active_count() == before
    assert len(asked) < 10


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    """64 pictures of 32 x 32: a red square on grey, above left."""
    pictures = torch.full((64, 32, 32, 3), 128, dtype=torch.uint8)
    pictures[:, 4:14, 4:14] = torch.tensor([220, 20, 20], dtype=torch.uint8)
    return pictures


def change(pixels: torch.Tensor, *names: str, threads: int = 1, **more: Any) -> torch.Tensor:
    with ThreadPoolExecutor(threads) as pool:
        return changed_images(pixels, names, pool, **{"seed": 3, "step": 7, **more})


def is_red(images: torch.Tensor) -> torch.Tensor:
    """Whose pixels are far more red than green or blue: bool, (batch, height, width)."""
    red, green, blue = (images[..., channel].int() for channel in range(3))
    return (red - torch.maximum(green, blue)) > 100


@pytest.mark.parametrize("name", CHANGES)
def test_an_augmentation_depends_on_seed_step_and_place_and_on_nothing_else(name: str, pixels: torch.Tensor) -> None:
    pictures = pixels.clone()
    pictures[:, 20:28, 20:30] = torch.tensor([30, 90, 200], dtype=torch.uint8)
    found = change(pictures, name)
    assert (found.shape, found.dtype) == (pictures.shape, torch.uint8)
    assert not torch.equal(found, pictures)
    assert len({image.numpy().tobytes() for image in found}) > 1
    assert torch.equal(found, change(pictures, name, threads=4))
    assert torch.equal(found[:5], change(pictures[:5], name))
    assert not torch.equal(found, change(pictures, name, seed=4))
    assert not torch.equal(found, change(pictures, name, step=8))


def test_what_is_caption_safe_keeps_colours_and_sides_and_flips_and_hues_do_not(pixels: torch.Tensor) -> None:
    red = is_red(change(pixels, *AUGMENTATION_SETS["caption_safe"]))
    assert bool((red[:, :16, :16].sum((1, 2)) > 40).all())
    assert int(red[:, :, 18:].sum()) == int(red[:, 18:].sum()) == 0
    flipped = is_red(change(pixels, "flip"))[:, :16, 16:].sum((1, 2)) > 40
    assert 16 < int(flipped.sum()) < 48
    assert not bool((is_red(change(pixels, "hue"))[:, :16, :16].sum((1, 2)) > 40).all())


def test_a_perspective_moves_corners_inwards_and_fills_with_grey(pixels: torch.Tensor) -> None:
    white = torch.full_like(pixels, 255)
    found = change(white, "perspective")
    moved = (found != white).flatten(1).any(1)
    assert 5 < int(moved.sum()) < 40
    assert bool((found[moved][:, 16, 16] == 255).all())
    assert 127 in found[moved][:, 0].unique().tolist()


def test_names_of_augmentations_and_sets_of_them_in_any_order(pixels: torch.Tensor) -> None:
    assert ("crop", *CHANGES) == AUGMENTATIONS, "which a recipe may name"
    assert TrainConfig(augment=("paper", "tilt")).augmentations == {*AUGMENTATION_SETS["paper"], "tilt"}
    assert change(pixels) is pixels
    assert torch.equal(change(pixels, "flip", "affine", "hue"), change(pixels, "hue", "affine", "flip"))
