"""Open a teacher: a model of ours or open_clip's, whose text tower is learned and whose image tower is taken over."""

import logging
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_catalog.base.errors import SettingsError
from data_catalog.disk.files import digest
from training.config import DistilConfig, TrainConfig
from training.data.features import Encoder
from training.runs.attempts import WEIGHTS_FILE, claim
from training.runs.processes import deterministic_torch
from training.scores.encoders import open_encoder
from training.towers.lineage import read_lineage
from training.towers.model import ENCODER_CONFIG_FILE, OPEN_CLIP_CONFIG_FILE, read_object, save_weights
from training.towers.modules import read_encoder_config
from training.towers.packaged import encoder_source
from training.towers.plan import TowerPlan
from training.towers.weights import files_identity

logger = logging.getLogger(__name__)


def teacher_identity(name: str) -> Any:
    """Return what identifies a teacher in a run's key: sha256 of its files, or its name."""
    import open_clip

    if name and (Path(name) / OPEN_CLIP_CONFIG_FILE).is_file():
        return files_identity(Path(name), (OPEN_CLIP_CONFIG_FILE,))
    if name.count("/") == 1 and open_clip.get_pretrained_cfg(*name.split("/")):
        return name
    raise SettingsError(
        f"distil.teacher is {name or 'not set'}: it must name a dataset with a model in this root, a folder with an "
        "open_clip model, a text encoder on this machine (vernaclip towers), or a MODEL/PRETRAINED of open_clip, such "
        "as ViT-B-32/openai. `vernaclip align` or `train` makes a model of a dataset"
    )


def is_encoder(name: str) -> bool:
    """Return whether a teacher is a text encoder alone: a packaged one, a folder, or a name in the cache of the hub."""
    from huggingface_hub import try_to_load_from_cache

    folder = Path(encoder_source(name))

    def has(file: str) -> bool:
        if name and folder.is_dir():
            return (folder / file).is_file()
        try:
            return isinstance(try_to_load_from_cache(name, file), str)
        except ValueError:  # no name of a hub
            return False

    return has(ENCODER_CONFIG_FILE) and not has(OPEN_CLIP_CONFIG_FILE)


def joined_towers(encoder: str, towers: TrainConfig) -> TrainConfig:
    """Return settings of an image tower, with a text encoder whose features keep their size."""
    size = read_encoder_config(encoder_source(encoder)).hidden_size
    return replace(towers, text_encoder=encoder, embed_dim=size)


def join_teacher(encoder: str, towers: TrainConfig, models: Path) -> Path:
    """Write a model of two towers that do not know each other, from which a student can learn the text encoder.

    Its folder is below `models`. The projection of texts is the identity, so the student has to be aligned.
    """
    import torch

    towers = joined_towers(encoder, towers)
    plan = TowerPlan.of(towers)
    made_of = plan.key()
    key = digest([made_of["model"], made_of["weights"]])
    folder = models / f"{Path(encoder).name}-{key[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    claim(folder, key, {"model": Path(encoder).name}, plan.borrowed(), plan.learned())
    if not (folder / WEIGHTS_FILE).is_file():
        with deterministic_torch(seed=0, num_threads=towers.num_threads, device=torch.device("cpu")), torch.no_grad():
            module = plan.build(folder).module
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


def open_teacher(name: str) -> tuple[Encoder, dict[str, Any]]:
    """Return a teacher, which has the open_clip model, and the parts of its model config that the student takes over.

    These describe the image tower and the common space.
    """
    import open_clip

    folder, encoder = Path(name), open_encoder(name)
    if folder.is_dir():
        stated = read_object(folder / OPEN_CLIP_CONFIG_FILE)
        found, preprocessing = deepcopy(dict(stated["model_cfg"])), dict(stated.get("preprocess_cfg", {}))
    else:
        architecture, _, tag = name.partition("/")
        found, preprocessing = deepcopy(open_clip.get_model_config(architecture)), encoder.module.visual.preprocess_cfg
        # The activation is that with which the weights were trained, whatever the architecture says.
        found["quick_gelu"] = bool(open_clip.get_pretrained_cfg(architecture, tag).get("quick_gelu"))
    parts = ("embed_dim", "vision_cfg", "quick_gelu", "init_logit_bias")
    model_config = {part: found[part] for part in parts if part in found}
    model_config["preprocess_cfg"] = {
        part: list(preprocessing[part]) if part in ("mean", "std") else preprocessing[part]
        for part in ("mean", "std", "interpolation", "resize_mode")
        if part in preprocessing
    }
    return encoder, model_config
