"""What a training reads and is made of: order, tokens, images, augmentations, settings, losses, optimizers, states."""

import io
import math
import sys
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
import transformers
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, UnidentifiedImageError
from safetensors.torch import save_file

from data_catalog.base.errors import DamagedError, InputError, SettingsError
from data_catalog.base.language_pack import Sides
from data_catalog.disk.resume import load_resume_state, save_resume_state
from training.config import AUGMENTATION_SETS, TrainConfig
from training.data.augment import CHANGES, changed_images
from training.data.batches import Batch, epoch_batches, image_inputs, made_ahead, open_train_split
from training.data.images import ImageReader, decode
from training.data.mirror import mirror_by
from training.data.pairs import Captions, PairFiles, batches_of, epoch_order, read_captions, refuse_leaks, row_groups
from training.fit.losses import Encoders, backward, by_length, contrastive_loss, with_loss_constants
from training.fit.optimisation import choose_trained, make_optimizer, optimizer_step
from training.fit.setup import model_and_key
from training.runs.processes import generator_states, set_generator_states
from training.runs.runner import cosine
from training.towers.model import create_model, load_model
from training.towers.preprocessing import Preprocessing
from training.towers.tokenizer import END, START, copy_tokenizer, load_tokenizer, save_tokenizer, train_tokenizer
from training.use.pictures import image_of
from training.use.search import Hit

MakeShard = Callable[..., Path]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 40), st.integers(0, 5), st.integers(1, 7))
def test_an_epoch_holds_each_sample_once(sizes: list[int], window: int, epoch: int, batch_size: int) -> None:
    windows = epoch_order(sizes, seed=3, epoch=epoch, window=window)
    order = np.concatenate(windows).tolist()
    assert sorted(order) == list(range(sum(sizes)))
    assert all(len(found) < window + max(sizes) for found in windows)
    batches = list(batches_of(windows, batch_size))
    assert all(len(batch) == batch_size for batch in batches)
    assert [sample for batch in batches for sample in batch] == order[: len(order) // batch_size * batch_size]


def test_order_depends_on_seed_and_epoch_alone() -> None:
    one, again, other_epoch, other_seed = (
        np.concatenate(epoch_order([50] * 8, seed=seed, epoch=epoch, window=100)).tolist()
        for seed, epoch in ((1, 2), (1, 2), (1, 3), (2, 2))
    )
    assert one == again
    assert one not in (other_epoch, other_seed)


def test_every_caption_of_an_image_gets_its_turn_or_the_first_alone(square_files: PairFiles) -> None:
    captions = Captions.of(pa.chunked_array([[["z"]], [["a", "b", "c"]]]))
    drawn = [captions.texts(captions.drawn(seed=0, epoch=epoch)) for epoch in range(300)]
    assert {first for first, _ in drawn} == {"z"}
    counts = Counter(second for _, second in drawn)
    assert {caption: counts[caption] > 70 for caption in counts} == {"a": True, "b": True, "c": True}
    for captions_of, expected in (("first", {0}), ("random", {0, 1})):
        config = TrainConfig(captions=captions_of)
        split = open_train_split(square_files.train, config, preprocessing=Preprocessing(size=32), num_threads=1)
        plans = list(epoch_batches(split, config, epoch=0, batch_size=16))
        assert {int(index) % 2 for plan in plans for index in plan.captions} == expected  # two captions an image
        assert all((plan.captions // 2 == plan.samples).all() for plan in plans)
        split.images.close()


def test_a_shard_that_is_damaged_is_named(make_shard: MakeShard, square_rows: Any, tmp_path: Path) -> None:
    rows = square_rows("train", 3, seed=0)
    rows[1]["image"]["bytes"], rows[2]["captions"] = b"<html>gone</html>", []
    shard = make_shard("broken", rows)
    reader = ImageReader(
        row_groups([shard]), preprocessing=Preprocessing(size=32), num_threads=1, cache_max_bytes=1 << 20, window=10
    )
    assert reader.read(np.array([0, 0])).shape == (2, 32, 32, 3)  # the others are not decoded
    with pytest.raises(DamagedError, match="does not decode"):
        reader.read(np.array([0, 1]))
    reader.close()
    with pytest.raises(DamagedError, match="without captions"):
        read_captions([shard])
    with pytest.raises(DamagedError, match=r"absent\.parquet"):
        row_groups([tmp_path / "absent.parquet"])
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DamagedError, match="cannot be read as a pair shard"):
        read_captions([tmp_path / "torn.parquet"])


def test_no_image_of_others_starts_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow leaves EPS to Ghostscript, and would know it by its first bytes."""
    Image.new("RGB", (9, 9)).save(written := io.BytesIO(), "EPS")
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    with pytest.raises(UnidentifiedImageError):
        decode(written.getvalue(), Preprocessing(size=32))
    with pytest.raises(InputError, match="does not decode"):
        image_of(Hit(cosine=0.0, name="a", image=written.getvalue()), 224)


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

    interval = sys.getswitchinterval()
    numbers = made_ahead(broken())
    assert [next(numbers) for _ in range(50)] == list(range(50))
    assert sys.getswitchinterval() == pytest.approx(interval / 10)
    with pytest.raises(KeyError, match="the last"):
        next(numbers)
    assert sys.getswitchinterval() == interval


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


def test_captions_of_mirrored_images_have_left_and_right_exchanged(
    square_files: PairFiles, sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which images are mirrored depends on seed, step and place; those whose captions are uncertain never are."""

    mirrored = mirror_by(sides)

    def mirror(text: str) -> str | None:
        return None if "rosso" in text else mirrored(text)

    config = TrainConfig(augment=("mirror",), seed=5)
    split = open_train_split(
        square_files.train, config, preprocessing=Preprocessing(size=32), num_threads=1, mirror=mirror
    )
    read = image_inputs(split, config, Preprocessing(size=32))
    seen = []
    for plan in epoch_batches(split, config, epoch=1, batch_size=8):
        right = read(plan)[..., 16:].flatten(1).std(1) > read(plan)[..., :16].flatten(1).std(1)
        for row, text in enumerate(split.texts(plan)):
            own = split.captions.texts(plan.captions[row : row + 1])[0]
            names_side = "sinistra" in own or "destra" in own
            assert not names_side or ("destra" in text) == bool(right[row]) == ("sinistra" not in text)
            assert (text != own) == (names_side and row in plan.mirrored)
            seen.append((plan.step, row, "rosso" in own, row in plan.mirrored))
    assert not any(is_red and is_mirrored for *_, is_red, is_mirrored in seen)
    others = [is_mirrored for *_, is_red, is_mirrored in seen if not is_red]
    assert 0.35 < sum(others) / len(others) < 0.65

    def drawn(**given: Any) -> list[list[tuple[int, bool]]]:
        plans = epoch_batches(split, replace(config, **given), epoch=1, batch_size=8)
        return [[(int(sample), row in plan.mirrored) for row, sample in enumerate(plan.samples)] for plan in plans]

    whole = drawn()
    monkeypatch.setenv("WORLD_SIZE", "2")
    halves = []
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        halves.append(drawn())
    assert [one + other for one, other in zip(*halves, strict=True)] == whole
    split.images.close()


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


@pytest.fixture(scope="module")
def latin() -> Any:
    return train_tokenizer(CAPTIONS, vocab_size=400)


@pytest.fixture(scope="module")
def greek() -> Any:
    return train_tokenizer(GREEK, vocab_size=500)


@given(
    text=st.text(max_size=40)
    | st.sampled_from(CAPTIONS + GREEK)
    | st.text(alphabet="àèéìòùçßΩдя你กा 🙂'", max_size=20)
    | st.lists(st.sampled_from(GREEK_LETTERS), max_size=20).map("".join)
)
def test_any_text_comes_back_in_lower_case_and_greek_with_its_final_sigma(text: str, latin: Any, greek: Any) -> None:
    lowered = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).lower()).removeprefix(" ")
    for tokenizer in (latin, greek):
        back = tokenizer.decode(tokenizer.encode(text).ids)
        assert back.removeprefix(" ") == lowered or START in text or END in text


def test_ids_are_as_long_as_the_longest_text_and_the_highest_closes_every_text(tmp_path: Path, latin: Any) -> None:
    save_tokenizer(latin, tmp_path, context_length=16)
    tokenize, start, end = load_tokenizer(tmp_path, context_length=16), latin.token_to_id(START), latin.token_to_id(END)
    assert end == latin.get_vocab_size() - 1 <= 399
    ids = tokenize(["due cerchi", "", " ".join(CAPTIONS)])
    assert ids.shape == (3, 16)
    assert ids.max(dim=1).values.tolist() == [end] * 3
    assert ids[2, -1] == end  # also where the text was cut off
    assert ids[:, 0].tolist() == [start] * 3
    alone, together = tokenize(["due cerchi"]), tokenize(["due cerchi", "un quadrato blu sopra due cerchi"])
    assert alone.shape[1] < together.shape[1] < 16
    assert together[0, : alone.shape[1]].tolist() == alone[0].tolist()
    assert set(together[0, alone.shape[1] :].tolist()) == {0}


Towers = dict[str, dict[str, Any]]


def test_settings_that_contradict_each_other_are_named() -> None:
    for setting, value, message in (
        ("warmup_ratio", 0.1, "has no effect while train.warmup_steps is 50: set train.warmup_steps to 0"),
        ("logit_scale", 0.5, "from 1 to 100"),
        ("logit_scale", 101, "from 1 to 100"),
    ):
        with pytest.raises(SettingsError, match=rf"train\.{setting} .*{message}"):
            TrainConfig(**{setting: value})
    TrainConfig(warmup_steps=0, warmup_ratio=1.0, logit_scale=100)
    TrainConfig(warmup_ratio=0.0, logit_scale=1)


def test_a_key_is_of_what_decides_the_weights(small_run: Callable[..., TrainConfig]) -> None:
    def key(kind: str = "vit", shards: tuple[str, ...] = (), **changes: Any) -> str:
        return model_and_key(small_run(kind, **changes), {"train": ["aa"], "val": [*shards], "test": ["bb"]})[1]

    assert key() == key(cache_max_bytes=1, checkpoint_every_steps=9)
    others = [key(seed=5), key(epochs=3), key(augment=()), key(steps=1), key("resnet"), key(shards=("ab",))]
    assert len({key(), *others}) == 7


def test_the_rate_rises_then_falls_to_nothing() -> None:
    rates = [cosine(2e-3, warmup=5, total=40)(step) for step in range(40)]
    assert rates[:5] == pytest.approx([2e-3 * part / 5 for part in (1, 2, 3, 4, 5)])
    assert rates[5] == 2e-3
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] < 2e-5


@pytest.mark.parametrize("kind", ["vit", "resnet"])
@pytest.mark.parametrize("lock_image", [False, True])
def test_frozen_and_locked_towers_keep_every_weight_and_statistic(kind: str, lock_image: bool, towers: Towers) -> None:
    torch.manual_seed(0)
    config = TrainConfig(optimizer="adabelief", agc=0.01, max_grad_norm=0.0, logit_scale=20.0, lock_image=lock_image)
    module = create_model(with_loss_constants(towers[kind], config), Path())
    optimizer = make_optimizer(module, config)
    images, ids = torch.rand((8, 3, 32, 32)), torch.randint(3, 300, (8, 10))

    def changed(*, frozen: bool = False, keep_statistics: bool = False, **settings: Any) -> set[str]:
        """Names of the weights and statistics that a step changes."""
        choose_trained(module, replace(config, **settings), frozen=frozen, keep_statistics=keep_statistics)
        before = {name: value.clone() for name, value in module.state_dict().items()}
        backward(module, Encoders.whole(module), Batch(images, ids), config)
        optimizer_step(optimizer, module, lr=0.1, config=config)
        return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}

    found = changed(frozen=True)
    of_image = {name for name in found if name.startswith(("visual.proj", "visual.attnpool"))}
    assert bool(of_image) is not lock_image
    assert found - of_image == {"text.text_projection"}
    same = set(module.state_dict()) - changed()
    assert "logit_scale" in same
    assert "text.token_embedding.weight" not in same
    assert all((name in same) is lock_image for name in module.state_dict() if name.endswith("conv1.weight"))
    assert "logit_scale" in changed(lock_image=True, logit_scale=0.0)
    if not lock_image:
        found = changed(freeze_image=True)
        assert {name for name in found if name.startswith("visual.")} == of_image
        assert "text.token_embedding.weight" in found
    found = changed(keep_statistics=True, lock_image=False)
    assert "visual.conv1.weight" in found
    assert not any("running" in name or "batches_tracked" in name for name in found)


@pytest.mark.parametrize(("loss", "frozen"), [("clip", False), ("siglip", False), ("clip", True)])
def test_a_batch_in_pieces_has_the_gradients_of_the_whole(loss: str, frozen: bool, towers: Towers) -> None:
    torch.manual_seed(0)
    config = TrainConfig(loss=loss)
    module = create_model(with_loss_constants(towers["vit"], config), Path())
    choose_trained(module, config, frozen=frozen, keep_statistics=False)
    batch = Batch(torch.rand((10, 3, 32, 32)), torch.randint(3, 300, (10, 12)))
    found = {}
    for size in (0, 4):
        module.zero_grad()
        loss_now = backward(module, Encoders.whole(module), batch, replace(config, microbatch=size))
        found[size] = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
        found[size] |= {"loss": loss_now.detach()}
    assert found[0].keys() == found[4].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[4][name], gradient, rtol=1e-4, atol=1e-5)


@given(st.integers(2, 7), st.sampled_from(["clip", "siglip"]), st.integers(0, 1000))
def test_the_loss_is_as_written_out(count: int, loss: str, seed: int) -> None:
    torch.manual_seed(seed)
    images, texts = (torch.nn.functional.normalize(torch.randn(count, 5), dim=1) for _ in range(2))
    module = torch.nn.ParameterDict({"logit_scale": torch.tensor(1.5), "logit_bias": torch.tensor(-2.0)})
    scale, bias = math.exp(1.5), -2.0
    logits = [[scale * float(image @ text) for text in texts] for image in images]
    if loss == "clip":
        rows = [math.log(sum(map(math.exp, row))) - row[place] for place, row in enumerate(logits)]
        columns = [
            math.log(sum(map(math.exp, row))) - row[place] for place, row in enumerate(zip(*logits, strict=True))
        ]
        expected = (sum(rows) + sum(columns)) / 2 / count
    else:
        signs = [[1 if row == column else -1 for column in range(count)] for row in range(count)]
        pairs = [(row, column) for row in range(count) for column in range(count)]
        expected = sum(math.log1p(math.exp(-signs[r][c] * (logits[r][c] + bias))) for r, c in pairs) / count
    assert contrastive_loss(module, Batch(images, texts), loss=loss).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("size", [0, 4])
def test_towers_apart_have_the_same_gradients_to_the_bit(size: int, towers: Towers) -> None:
    torch.manual_seed(0)
    config = TrainConfig(microbatch=size)
    module = create_model(with_loss_constants(towers["resnet" if not size else "vit"], config), Path())
    choose_trained(module, config, frozen=False, keep_statistics=False)
    batch = Batch(torch.rand((8, 3, 32, 32)), torch.randint(3, 300, (8, 12)))
    statistics, found = {name: value.clone() for name, value in module.state_dict().items()}, []
    for are_apart in (False, True):
        module.load_state_dict(statistics)
        module.zero_grad()
        backward(module, replace(Encoders.whole(module), are_apart=are_apart), batch, config)
        gradients = {name: each.grad.clone() for name, each in module.named_parameters() if each.grad is not None}
        found.append(gradients | {name: value.clone() for name, value in module.named_buffers()})
    assert found[0].keys() == found[1].keys() > {name for name, _ in module.named_parameters()} - {"logit_bias"}
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_gradients_are_clipped_by_units(towers: Towers) -> None:
    """As in optax: no unit's gradient is longer than 0.01 of its weights, which count as 0.001 where they are less."""
    module = create_model(towers["vit"], Path())
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, 100.0)
    limit = module.text.text_projection.detach().norm(dim=1).clamp(min=1e-3) * 0.01
    config = TrainConfig(agc=0.01, max_grad_norm=0.0, weight_decay=0.0)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.0)
    seen: dict[str, Any] = {}
    optimizer.register_step_pre_hook(lambda *_: seen.update((n, p.grad.clone()) for n, p in module.named_parameters()))
    optimizer_step(optimizer, module, lr=0.0, config=config)
    torch.testing.assert_close(seen["text.text_projection"].norm(dim=1), limit)
    assert float(seen["logit_scale"]) == 100.0


def test_adabelief_steps_as_its_paper_says() -> None:
    module = torch.nn.ParameterDict({"weight": torch.tensor([1.0, -2.0]), "logit_scale": torch.tensor(1.0)})
    config = TrainConfig(optimizer="adabelief", max_grad_norm=0.0)
    optimizer = make_optimizer(module, config)
    mean = variance = torch.zeros(2, dtype=torch.float64)
    expected = module.weight.detach().double()
    for step, values in enumerate([[0.1, -0.2], [0.3, 0.1], [-0.2, 0.4], [0.1, 0.1]], start=1):
        module.weight.grad = torch.tensor(values)
        gradient = module.weight.grad.double()
        optimizer_step(optimizer, module, lr=0.01, config=config)
        mean = 0.9 * mean + 0.1 * gradient
        variance = 0.999 * variance + 0.001 * (gradient - mean) ** 2 + 1e-16
        expected = expected - 0.01 * (mean / (1 - 0.9**step)) / ((variance / (1 - 0.999**step)).sqrt() + 1e-16)
    torch.testing.assert_close(module.weight.detach().double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(24, 8), (8, 24), (16, 16)])
def test_muon_steps_as_torch_s_own_over_several_steps(shape: tuple[int, int]) -> None:
    """torch's is for matrices, and rounds to bfloat16: directions agree to its precision."""
    generator = torch.Generator().manual_seed(1)
    start, *gradients = torch.randn((4, *shape), generator=generator)
    module = torch.nn.ParameterDict({"weight": start.clone(), "logit_scale": torch.tensor(1.0)})
    ours = make_optimizer(module, TrainConfig(optimizer="muon", weight_decay=0.1))
    theirs = torch.nn.Parameter(start.clone())
    other = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.1, ns_steps=3, adjust_lr_fn="match_rms_adamw")
    for gradient in gradients:
        module.weight.grad, theirs.grad = gradient.clone(), gradient.clone()
        optimizer_step(ours, module, lr=0.1, config=TrainConfig(max_grad_norm=0.0))
        other.step()
    torch.testing.assert_close(module.weight.detach(), theirs.detach(), rtol=0, atol=0.01)
    assert (module.weight - start).abs().max() > 0.1


def test_muon_leaves_embeddings_biases_and_norms_to_adamw(towers: Towers) -> None:
    """Their first step has the sign of the gradient, as AdamW's; a convolution's is nearly orthogonal."""
    module = create_model(towers["resnet"], Path())
    config = TrainConfig(optimizer="muon", weight_decay=0.0, max_grad_norm=0.0)
    before = {name: each.detach().clone() for name, each in module.named_parameters()}
    generator = torch.Generator().manual_seed(2)
    for each in module.parameters():
        each.grad = torch.randn(each.shape, generator=generator).sign() * 1e-2
    gradients = {name: each.grad.clone() for name, each in module.named_parameters() if each.grad is not None}
    optimizer_step(make_optimizer(module, config), module, lr=1e-3, config=config)
    for name, each in module.named_parameters():
        moved = each.detach() - before[name]
        if "embedding" in name or each.ndim < 2:
            torch.testing.assert_close(moved, -1e-3 * gradients[name].sign(), rtol=0.01, atol=1e-4)
        else:
            flat = moved.flatten(1)
            sizes = torch.linalg.svdvals(flat) / (1e-3 * 0.2 * math.sqrt(max(flat.shape)))
            assert sizes.max() < 1.3, name
            assert sizes.median() > 0.5, name


def test_captions_are_encoded_in_groups_of_like_length_with_equal_features(
    random_clip: Callable[..., Path], small_bert: Callable[[str], Path], tmp_path: Path
) -> None:
    texts = ["un cane", "un cane nero sopra un gatto bianco e sotto un altro", "due", "un gatto e un cane", "un gatto"]
    own = load_model(random_clip(texts))
    cases = [(own.module.encode_text, own.tokenizer)]
    copy_tokenizer(str(bert := small_bert("un cane gatto nero due e sopra sotto")), tmp_path)
    encoder = transformers.BertModel.from_pretrained(bert).eval()
    cases.append(
        (lambda ids: encoder(ids, ids != 0).last_hidden_state[:, 0], load_tokenizer(tmp_path, context_length=24))
    )
    for encode, tokenizer in cases:
        shapes: list[Any] = []

        def noted(ids: torch.Tensor, encode: Any = encode, shapes: list[Any] = shapes) -> torch.Tensor:
            shapes.append(tuple(ids.shape))
            return encode(ids)  # type: ignore[no-any-return]

        with torch.no_grad():
            ids = tokenizer(texts)
            torch.testing.assert_close(by_length(noted, tokenizer.lengths)(ids), encode(ids), rtol=1e-5, atol=1e-5)
        assert sum(count for count, _ in shapes) == len(texts)
        assert sum(count * length for count, length in shapes) < ids.numel()


@pytest.mark.parametrize("broken", [math.inf, math.nan])
def test_a_gradient_that_is_no_number_changes_no_weight(broken: float, towers: Towers) -> None:
    module, config = create_model(towers["vit"], Path()), TrainConfig(agc=0.01)
    before = [parameter.clone() for parameter in module.parameters()]
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    module.text.text_projection.grad[0, 0] = broken
    with pytest.raises(FloatingPointError, match="norm is"):
        optimizer_step(make_optimizer(module, config), module, lr=0.1, config=config)
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_a_resume_state_that_does_not_fit_is_refused_in_a_sentence(tmp_path: Path) -> None:
    """As when a library was upgraded meanwhile, whose model has another weight."""
    path, how = tmp_path / "state", {"set_generators": set_generator_states, "progress_of": dict}
    module, other = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3, bias=False)
    optimizer, generators = make_optimizer(module, TrainConfig()), generator_states(torch.device("cpu"))
    save_resume_state(path, key="k", modules={"model": module}, optimizer=optimizer, generators=generators, progress={})
    with pytest.raises(DamagedError, match=r"does not match the run \(.*bias.*\)") as caught:
        load_resume_state(path, key="k", modules={"model": other}, optimizer=optimizer, **how)
    assert "\n" not in str(caught.value)
    with pytest.raises(SettingsError, match="other settings or data"):
        load_resume_state(path, key="another", modules={"model": module}, optimizer=optimizer, **how)
    for said in ("[]", "null", "{}", "{"):
        save_file({"weight": torch.zeros(1)}, path, {"state": said})
        with pytest.raises(DamagedError, match="is not a resume state"):
            load_resume_state(path, key="k", modules={"model": module}, optimizer=optimizer, **how)
