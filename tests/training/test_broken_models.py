"""Models that are damaged, odd or another's: each is an error of one sentence, and none a wrong number."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_catalog.errors import PipelineError
from training.scores.encoders import open_model_folder, open_open_clip
from training.towers.model import OPEN_CLIP_CONFIG_FILE as CONFIG_FILE

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

Damage = Callable[[Path], object]


def edited(change: Callable[[dict[str, Any]], object]) -> Damage:
    def damage(folder: Path) -> None:
        config = json.loads((folder / CONFIG_FILE).read_text())
        change(config)
        (folder / CONFIG_FILE).write_text(json.dumps(config))

    return damage


@pytest.fixture
def broken(random_clip: Callable[..., Path], tmp_path: Path) -> Callable[[Damage], Path]:
    """A copy of a whole model, damaged."""

    def make(damage: Damage) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(random_clip(["un cane", "due gatti"]), folder)
        damage(folder)
        return folder

    return make


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / CONFIG_FILE).write_text("{"),
        lambda folder: (folder / CONFIG_FILE).write_text("[]"),
        lambda folder: (folder / CONFIG_FILE).write_bytes(b"\xff\xfe\x00"),
        edited(lambda config: config.pop("model_cfg")),
        edited(lambda config: config.update(model_cfg=None)),
        edited(lambda config: config["model_cfg"].update(from_another_release=1)),
        edited(lambda config: config["model_cfg"].pop("text_cfg")),
        edited(lambda config: config["model_cfg"].update(embed_dim="wide")),
        edited(lambda config: config["model_cfg"]["text_cfg"].update(heads=3)),
        lambda folder: (folder / "tokenizer.json").unlink(),
        lambda folder: (folder / "tokenizer.json").write_text("{"),
        lambda folder: (folder / "model.safetensors").write_bytes(b""),
    ],
)
def test_a_damaged_model_is_a_sentence(damage: Damage, broken: Callable[[Damage], Path]) -> None:
    folder = broken(damage)
    for opened in (lambda: open_model_folder(folder, "ours"), lambda: open_open_clip(str(folder), "theirs")):
        with pytest.raises(PipelineError) as error:
            opened()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config.pop("preprocess_cfg"),
        lambda config: config["preprocess_cfg"].update(resize_mode="shortest"),
        lambda config: config["preprocess_cfg"].update(mean=[0.5, 0.5, 0.5]),
    ],
)
def test_a_model_that_sees_pictures_otherwise_is_not_scored_as_ours(
    change: Callable[[dict[str, Any]], object], broken: Callable[[Damage], Path]
) -> None:
    folder = broken(edited(change))
    said = r"preprocess_cfg is missing|different image preprocessing \(.*\), .* read it as open_clip=DIR"
    with pytest.raises(PipelineError, match=said):
        open_model_folder(folder, "ours")
    assert open_open_clip(str(folder), "theirs").tensors_sha256
