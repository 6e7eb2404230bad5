"""Hard negatives and hard batches: the loss as written out, draws, refusals."""

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_catalog.base.errors import SettingsError
from training.changes import ChangeRules
from training.config import TrainConfig
from training.data.batches import Batch, BatchPlan, TrainSplit, epoch_batches, open_train_split
from training.data.features import image_features, text_features
from training.data.pairs import Captions, PairFiles, read_captions
from training.fit.clip import train
from training.fit.hard_negatives import ChangedInputs, changed_caption, held_out_changes, needs
from training.fit.inputs import near_misses
from training.fit.losses import step_loss
from training.fit.setup import model_and_key
from training.towers.model import load_model
from training.towers.preprocessing import Preprocessing
from training.towers.tokenizer import load_tokenizer

SmallRun = Callable[..., TrainConfig]
NEGATIVES = ("position", "colour")


@pytest.fixture(autouse=True)
def _no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plot takes longer than an epoch."""
    monkeypatch.setattr("training.fit.clip.write_png", lambda *_, **__: None)


@given(st.integers(1, 70), st.integers(2, 9), st.integers(1, 9), st.integers(1, 4), st.integers(0, 1000))
def test_near_misses_are_an_order_of_all_captions(count: int, size: int, kinds: int, width: int, seed: int) -> None:
    """Also where many are equal."""
    draws = np.random.default_rng(seed)
    features = torch.from_numpy(draws.integers(0, 3, (count, width))).float()
    wordings = draws.integers(0, kinds, count).tolist()
    order, again = (near_misses(features, wordings, size, np.random.default_rng(1)).tolist() for _ in range(2))
    assert sorted(order) == list(range(count))
    assert order == again


def test_groups_hold_the_nearest_captions_of_other_wordings() -> None:
    """Ten pairs of near captions, each said of two images."""
    corners = torch.eye(10).repeat_interleave(4, dim=0)
    places = torch.from_numpy(np.random.default_rng(0).permutation(40))
    features = torch.nn.functional.normalize(corners + 0.01 * torch.rand(40, 10), dim=1)[places]
    wordings = [(int(place) // 4, int(place) % 2) for place in places]
    order = near_misses(features, wordings, 2, np.random.default_rng(2)).tolist()
    groups = [(wordings[one], wordings[other]) for one, other in zip(order[::2], order[1::2], strict=True)]
    assert all(one[0] == other[0] and one[1] != other[1] for one, other in groups)
    assert [one[0] for one, _ in groups] != sorted(one[0] for one, _ in groups), "groups are shuffled"


@given(st.integers(2, 7), st.sampled_from(["clip", "siglip"]), st.floats(0.1, 3), st.data())
def test_the_loss_is_as_written_out(count: int, loss: str, weight: float, data: st.DataObject) -> None:
    """Each image chooses between its caption and the changed one, apart from the others, and so does each anchor."""
    kinds = data.draw(st.lists(st.integers(-1, 1), min_size=count, max_size=count))
    has_anchor = [kind >= 0 and data.draw(st.booleans()) for kind in kinds]
    by_kind = [[0.0, 0], [0.0, 0]]
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    images, texts, changed, anchors = (torch.nn.functional.normalize(torch.randn(count, 5), dim=1) for _ in range(4))
    anchors *= torch.tensor(has_anchor)[:, None]
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

    def choice(chooser: torch.Tensor, place: int) -> float:
        right, wrong = (math.exp(scale * float(chooser @ each[place])) for each in (texts, changed))
        return -math.log(right / (right + wrong))

    for place in (place for place in range(count) if kinds[place] >= 0):
        changed_loss = choice(images[place], place)
        by_anchor = choice(anchors[place], place) if has_anchor[place] else 0.0
        expected += weight * (changed_loss + by_anchor) / count
        by_kind[kinds[place]] = [by_kind[kinds[place]][0] + changed_loss, by_kind[kinds[place]][1] + 1]
    config = TrainConfig(loss=loss, hard_negatives=NEGATIVES, hard_negative_weight=weight)
    loss_of_step, sums = step_loss(module, Batch(images, texts, changed, torch.tensor(kinds), anchors), config)
    assert loss_of_step.item() == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(sums.T.numpy(), by_kind, rtol=1e-4, atol=1e-6)


def test_a_changed_caption_is_none_of_its_image(rules: ChangeRules) -> None:
    caption, others = "un quadrato rosso in alto a sinistra", ["Un quadrato rosso, in alto a DESTRA."]

    def drawn(*kinds: str) -> Counter[str | None]:
        numbers = np.random.default_rng(0).random((400, len(kinds) + 1))
        found = [
            changed_caption(caption, others, rules.changes, rules.says, kinds=kinds, drawn=pair) for pair in numbers
        ]
        return Counter(change and change.caption for change in found)

    assert set(drawn("position")) == {"un quadrato rosso in basso a sinistra"}
    assert set(drawn("count")) == {None}
    both = drawn(*NEGATIVES)
    assert 150 < both["un quadrato rosso in basso a sinistra"] < 250, "a kind is drawn first"
    assert len(both) > 3
    assert all(str(text).endswith("in alto a sinistra") for text in both if "basso" not in str(text))
    others.append("un quadrato rosso in basso a sinistra")
    assert set(drawn("position")) == {None}
    assert "un quadrato verde in alto a sinistra" in drawn("colour")
    others.append("verde, su sfondo bianco")
    assert "un quadrato verde in alto a sinistra" not in drawn("colour"), "another caption of the image says so"


def test_draws_depend_on_seed_step_and_place_and_on_nothing_else(
    square_files: PairFiles, small_run: SmallRun, rules: ChangeRules, compact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process draws its slice of what one process draws, anchors included."""
    config, tokenizer = small_run(hard_negatives=NEGATIVES), load_tokenizer(compact, context_length=24)
    split = open_train_split(square_files.train, config, preprocessing=Preprocessing(size=32), num_threads=1)
    read = ChangedInputs(split, config, tokenizer, rules).read

    def texts(skip: int = 0) -> list[list[list[int]]]:
        plans = epoch_batches(split, config, epoch=1, batch_size=8, skip=skip)
        both = (torch.cat([changed, anchors], dim=1).tolist() for changed, _, anchors in map(read, plans))
        return [[[token for token in row if token] for row in batch] for batch in both]

    whole = texts()
    assert whole == texts()
    assert whole[5:] == texts(skip=5)
    assert all((read(plan)[1] >= 0).all() for plan in epoch_batches(split, config, epoch=1, batch_size=8))
    monkeypatch.setenv("WORLD_SIZE", "2")
    halves = []
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        halves.append(texts())
    assert [one + other for one, other in zip(*halves, strict=True)] == whole
    split.images.close()


def test_an_anchor_is_another_caption_about_the_same_thing(small_run: SmallRun, rules: ChangeRules) -> None:
    caption = "un quadrato rosso a sinistra"
    others = {"position": ["a destra niente", "tutto a sinistra"], "colour": ["rosso e basta", "verde no, rosso"]}
    of_images = [[caption, caption.upper(), *others["position"], *others["colour"]], [caption], ["niente", caption]]
    reader: Any = None
    split = TrainSplit(groups=[], captions=Captions.of(pa.chunked_array([of_images])), images=reader)
    tokenized = list[str]()

    def tokenizer(texts: Sequence[str]) -> torch.Tensor:
        tokenized[:] = texts
        return torch.ones(len(texts), 4, dtype=torch.int64)

    read = ChangedInputs(split, small_run(hard_negatives=NEGATIVES), tokenizer, rules).read
    drawn = Counter[Any]()
    for step in range(80):
        plan = BatchPlan(step=step, first=0, samples=np.arange(3), captions=np.array([0, 6, 7]))
        _, kinds, anchors = read(plan)
        drawn[NEGATIVES[int(kinds[0])], tokenized[3]] += 1
        assert kinds[2] == -1
        assert anchors.tolist() == [[1] * 4, [0] * 4, [0] * 4], "no other caption; a caption that cannot be changed"
    assert set(drawn) == {(kind, text) for kind, texts in others.items() for text in texts}
    assert min(drawn.values()) > 8


def test_what_is_not_learnt_yet_is_drawn_most(
    square_files: PairFiles, small_run: SmallRun, rules: ChangeRules, compact: Path
) -> None:
    """A third kind, which no caption allows, takes nothing from the others."""
    kinds = ("position", "colour", "negation")
    config, tokenizer = small_run(hard_negatives=kinds), load_tokenizer(compact, context_length=24)
    split = open_train_split(square_files.train, config, preprocessing=Preprocessing(size=32), num_threads=1)

    def share(losses: dict[str, float | None]) -> float:
        read = partial(ChangedInputs(split, config, tokenizer, rules).read, losses=losses)
        plans = [plan for epoch in range(4) for plan in epoch_batches(split, config, epoch=epoch, batch_size=8)]
        found = torch.cat([read(plan)[1] for plan in plans])
        both = found[
            [len(rules.changes(text, kinds[:1])) > 0 for plan in plans for text in split.captions.texts(plan.captions)]
        ]
        return float((both == 0).float().mean())

    assert share({}) == pytest.approx(0.5, abs=0.05)
    assert share({"position": 0.6, "colour": 0.2, "negation": None}) == pytest.approx(0.9, abs=0.03)
    assert share({"position": 0.0, "colour": 0.7}) == pytest.approx(1 / 11, abs=0.03), "what is learnt comes back"
    assert share({"position": 0.0, "colour": 0.0}) == pytest.approx(0.5, abs=0.05)
    assert needs(kinds, {"colour": 0.4}).tolist() == [1, 1, 1]
    split.images.close()


def test_the_kept_epoch_finds_images_and_prefers_their_captions(
    square_files: PairFiles, small_run: SmallRun, rules: ChangeRules, tmp_path: Path
) -> None:
    result = train(square_files, small_run(epochs=5, hard_negatives=NEGATIVES), tmp_path / "run", rules=rules)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    shares = [[line[f"val_preferred_{kind}"] for kind in NEGATIVES] for line in lines]
    scores = [line["val_mrr@10"] / 2 + sum(share) / 4 for line, share in zip(lines, shares, strict=True)]
    assert result.best_epoch == scores.index(max(scores)) + 1
    assert scores[0] < max(scores)
    model, captions = load_model(tmp_path / "run"), read_captions(square_files.val).to_pylist()
    images = image_features(model, square_files.val)
    found = held_out_changes(captions, rules, kinds=NEGATIVES, seed=0)
    for kind, share in zip(NEGATIVES, shares[result.best_epoch - 1], strict=True):
        assert len(found[kind]) == len(captions) == 24, "each caption names a colour and a position"
        own, changed = (
            text_features(model, texts)
            for texts in ([texts[0] for texts in captions], [text for _, text in found[kind]])
        )
        assert share == pytest.approx(float(((images * (own - changed)).sum(axis=1) > 0).mean()))


def test_batches_hold_near_misses_after_the_first_epoch(
    uneven: PairFiles, small_run: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each sample comes once, and the first epoch is as without."""
    batches: list[list[int]] = []

    def noted(*given: Any, **named: Any) -> Any:
        for plan in epoch_batches(*given, **named):
            batches.append(plan.samples.tolist())
            yield plan

    with monkeypatch.context() as patch:
        patch.setattr("training.fit.inputs.epoch_batches", noted)
        train(uneven, small_run(epochs=3), tmp_path / "random")
        at_random, batches[:] = list(batches), []
        train(uneven, small_run(epochs=3, hard_batches=4), tmp_path / "near")
    assert batches[:3] == at_random[:3]
    assert batches[3:6] != at_random[3:6]
    for epoch in (batches[3:6], batches[6:]):
        seen = [sample for batch in epoch for sample in batch]
        assert len(set(seen)) == len(seen) == 48


def test_rules_and_settings_that_are_off_are_in_no_key(small_run: SmallRun, rules: ChangeRules) -> None:
    def key(given: ChangeRules | None, **changes: Any) -> str:
        return model_and_key(small_run(**changes), {"train": ["aa"]}, given)[1]

    assert key(None) == key(rules) == key(None, hard_negative_weight=2.0)
    assert not [name for name in TrainConfig().what() if name.startswith("hard")]
    others = [{"hard_negatives": ("colour",)}, {"hard_negatives": NEGATIVES}, {"hard_batches": 4}]
    others += [{"hard_negatives": NEGATIVES, "hard_negative_weight": 2.0}, {"augment": ("mirror",)}]
    keys = [key(rules), *(key(rules, **changes) for changes in others)]
    fewer = replace(rules, words=replace(rules.words, colours=rules.words.colours[:3]))
    assert len({*keys, *(key(fewer, **others[place]) for place in (0, -1))}) == 8


def test_what_contradicts_itself_is_refused(
    few: PairFiles, small_run: SmallRun, rules: ChangeRules, tmp_path: Path
) -> None:
    for settings, message in (
        ({"hard_batches": 64, "batch_size": 32}, "hard_batches must be .* got 64"),
        ({"hard_negatives": ("position",), "augment": ("paper",)}, "augment has flip, which exchanges left and right"),
        ({"hard_negatives": ("colour",), "augment": ("equalize",)}, "augment has equalize, which may change colours"),
    ):
        with pytest.raises(SettingsError, match=message):
            TrainConfig(**settings)
    TrainConfig(hard_negatives=NEGATIVES, augment=("caption_safe",))
    no_sides = replace(rules, words=replace(rules.words, sides=()))
    for passed, settings, message in (
        (None, {"hard_negatives": NEGATIVES}, r"has position, but the language pack has no changes\.positions"),
        (no_sides, {"augment": ("mirror",)}, r"has mirror, but the language pack has no changes\.sides"),
        (
            rules,
            {"hard_negatives": ("colour", "roles")},
            r"has roles, but the language pack has no changes\.roles\.age",
        ),
    ):
        with pytest.raises(SettingsError, match=message):
            train(few, small_run(**settings), tmp_path / "run", rules=passed)
        assert not (tmp_path / "run").exists()
