"""Export a model in open_clip's hub layout, for `open_clip.create_model_and_transforms`.

open_clip looks for the config of a Hugging Face text encoder in `hf_model_name`: a folder or a hub name, but not one
relative to its own config. An export for the hub names its repository. A local one names `HERE`, and whoever opens it
puts the folder in its place, so it may be moved.
"""

import shutil
from functools import partial
from pathlib import Path
from string import Template
from typing import Any

import open_clip
import timm
import torch

from data_catalog.disk.files import read_json, write_atomically, write_json
from training.exports.hugging_face import prefix_setting
from training.exports.trained_folder import (
    TEXTS,
    ModelWriter,
    Probe,
    TrainedFolder,
    quiet_libraries,
    require_same_scores,
)
from training.towers.model import (
    ENCODER_CONFIG_FILE,
    HUB_WEIGHTS_FILE,
    OPEN_CLIP_CONFIG_FILE,
    WEIGHTS_FILE,
)
from training.towers.model_files import rename_encoders
from training.towers.modules import KNOWN_TYPES, MAX_POOLER, open_clip_has
from training.towers.tokenizer import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE

_LOADING = Template("""```python
import open_clip
from PIL import Image, ImageOps

${text}model, _, preprocess = open_clip.create_model_and_transforms("$name"$argument)
tokenizer = open_clip.get_tokenizer("$name")
picture = ImageOps.exif_transpose(Image.open("picture.jpg")).convert("RGB")  # upright, as EXIF says
images = model.eval().encode_image(preprocess(picture)[None], normalize=True)
texts = model.encode_text(tokenizer(["..."]), normalize=True)
print(images @ texts.T)
```""")
_TEXT = 'text = {**open_clip.get_model_config("local-dir:FOLDER")["text_cfg"], "hf_model_name": "FOLDER"}\n'
_WHY_TEXT = """`text_cfg` tells open_clip where the text encoder's `config.json` is: it does not look beside its config.
For the hub, export with `--hub-name`: the config then contains the name of its hub repository."""


def why_not_open_clip(model_config: dict[str, Any], encoder: Any) -> str | None:
    """Return why open_clip cannot open a model, or None if it can.

    Args:
        model_config: the open_clip model config.
        encoder: config of a Hugging Face text encoder, or None.
    """
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
    return f"its text encoder is of the type {encoder.model_type}, and open_clip knows only {', '.join(KNOWN_TYPES)}"


def write_open_clip(trained: TrainedFolder, folder: Path, hub_name: str | None) -> None:
    """Write weights, config and tokenizer, and the text encoder's config if there is one.

    Args:
        trained: the trained model.
        folder: temporary folder of the files.
        hub_name: name on the Hugging Face hub, such as "somebody/clip-it". None for a local export.
    """
    for name, source in ((HUB_WEIGHTS_FILE, WEIGHTS_FILE), (TOKENIZER_FILE, TOKENIZER_FILE)):
        write_atomically(folder / name, partial(shutil.copyfile, trained.folder / source))
    tokenizer_config = read_json(trained.folder / TOKENIZER_CONFIG_FILE)
    write_json(folder / TOKENIZER_CONFIG_FILE, {**prefix_setting(folder / TOKENIZER_FILE), **tokenizer_config})
    model_config = rename_encoders(trained.model_config, hub_name)
    if trained.has_encoder:
        encoder = read_json(trained.folder / ENCODER_CONFIG_FILE)
        encoder.pop("_name_or_path", None)
        write_json(folder / ENCODER_CONFIG_FILE, encoder)
    preprocessing = trained.loaded.preprocessing.to_json()
    write_json(folder / OPEN_CLIP_CONFIG_FILE, {"model_cfg": model_config, "preprocess_cfg": preprocessing})


def check_open_clip(trained: TrainedFolder, probe: Probe, folder: Path) -> float:
    """Load the folder with open_clip, compare it with the model, and return the largest difference.

    Raises:
        DefectError: its scores differ.
    """
    text = read_json(folder / OPEN_CLIP_CONFIG_FILE)["model_cfg"]["text_cfg"]
    if trained.has_encoder:
        text["hf_model_name"] = str(folder)
    with quiet_libraries(), torch.no_grad():
        model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}", text_cfg=text)
        tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        model.eval()
        images = model.encode_image(probe.pixels, normalize=True).numpy()
        texts = model.encode_text(tokenizer(list(TEXTS)), normalize=True).numpy()
    return require_same_scores(probe, images, texts, "the export to open_clip")


def how_to_read_open_clip(trained: TrainedFolder, hub_name: str | None) -> str:
    """Return Markdown that explains how to load the folder."""
    if hub_name or not trained.has_encoder:
        return _LOADING.substitute(name=f"hf-hub:{hub_name}" if hub_name else "local-dir:FOLDER", text="", argument="")
    loading = _LOADING.substitute(name="local-dir:FOLDER", text=_TEXT, argument=", text_cfg=text")
    return f"{loading}\n\n{_WHY_TEXT}"


WRITER = ModelWriter(
    write=write_open_clip, check=check_open_clip, how_to_read=how_to_read_open_clip, why_not=why_not_open_clip
)
