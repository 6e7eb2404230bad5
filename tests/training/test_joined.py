"""Joined towers: two timm backbones and two encoders, each with its own preprocessing and tokenizer, make one model."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.functional import interpolate, normalize

from data_catalog.base.errors import DamagedError, InputError, PipelineError
from data_catalog.disk.records import record_folder
from training.align.align import align
from training.changes import ChangeRules
from training.config import AlignConfig, EvaluateConfig, TrainConfig
from training.data.pairs import PairFiles
from training.exports.model_export import ModelExportConfig, export_model
from training.fit.loop import train
from training.fit.run import MODEL_FILES
from training.scores.encoders import open_model_folder
from training.scores.scoreboard import evaluate
from training.towers.backbones import backbone_features, frozen_parts
from training.towers.model import load_model
from training.use.classify import classify

MEAN, STD = [0.3, 0.4, 0.5], [0.2, 0.25, 0.3]
CONFIG = AlignConfig(epochs=2, batch_size=32, lr=3e-3, ridge=10.0)
MakeConfig = Callable[..., TrainConfig]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of the second image tower."""
    path = tmp_path_factory.mktemp("backbone") / "resnet.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(3)
        save_file(timm.create_model("test_resnet", num_classes=10).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def reader(small_bert: Callable[[str], Path]) -> Path:
    """The second encoder, with other ids for the same words."""
    return small_bert(". destra sinistra alto basso in azzurro arancione viola nero giallo blu verde rosso quadrato un")


@pytest.fixture
def joined(pretrained: TrainConfig, encoder: Path, backbone: Path, reader: Path, tmp_path: Path) -> MakeConfig:
    """Return settings with a model config of two towers on each side. Arguments change the config."""

    def make(**changes: Any) -> TrainConfig:
        image = {"image_size": 48, "timm_model_name": "test_resnet", "timm_pool": "", "timm_proj": "linear"}
        text = {"hf_model_name": str(reader), "hf_pooler_type": "mean_pooler", "context_length": 20}
        config = {
            "embed_dim": 24,
            "vision_cfg": {**image, "image_size": 64, "timm_model_name": "test_efficientnet"},
            "text_cfg": {**text, "hf_model_name": str(encoder), "context_length": 24},
            "joined_images": [
                {
                    "vision_cfg": image,
                    "preprocess_cfg": {"mean": MEAN, "std": STD},
                    "image_weights": {"file": str(backbone)},
                    "license": "apache-2.0",
                }
            ],
            "joined_texts": [{"text_cfg": text, "license": "mit"}],
            **changes,
        }
        path = tmp_path / "joined.json"
        path.write_text(json.dumps(config))
        own = {"model": str(path), "image_tower": "", "text_encoder": "", "image_size": 0, "embed_dim": 0}
        return replace(pretrained, **own, context_length=0)

    return make


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("features")


def test_features_are_those_of_each_tower_side_by_side_and_the_model_is_an_ordinary_one(
    square_files: PairFiles,
    joined: MakeConfig,
    pretrained: TrainConfig,
    backbone: Path,
    rules: ChangeRules,
    cache: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "models" / "joined"
    align(square_files, joined(), CONFIG, out, cache=cache)
    model = load_model(out)
    image_part, _ = frozen_parts(model.module, frozen=True, lock_image=False)
    assert image_part is not None
    pixels = torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    second = timm.create_model("test_resnet", num_classes=0).eval()
    second.load_state_dict({key: value for key, value in load_file(backbone).items() if not key.startswith("fc.")})
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    prepared = model.preprocessing
    raw = pixels * torch.tensor(prepared.std).view(1, 3, 1, 1) + torch.tensor(prepared.mean).view(1, 3, 1, 1)
    small = interpolate((raw - mean) / std, size=(48, 48), mode="bilinear", antialias=True)
    with torch.no_grad():
        found = backbone_features(image_part, pixels)
        wanted = normalize(second(small), dim=-1)
        texts = ["un quadrato rosso in alto a destra", "blu"]
        features = model.module.encode_text(model.tokenizer(texts), normalize=True)
        alone = model.module.encode_text(model.tokenizer(texts[1:]), normalize=True)
    assert torch.allclose(found[:, -wanted.shape[1] :], wanted, atol=1e-4)
    assert torch.allclose(found.norm(dim=-1) ** 2, torch.tensor(2.0), atol=1e-4)
    assert torch.allclose(features[1:], alone, atol=1e-4)  # padding of two tokenizers changes nothing
    score = evaluate(square_files, out, EvaluateConfig(split="test")).get("text_to_image_MRR@10")
    assert score.value > 2 * score.chance

    # The folder is whole without the training's files: it is copied, checked, read by everything, and trained on.
    record_folder(out, MODEL_FILES)
    listed = json.loads((out / "files.json").read_text())["files"]
    assert {"text-1/config.json", "text-1/tokenizer.json"} <= listed.keys()
    assert str(backbone) not in (out / "open_clip_config.json").read_text()
    borrowed = json.loads((out / "run.json").read_text())["borrowed"]
    assert [each["license"] for each in borrowed][2:] == ["apache-2.0", "mit"]
    Image.new("RGB", (40, 60), "red").save(tmp_path / "red.png")
    assert len(classify(tmp_path / "red.png", ["quadrato rosso", "quadrato blu"], out).choices) == 2
    open_model_folder(out, "joined")
    report = export_model(
        out, ModelExportConfig(name="joined", formats=("all",)), tmp_path / "exported", seen=None, root=out
    )
    assert not report.exports
    assert all("towers are joined in it" in reason for reason in report.refused.values())
    assert len(report.refused) == 3
    again = replace(CONFIG, epochs=0, start="model")
    align(square_files, TrainConfig(model=str(out), num_threads=1), again, tmp_path / "again", cache=cache)
    with torch.no_grad():
        found = load_model(tmp_path / "again").module.encode_text(model.tokenizer(texts), normalize=True)
    assert torch.allclose(found, features, atol=1e-4)
    resumed = TrainConfig(model=str(out), epochs=1, batch_size=64, num_threads=1, hard_negatives=("colour",))
    train(square_files, resumed, tmp_path / "further", rules=rules)
    assert load_model(tmp_path / "further").sha256 != model.sha256
    for path in (out / "text-1").iterdir():
        content = path.read_bytes()
        path.write_bytes(content[:-9])
        with pytest.raises(DamagedError, match=r"text-1/"):
            load_model(out)
        path.write_bytes(content)


@pytest.mark.slow
def test_joined_image_towers_alone_go_to_onnx(
    square_files: PairFiles, joined: MakeConfig, cache: Path, tmp_path: Path
) -> None:
    settings = replace(joined(joined_texts=[]), image_license="mit", text_license="mit")
    align(square_files, settings, replace(CONFIG, epochs=0), tmp_path / "model", cache=cache)
    config = ModelExportConfig(name="joined", formats=("onnx",), license="mit")
    report = export_model(tmp_path / "model", config, tmp_path / "exported", seen=None, root=tmp_path / "root")
    assert report.exports[0].difference < 1e-4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"joined_images": {}}, "joined_images must be a list of at most 4 towers"),
        ({"joined_images": [{"vision_cfg": {"image_size": 32}}]}, r"joined_images needs vision_cfg\.timm_model_name"),
        ({"joined_texts": [{"text_cfg": {"hf_model_name": "/absent"}}]}, "/absent"),
        ({"vision_cfg": {"image_size": 32, "layers": 1, "width": 64}}, "the model's own image tower"),
    ],
)
def test_what_cannot_be_joined_is_refused(
    square_files: PairFiles, joined: MakeConfig, cache: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(PipelineError, match=message):
        align(square_files, joined(**changes), CONFIG, tmp_path / "run", cache=cache)


def test_each_joined_tower_must_compute_what_was_recorded_of_it(
    square_files: PairFiles, joined: MakeConfig, reader: Path, cache: Path, tmp_path: Path
) -> None:
    text = {"hf_model_name": str(reader), "hf_pooler_type": "mean_pooler", "context_length": 20}
    wrong = {"text": {"text": "un quadrato", "feature": [1.0] + [0.0] * 31}}
    with pytest.raises(InputError, match="does not compute what was recorded"):
        align(
            square_files,
            joined(joined_texts=[{"text_cfg": text, "recorded_features": wrong}]),
            CONFIG,
            tmp_path / "run",
            cache=cache,
        )
