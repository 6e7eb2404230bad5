"""Export a model to open_clip's hub layout.

open_clip looks for the config of a Hugging Face text encoder in `hf_model_name`: a folder or a hub name, but not one
relative to its own config. An export for the hub names its repository. A local one names `HERE`, which whoever opens
the folder replaces by its path, so the folder may be moved.
"""

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
from open_clip.hf_configs import arch_dict

from data_catalog.disk.files import read_json, write_atomically, write_json
from training.exports.hugging_face import prefix_setting
from training.exports.trained_folder import TEXTS, Encoded, TrainedFolder
from training.towers.model import (
    ENCODER_CONFIG_FILE,
    HUB_WEIGHTS_FILE,
    OPEN_CLIP_CONFIG_FILE,
    WEIGHTS_FILE,
    rename_encoders,
)
from training.towers.modules import MAX_POOLER, open_clip_has
from training.towers.tokenizer import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE


def why_not(model_config: Mapping[str, Any], encoder: Any) -> str | None:
    """Return why open_clip cannot open a model, or None if it can."""
    if (name := model_config["vision_cfg"].get("timm_model_name")) is not None:
        with torch.device("meta"):
            trunk = timm.create_model(name, num_classes=0)
        if getattr(trunk, "head_hidden_size", trunk.num_features) != trunk.num_features:
            return f"its image tower, timm's {name}, has a layer after pooling, whose width open_clip does not know"
    pooler = model_config["text_cfg"].get("hf_pooler_type", "mean_pooler")
    if encoder is None or open_clip_has(encoder.model_type, pooler):
        return None
    if pooler == MAX_POOLER:
        return f"its text tower is pooled by {MAX_POOLER}, which fails in open_clip"
    return f"its text encoder is of the type {encoder.model_type}, and open_clip knows only {', '.join(arch_dict)}"


def write(trained: TrainedFolder, folder: Path, hub_name: str | None) -> None:
    """Write weights, config and tokenizer, and the text encoder's config if there is one."""
    for name, source in ((HUB_WEIGHTS_FILE, WEIGHTS_FILE), (TOKENIZER_FILE, TOKENIZER_FILE)):
        write_atomically(folder / name, partial(shutil.copyfile, trained.folder / source))
    tokenizer_config = read_json(trained.folder / TOKENIZER_CONFIG_FILE)
    write_json(folder / TOKENIZER_CONFIG_FILE, {**prefix_setting(folder / TOKENIZER_FILE), **tokenizer_config})
    if trained.encoder is not None:
        encoder = read_json(trained.folder / ENCODER_CONFIG_FILE)
        encoder.pop("_name_or_path", None)
        write_json(folder / ENCODER_CONFIG_FILE, encoder)
    config = {
        "model_cfg": rename_encoders(trained.model_config, hub_name),
        "preprocess_cfg": trained.loaded.preprocessing.to_json(),
    }
    write_json(folder / OPEN_CLIP_CONFIG_FILE, config)


def encode(folder: Path, pixels: torch.Tensor) -> Encoded:
    """Encode texts and images with open_clip."""
    text = read_json(folder / OPEN_CLIP_CONFIG_FILE)["model_cfg"]["text_cfg"]
    if "hf_model_name" in text:
        text["hf_model_name"] = str(folder)
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}", text_cfg=text)
    ids = open_clip.get_tokenizer(f"local-dir:{folder}")(list(TEXTS))
    images = model.eval().encode_image(pixels, normalize=True)
    return Encoded(ids.tolist(), images.numpy(), model.encode_text(ids, normalize=True).numpy())
