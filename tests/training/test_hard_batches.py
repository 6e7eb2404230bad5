"""Hard batches: groups of near misses, and the settings that are off."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_catalog.base.errors import SettingsError
from data_catalog.base.language_pack import Sides
from training.config import TrainConfig
from training.data.batches import epoch_batches
from training.data.pairs import PairFiles
from training.fit.clip import train
from training.fit.inputs import near_misses
from training.fit.setup import model_and_key

SmallRun = Callable[..., TrainConfig]


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


def test_words_and_settings_that_are_off_are_in_no_key(small_run: SmallRun, sides: Sides) -> None:
    def key(given: Sides | None, **changes: Any) -> str:
        return model_and_key(small_run(**changes), {"train": ["aa"]}, given)[1]

    assert key(None) == key(sides)
    assert not [name for name in TrainConfig().what() if name.startswith("hard")]
    fewer = Sides(left=sides.left[:1], right=sides.right[:1])
    mirrored = [key(each, augment=("mirror",)) for each in (sides, fewer)]
    assert len({key(sides), key(sides, hard_batches=4), *mirrored}) == 4


def test_what_contradicts_itself_is_refused(few: PairFiles, small_run: SmallRun, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"hard_batches must be .* got 64"):
        TrainConfig(hard_batches=64, batch_size=32)
    with pytest.raises(SettingsError, match=r"has mirror, but the language pack has no \[sides\]"):
        train(few, small_run(augment=("mirror",)), tmp_path / "run")
    assert not (tmp_path / "run").exists()
