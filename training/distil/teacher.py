"""Open a teacher: a model of ours or open_clip's, whose text tower is learned and whose image tower is taken over."""

import logging
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_catalog.base.errors import InputError, SettingsError
from data_catalog.disk.files import digest
from training.config import DistilConfig, TrainConfig
from training.data.features import Encoder
from training.fit.run import claim_folder
from training.processes import deterministic_torch
from training.scores.encoders import open_encoder
from training.towers.lineage import read_lineage
from training.towers.model import ENCODER_CONFIG_FILE, OPEN_CLIP_CONFIG_FILE, WEIGHTS_FILE
from training.towers.model_files import read_object, save_weights
from training.towers.modules import read_encoder_config
from training.towers.packaged import encoder_source
from training.towers.plan import TowerPlan
from training.towers.weights import files_identity

logger = logging.getLogger(__name__)

_CONFIGS = (ENCODER_CONFIG_FILE, OPEN_CLIP_CONFIG_FILE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """A model to learn from.

    Args:
        encoder: encodes sentences into the space of its image tower; it has the open_clip model.
        model_config: the parts of its model config that describe the image tower and the space.
    """

    encoder: Encoder
    model_config: Mapping[str, Any]

    @property
    def module(self) -> Any:
        """Return the open_clip model."""
        return self.encoder.module


def teacher_identity(name: str) -> Any:
    """Return what identifies a teacher in a run's key: sha256 of its files, or its name.

    Raises:
        SettingsError: no teacher is named, or there is none of that name.
        InputError: the folder contains no model.
    """
    import open_clip

    if not name:
        raise SettingsError(
            "distil.teacher is not set: name a dataset with a model, a model folder, or a model of open_clip"
        )
    if Path(name).is_dir():
        if not (Path(name) / OPEN_CLIP_CONFIG_FILE).is_file():
            raise InputError(
                f"distil.teacher: {name} is not a model folder, because {OPEN_CLIP_CONFIG_FILE} is missing. A model in "
                "transformers' format has to be named by open_clip's name, or converted to open_clip's layout"
            )
        return files_identity(Path(name), (OPEN_CLIP_CONFIG_FILE,))
    if name.count("/") != 1 or not open_clip.get_pretrained_cfg(*name.split("/")):
        raise SettingsError(
            f"distil.teacher: {name} is no dataset with a model in this root, no model folder, no text encoder on this "
            "machine (vernaclip towers), and no MODEL/PRETRAINED of open_clip, such as ViT-B-32/openai. `vernaclip "
            "align` or `train` makes a model of a dataset"
        )
    return name


def is_encoder(name: str) -> bool:
    """Return whether a teacher is a text encoder alone: a packaged one, a folder, or a name in the cache of the hub."""
    from huggingface_hub import try_to_load_from_cache

    folder = Path(encoder_source(name))
    if name and folder.is_dir():
        return (folder / ENCODER_CONFIG_FILE).is_file() and not (folder / OPEN_CLIP_CONFIG_FILE).is_file()
    try:
        there = [isinstance(try_to_load_from_cache(name, file), str) for file in _CONFIGS]
    except ValueError:  # no name of a hub
        return False
    return there == [True, False]


def joined_towers(encoder: str, towers: TrainConfig) -> TrainConfig:
    """Return settings of an image tower, with a text encoder whose features keep their size."""
    size = read_encoder_config(encoder_source(encoder)).hidden_size
    return replace(towers, text_encoder=encoder, embed_dim=size)


def join_teacher(encoder: str, towers: TrainConfig, models: Path) -> Path:
    """Write a model of two towers that do not know each other, from which a student can learn the text encoder.

    The projection of texts is the identity. The student and the image tower have to be aligned.

    Args:
        encoder: the text encoder.
        towers: settings with the image tower.
        models: folder in which the model's folder is written.
    """
    import torch

    towers = joined_towers(encoder, towers)
    plan = TowerPlan.of(towers)
    key = digest([*plan.key().values()])
    folder = models / f"{Path(encoder).name}-{key[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    claim_folder(folder, key, {"model": Path(encoder).name}, plan.borrowed(), plan.learned())
    if not (folder / WEIGHTS_FILE).is_file():
        with deterministic_torch(seed=0, num_threads=towers.num_threads, device=torch.device("cpu")):
            module = plan.build(folder).module
            with torch.no_grad():
                module.text.proj.weight.copy_(torch.eye(towers.embed_dim))
            save_weights(module, folder / WEIGHTS_FILE)
    return folder


def borrowed_image_tower(config: DistilConfig) -> list[dict[str, str]]:
    """Return the weights of other people in the teacher's image tower: `tower`, `weights` and `license`.

    A model of ours states them. For others, the settings state the license; a warning asks for it.
    """
    name = Path(config.teacher).name if Path(config.teacher).is_dir() else config.teacher
    earlier, own = read_lineage(Path(config.teacher)).borrowed_of({"image": config.teacher_license}, name)
    if any(not one["license"] for one in own):
        logger.warning(
            "the license of the teacher (%s) is not stated: set distil.teacher_license, which the model card and "
            "exports need",
            config.teacher,
        )
    return [*earlier, *own]


def open_teacher(name: str) -> Teacher:
    """Open a teacher.

    Raises:
        SettingsError: open_clip has no such model.
        InputError: it is incomplete, or cannot be fetched.
        DamagedError: a file of its folder is damaged.
    """
    import open_clip

    folder = Path(name)
    encoder = open_encoder(name)
    if folder.is_dir():
        stated = read_object(folder / OPEN_CLIP_CONFIG_FILE)
        found, preprocessing = deepcopy(dict(stated["model_cfg"])), dict(stated.get("preprocess_cfg", {}))
    else:
        architecture, _, tag = name.partition("/")
        found = deepcopy(open_clip.get_model_config(architecture) or {})
        # The activation is that with which the weights were trained, whatever the architecture says.
        found["quick_gelu"] = bool(open_clip.get_pretrained_cfg(architecture, tag).get("quick_gelu"))
        preprocessing = dict(encoder.module.visual.preprocess_cfg)
    names = ("mean", "std", "interpolation", "resize_mode")
    kept = {key: list(value) if isinstance(value, tuple) else value for key, value in preprocessing.items()}
    model_config = {
        key: found[key] for key in ("embed_dim", "vision_cfg", "quick_gelu", "init_logit_bias") if key in found
    }
    model_config["preprocess_cfg"] = {key: kept[key] for key in names if key in kept}
    return Teacher(encoder=encoder, model_config=model_config)
