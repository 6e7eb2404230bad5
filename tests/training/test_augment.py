"""Augmentations: the same for the same seed, step and place; what each does to colours and sides."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from training.config import AUGMENTATION_SETS, AUGMENTATIONS, TrainConfig
from training.data.augment import CHANGES, changed_images


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


def test_every_augmentation_of_the_settings_is_one() -> None:
    assert ("crop", *CHANGES) == AUGMENTATIONS, "which a recipe may name"


@pytest.mark.parametrize("name", CHANGES)
def test_each_depends_on_seed_step_and_place_and_on_nothing_else(name: str, pixels: torch.Tensor) -> None:
    pictures = pixels.clone()
    pictures[:, 20:28, 20:30] = torch.tensor([30, 90, 200], dtype=torch.uint8)
    found = change(pictures, name)
    assert found.shape == pictures.shape
    assert found.dtype == torch.uint8
    assert not torch.equal(found, pictures)
    assert len({image.numpy().tobytes() for image in found}) > 1
    assert torch.equal(found, change(pictures, name, threads=4))
    assert torch.equal(found[:5], change(pictures[:5], name))
    assert not torch.equal(found, change(pictures, name, seed=4))
    assert not torch.equal(found, change(pictures, name, step=8))


def test_what_is_caption_safe_keeps_colours_and_sides(pixels: torch.Tensor) -> None:
    red = is_red(change(pixels, *AUGMENTATION_SETS["caption_safe"]))
    assert bool((red[:, :16, :16].sum((1, 2)) > 40).all())
    assert int(red[:, :, 18:].sum()) == int(red[:, 18:].sum()) == 0


def test_flips_and_hues_do_not(pixels: torch.Tensor) -> None:
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


def test_none_changes_nothing_and_the_order_of_names_decides_nothing(pixels: torch.Tensor) -> None:
    assert change(pixels) is pixels
    assert torch.equal(change(pixels, "flip", "affine", "hue"), change(pixels, "hue", "affine", "flip"))


def test_sets_stand_for_their_augmentations() -> None:
    assert TrainConfig(augment=("paper", "tilt")).augmentations == {*AUGMENTATION_SETS["paper"], "tilt"}
    assert TrainConfig(augment=()).augmentations == frozenset()
