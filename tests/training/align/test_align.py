"""Alignment of frozen towers: the heads over a small timm backbone and a small BERT learn colours and sides."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from data_catalog.base.errors import DamagedError, InputError, PipelineError, SettingsError
from data_catalog.disk.records import record_folder
from training.align import frozen
from training.align.align import align
from training.align.heads import FeaturePairs, canonical_directions
from training.config import AlignConfig, EvaluateConfig, TrainConfig
from training.data.features import image_features, text_features
from training.data.pairs import PairFiles, read_captions
from training.exports.model_export import ModelExportConfig, export_model
from training.fit.clip import train
from training.scores.scoreboard import evaluate
from training.towers.model import load_model

BACKBONE = "test_efficientnet"
CONFIG = AlignConfig(epochs=8, batch_size=32, lr=3e-3, ridge=10.0)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("features")


@pytest.fixture(scope="module")
def aligned(
    square_files: PairFiles, pretrained: TrainConfig, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("runs") / "aligned"
    align(square_files, pretrained, CONFIG, out, cache=cache)
    return out


def files_of(folder: Path) -> dict[str, bytes]:
    """Of a finished run, without its times and trackers."""
    return {path.name: path.read_bytes() for path in folder.glob("*.*") if path.name != "effort.json"}


def test_an_aligned_model_is_an_ordinary_one_and_finds_squares(aligned: Path, square_files: PairFiles) -> None:
    found = evaluate(square_files, aligned, EvaluateConfig(split="test")).get("text_to_image_MRR@10")
    assert found.value > 3 * found.chance
    lines = [json.loads(line) for line in (aligned / "metrics.jsonl").read_text().splitlines()]
    best = json.loads((aligned / "result.json").read_text())
    assert [line["epoch"] for line in lines] == list(range(CONFIG.epochs + 1))
    assert best["best_val_mrr"] == max(line["val_mrr@10"] for line in lines) == lines[best["best_epoch"]]["val_mrr@10"]
    (attempt,) = json.loads((aligned / "effort.json").read_text())["attempts"]
    assert attempt["device"] == ("cuda" if torch.cuda.is_available() else "cpu"), "where towers encode"


def test_the_model_gives_the_validation_score_of_its_heads_without_the_kept_features(
    aligned: Path, square_files: PairFiles
) -> None:
    model = load_model(aligned)
    captions = read_captions(square_files.val).to_pylist()
    images = image_features(model, square_files.val)
    texts = text_features(model, [text for group in captions for text in group])
    owners = np.repeat(np.arange(len(captions)), [len(group) for group in captions])
    ranks = 1 + (texts @ images.T >= (texts * images[owners]).sum(axis=1)[:, None] + 1e-6).sum(axis=1)
    mrr = np.where(ranks <= 10, 1 / ranks, 0).mean()
    assert mrr == pytest.approx(json.loads((aligned / "result.json").read_text())["best_val_mrr"], abs=0.02)


@pytest.mark.parametrize(("encoded", "log"), [(3, ("tensorboard", "wandb")), (6, ())])
def test_an_interrupted_run_ends_with_the_same_bytes(
    square_files: PairFiles,
    pretrained: TrainConfig,
    aligned: Path,
    logged: Callable[[Path], dict[str, dict[str, Any]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    encoded: int,
    log: tuple[str, ...],
) -> None:
    config = replace(CONFIG, log=log)
    encode, left = frozen.encode_where_fastest, iter(range(encoded))

    def encode_or_end(*inputs: Any) -> torch.Tensor:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return encode(*inputs)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(frozen, "encode_where_fastest", encode_or_end)
            patch.setattr("training.data.features.PORTION", 64)
            align(square_files, pretrained, config, tmp_path / "run", cache=tmp_path / "cache")
    except KeyboardInterrupt:  # a program may try again while it handles the error
        result = align(square_files, pretrained, config, tmp_path / "run", cache=tmp_path / "cache")
    assert files_of(tmp_path / "run") == files_of(aligned)
    assert align(square_files, pretrained, config, tmp_path / "run", cache=tmp_path / "absent") == result
    lines = [json.loads(line) for line in (aligned / "metrics.jsonl").read_text().splitlines()]
    found = logged(tmp_path / "run") if log else {}
    assert not log or found["wandb"]["exit codes"] == [1, 0]
    for shown in found.values():
        assert shown["val_mrr@10"] == [(line["epoch"], pytest.approx(line["val_mrr@10"])) for line in lines]
        assert [epoch for epoch, _ in shown["train_loss"]] == list(range(1, CONFIG.epochs + 1))


def test_kept_features_are_used_again_and_those_of_another_model_or_damaged_ones_are_not(
    square_files: PairFiles,
    pretrained: TrainConfig,
    cache: Path,
    aligned: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    copied = shutil.copytree(cache, tmp_path / "cache")
    folders = list(copied.iterdir())  # of the image tower, and of the text tower
    for folder in folders:
        first = min(folder.iterdir())
        first.write_bytes(first.read_bytes()[:-7])
    other = replace(pretrained, image_weights=str(other_weights(tmp_path)))
    align(square_files, other, CONFIG, tmp_path / "other", cache=tmp_path / "others")
    (foreign,) = (found for found in (tmp_path / "others").iterdir() if not (copied / found.name).exists())
    for path in foreign.iterdir():
        shutil.copy(path, folders[0])
    align(square_files, pretrained, CONFIG, tmp_path / "run", cache=copied)
    assert files_of(tmp_path / "run") == files_of(aligned)
    assert "is damaged" in caplog.text
    assert "features of another model" in caplog.text
    features = {path: path.stat().st_mtime_ns for path in copied.rglob("*.*")}
    align(square_files, pretrained, replace(CONFIG, epochs=0), tmp_path / "closed", cache=copied)
    assert {path: path.stat().st_mtime_ns for path in copied.rglob("*.*")} == features, "none is computed again"


def other_weights(folder: Path) -> Path:
    torch.manual_seed(7)
    save_file(timm.create_model(BACKBONE, num_classes=10).state_dict(), folder / "other.safetensors")
    return folder / "other.safetensors"


@pytest.mark.parametrize(
    ("changes", "epochs"),
    [
        ({"epochs": 0}, 0),
        ({"mirror": True, "dropout": 0.1}, 8),
        ({"refit": True}, 8),
        ({"hidden": True, "dropout": 0.0, "lr": 3e-2, "epochs": 60}, 60),
    ],
)
def test_each_option_gives_another_working_model(
    square_files: PairFiles,
    pretrained: TrainConfig,
    cache: Path,
    aligned: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    epochs: int,
) -> None:
    result = align(square_files, pretrained, replace(CONFIG, **changes), tmp_path / "run", cache=cache)
    assert result.best_epoch <= epochs
    assert result.best_val_mrr is not None
    assert result.best_val_mrr > 0.3
    if epochs:
        assert result.model_sha256 != json.loads((aligned / "result.json").read_text())["model_sha256"]
    assert load_model(tmp_path / "run").sha256 == result.model_sha256


def test_towers_that_cannot_be_aligned_are_refused_with_the_setting_to_change(
    square_files: PairFiles, pretrained: TrainConfig, model_file: Path, encoder: Path, tmp_path: Path
) -> None:
    refused: list[tuple[TrainConfig, AlignConfig, str]] = [
        (TrainConfig(text_encoder=str(encoder)), CONFIG, r"train\.image_tower"),
        (replace(pretrained, image_weights="random"), CONFIG, r"train\.image_tower"),
        (replace(pretrained, text_encoder=""), CONFIG, r"train\.text_encoder"),
        (replace(pretrained, image_tower="test_efficientnett"), CONFIG, "test_efficientnett"),
        (replace(pretrained, image_tower="test_resnet"), CONFIG, "of the image tower cannot be loaded"),
    ]
    for settings, config, expected in refused:
        with pytest.raises(PipelineError, match=expected):
            align(square_files, settings, config, tmp_path / "run", cache=tmp_path / "cache")
        assert not (tmp_path / "run").exists(), "no folder without weights stays"


def recorded(pretrained: TrainConfig, aligned: Path, folder: Path) -> dict[str, Any]:
    """Features of a picture and a text by the towers, computed by timm and transformers alone."""
    from transformers import AutoModel, AutoTokenizer

    pixels = np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "picture.png")
    backbone = timm.create_model(BACKBONE, num_classes=0).eval()
    state = {name: value for name, value in load_file(pretrained.image_weights).items() if "classifier" not in name}
    backbone.load_state_dict(state)
    settings = timm.get_pretrained_cfg(BACKBONE)
    assert settings is not None
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (settings.mean, settings.std))
    bert, tokenizer = (
        AutoModel.from_pretrained(pretrained.text_encoder),
        AutoTokenizer.from_pretrained(pretrained.text_encoder),
    )
    with torch.no_grad():
        image = backbone(((torch.from_numpy(pixels).permute(2, 0, 1) / 255 - mean) / std)[None])[0]
        words = tokenizer("un quadrato rosso", return_tensors="pt")
        text = bert(**words).last_hidden_state[0].mean(dim=0)
    return {
        "image": {"file": "picture.png", "feature": image.tolist()},
        "text": {"text": "un quadrato rosso", "feature": text.tolist()},
    }


def test_a_tower_must_compute_its_recorded_feature(
    square_files: PairFiles, pretrained: TrainConfig, aligned: Path, cache: Path, tmp_path: Path
) -> None:
    stated = {
        "embed_dim": 24,
        "preprocess_cfg": {},
        "vision_cfg": {"image_size": 64, "timm_model_name": BACKBONE, "timm_proj": "linear", "timm_pool": ""},
        "text_cfg": {"hf_model_name": pretrained.text_encoder, "hf_pooler_type": "mean_pooler", "context_length": 24},
        "recorded_features": recorded(pretrained, aligned, tmp_path),
    }
    settings = timm.get_pretrained_cfg(BACKBONE)
    assert settings is not None
    stated["preprocess_cfg"] = {"mean": list(settings.mean), "std": list(settings.std)}
    path = tmp_path / "model.json"
    path.write_text(json.dumps(stated))
    config = TrainConfig(model=str(path), image_weights=pretrained.image_weights, num_threads=1)
    align(square_files, config, CONFIG, tmp_path / "right", cache=tmp_path / "cache")
    for changed, side in (
        (replace(config, image_mean=(0.1, 0.5, 0.5)), "image"),
        (replace(config, text_pooler="cls_last_hidden_state_pooler"), "text"),
        (replace(config, image_weights=str(other_weights(tmp_path))), "image"),
    ):
        with pytest.raises(InputError, match=f"the {side} tower does not compute what was recorded"):
            align(square_files, changed, CONFIG, tmp_path / f"wrong-{side}", cache=tmp_path / "cache")
        assert not (tmp_path / f"wrong-{side}").exists()


def test_a_tower_that_gives_only_zeros_is_refused(
    square_files: PairFiles, pretrained: TrainConfig, tmp_path: Path
) -> None:
    blank = {name: torch.zeros_like(value) for name, value in load_file(pretrained.image_weights).items()}
    save_file(blank, tmp_path / "blank.safetensors")
    config = replace(pretrained, image_weights=str(tmp_path / "blank.safetensors"))
    with pytest.raises(InputError, match="the features of the image tower are all zero"):
        align(square_files, config, CONFIG, tmp_path / "run", cache=tmp_path / "cache")


def test_several_processes_are_refused_before_they_wait_for_each_other(
    square_files: PairFiles, pretrained: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SettingsError, match="align runs in one process: start it without torchrun"):
        align(square_files, pretrained, CONFIG, tmp_path / "run", cache=tmp_path / "cache")
    assert not (tmp_path / "run").exists()


def test_canonical_directions_find_what_both_sides_share() -> None:
    generator = np.random.default_rng(4)
    shared = generator.normal(size=(2000, 3))
    images, texts = (
        shared @ generator.normal(size=(3, size)) + 0.3 * generator.normal(size=(2000, size)) + 5.0 for size in (12, 8)
    )
    pairs = FeaturePairs(
        views=(images.astype(np.float32),), texts=texts.astype(np.float32), owners=np.arange(2000, dtype=np.int64)
    )
    left, right = canonical_directions(pairs, dim=5, ridge=1e-3)
    assert left.shape == (12, 5)
    assert right.shape == (8, 5)
    correlations = [abs(np.corrcoef(images @ left[:, place], texts @ right[:, place])[0, 1]) for place in range(5)]
    assert min(correlations[:3]) > 0.9
    assert max(correlations[3:]) < 0.2
    assert [np.linalg.norm(left[:, place]) > 0 for place in range(5)] == [True] * 5


def test_licenses_of_borrowed_weights_are_kept_shown_and_bind_exports(
    square_files: PairFiles,
    pretrained: TrainConfig,
    cache: Path,
    aligned: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert json.loads((aligned / "run.json").read_text())["borrowed"][0]["license"] == ""
    stated = replace(pretrained, image_license="cc-by-nc-4.0", text_license="apache-2.0")
    out = shutil.copytree(aligned, tmp_path / "run")
    record_folder(out, ["run.json", "model.safetensors"])
    align(square_files, stated, CONFIG, out, cache=cache)  # only the licenses are new
    record_folder(out, ["run.json", "model.safetensors"])
    assert (out / "model.safetensors").read_bytes() == (aligned / "model.safetensors").read_bytes()

    def export(model: Path, license: str) -> str:
        config = ModelExportConfig(formats=("open_clip",), name="squares", license=license, replace=True)
        export_model(model, config, tmp_path / "export", seen=None, root=tmp_path / "catalog")
        return (tmp_path / "export" / "README.md").read_text()

    with pytest.raises(SettingsError, match=r"the license mit allows what .* \(weights\.safetensors, cc-by-nc-4\.0\)"):
        export(out, "mit")
    card = unescape(export(out, "cc-by-nc-4.0"))
    assert "weights.safetensors, license cc-by-nc-4.0" in card
    assert "license apache-2.0" in card
    assert "license not stated" in export(aligned, "mit")
    assert "is not stated, so it is not checked" in caplog.text


def test_training_goes_on_with_all_weights_from_a_model_folder(
    square_files: PairFiles, aligned: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(aligned, tmp_path / "start")
    config = TrainConfig(model=str(folder), epochs=1, batch_size=32, lr=1e-5, num_threads=1, augment=())
    result = train(square_files, config, tmp_path / "run")
    start = json.loads((aligned / "result.json").read_text())
    assert result.best_val_mrr is not None
    assert result.best_val_mrr > start["best_val_mrr"] / 2  # random weights would give 0.12
    assert result.model_sha256 != start["model_sha256"]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["borrowed"][0]["tower"] == "image"
    shutil.rmtree(folder)
    assert load_model(tmp_path / "run").sha256 == result.model_sha256
    (tmp_path / "empty").mkdir()
    shutil.copy(aligned / "open_clip_config.json", tmp_path / "empty")
    with pytest.raises(DamagedError, match=r"model\.safetensors"):
        train(square_files, replace(config, model=str(tmp_path / "empty")), tmp_path / "other")
    with pytest.raises(SettingsError, match=r"align\.hidden is true, but"):
        align(square_files, replace(config, model=str(aligned)), replace(CONFIG, hidden=True), tmp_path, cache=tmp_path)
    with pytest.raises(SettingsError, match=r"train\.image_size is set"):
        train(square_files, replace(config, model=str(aligned), image_size=32), tmp_path / "other")


@pytest.mark.slow
def test_a_run_that_is_killed_ten_times_ends_with_the_same_bytes(
    square_files: PairFiles,
    pretrained: TrainConfig,
    aligned: Path,
    run_killed_ten_times: Callable[..., None],
    tmp_path: Path,
) -> None:
    code = (
        "from pathlib import Path, PosixPath\n"
        "import training.data.features as features\n"
        "from training.align.align import align\n"
        "from training.config import AlignConfig, TrainConfig\n"
        "from training.data.pairs import PairFiles\n"
        "features.PORTION = 64\n"
        "print('started', flush=True)\n"
        f"pretrained = TrainConfig(**{vars_of(pretrained)!r})\n"
        f"align({square_files!r}, pretrained, {CONFIG!r}, Path({str(tmp_path / 'run')!r}), "
        f"cache=Path({str(tmp_path / 'cache')!r}))\n"
    )
    run_killed_ten_times(code, tmp_path / "run", tmp_path / "cache")
    assert files_of(tmp_path / "run") == files_of(aligned)


def vars_of(config: TrainConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in config.__dataclass_fields__}
