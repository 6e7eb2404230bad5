"""Whole training runs on coloured squares: learning, resuming, refusing."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_catalog.errors import DamagedError, InputError, SettingsError
from training.config import EvaluateConfig, TrainConfig
from training.data.pairs import PairFiles, read_captions
from training.fit.effort import read_attempts
from training.fit.loop import TrainResult, train
from training.fit.optimisation import learning_rate
from training.fit.run import STATE_FILE, run_key
from training.scores.evaluation import evaluate
from training.towers.model import load_model, read_model_config
from training.trained_models import EFFORT_FILE
from training.use.pictures import contact_sheet
from training.use.search import search

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SMALL: dict[str, Any] = {
    "embed_dim": 64,
    "custom_text": True,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32},
    "text_cfg": {
        "context_length": 24,
        "width": 64,
        "heads": 2,
        "layers": 2,
        "pool_type": "argmax",
        "hf_tokenizer_name": "tokenizer",
    },
}
Run = Callable[..., TrainResult]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A small model and few steps, with a resume state every third step."""
    model = tmp_path_factory.mktemp("model") / "small.json"
    model.write_text(json.dumps(SMALL))
    return TrainConfig(
        model=str(model), epochs=4, batch_size=16, lr=2e-3, warmup_steps=5, num_threads=1, checkpoint_every_steps=3
    )


@pytest.fixture(scope="module")
def trained(square_files: PairFiles, config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, never interrupted."""
    out = tmp_path_factory.mktemp("trained") / "run"
    result = train(square_files, config, out)
    assert (result.num_samples, result.epochs, result.steps) == (152, 4, 36)
    return out


def test_a_trained_model_finds_squares_far_above_chance(
    square_files: PairFiles, config: TrainConfig, tmp_path: Path
) -> None:
    train(square_files, replace(config, epochs=14), tmp_path / "run")
    scores = evaluate(square_files, tmp_path / "run", EvaluateConfig(bootstrap_rounds=200))
    found = scores.get("text_to_image_MRR@5")
    assert (found.gallery_size, found.num_queries) == (24, 48)
    assert found.chance == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5) / 24)
    assert found.value > 4 * found.chance
    assert found.low <= found.value <= found.high
    found = search("un quadrato verde", square_files.test, tmp_path / "run", k=3)
    hits = found.hits
    assert [hit.rank for hit in hits] == [1, 2, 3]
    assert hits[0].cosine >= hits[1].cosine >= hits[2].cosine
    assert "verde" in hits[0].captions[0]
    learnt = read_captions(square_files.train).to_pylist()
    assert not any("un quadrato verde" in captions for captions in learnt), "the query is no caption that it has seen"
    again = search("un quadrato verde", square_files.test, tmp_path / "run", k=3)
    assert again == found  # from the index on disk
    contact_sheet(hits, tmp_path / "sheet.png", "un quadrato verde, già più in là")
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_leaves_what_others_need(trained: Path, square_files: PairFiles) -> None:
    names = sorted(path.relative_to(trained).as_posix() for path in trained.rglob("*"))
    assert names == [
        "effort.json",
        "loss.png",
        "metrics.jsonl",
        "model.safetensors",
        "open_clip_config.json",
        "result.json",
        "run.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [9, 18, 27, 36]
    result = json.loads((trained / "result.json").read_text())
    assert result["best_val_loss"] == min(line["val_loss"] for line in lines)
    assert lines[-1]["train_loss"] < lines[0]["train_loss"]
    with Image.open(trained / "loss.png") as plot:
        assert plot.size == (960, 540)


def test_open_clip_alone_opens_the_folder(trained: Path) -> None:
    import open_clip
    import torch

    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{trained}")
    theirs = open_clip.get_tokenizer(f"local-dir:{trained}")(["un quadrato rosso in basso"])
    ours = load_model(trained)
    with torch.no_grad():
        expected = model.eval().encode_text(theirs, normalize=True)
        found = ours.module.encode_text(ours.tokenizer(["un quadrato rosso in basso"]), normalize=True)
    assert torch.allclose(expected, found, atol=1e-5)
    assert preprocess.transforms[0].size == (32, 32)


def test_a_killed_run_goes_on_bit_for_bit(
    trained: Path,
    square_files: PairFiles,
    config: TrainConfig,
    tmp_path: Path,
    kill_while_training: Callable[..., None],
) -> None:
    out = tmp_path / "run"
    kill_while_training(square_files, config, out)
    train(square_files, config, out)
    for name in ("model.safetensors", "metrics.jsonl", "loss.png", "result.json", "run.json", "tokenizer.json"):
        assert (out / name).read_bytes() == (trained / name).read_bytes(), name
    first, second = read_attempts(out / EFFORT_FILE)  # what it cost is in none of them
    assert (first.first_step, second.last_step) == (0, 36)
    assert second.first_step > 0


def test_a_finished_run_is_not_trained_again(trained: Path, square_files: PairFiles, config: TrainConfig) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.iterdir()}
    result = train(square_files, config, trained)
    assert json.loads((trained / "result.json").read_text()) == asdict(result)
    assert {path: path.stat().st_mtime_ns for path in trained.iterdir()} == before


def test_the_cache_and_the_number_of_checkpoints_change_nothing(
    trained: Path, square_files: PairFiles, config: TrainConfig, tmp_path: Path
) -> None:
    train(square_files, replace(config, cache_max_bytes=0, checkpoint_every_steps=1000), tmp_path / "run")
    assert (tmp_path / "run/model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()


def test_a_folder_of_another_run_is_refused(trained: Path, square_files: PairFiles, config: TrainConfig) -> None:
    with pytest.raises(SettingsError, match="other settings or data"):
        train(square_files, replace(config, seed=1), trained)
    with pytest.raises(SettingsError, match="other settings or data"):
        train(replace(square_files, train=square_files.train[:1]), config, trained)


def test_nothing_is_trained_on_a_test_image(square_files: PairFiles, config: TrainConfig, tmp_path: Path) -> None:
    leaking = replace(square_files, train=(*square_files.train, *square_files.test))
    with pytest.raises(InputError, match="Training sets must not contain test images"):
        train(leaking, config, tmp_path / "run")
    assert not (tmp_path / "run/model.safetensors").exists()


def test_without_a_validation_split_the_last_weights_are_kept(
    square_files: PairFiles, config: TrainConfig, tmp_path: Path
) -> None:
    result = train(replace(square_files, val=(), test=()), replace(config, epochs=2, precision="bf16"), tmp_path / "r")
    assert (result.best_epoch, result.best_val_loss) == (2, None)
    with pytest.raises(SettingsError, match=r"neither the test nor the val split has images, .* set split\.val higher"):
        evaluate(replace(square_files, val=(), test=()), tmp_path / "r", EvaluateConfig())
    with pytest.raises(SettingsError, match=r"the test split has no images"):
        evaluate(replace(square_files, test=()), tmp_path / "r", EvaluateConfig(split="test"))
    scored = [
        evaluate(files, tmp_path / "r", EvaluateConfig(bootstrap_rounds=2)).split
        for files in (square_files, replace(square_files, test=()))
    ]
    assert scored == ["test", "val"]


def test_one_image_is_nothing_to_validate_on(
    square_files: PairFiles,
    config: TrainConfig,
    tmp_path: Path,
    make_shard: Callable[..., Path],
    square_rows: Callable[..., list[dict[str, Any]]],
) -> None:
    """Its loss would be 0 from the first epoch on, and patience end the run there."""
    lone = make_shard("lone", square_rows("val", 1, seed=2))
    with pytest.raises(SettingsError, match=r"the val split has one image, .* hold out more"):
        train(replace(square_files, val=(lone,)), config, tmp_path / "run")


def test_a_finished_run_without_its_weights_is_not_called_trained(
    trained: Path, square_files: PairFiles, config: TrainConfig, tmp_path: Path
) -> None:
    """And one that was killed before its resume state went loses that."""
    out = tmp_path / "run"
    shutil.copytree(trained, out)
    (out / STATE_FILE).parent.mkdir()
    (out / STATE_FILE).write_bytes(b"left over")
    assert train(square_files, config, out).steps == 36
    assert not (out / STATE_FILE).parent.exists()
    (out / "model.safetensors").unlink()
    with pytest.raises(DamagedError, match=r"its model\.safetensors is missing: remove the folder to train it again"):
        train(square_files, config, out)


def test_weights_that_do_not_fit_are_refused(trained: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    with pytest.raises(InputError, match="contains no trained model"):
        load_model(tmp_path)
    for name in ("open_clip_config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    weights = load_file(trained / "model.safetensors")
    del weights["text.text_projection"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(DamagedError, match="does not match"):
        load_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(DamagedError, match="is broken"):
        load_model(tmp_path)


def test_a_broken_resume_state_is_named(square_files: PairFiles, config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / STATE_FILE).parent.mkdir()
    (tmp_path / STATE_FILE).write_bytes(b"\x80\x04pickle, not safetensors")
    with pytest.raises(DamagedError, match="is no resume state"):
        train(square_files, config, tmp_path)


def test_the_rate_rises_then_falls_to_nothing(config: TrainConfig) -> None:
    rates = [learning_rate(step, config=config, total=40) for step in range(40)]
    assert rates[:5] == pytest.approx([config.lr * part / 5 for part in (1, 2, 3, 4, 5)])
    assert rates[5] == config.lr
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] < config.lr / 100
    by_share = replace(config, warmup_steps=0, warmup_ratio=0.125)
    assert [learning_rate(step, config=by_share, total=40) for step in range(40)] == rates


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("epochs", 0, r"train\.epochs must be positive"),
        ("batch_size", 1, r"train\.batch_size must be at least 2"),
        ("lr", -1.0, r"train\.lr must be positive"),
        ("lr", math.nan, r"train\.lr must be positive"),
        ("seed", -1, r"train\.seed must not be negative"),
        ("vocab_size", 100, r"train\.vocab_size must be at least 300"),
        ("precision", "fp8", r"train\.precision must be one of fp32, bf16"),
    ],
)
def test_bad_settings_are_named(setting: str, value: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        TrainConfig(**{setting: value})


def test_bad_models_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no model config 'enormous': name one of compact, .*lit"):
        read_model_config("enormous")
    path = tmp_path / "model.json"
    for text, message in [
        ("{", "is not JSON"),
        ("{}", "embed_dim, text_cfg, vision_cfg is missing"),
        ("[]", "embed_dim, text_cfg, vision_cfg is missing"),
        (
            json.dumps({**SMALL, "vision_cfg": {}, "text_cfg": {}}),
            "text_cfg.context_length, text_cfg.hf_tokenizer_name, vision_cfg.image_size is missing",
        ),
        (json.dumps({**SMALL, "vision_cfg": 5}), "vision_cfg.image_size is missing"),
        (json.dumps({**SMALL, "vision_cfg": {"image_size": [32, 32]}}), "image_size must be one number"),
        (json.dumps({**SMALL, "custom_text": False}), "set custom_text"),
        (json.dumps({**SMALL, "custom_text": 1}), "set custom_text"),  # `load_model` would refuse it in the end
        (json.dumps({**SMALL, "text_cfg": {**SMALL["text_cfg"], "pool_type": "last"}}), "pool_type argmax"),
    ]:
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_model_config(str(path))


def test_a_model_that_open_clip_refuses_is_refused(
    square_files: PairFiles, config: TrainConfig, tmp_path: Path
) -> None:
    path = tmp_path / "model.json"
    for wrong, message in (
        ({"layerz": 2}, "layerz"),
        ({"width": 64, "layers": "two", "patch_size": 8}, "cannot create a model"),
        ({"timm_model_name": "nobody"}, "Unknown model"),
        ({"layers": 1, "width": 64, "patch_size": 0}, "division"),
    ):
        path.write_text(json.dumps({**SMALL, "vision_cfg": {"image_size": 32, **wrong}}))
        with pytest.raises(InputError, match=message):
            train(square_files, replace(config, model=str(path)), tmp_path / message)


def test_nothing_to_train_on_is_said(square_files: PairFiles, config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the train split has fewer than two samples"):
        train(replace(square_files, train=()), config, tmp_path / "run")


def test_a_resume_state_that_is_cut_off_is_named(
    square_files: PairFiles, config: TrainConfig, tmp_path: Path, kill_while_training: Callable[..., None]
) -> None:
    kill_while_training(square_files, config, tmp_path / "run")
    state = tmp_path / "run" / STATE_FILE
    state.write_bytes(state.read_bytes()[:-1000])
    with pytest.raises(DamagedError, match=r"is no resume state .* remove it to train from the start"):
        train(square_files, config, tmp_path / "run")


def test_the_key_knows_what_from_how(config: TrainConfig) -> None:
    shards = {"train": ["aa"], "val": [], "test": ["bb"]}

    def key(**changes: Any) -> str:
        return run_key(replace(config, **changes), SMALL, {}, shards)

    assert key() == key(num_threads=7, cache_max_bytes=1, checkpoint_every_steps=9)
    assert len({key(), key(seed=5), key(epochs=2), key(augment=()), run_key(config, {}, {}, shards)}) == 5
    assert key() != run_key(config, SMALL, {}, {**shards, "train": ["ab"]})
