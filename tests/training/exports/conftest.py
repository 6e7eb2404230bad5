"""Small models, trained on the spot: one for each kind of towers."""

import json
from pathlib import Path
from typing import Any

import pytest

from training.config import TrainConfig
from training.data.pairs import PairFiles
from training.fit.loop import train

OWN_TEXT = {"context_length": 24, "width": 64, "heads": 2, "layers": 2, "hf_tokenizer_name": "tokenizer"}
VISION = {
    "resnet": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32},
    "vit": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
}


def own_model(folder: Path, kind: str) -> Path:
    """A model config with open_clip's own text tower."""
    path = folder / f"{kind}.json"
    config: dict[str, Any] = {"embed_dim": 48, "custom_text": True, "vision_cfg": VISION[kind], "text_cfg": OWN_TEXT}
    path.write_text(json.dumps(config))
    return path


def short(model: Path, **more: Any) -> TrainConfig:
    """Two steps: what is exported is random weights, moved a little."""
    return TrainConfig(model=str(model), epochs=1, batch_size=76, num_threads=1, lr=1e-3, warmup_steps=1, **more)


@pytest.fixture(scope="session")
def italian(square_files: PairFiles, model_file: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the architecture of `italian`, its image tower from random weights."""
    folder = tmp_path_factory.mktemp("italian")
    config = json.loads(model_file.read_text())
    del config["image_weights"]
    (folder / "italian.json").write_text(json.dumps(config))
    train(square_files, short(folder / "italian.json", text_encoder=str(encoder), logit_scale=20.0), folder / "model")
    return folder / "model"


@pytest.fixture(scope="session")
def compact(square_files: PairFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the architecture of `compact`."""
    folder = tmp_path_factory.mktemp("compact")
    train(square_files, short(own_model(folder, "resnet")), folder / "model")
    return folder / "model"


@pytest.fixture(scope="session")
def plain_clip(square_files: PairFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vision transformer beside open_clip's own text tower, trained by the sigmoid loss, which has a bias."""
    folder = tmp_path_factory.mktemp("plain")
    train(square_files, short(own_model(folder, "vit"), loss="siglip"), folder / "model")
    return folder / "model"
