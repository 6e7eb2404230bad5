"""What a training reads: order, captions and their tokens, batches made ahead, images, augmentations; damage."""

import io
import threading
import unicodedata
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
from open_clip.transform import PreprocessCfg, image_transform_v2
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
from training.towers.model import PREPROCESSING, normalise_pixels
from training.towers.tokenizer import END, START, load_tokenizer, save_tokenizer, train_tokenizer

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
    one, again, other_epoch, other_seed = (
        places(epoch_order([50] * 8, seed=seed, epoch=epoch, window=100))
        for seed, epoch in ((1, 2), (1, 2), (1, 3), (2, 2))
    )
    assert one == again
    assert one not in (other_epoch, other_seed)


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


@pytest.mark.filterwarnings("ignore")
def test_pixels_are_those_of_open_clips_own_preprocessing() -> None:
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
        yield from range(50)
        raise KeyError("the last")

    with Prefetched(broken()) as numbers:
        assert [next(numbers) for _ in range(50)] == list(range(50))
        with pytest.raises(KeyError, match="the last"):
            next(numbers)


def test_whoever_stops_early_leaves_no_thread_behind() -> None:
    before, left = threading.active_count(), iter(range(1000))
    with Prefetched(left) as numbers:
        assert next(numbers) == 0
    assert threading.active_count() == before
    assert next(left) < 11


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


def test_names_of_augmentations_and_sets_of_them_in_any_order(pixels: torch.Tensor) -> None:
    assert ("crop", *CHANGES) == AUGMENTATIONS, "which a recipe may name"
    assert TrainConfig(augment=("paper", "tilt")).augmentations == {*AUGMENTATION_SETS["paper"], "tilt"}
    assert change(pixels) is pixels
    assert torch.equal(change(pixels, "flip", "affine", "hue"), change(pixels, "hue", "affine", "flip"))


CAPTIONS = [
    "Due cerchi rossi sopra un quadrato blu",
    "C'è una città, più in là; perché?",
    "une étoile à gauche d'un carré",
    "ein großer Kreis über dem Fluß",
] * 3
GREEK = [
    "Ένας σκύλος τρέχει στον δρόμο; «Όχι», κάθεται\u0387",
    "ο γάτος μας, δύο άνθρωποι και ένα ρολόι",
    "ΑΚΡΟΠΟΛΗ ΤΗΣ ΑΘΗΝΑΣ",
] * 3
# What is a word's end beside a stray accent, or a dot between letters, is nobody's rule: they are left out here.
GREEK_LETTERS = [*"ΑΣςσάΆΐΪήώ «»;", "α\u0301", "Ι\u0308", "ι\u0308\u0301"]
LATIN = train_tokenizer(CAPTIONS, vocab_size=400)
OF_GREEK = train_tokenizer(GREEK, vocab_size=500)


@given(
    st.text(max_size=40)
    | st.sampled_from(CAPTIONS + GREEK)
    | st.text(alphabet="àèéìòùçßΩдя你กा 🙂'", max_size=20)
    | st.lists(st.sampled_from(GREEK_LETTERS), max_size=20).map("".join)
)
def test_any_text_comes_back_in_lower_case_and_greek_with_its_final_sigma(text: str) -> None:
    lowered = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).lower()).removeprefix(" ")
    for tokenizer in (LATIN, OF_GREEK):
        back = tokenizer.decode(tokenizer.encode(text).ids)
        assert back.removeprefix(" ") == lowered or START in text or END in text


def test_ids_are_as_long_as_the_longest_text_and_the_highest_closes_every_text(tmp_path: Path) -> None:
    save_tokenizer(LATIN, tmp_path, context_length=16)
    tokenize, start, end = load_tokenizer(tmp_path, context_length=16), LATIN.token_to_id(START), LATIN.token_to_id(END)
    assert end == LATIN.get_vocab_size() - 1 <= 399
    ids = tokenize(["due cerchi", "", " ".join(CAPTIONS)])
    assert ids.shape == (3, 16)
    assert ids.max(dim=1).values.tolist() == [end] * 3
    assert ids[2, -1] == end  # also where the text was cut off
    assert ids[:, 0].tolist() == [start] * 3
    alone, together = tokenize(["due cerchi"]), tokenize(["due cerchi", "un quadrato blu sopra due cerchi"])
    assert alone.shape[1] < together.shape[1] < 16
    assert together[0, : alone.shape[1]].tolist() == alone[0].tolist()
    assert set(together[0, alone.shape[1] :].tolist()) == {0}


def test_greek_captions_are_spelt_in_words_whatever_their_case() -> None:
    small, capitals = (OF_GREEK.encode(text).tokens for text in ("Ένας σκύλος", "ΈΝΑΣ ΣΚΎΛΟΣ"))
    assert small == capitals
    assert len(small) == 4  # two words between start and end
