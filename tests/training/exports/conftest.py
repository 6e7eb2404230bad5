"""Small models, trained on the spot: one for each kind of towers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from training.config import TrainConfig
from training.data.pairs import PairFiles
from training.fit.loop import train

SmallRun = Callable[..., TrainConfig]
# One step: what is exported is random weights, moved a little.
SHORT: dict[str, Any] = {"epochs": 1, "batch_size": 152, "lr": 1e-3, "warmup_steps": 1}


@pytest.fixture(scope="session")
def italian(square_files: PairFiles, model_file: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the architecture of `italian`, its image tower from random weights."""
    folder = tmp_path_factory.mktemp("italian")
    config = json.loads(model_file.read_text())
    del config["image_weights"]
    (folder / "italian.json").write_text(json.dumps(config))
    own = {"model": str(folder / "italian.json"), "text_encoder": str(encoder), "logit_scale": 20.0}
    train(square_files, TrainConfig(**own, num_threads=1, **SHORT), folder / "model")
    return folder / "model"


@pytest.fixture(scope="session")
def compact(square_files: PairFiles, small_run: SmallRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet beside open_clip's own text tower, as `compact` is."""
    folder = tmp_path_factory.mktemp("compact") / "model"
    train(square_files, small_run("resnet", **SHORT), folder)
    return folder


@pytest.fixture(scope="session")
def plain_clip(square_files: PairFiles, small_run: SmallRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vision transformer beside open_clip's own text tower, trained by the sigmoid loss, which has a bias."""
    folder = tmp_path_factory.mktemp("plain") / "model"
    train(square_files, small_run(loss="siglip", **SHORT), folder)
    return folder
