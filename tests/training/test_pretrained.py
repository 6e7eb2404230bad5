"""The architecture of `italian`, small, with random weights made on the spot: whole runs; weights that do not fit."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from data_catalog.errors import InputError, SettingsError
from training.config import EvaluateConfig, TrainConfig
from training.data.pairs import PairFiles
from training.fit.loop import train
from training.fit.run import MODEL_FILES, model_and_key, require_trainable
from training.scores.evaluation import evaluate
from training.towers.model import load_model, read_model_config
from training.trained_models import EFFORT_FILE

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SHARDS: dict[str, list[str]] = {"train": [], "val": [], "test": []}


@pytest.fixture(scope="module")
def clip(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a whole CLIP of open_clip, whose image tower is the one to start from."""
    import torch
    from open_clip.model import CLIP
    from safetensors.torch import save_file

    torch.manual_seed(5)
    text = {"context_length": 16, "vocab_size": 100, "width": 32, "heads": 2, "layers": 1}
    found = CLIP(32, json.loads(model_file.read_text())["vision_cfg"], text, quick_gelu=True)
    path = tmp_path_factory.mktemp("clip") / "open_clip_model.safetensors"
    save_file({name: value.clone() for name, value in found.state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def config(model_file: Path, encoder: Path, clip: Path) -> TrainConfig:
    """The paper's recipe over them."""
    return TrainConfig(
        model=str(model_file),
        image_weights=str(clip.parent),
        text_encoder=str(encoder),
        frozen_epochs=2,
        epochs=12,
        batch_size=16,
        optimizer="adabelief",
        agc=0.01,
        max_grad_norm=0.0,
        logit_scale=20.0,
        lr=1e-3,
        warmup_steps=5,
        num_threads=1,
        checkpoint_every_steps=4,
    )


def test_italian_runs_whole(square_files: PairFiles, config: TrainConfig, encoder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(square_files, config, out)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    chance = (16 * math.log(16) + 8 * math.log(8)) / 24  # of the validation split's two batches
    assert lines[-1]["val_loss"] < chance - 0.2
    assert {path.name for path in out.iterdir()} == {*MODEL_FILES, EFFORT_FILE}
    written = (out / "open_clip_config.json").read_text()
    assert json.loads(written)["model_cfg"]["text_cfg"]["hf_model_name"] == str(encoder)
    found = evaluate(square_files, out, EvaluateConfig(bootstrap_rounds=50)).get("text_to_image_MRR@5")
    assert found.value > 2 * found.chance


def test_a_model_opens_without_the_encoder_it_came_from(
    square_files: PairFiles, config: TrainConfig, encoder: Path, tmp_path: Path
) -> None:
    from shutil import copytree, rmtree

    copytree(encoder, tmp_path / "encoder")
    moved = replace(config, text_encoder=str(tmp_path / "encoder"), epochs=1, frozen_epochs=0)
    train(square_files, moved, tmp_path / "run")
    rmtree(tmp_path / "encoder")
    ids = load_model(tmp_path / "run").tokenizer(["Un quadrato rosso in basso"])
    assert ids.tolist() == [[2, 4, 5, 6, 14, 16, 3]]


def test_both_towers_start_from_the_weights_given(
    config: TrainConfig, clip: Path, encoder: Path, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    from training.towers.model import create_model
    from training.towers.pretrained import load_image_tower, load_text_encoder, save_encoder_config, with_text_encoder

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


@pytest.mark.slow
def test_killed_it_goes_on_bit_for_bit(
    square_files: PairFiles, config: TrainConfig, tmp_path: Path, kill_while_training: Callable[..., None]
) -> None:
    """Dropout of the text encoder draws from torch's generator, which is part of the resume state."""
    short = replace(config, epochs=2, frozen_epochs=1)
    train(square_files, short, tmp_path / "whole")
    kill_while_training(square_files, short, tmp_path / "killed")
    train(square_files, short, tmp_path / "killed")
    for name in ("model.safetensors", "metrics.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_the_key_is_of_the_weights_not_of_where_they_lie(config: TrainConfig, encoder: Path, tmp_path: Path) -> None:
    from shutil import copytree

    copytree(encoder, tmp_path / "elsewhere")
    _, key = model_and_key(config, SHARDS)
    assert model_and_key(replace(config, text_encoder=str(tmp_path / "elsewhere")), SHARDS)[1] == key
    weights = tmp_path / "elsewhere" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    assert model_and_key(replace(config, text_encoder=str(tmp_path / "elsewhere")), SHARDS)[1] != key
    assert model_and_key(replace(config, image_weights=""), SHARDS)[1] != key


def broken_image_weights(folder: Path, clip: Path, kind: str) -> Path:
    import pickle

    import torch
    from safetensors.torch import load_file, save_file

    path = folder / ("weights.pt" if kind == "pickle" else "weights.safetensors")
    tensors = load_file(clip)
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"state_dict": Path("/")}, protocol=2))
    elif kind == "cut off":
        path.write_bytes(clip.read_bytes()[:5000])
    elif kind == "lacks one":
        save_file({name: value for name, value in tensors.items() if name != "visual.proj"}, path)
    elif kind == "another size":
        save_file({**tensors, "visual.proj": torch.zeros(3, 3)}, path)
    elif kind == "another kind":
        save_file({**tensors, "visual.proj": torch.zeros_like(tensors["visual.proj"], dtype=torch.int64)}, path)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("pickle", "contains more than weights, and reading it would run code"),
        ("cut off", "is not a complete weights file"),
        ("lacks one", "does not match the model's image tower"),
        ("another size", "does not match the model's image tower"),
        ("another kind", "'proj' is of torch.int64, not torch.float32"),
        ("nothing", "is neither a weights file nor a folder with one"),
    ],
)
def test_image_weights_that_do_not_fit_are_refused_in_a_sentence(
    kind: str, message: str, square_files: PairFiles, config: TrainConfig, clip: Path, tmp_path: Path
) -> None:
    broken = replace(config, image_weights=str(broken_image_weights(tmp_path, clip, kind)))
    with pytest.raises(InputError, match=message) as caught:
        train(square_files, broken, tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_image_weights_that_do_not_fit_are_refused_by_the_names_of_their_tensors(
    square_files: PairFiles, config: TrainConfig, clip: Path, tmp_path: Path
) -> None:
    """Three missing, three left over and three of another shape are named, with shapes; the others are counted."""
    import torch
    from safetensors.torch import load_file, save_file

    tensors = {name: value for name, value in load_file(clip).items() if name.startswith("visual.")}
    layer = "visual.transformer.resblocks.0."
    missing = sorted(name for name in tensors if name.startswith(layer))[:5]
    reshaped = sorted(name for name in tensors if "resblocks.1." in name)[:4]
    kept = {name: value for name, value in tensors.items() if name not in missing}
    kept |= {name: torch.zeros((3, 7), dtype=torch.int64) for name in reshaped}
    kept |= {f"visual.left{number}": torch.zeros(2) for number in range(4)}
    save_file(kept, tmp_path / "weights.safetensors")
    with pytest.raises(InputError) as caught:
        train(square_files, replace(config, image_weights=str(tmp_path / "weights.safetensors")), tmp_path / "run")
    told = str(caught.value).partition("does not match the model's image tower: ")[2]
    assert all(repr(name.removeprefix("visual.")) in told for name in (*missing[:3], *reshaped[:3]))
    assert "'left0', 'left1', 'left2' and 1 more" in told
    assert " and 2 more" in told
    assert told.count("is of shape (3, 7), not ") == 3
    assert str(tuple(tensors[reshaped[0]].shape)) in told
    assert "and 1 more of another shape" in told


def test_an_encoder_that_lacks_weights_is_refused(
    square_files: PairFiles, config: TrainConfig, encoder: Path, tmp_path: Path
) -> None:
    """transformers would draw the missing ones at random, with a warning."""
    from shutil import copytree

    from safetensors.torch import load_file, save_file

    copytree(encoder, tmp_path / "encoder")
    weights = load_file(encoder / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, tmp_path / "encoder" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks weights .* 'encoder\.layer\.1\.output\.dense\.weight"):
        train(square_files, replace(config, text_encoder=str(tmp_path / "encoder")), tmp_path / "run")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("cut off", "is not a complete weights file"),
        ("a pickle", "contains more than weights, and reading it would run code, so it is refused"),
        ("another shape", r"weights whose shape differs .* 'encoder\.layer\.0\.intermediate"),
        ("without tokenizer", r"the tokenizer .* is missing: the folder has none of tokenizer\.json, vocab\.txt"),
    ],
)
def test_an_encoder_that_is_not_whole_is_refused_in_a_sentence(
    broken: str, message: str, square_files: PairFiles, config: TrainConfig, encoder: Path, tmp_path: Path
) -> None:
    import torch

    folder = tmp_path / "bert"
    shutil.copytree(encoder, folder)
    weights = folder / "model.safetensors"
    if broken == "cut off":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif broken == "a pickle":
        weights.unlink()
        torch.save({"embeddings": Path("not a tensor")}, folder / "pytorch_model.bin")
    elif broken == "another shape":
        settings = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**settings, "intermediate_size": 48}))
    else:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).unlink()
    with pytest.raises(InputError, match=message) as caught:
        train(square_files, replace(config, text_encoder=str(folder)), tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_what_is_not_within_reach_is_said_at_once(
    square_files: PairFiles, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # HF_HUB_OFFLINE is read at import only
    with pytest.raises(InputError, match=r"the text encoder nobody/has-this cannot be loaded .* train\.text_encoder"):
        train(square_files, replace(config, text_encoder="nobody/has-this"), tmp_path / "run")
    with pytest.raises(
        SettingsError, match=r"train\.text_encoder is set, but the model .* has no Hugging Face text tower"
    ):
        model_and_key(TrainConfig(text_encoder="x"), SHARDS)


def test_a_context_longer_than_the_encoders_positions_is_refused_whatever_the_data(
    config: TrainConfig, model_file: Path, tmp_path: Path
) -> None:
    """A long caption would have ended the training in its midst."""
    assert require_trainable(config) > 100_000
    found = json.loads(model_file.read_text())
    found["text_cfg"]["context_length"] = 200
    (tmp_path / "long.json").write_text(json.dumps(found))
    with pytest.raises(InputError, match=r"sizes in the model config .*long\.json do not match"):
        require_trainable(replace(config, model=str(tmp_path / "long.json")))
