"""A model as open_clip's hub layout: `open_clip.create_model_and_transforms("local-dir:FOLDER")`, or `hf-hub:NAME`.

open_clip looks for the config of a Hugging Face text encoder where `hf_model_name` says, a folder or a name on the
hub, and knows no place relative to its own config. So the export names itself: by the folder where it lies, or by the
name under which it goes to the hub.
"""

import shutil
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch

from data_catalog.storage.shards import read_json, write_atomically, write_json
from training.exports.probe import TEXTS, Probe, quiet_libraries, require_same_scores
from training.exports.processors import prefix_setting
from training.exports.source import TrainedFolder
from training.towers.model import (
    ENCODER_CONFIG_FILE,
    HUB_WEIGHTS_FILE,
    OPEN_CLIP_CONFIG_FILE,
    PREPROCESSING,
    WEIGHTS_FILE,
)
from training.towers.tokenizer import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE


def write_open_clip(trained: TrainedFolder, folder: Path, *, place: Path, hub_name: str | None) -> None:
    """Write weights, config and tokenizer, and the encoder's config where there is one.

    Args:
        place: where the export will lie.
        hub_name: under which it goes to the Hugging Face hub, such as "somebody/clip-it"; None for disk only.
    """
    names = {HUB_WEIGHTS_FILE: WEIGHTS_FILE, TOKENIZER_FILE: TOKENIZER_FILE}
    for name, source in names.items():
        write_atomically(folder / name, partial(shutil.copyfile, trained.folder / source))
    told = read_json(trained.folder / TOKENIZER_CONFIG_FILE)
    write_json(folder / TOKENIZER_CONFIG_FILE, {**prefix_setting(folder / TOKENIZER_FILE), **told})
    if trained.has_encoder:
        encoder = read_json(trained.folder / ENCODER_CONFIG_FILE)
        encoder.pop("_name_or_path", None)  # where it lay
        write_json(folder / ENCODER_CONFIG_FILE, encoder)
    model_config = portable_config(trained.model_config, hub_name or str(place), has_hub_name=hub_name is not None)
    size = trained.loaded.image_size
    write_json(
        folder / OPEN_CLIP_CONFIG_FILE, {"model_cfg": model_config, "preprocess_cfg": {"size": size, **PREPROCESSING}}
    )


def portable_config(model_config: dict[str, Any], name: str, *, has_hub_name: bool) -> dict[str, Any]:
    """The model config without what the machine that trained it called its files."""
    found = deepcopy(model_config)
    text = found["text_cfg"]
    if "hf_model_name" in text:
        text |= {"hf_model_name": name, "hf_model_pretrained": False}
    # From disk the tokenizer is that of the folder, whatever it is called; an empty name would be open_clip's own.
    text["hf_tokenizer_name"] = name if has_hub_name or "hf_model_name" in text else "tokenizer"
    return found


def check_open_clip(probe: Probe, folder: Path) -> float:
    """Read the folder back by open_clip, and compare; returns the largest difference.

    Raises:
        DefectError: it scores otherwise.
    """
    import open_clip

    overrides = {}
    text = read_json(folder / OPEN_CLIP_CONFIG_FILE)["model_cfg"]["text_cfg"]
    if "hf_model_name" in text:
        overrides["text_cfg"] = {**text, "hf_model_name": str(folder)}  # it does not lie in its place yet
    with quiet_libraries(), torch.no_grad():
        model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}", **overrides)
        tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        model.eval()
        images = model.encode_image(probe.pixels, normalize=True).numpy()
        texts = model.encode_text(tokenizer(list(TEXTS)), normalize=True).numpy()
    return require_same_scores(probe, images, texts, "the export to open_clip")
