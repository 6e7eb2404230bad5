"""Whole training runs on coloured squares: learning, phases, fixed steps, kept features, resuming, refusing."""

import json
import logging
import math
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from open_clip.transformer import Transformer
from safetensors.torch import load_file, save_file

from data_catalog.base.errors import DamagedError, InputError, SettingsError
from data_catalog.base.language_pack import Sides
from training.config import EvaluateConfig, TrainConfig
from training.data.pairs import PairFiles, read_captions
from training.fit.clip import score_of, train
from training.runs.attempts import STATE_FILE, read_attempts
from training.scores.scoreboard import evaluate
from training.towers.model import load_model
from training.towers.trained_models import EFFORT_FILE
from training.use.pictures import contact_sheet
from training.use.search import shard_gallery

SmallRun = Callable[..., TrainConfig]
PAPER: dict[str, Any] = {"optimizer": "adabelief", "agc": 0.01, "max_grad_norm": 0.0, "logit_scale": 20.0}
HARD: dict[str, Any] = {"hard_batches": 4}


@pytest.fixture(autouse=True)
def _no_plots(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plot takes longer than an epoch; that of `trained` is drawn."""
    if "training_code" not in request.fixturenames:
        monkeypatch.setattr("training.fit.clip.write_png", lambda *_, **__: None)


@pytest.fixture(scope="module")
def long_run(small_run: SmallRun) -> TrainConfig:
    return small_run("resnet", epochs=8, checkpoint_every_steps=3)


@pytest.fixture(scope="module")
def trained(square_files: PairFiles, long_run: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, never interrupted."""
    out = tmp_path_factory.mktemp("trained") / "run"
    result = train(square_files, long_run, out)
    assert (result.num_samples, result.epochs, result.steps) == (152, 8, 72)
    return out


@pytest.fixture(scope="module")
def two_epochs(square_files: PairFiles, small_run: SmallRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of the vision transformer with the settings of `small_run()`."""
    out = tmp_path_factory.mktemp("two") / "run"
    assert train(square_files, small_run(checkpoint_every_steps=4), out).best_epoch == 2
    return out


def lines_of(out: Path) -> list[dict[str, Any]]:
    """What a run wrote of each of its epochs."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_trained_model_finds_squares_far_above_chance(trained: Path, square_files: PairFiles, tmp_path: Path) -> None:
    found = evaluate(square_files, trained, EvaluateConfig(bootstrap_rounds=200)).get("text_to_image_MRR@5")
    assert (found.gallery, found.queries) == (24, 48)
    assert found.chance == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5) / 24)
    assert found.value > 4 * found.chance
    assert found.low <= found.value <= found.high
    gallery = shard_gallery(dict.fromkeys(square_files.test, ""), load_model(trained))
    hits = gallery.search("un quadrato verde", 3).hits
    assert "verde" in hits[0].captions[0]
    learnt = read_captions(square_files.train).to_pylist()
    assert not any("un quadrato verde" in captions for captions in learnt), "the query is no caption that it has seen"
    contact_sheet(hits, tmp_path / "sheet.png", "un quadrato verde, già più in là")
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")


def written(path: Path) -> int | None:
    """When a file was written, in nanoseconds, if it is there."""
    return path.stat().st_mtime_ns if path.is_file() else None


def require_equal(folder: Path, other: Path, *names: str) -> None:
    for name in ("model.safetensors", "metrics.jsonl", "result.json", "run.json", "tokenizer.json", *names):
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.parametrize("kills", [1, pytest.param(6, marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_bit_for_bit(
    kills: int,
    request: pytest.FixtureRequest,
    square_files: PairFiles,
    small_run: SmallRun,
    long_run: TrainConfig,
    training_code: Callable[..., str],
    start_code: Callable[..., BaseProcess],
    tmp_path: Path,
) -> None:
    whole, config = ("two_epochs", small_run(checkpoint_every_steps=4)) if kills == 1 else ("trained", long_run)
    out, rng = tmp_path / "run", random.Random(1)
    for _ in range(kills):
        before = written(out / STATE_FILE)
        child = start_code(training_code(square_files, config, out))
        while written(out / STATE_FILE) == before:
            assert child.is_alive(), "the child ended before it could be killed"
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.1))
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        assert not (out / "result.json").exists()
    result = train(square_files, config, out)
    require_equal(out, request.getfixturevalue(whole), "loss.png")
    attempts = read_attempts(out / EFFORT_FILE)  # what it cost is in none of these files
    assert (len(attempts), attempts[0].first_step, attempts[-1].last_step) == (kills + 1, 0, result.steps)
    assert attempts[1].first_step > 0


@pytest.mark.parametrize(
    ("saves", "settings"),
    [
        (3, {"frozen_epochs": 2, "patience": 2, **PAPER, "augment": ("paper",)}),  # before the end of its first epoch
        (2, {**HARD, "frozen_epochs": 2, "epochs": 2, "augment": (), "patience": 3}),  # kept features
        # Within an epoch of near misses, with batch statistics.
        (5, {**HARD, "kind": "resnet", "epochs": 2, "precision": "bf16", "loss": "siglip", "augment": ("mirror",)}),
        # Within the second phase, which began within an epoch.
        (6, {**HARD, "optimizer": "muon", "frozen_epochs": 1, "epochs": 2, "steps": 7, "microbatch": 6}),
    ],
    ids=["end of an epoch", "hard, kept features", "hard, bf16", "hard, fixed steps"],
)
def test_an_interrupted_run_goes_on_bit_for_bit_in_each_phase(
    saves: int,
    settings: dict[str, Any],
    uneven: PairFiles,
    small_run: SmallRun,
    sides: Sides,
    tmp_path: Path,
    interrupt_training: Callable[..., None],
) -> None:
    config = small_run(**{"epochs": 1, "checkpoint_every_steps": 1, **settings})
    train(uneven, config, tmp_path / "whole", sides=sides)
    interrupt_training(uneven, config, tmp_path / "interrupted", saves, sides=sides)
    assert not (tmp_path / "interrupted" / "result.json").exists()
    train(uneven, config, tmp_path / "interrupted", sides=sides)
    require_equal(tmp_path / "interrupted", tmp_path / "whole")
    assert not (tmp_path / "interrupted" / STATE_FILE).exists()


def test_a_run_stays_in_the_precision_in_which_it_began(
    square_files: PairFiles,
    small_run: SmallRun,
    tmp_path: Path,
    interrupt_training: Callable[..., None],
    processor: Callable[[str], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    out, config = tmp_path / "run", small_run(precision="auto", epochs=1, checkpoint_every_steps=4)
    processor("bf16")
    interrupt_training(square_files, config, out)
    processor("fp32")
    train(square_files, config, out)
    assert "this training began in bf16, so it stays in bf16" in caplog.text
    assert json.loads((out / "run.json").read_text())["settings"]["precision"] == "bf16"
    train(square_files, replace(config, precision="bf16"), tmp_path / "whole")
    require_equal(out, tmp_path / "whole")


def test_a_resume_state_that_is_damaged_stops_the_run_and_keeps_the_best_weights(
    square_files: PairFiles, small_run: SmallRun, tmp_path: Path, interrupt_training: Callable[..., None]
) -> None:
    out, config = tmp_path / "run", small_run()
    interrupt_training(square_files, config, out)
    best, state = (out / "model.safetensors").read_bytes(), (out / STATE_FILE).read_bytes()
    for damaged in (state[:-1000], b"\x80\x04pickle, not safetensors"):
        (out / STATE_FILE).write_bytes(damaged)
        with pytest.raises(DamagedError, match=r"is not a resume state .* remove it"):
            train(square_files, config, out)
    (out / STATE_FILE).write_bytes(state)
    tensors = load_file(out / STATE_FILE)
    tensors["model.text.text_projection"][0, 0] = math.nan  # as a run leaves it that has left all bounds
    length = int.from_bytes(state[:8], "little")
    save_file(tensors, out / STATE_FILE, metadata=json.loads(state[8 : 8 + length])["__metadata__"])
    with pytest.raises(SettingsError, match=r"step 9, in epoch 2, because the loss is nan\. The weights of epoch 1"):
        train(square_files, config, out)
    assert (out / "model.safetensors").read_bytes() == best


def test_a_finished_run_is_not_trained_again(
    two_epochs: Path, square_files: PairFiles, small_run: SmallRun, tmp_path: Path
) -> None:
    """What was left of its resume state goes. Without its weights it is trained again, and if damaged refused."""
    out = shutil.copytree(two_epochs, tmp_path / "run")
    config = small_run(checkpoint_every_steps=4)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    (out / STATE_FILE).parent.mkdir()
    (out / STATE_FILE).write_bytes(b"left over")
    result = train(square_files, config, out)
    assert json.loads((out / "result.json").read_text()) == asdict(result)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    fewer = replace(square_files, train=square_files.train[:1])
    for files, given in ((square_files, replace(config, seed=1)), (fewer, config)):
        with pytest.raises(SettingsError, match="other settings or data"):
            train(files, given, out)
    for name in ("run.json", "result.json"):
        whole = (out / name).read_bytes()
        for damaged in (whole[: len(whole) // 2], b"[]"):
            (out / name).write_bytes(damaged)
            with pytest.raises(DamagedError, match=rf"{name} is damaged .* train again"):
                train(square_files, config, out)
        (out / name).write_bytes(whole)
    (out / "model.safetensors").unlink()
    assert train(square_files, config, out) == result
    require_equal(out, two_epochs)


def test_how_settings_and_whole_epochs_counted_in_steps_change_no_weight(
    two_epochs: Path, square_files: PairFiles, small_run: SmallRun, tmp_path: Path
) -> None:
    """The cosine goes over exactly these steps, and order and captions are the same."""
    whole = json.loads((two_epochs / "result.json").read_text())
    how = train(square_files, small_run(cache_max_bytes=0, checkpoint_every_steps=1000), tmp_path / "how")
    assert asdict(how) == whole
    steps = train(square_files, small_run(steps=18), tmp_path / "steps")
    assert steps.model_sha256 == whole["model_sha256"]
    assert steps.key != whole["key"]


def test_without_a_validation_split_the_last_weights_are_kept(
    square_files: PairFiles, small_run: SmallRun, tmp_path: Path
) -> None:
    out, neither = tmp_path / "run", replace(square_files, val=(), test=())
    result = train(neither, small_run(precision="bf16"), out)
    assert (result.best_epoch, result.best_val_loss) == (2, None)
    with pytest.raises(SettingsError, match="neither the test nor the val split"):
        evaluate(neither, out, EvaluateConfig())
    with pytest.raises(SettingsError, match="the test split has no images"):
        evaluate(replace(square_files, test=()), out, EvaluateConfig(split="test"))
    for files, split in ((square_files, "test"), (replace(square_files, test=()), "val")):
        assert evaluate(files, out, EvaluateConfig(bootstrap_rounds=2)).sets[0].name == split


def test_an_image_that_does_not_decode_is_not_left_out_of_a_score(
    square_files: PairFiles, trained: Path, make_shard: Callable[..., Path], square_rows: Any
) -> None:
    rows = square_rows("test", 24, seed=3)
    rows[5]["image"]["bytes"] = b"<html>gone</html>"
    damaged = replace(square_files, test=(make_shard("damaged", rows),))
    with pytest.raises(DamagedError, match="1 images of test do not decode: run `vernaclip verify`"):
        evaluate(damaged, trained, EvaluateConfig(bootstrap_rounds=2))


def test_what_cannot_be_trained_is_refused_before_it_starts(
    square_files: PairFiles,
    small_run: SmallRun,
    towers: dict[str, dict[str, Any]],
    tmp_path: Path,
    make_shard: Callable[..., Path],
    square_rows: Callable[..., list[dict[str, Any]]],
) -> None:
    lone = make_shard("lone", square_rows("val", 1, seed=2))  # whose loss would be 0 from the first epoch on
    cases: list[tuple[PairFiles, TrainConfig, type[Exception], str]] = [
        (replace(square_files, train=()), small_run(), InputError, "fewer than two samples"),
        (replace(square_files, train=square_files.test), small_run(), InputError, "test images"),
        (replace(square_files, val=(lone,)), small_run(), SettingsError, "the val split has one image"),
        (square_files, small_run("resnet", microbatch=8), SettingsError, "batch normalisation"),
    ]
    if not torch.cuda.is_available():
        cases.append((square_files, small_run(device="cuda"), InputError, "torch finds 0 GPUs"))
    for wrong, word in (
        ({"layerz": 2}, "layerz"),
        ({"width": 64, "layers": "two", "patch_size": 8}, "cannot create a model"),
        ({"timm_model_name": "nobody"}, "Unknown model"),
    ):
        path = tmp_path / f"{word}.json"
        path.write_text(json.dumps({**towers["vit"], "vision_cfg": {"image_size": 32, **wrong}}))
        cases.append((square_files, replace(small_run(), model=str(path)), InputError, word))
    for number, (files, config, error, word) in enumerate(cases):
        with pytest.raises(error, match=word):
            train(files, config, tmp_path / str(number))
        assert not (tmp_path / str(number) / "model.safetensors").exists()


def test_projections_train_alone_until_the_validation_loss_stops_improving(
    square_files: PairFiles, small_run: SmallRun, tmp_path: Path
) -> None:
    """At a rate that is far too high it rises soon."""
    config = small_run(frozen_epochs=30, epochs=2, lr=0.3, logit_scale=20.0, select="loss")
    result = train(square_files, config, tmp_path / "run")
    lines = lines_of(tmp_path / "run")
    assert [line["frozen"] for line in lines] == [True] * result.frozen_epochs + [False] * 2
    assert all(line["logit_scale"] == pytest.approx(20) for line in lines)
    losses = [line["val_loss"] for line in lines if line["frozen"]]
    assert len(losses) == result.frozen_epochs < 30
    assert losses[:-1] == sorted(losses[:-1], reverse=True)
    assert losses[-1] >= losses[-2]
    assert (result.epochs, result.best_val_loss) == (len(lines), min(line["val_loss"] for line in lines))


def test_the_score_of_an_epoch_is_its_mrr_or_its_loss() -> None:
    measured = {"val_loss": 2.0, "val_mrr@10": 0.4}
    assert score_of(measured, "loss") == -2.0
    assert score_of(measured, "mrr") == 0.4
    assert score_of({"val_loss": None, "val_mrr@10": None}, "mrr") is None


def test_with_patience_fewer_epochs_are_gone_through_and_steps_count_more(
    few: PairFiles, small_run: SmallRun, tmp_path: Path
) -> None:
    wild = small_run(epochs=30, lr=0.5, patience=2)
    result = train(few, wild, tmp_path / "patient")
    assert result.epochs == result.best_epoch + 2 < 30
    steps = train(few, replace(wild, steps=22, patience=1), tmp_path / "steps")
    assert (steps.steps, steps.best_epoch) == (22, 8)
    assert steps.best_val_loss == lines_of(tmp_path / "steps")[-1]["val_loss"], "the last weights are kept"


def test_the_sigmoid_loss_learns_and_has_a_bias(
    square_files: PairFiles, small_run: SmallRun, two_epochs: Path, tmp_path: Path
) -> None:
    train(square_files, small_run(loss="siglip", epochs=6, augment=()), tmp_path / "run")
    first, *_, last = lines_of(tmp_path / "run")
    assert last["val_loss"] < first["val_loss"] - 0.3
    assert load_model(tmp_path / "run").module.logit_bias is not None
    again = replace(small_run(loss="siglip", epochs=1), model=str(tmp_path / "run"))
    assert train(square_files, again, tmp_path / "again").epochs == 1
    train(square_files, replace(again, loss="clip"), tmp_path / "clip")
    assert load_model(tmp_path / "clip").module.logit_bias is None, "classify would take it for a sigmoid"
    with pytest.raises(SettingsError, match=r"train\.loss is siglip, .* a bias that the model .* does not have"):
        train(square_files, replace(again, model=str(two_epochs)), tmp_path / "other")


@pytest.mark.parametrize(("steps", "frozen_steps"), [(10, 5), (12, 6)])
def test_steps_are_shared_out_between_the_phases(
    few: PairFiles, small_run: SmallRun, tmp_path: Path, steps: int, frozen_steps: int
) -> None:
    """In the middle of an epoch, which goes on, and at the end of one."""
    phases = small_run(steps=steps, epochs=3, frozen_epochs=3)
    assert phases.frozen_steps == frozen_steps
    assert train(few, phases, tmp_path / "run").steps == steps
    lines = lines_of(tmp_path / "run")
    assert [line["step"] for line in lines] == [*range(3, steps, 3), steps]
    assert [line["frozen"] for line in lines] == [line["step"] <= frozen_steps for line in lines]


@pytest.mark.parametrize(("kind", "frozen"), [("vit", ""), ("resnet", "lock_image"), ("vit", "freeze_image")])
def test_training_on_kept_features_is_the_same_as_without(
    few: PairFiles,
    small_run: SmallRun,
    kind: str,
    frozen: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.DEBUG, "data_catalog.base.progress")
    more = {frozen: True} if frozen else {}
    config = small_run(kind, frozen_epochs=3, patience=3, augment=(), lr=1e-2, **more)
    train(few, config, tmp_path / "kept")
    assert "encode images with the frozen tower: 48 of 48" in caplog.text
    assert "encode captions with the frozen tower" in caplog.text
    monkeypatch.setattr("training.fit.inputs.frozen_parts", lambda *_, **__: (None, None))
    monkeypatch.setattr("training.fit.losses.LENGTH_GROUPS", 1)  # as kept features are made; groups round differently
    train(few, config, tmp_path / "anew")
    for one, other in zip(lines_of(tmp_path / "kept"), lines_of(tmp_path / "anew"), strict=True):
        for loss in ("train_loss", "val_loss"):
            assert one[loss] == pytest.approx(other[loss], rel=1e-4)


def test_no_more_than_a_microbatch_goes_through_the_towers(
    few: PairFiles,
    small_run: SmallRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither while features are kept nor in validation. Augmented images are computed anew, their captions are not."""
    caplog.set_level(logging.DEBUG, "data_catalog.base.progress")
    noted = Mock(side_effect=Transformer.forward)
    monkeypatch.setattr(Transformer, "forward", lambda *batch, **named: noted(*batch, **named))
    train(few, small_run(frozen_epochs=1, epochs=1, microbatch=6), tmp_path / "run")
    assert max(len(call.args[1]) for call in noted.call_args_list) == 6
    assert "encode captions with the frozen tower" in caplog.text
    assert "encode images" not in caplog.text


def test_a_locked_tower_keeps_its_batch_statistics(
    few: PairFiles, small_run: SmallRun, towers: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """No batch may come by them, nor the image that is only to show how large the features are."""
    model = {**towers["resnet"], "vision_cfg": {**towers["resnet"]["vision_cfg"], "image_size": 64}}
    (tmp_path / "large.json").write_text(json.dumps(model))
    config = small_run(lock_image=True, frozen_epochs=1, epochs=1, augment=())
    train(few, replace(config, model=str(tmp_path / "large.json")), tmp_path / "run")
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert weights["visual.bn1.running_mean"].abs().max() == 0
    assert weights["visual.bn1.num_batches_tracked"] == 0
