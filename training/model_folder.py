"""A model that somebody names by its folder, opened only if its images are to be prepared as ours are."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_catalog.errors import ConfigError
from data_catalog.shards import read_json
from training.model import OPEN_CLIP_CONFIG_FILE, PREPROCESSING, LoadedModel, load_model
from training.threads import let_threads_sleep


def open_model(model: LoadedModel | Path) -> LoadedModel:
    """A loaded model as it is, or the one of a folder in open_clip's hub layout with weights in safetensors.

    Raises:
        ConfigError: the folder holds no such model, or its images are prepared in another way.
    """
    if isinstance(model, LoadedModel):
        return model
    let_threads_sleep()
    _check_config(model)
    try:
        return load_model(model)
    except (OSError, ValueError, LookupError) as error:  # of its tokenizer, which transformers reads
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"the model {model} cannot be opened: {told}") from error


def _check_config(folder: Path) -> None:
    path = folder / OPEN_CLIP_CONFIG_FILE
    if not path.is_file():
        raise ConfigError(f"{folder} holds no model: there is no {OPEN_CLIP_CONFIG_FILE} in it")
    try:
        config = read_json(path)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    preparing = config.get("preprocess_cfg") if isinstance(config, dict) else None
    if not isinstance(preparing, dict) or not _is_complete(config.get("model_cfg")):
        raise ConfigError(f"{path} is no open_clip config of a model: model_cfg or preprocess_cfg is not whole")
    other = [name for name, value in PREPROCESSING.items() if preparing.get(name) != value]
    if other:
        raise ConfigError(
            f"{path} says that images are prepared in another way than here ({', '.join(other)}): its features would "
            "mean nothing"
        )


def _is_complete(model_config: Any) -> bool:
    if not isinstance(model_config, dict):
        return False
    text, vision = model_config.get("text_cfg"), model_config.get("vision_cfg")
    return isinstance(text, dict) and isinstance(vision, dict) and "context_length" in text and "image_size" in vision


def require_texts(texts: Sequence[str]) -> None:
    """Refuse texts that say nothing.

    Raises:
        ConfigError: one is empty, or is no text that can be encoded.
    """
    for text in texts:
        if not text.strip():
            raise ConfigError("a text is empty: say what to look for")
        if not text.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise ConfigError("a text is not valid Unicode: give it in the terminal's encoding")
