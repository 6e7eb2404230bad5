"""Open a teacher: a model of ours or open_clip's, whose text tower is learned and whose image tower is taken over."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_catalog.errors import InputError, SettingsError
from training.data.features import Encoder
from training.scores.encoders import check_source, open_model_folder, open_open_clip
from training.towers.architecture import read_model_config
from training.towers.model import OPEN_CLIP_CONFIG_FILE
from training.towers.model_files import read_object
from training.towers.pretrained import files_identity, valid_borrowed
from training.trained_models import RUN_FILE


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """A model to learn from.

    Args:
        encoder: encodes sentences into the space of its image tower.
        module: the open_clip model.
        model_config: its model config, with `preprocess_cfg`.
        image_weights: what its run borrowed for the image tower.
    """

    encoder: Encoder
    module: Any
    model_config: Mapping[str, Any]
    image_weights: tuple[dict[str, str], ...]


def teacher_identity(name: str) -> Any:
    """Return what identifies a teacher in a run's key: sha256 of its files, or its name.

    Raises:
        SettingsError: no teacher is named.
        InputError: there is no such folder, or it is no model.
    """
    if not name:
        raise SettingsError("distil.teacher is not set: name a model folder, or a MODEL/PRETRAINED of open_clip")
    check_source("folder" if Path(name).exists() or name.endswith("/") else "open_clip", name, "distil.teacher")
    if not Path(name).is_dir():
        return name
    if not (Path(name) / OPEN_CLIP_CONFIG_FILE).is_file():
        raise InputError(
            f"distil.teacher: {name} is not a model folder, because {OPEN_CLIP_CONFIG_FILE} is missing. A teacher of "
            "transformers' format has to be named by open_clip's name, or converted to open_clip's layout"
        )
    return files_identity(Path(name), (OPEN_CLIP_CONFIG_FILE,))


def open_teacher(name: str) -> Teacher:
    """Open a teacher.

    Raises:
        SettingsError: open_clip has no such model.
        InputError: it is incomplete, cannot be fetched, or its image preprocessing is not supported.
        DamagedError: a file of its folder is damaged.
    """
    if Path(name).is_dir():
        folder, encoder = Path(name), open_model_folder(Path(name), Path(name).name)
        model_config = read_model_config(name)
        run = read_object(folder / RUN_FILE) if (folder / RUN_FILE).is_file() else {}
        borrowed = valid_borrowed(run.get("borrowed", []), folder / RUN_FILE)
        if not run:
            borrowed = [{"tower": "image", "weights": folder.name, "license": ""}]
    else:
        encoder = open_open_clip(name, name)
        model_config = read_model_config(name.partition("/")[0])
        stated = encoder.module.visual.preprocess_cfg
        names = ("mean", "std", "interpolation", "resize_mode")
        model_config["preprocess_cfg"] = {
            key: list(stated[key]) if isinstance(stated[key], tuple) else stated[key] for key in names if key in stated
        }
        borrowed = [{"tower": "image", "weights": name, "license": ""}]
    return Teacher(
        encoder=encoder,
        module=encoder.module,
        model_config=model_config,
        image_weights=tuple(one for one in borrowed if one["tower"] == "image"),
    )
