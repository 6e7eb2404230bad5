"""Read model configs: open_clip's by name, JSON files, and model folders of ours. Parts left out are filled in."""

import json
import logging
from copy import deepcopy
from importlib.resources import files
from pathlib import Path
from typing import Any

from data_catalog.base.boundary import about
from data_catalog.base.errors import SettingsError
from data_catalog.disk.files import read_json
from training.towers.model import OPEN_CLIP_CONFIG_FILE
from training.towers.model_files import read_config

logger = logging.getLogger(__name__)

CONFIGS = Path(str(files("training.towers") / "model_configs"))
CONTEXT_LENGTH = 77  # CLIP's
_OWN_TOKENIZER = "tokenizer"  # trained on the captions


def is_folder(model: str) -> bool:
    """Return whether a model config is that of a model folder."""
    return (Path(model) / OPEN_CLIP_CONFIG_FILE).is_file()


def read_model_config(model: str) -> dict[str, Any]:
    """Return a complete model config of ours or of open_clip by its name, or from a JSON file or a model folder."""
    from open_clip import get_model_config, list_models

    path = Path(model) if model.endswith(".json") else CONFIGS / f"{model}.json"
    with about(f"{model} cannot be opened", remedy="correct it, or name another model config"):
        if is_folder(model):
            stated = read_config(Path(model) / OPEN_CLIP_CONFIG_FILE)
            return _complete({**stated["model_cfg"], "preprocess_cfg": stated.get("preprocess_cfg", {})}, model)
        if path.is_file():
            return _complete(read_json(path), model)
        if model in list_models():
            return _complete(deepcopy(get_model_config(model) or {}), model)
    known = ", ".join(sorted(path.stem for path in CONFIGS.glob("*.json")))
    raise SettingsError(
        f"there is no model config {model!r}: name one of {known}, one of open_clip "
        "(https://github.com/mlfoundations/open_clip/tree/main/src/open_clip/model_configs), a JSON file or "
        "a model folder"
    )


def _complete(config: dict[str, Any], model: str) -> dict[str, Any]:
    """Return a config with the parts that it leaves out, and with whole paths."""
    for stated in (config.get("image_weights", {}), *config.get("recorded_features", {}).values()):
        if "file" in stated:
            stated["file"] = str(Path(model).parent / stated["file"])
    vision, text = config["vision_cfg"], config["text_cfg"]
    if vision.get("timm_model_pretrained") and not is_folder(model):  # the tower would start from random weights
        raise ValueError(
            'vision_cfg.timm_model_pretrained must be false: for weights of timm, set image_weights to {"timm": NAME}'
        )
    is_causal = not {"no_causal_mask", "embed_cls"} & text.keys() and text.get("pool_type", "argmax") == "argmax"
    if "hf_model_name" not in text and not is_causal:  # our tokenizer's start and end are not where others pool
        raise ValueError("use a Hugging Face text tower, or a causal one with pool_type argmax (no embed_cls)")
    defaults = {"context_length": CONTEXT_LENGTH, "hf_tokenizer_name": text.get("hf_model_name", _OWN_TOKENIZER)}
    filled = {name: value for name, value in defaults.items() if name not in text}
    if config.get("custom_text") is not True:
        filled["custom_text"] = True
    if filled:
        listed = ", ".join(f"{name} = {json.dumps(value)}" for name, value in filled.items())
        logger.info("%s: filled in %s", model, listed)
    return {**config, "custom_text": True, "text_cfg": {**defaults, **text}, "vision_cfg": dict(vision)}
