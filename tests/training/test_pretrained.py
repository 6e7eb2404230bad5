"""The architecture of `italian`, small, with random weights made on the spot: whole runs; weights that do not fit."""

import json
import math
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from data_catalog.errors import InputError, SettingsError
from training.config import TrainConfig
from training.data.pairs import PairFiles
from training.fit.loop import train
from training.fit.run import MODEL_FILES, model_and_key, require_trainable
from training.towers.model import create_model, load_model, read_model_config
from training.towers.pretrained import load_image_tower, load_text_encoder, save_encoder_config, with_text_encoder
from training.trained_models import EFFORT_FILE

SHARDS: dict[str, list[str]] = {"train": [], "val": [], "test": []}


@pytest.fixture(scope="module")
def clip(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a whole CLIP of open_clip, whose image tower is the one to start from."""
    from open_clip.model import CLIP

    torch.manual_seed(5)
    text = {"context_length": 16, "vocab_size": 100, "width": 32, "heads": 2, "layers": 1}
    found = CLIP(32, json.loads(model_file.read_text())["vision_cfg"], text, quick_gelu=True)
    path = tmp_path_factory.mktemp("clip") / "open_clip_model.safetensors"
    save_file({name: value.clone() for name, value in found.state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def config(model_file: Path, encoder: Path, clip: Path) -> TrainConfig:
    """The paper's recipe over them."""
    weights = {"model": str(model_file), "image_weights": str(clip.parent), "text_encoder": str(encoder)}
    recipe: dict[str, Any] = {"optimizer": "adabelief", "agc": 0.01, "max_grad_norm": 0.0, "logit_scale": 20.0}
    small = {"epochs": 6, "frozen_epochs": 1, "batch_size": 16, "lr": 3e-3, "warmup_steps": 5, "num_threads": 1}
    return TrainConfig(**weights, **recipe, **small)


def test_italian_learns_and_opens_without_the_encoder_that_it_came_from(
    square_files: PairFiles, config: TrainConfig, encoder: Path, tmp_path: Path
) -> None:
    out, moved = tmp_path / "run", shutil.copytree(encoder, tmp_path / "encoder")
    train(square_files, replace(config, text_encoder=str(moved)), out)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    chance = (16 * math.log(16) + 8 * math.log(8)) / 24  # of the validation split's two batches
    assert lines[-1]["val_loss"] < chance - 0.2
    assert {path.name for path in out.iterdir()} == {*MODEL_FILES, EFFORT_FILE}
    written = json.loads((out / "open_clip_config.json").read_text())
    assert written["model_cfg"]["text_cfg"]["hf_model_name"] == str(moved)
    shutil.rmtree(moved)
    ids = load_model(out).tokenizer(["Un quadrato rosso in basso"])
    assert ids.tolist() == [[2, 4, 5, 6, 14, 16, 3]]


def test_both_towers_start_from_the_weights_given(
    config: TrainConfig, clip: Path, encoder: Path, tmp_path: Path
) -> None:
    model_config = with_text_encoder(read_model_config(config.model), config)
    save_encoder_config(model_config, tmp_path)
    module = create_model(model_config, tmp_path)
    load_image_tower(module, model_config, config)
    load_text_encoder(module, model_config)
    weights, bert = load_file(clip), load_file(encoder / "model.safetensors")
    assert torch.equal(module.visual.proj, weights["visual.proj"])
    state = module.text.transformer.state_dict()
    assert state.keys() == bert.keys()
    assert all(torch.equal(state[name], bert[name]) for name in bert)


def test_interrupted_it_goes_on_bit_for_bit(
    square_files: PairFiles, config: TrainConfig, tmp_path: Path, interrupt_training: Callable[..., None]
) -> None:
    """Dropout of the text encoder draws from torch's generator, which is part of the resume state."""
    short = replace(config, epochs=1, frozen_epochs=0, checkpoint_every_steps=4)
    train(square_files, short, tmp_path / "whole")
    interrupt_training(square_files, short, tmp_path / "run")
    train(square_files, short, tmp_path / "run")
    for name in ("model.safetensors", "metrics.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_the_key_is_of_the_weights_not_of_where_they_lie(config: TrainConfig, encoder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(encoder, tmp_path / "elsewhere")
    _, key = model_and_key(config, SHARDS)
    moved = replace(config, text_encoder=str(folder))
    assert model_and_key(moved, SHARDS)[1] == key
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    assert model_and_key(moved, SHARDS)[1] != key
    assert model_and_key(replace(config, image_weights=""), SHARDS)[1] != key


def refuse(files: PairFiles, config: TrainConfig, out: Path, message: str) -> str:
    """Return the one sentence in which a training is refused."""
    with pytest.raises(InputError, match=message) as caught:
        train(files, config, out)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("pickle", "would run code"),
        ("cut off", "is not a complete weights file"),
        ("nothing", "is neither a weights file nor a folder with one"),
        ("another kind", r"is of torch\.int64"),
    ],
)
def test_image_weights_that_do_not_fit_are_refused_in_a_sentence(
    kind: str, message: str, square_files: PairFiles, config: TrainConfig, clip: Path, tmp_path: Path
) -> None:
    path = tmp_path / ("weights.pt" if kind == "pickle" else "weights.safetensors")
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"state_dict": Path("/")}, protocol=2))
    elif kind == "cut off":
        path.write_bytes(clip.read_bytes()[:5000])
    elif kind == "another kind":
        save_file({name: value.long() for name, value in load_file(clip).items()}, path)
    refuse(square_files, replace(config, image_weights=str(path)), tmp_path / "run", message)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("lacks one", r"lacks weights .* 'encoder\.layer\.1\.output\.dense\.weight"),  # transformers would draw them
        ("cut off", "is not a complete weights file"),
        ("a pickle", "would run code"),
        ("another shape", r"shape .* 'encoder\.layer\.0\.intermediate"),
        ("without tokenizer", r"none of tokenizer\.json, vocab\.txt"),
        ("on a hub", r"nobody/has-this cannot be loaded .* train\.text_encoder"),
    ],
)
def test_an_encoder_that_is_not_whole_is_refused_in_a_sentence(
    kind: str,
    message: str,
    square_files: PairFiles,
    config: TrainConfig,
    encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # HF_HUB_OFFLINE is read at import only
    folder = shutil.copytree(encoder, tmp_path / "bert")
    weights = folder / "model.safetensors"
    if kind == "lacks one":
        tensors = load_file(weights)
        del tensors["encoder.layer.1.output.dense.weight"]
        save_file(tensors, weights, metadata={"format": "pt"})
    elif kind == "cut off":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif kind == "a pickle":
        weights.unlink()
        torch.save({"embeddings": Path("not a tensor")}, folder / "pytorch_model.bin")
    elif kind == "another shape":
        settings = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**settings, "intermediate_size": 48}))
    elif kind == "without tokenizer":
        for path in folder.glob("tokenizer*.json"):
            path.unlink()
    named = "nobody/has-this" if kind == "on a hub" else str(folder)
    refuse(square_files, replace(config, text_encoder=named), tmp_path / "run", message)


def test_an_encoder_must_be_wanted_and_have_as_many_positions_as_the_context(
    config: TrainConfig, model_file: Path, tmp_path: Path
) -> None:
    """A long caption would have ended the training in its midst."""
    assert require_trainable(config) > 10_000
    found = json.loads(model_file.read_text())
    found["text_cfg"]["context_length"] = 200
    (tmp_path / "long.json").write_text(json.dumps(found))
    with pytest.raises(InputError, match=r"sizes in the model config .*long\.json"):
        require_trainable(replace(config, model=str(tmp_path / "long.json")))
    with pytest.raises(SettingsError, match="has no Hugging Face text tower"):
        model_and_key(TrainConfig(text_encoder="x"), SHARDS)
