"""`train.steps`: exactly so many optimizer steps whatever the data, resumed bit for bit, under keys of their own."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_catalog.errors import SettingsError
from training.config import TrainConfig
from training.data.pairs import PairFiles
from training.fit.loop import train
from training.fit.run import run_key

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SMALL: dict[str, Any] = {
    "embed_dim": 16,
    "custom_text": True,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {
        "context_length": 12,
        "width": 16,
        "heads": 2,
        "layers": 1,
        "pool_type": "argmax",
        "hf_tokenizer_name": "tokenizer",
    },
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A tiny model; 152 squares make 9 steps an epoch, 48 make 3."""
    model = tmp_path_factory.mktemp("model") / "small.json"
    model.write_text(json.dumps(SMALL))
    return TrainConfig(
        model=str(model),
        batch_size=16,
        lr=2e-3,
        warmup_steps=3,
        num_threads=1,
        vocab_size=300,
        augment=(),
        checkpoint_every_steps=2,
    )


def lines_of(out: Path) -> list[dict[str, Any]]:
    """What a run wrote of each of its epochs."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_steps_are_the_same_whatever_the_number_of_images(
    square_files: PairFiles,
    config: TrainConfig,
    make_shard: Callable[..., Path],
    square_rows: Callable[..., list[dict[str, Any]]],
    tmp_path: Path,
) -> None:
    few = replace(square_files, train=(make_shard("few", square_rows("few", 48, seed=7)),))
    fixed = replace(config, steps=13)
    many_result, few_result = train(square_files, fixed, tmp_path / "many"), train(few, fixed, tmp_path / "few")
    assert (many_result.steps, few_result.steps) == (13, 13)
    assert [line["step"] for line in lines_of(tmp_path / "many")] == [9, 13]
    assert [line["step"] for line in lines_of(tmp_path / "few")] == [3, 6, 9, 12, 13]
    assert [line["samples_seen"] for line in lines_of(tmp_path / "few")][-1] == 13 * 16


def test_the_last_weights_are_kept_and_nothing_ends_early(
    square_files: PairFiles, config: TrainConfig, tmp_path: Path
) -> None:
    wild = replace(config, steps=22, lr=0.3, patience=1)
    result = train(square_files, wild, tmp_path / "run")
    losses = [line["val_loss"] for line in lines_of(tmp_path / "run")]
    assert result.steps == 22
    assert (result.best_epoch, result.best_val_loss) == (3, losses[-1])


def test_steps_that_are_whole_epochs_make_the_same_model_as_those_epochs(
    square_files: PairFiles, config: TrainConfig, tmp_path: Path
) -> None:
    """The cosine goes over exactly these steps, and order and captions are the same."""
    epochs = train(square_files, replace(config, epochs=2), tmp_path / "epochs")
    assert epochs.best_epoch == 2
    steps = train(square_files, replace(config, steps=18), tmp_path / "steps")
    assert steps.model_sha256 == epochs.model_sha256
    assert steps.key != epochs.key


@pytest.mark.parametrize(("steps", "frozen_steps"), [(20, 10), (36, 18)])
def test_steps_are_shared_out_between_the_phases(
    square_files: PairFiles, config: TrainConfig, tmp_path: Path, steps: int, frozen_steps: int
) -> None:
    """In the middle of an epoch, which goes on, and at the end of one."""
    phases = replace(config, steps=steps, epochs=3, frozen_epochs=3)
    assert phases.frozen_steps == frozen_steps
    result = train(square_files, phases, tmp_path / "run")
    lines = lines_of(tmp_path / "run")
    assert (result.steps, lines[-1]["step"]) == (steps, steps)
    assert [line["step"] for line in lines] == [*range(9, steps, 9), steps]
    assert [line["frozen"] for line in lines] == [line["step"] <= frozen_steps for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("frozen_epochs", [1, 0])
def test_a_killed_run_of_fixed_steps_goes_on_bit_for_bit(
    square_files: PairFiles,
    config: TrainConfig,
    tmp_path: Path,
    kill_while_training: Callable[..., None],
    frozen_epochs: int,
) -> None:
    fixed = replace(config, steps=14, epochs=1, frozen_epochs=frozen_epochs)
    train(square_files, fixed, tmp_path / "whole")
    kill_while_training(square_files, fixed, tmp_path / "killed")
    assert not (tmp_path / "killed" / "result.json").exists()
    train(square_files, fixed, tmp_path / "killed")
    for name in ("model.safetensors", "metrics.jsonl", "result.json", "run.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_runs_by_epochs_keep_their_keys() -> None:
    """The key of the settings as they were before there were steps."""
    shards = {"train": ["a"], "val": [], "test": []}
    assert "steps" not in TrainConfig().what()
    assert run_key(TrainConfig(), {"embed_dim": 1}, {}, shards) == OLD_KEY
    assert run_key(TrainConfig(steps=1), {"embed_dim": 1}, {}, shards) != OLD_KEY


OLD_KEY = "19d5d6cd1ab1aef90b2a9985a762ca0a131d1831f07b1e3682f13c3e2d89d51d"


def test_negative_steps_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"train\.steps must not be negative, got -1"):
        TrainConfig(steps=-1)
