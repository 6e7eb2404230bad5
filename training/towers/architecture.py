"""Decide a run's architecture: an open_clip model config by name or from a JSON file, with the towers of the settings.

Parts that a config leaves out are filled in and logged. A model folder of ours gives its architecture and all its
weights. Beside open_clip's parts, a config may have `image_weights`
(initial weights of the image tower), `preprocess_cfg` (open_clip's image preprocessing) and `recorded_features`
(features that the towers must return, see `training.towers.pretrained`).
"""

import json
import logging
from collections.abc import Mapping
from copy import deepcopy
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from data_catalog.base.errors import InputError, SettingsError
from data_catalog.disk.files import read_json
from training.config import TrainConfig
from training.towers.model import CONFIGS, HUB_WEIGHTS_FILE, OPEN_CLIP_CONFIG_FILE, WEIGHTS_FILE
from training.towers.model_files import JOINED, joined_configs, read_object, read_open_clip_config, require_file
from training.towers.packaged import (
    PACKAGED,
    PackagedTower,
    encoder_source,
    packaged_image_tower,
    recorded_feature,
)
from training.towers.preprocessing import Preprocessing, preprocessing_of

logger = logging.getLogger(__name__)

RANDOM = "random"
FROZEN_DROPOUT = 0.3  # of the features of a frozen image tower, as `align.dropout`
_TOWER_SETTINGS = (
    *("image_tower", "image_weights", "image_size", "image_mean", "image_std", "image_resize"),
    *("text_encoder", "text_pooler", "embed_dim", "context_length"),
)
_CONTEXT_LENGTH = 77  # CLIP's
_OWN_TOKENIZER = "tokenizer"  # trained on the captions


def model_config_of(config: TrainConfig) -> dict[str, Any]:
    """Return the open_clip model config that the settings describe.

    Raises:
        SettingsError: there is no such model config or backbone, or a setting does not fit it.
        InputError: the JSON file is not a valid model config.
    """
    found = read_model_config(config.model)
    vision, text = found["vision_cfg"], found["text_cfg"]
    others = [name for name in _TOWER_SETTINGS if getattr(config, name)]
    if "start_folder" in found and others:
        raise SettingsError(
            f"train.{others[0]} is set, but train.model is a model folder, which states the architecture: unset it"
        )
    if "start_folder" in found and config.loss == "siglip" and "init_logit_bias" not in found:
        raise SettingsError(
            f"train.loss is siglip, which needs a bias that the model {config.model} does not have: set train.loss to "
            "clip, or start from a model that was trained with siglip"
        )
    if config.loss == "clip":  # which does not train it, and a model with a bias is one for sigmoids
        found.pop("init_logit_bias", None)
    recorded = dict(found.get("recorded_features", {}))
    preprocessing: dict[str, Any] = dict(found.get("preprocess_cfg", {}))
    if config.embed_dim:
        found["embed_dim"] = config.embed_dim
    if config.image_tower:
        recorded.pop("image", None)
        found.pop("quick_gelu", None)
        if packaged := packaged_image_tower(config.image_tower):
            vision, preprocessing = _packaged_tower(packaged)
            found["image_weights"] = {"packaged": config.image_tower, "sha256": packaged.sha256}
            if not config.image_weights:
                recorded["image"] = recorded_feature(packaged)
        else:
            vision, preprocessing = _timm_tower(config.image_tower)
            found["image_weights"] = {"timm": config.image_tower}
    if config.image_weights == RANDOM:
        found.pop("image_weights", None)
    if config.freeze_image and "timm_model_name" in vision:
        vision["timm_drop"] = FROZEN_DROPOUT
    if config.image_size:
        vision["image_size"] = config.image_size
    if config.text_encoder:
        if "hf_model_name" not in text:
            text = {"hf_proj_type": "linear", "hf_pooler_type": "mean_pooler", "context_length": _CONTEXT_LENGTH}
        source = encoder_source(config.text_encoder)
        text |= {"hf_model_name": source, "hf_tokenizer_name": source}
        recorded.pop("text", None)
        if source != config.text_encoder and config.text_pooler in ("", text["hf_pooler_type"]):
            recorded["text"] = recorded_feature(PACKAGED[config.text_encoder])
    if config.text_pooler:
        if "hf_model_name" not in text:
            raise SettingsError(
                f"train.text_pooler is set, but the model {config.model} has no Hugging Face text tower: leave it empty"
            )
        text["hf_pooler_type"] = config.text_pooler
    if config.context_length:
        text["context_length"] = config.context_length
    for name, value in (("mean", config.image_mean), ("std", config.image_std), ("resize_mode", config.image_resize)):
        if value:
            preprocessing[name] = list(value) if isinstance(value, tuple) else value
    found |= {"vision_cfg": vision, "text_cfg": text}
    if preprocessing:
        found["preprocess_cfg"] = preprocessing
    found.pop("recorded_features", None)
    if recorded:
        found["recorded_features"] = recorded
    preprocessing_of(found)  # raises for invalid values
    return found


def has_image_weights(model_config: Mapping[str, Any], config: TrainConfig) -> bool:
    """Return whether the image tower starts from given weights, not from random ones."""
    if config.image_weights == RANDOM:
        return False
    return bool(config.image_weights or {"image_weights", "start_folder"} & model_config.keys())


def weights_path(model_config: Mapping[str, Any], config: TrainConfig) -> str:
    """Return the file or folder with the initial weights of the image tower; "" if they are random or have a name."""
    if config.image_weights:
        return "" if config.image_weights == RANDOM else config.image_weights
    return str(model_config.get("image_weights", {}).get("file", ""))


def keyed_config(model_config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model config for the key of a run: without local paths, whose content is hashed instead."""
    found = deepcopy(dict(model_config))
    is_folder = found.pop("start_folder", None) is not None
    found.pop("start_weights", None)
    text = found["text_cfg"]
    for name in ("hf_model_name", "hf_tokenizer_name"):
        if name in text and (is_folder or Path(text[name]).is_dir()):
            del text[name]
    for side in found.get("recorded_features", {}).values():
        if isinstance(side, dict):
            side.pop("file", None)
    for name in JOINED.keys() & found.keys():
        nothing = {"text_cfg": {}, **({"start_folder": ""} if is_folder else {})}
        found[name] = [keyed_config({**nothing, **each}) for each in found[name]]
    found.pop("license", None)
    if "file" in found.get("image_weights", {}):
        del found["image_weights"]
    return found


def read_model_config(model: str) -> dict[str, Any]:
    """Return a complete model config of ours or of open_clip by its name, such as "compact", or from a JSON file.

    Raises:
        SettingsError: there is no model config of that name.
        InputError: the file is not a valid model config.
    """
    return _complete(_read(model), model)


def _read(model: str) -> dict[str, Any]:
    from open_clip.factory import get_model_config, list_models

    if (Path(model) / OPEN_CLIP_CONFIG_FILE).is_file():
        return _read_folder(Path(model))
    path = Path(model) if model.endswith(".json") else CONFIGS / f"{model}.json"
    if not path.is_file():
        if model in list_models():
            return deepcopy(get_model_config(model) or {})
        known = ", ".join(sorted(path.stem for path in CONFIGS.glob("*.json")))
        raise SettingsError(
            f"there is no model config {model!r}: name one of {known}, one of open_clip "
            "(https://github.com/mlfoundations/open_clip/tree/main/src/open_clip/model_configs), a JSON file or "
            "a model folder"
        )
    try:
        config = read_json(path)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    found = config if isinstance(config, dict) else {}
    _find_files(found, path.parent)
    return found


def _find_files(stated: Any, folder: Path) -> None:
    """Make the paths of a config absolute: those of recorded pictures, and of weights of further towers."""
    if isinstance(stated, dict) and isinstance(stated.get("file"), str):
        stated["file"] = str(folder / stated["file"])
    for value in stated.values() if isinstance(stated, dict) else stated if isinstance(stated, list) else ():
        _find_files(value, folder)


def _read_folder(folder: Path) -> dict[str, Any]:
    """Return the model config of a model folder, whose weights, all of them, the run starts from."""
    found = read_open_clip_config(folder / OPEN_CLIP_CONFIG_FILE)
    found["preprocess_cfg"] = read_object(folder / OPEN_CLIP_CONFIG_FILE).get("preprocess_cfg", {})
    found["start_folder"] = str(folder)
    weights = folder / WEIGHTS_FILE
    if not weights.exists() and (folder / HUB_WEIGHTS_FILE).exists():
        weights = folder / HUB_WEIGHTS_FILE
    require_file(weights)
    found["start_weights"] = str(weights)
    return found


def _complete(config: dict[str, Any], model: str) -> dict[str, Any]:
    """Return a config with the parts that it leaves out.

    Raises:
        InputError: it lacks a tower, or has one that cannot be trained here.
    """
    missing = sorted({"embed_dim", "vision_cfg", "text_cfg"} - config.keys())
    if missing:
        raise InputError(f"{model} is not an open_clip model config: {', '.join(missing)} is missing")
    for name in ("preprocess_cfg", "recorded_features", "image_weights"):
        if not isinstance(config.get(name, {}), dict):
            raise InputError(f"{model}: {name} must be an object")
    named = config.get("image_weights", {"timm": ""}).keys()
    if not {"timm", "file"} & named and not {"model", "pretrained"} <= named:
        raise InputError(f"{model}: image_weights must have model and pretrained of open_clip, or timm, or file")
    vision, text = config["vision_cfg"], config["text_cfg"]
    if not isinstance(vision, dict) or not isinstance(text, dict):
        raise InputError(f"{model} is not an open_clip model config: vision_cfg and text_cfg must be objects")
    if vision.get("timm_model_pretrained") and "start_folder" not in config:
        raise InputError(
            f"{model}: vision_cfg.timm_model_pretrained must be false: for weights of timm, set image_weights to "
            '{"timm": NAME}'
        )
    size = vision.get("image_size")
    if type(size) is not int or size < 1:
        raise InputError(f"{model}: vision_cfg.image_size must be one number of pixels, got {size!r}")
    if "hf_model_name" in text:
        defaults = {"context_length": _CONTEXT_LENGTH, "hf_tokenizer_name": text["hf_model_name"]}
    else:
        defaults = {"context_length": _CONTEXT_LENGTH, "hf_tokenizer_name": _OWN_TOKENIZER}
        is_causal = not {"no_causal_mask", "embed_cls"} & text.keys() and text.get("pool_type", "argmax") == "argmax"
        if not is_causal:
            raise InputError(
                f"{model}: use a Hugging Face text tower, or a causal one with pool_type argmax (no embed_cls)"
            )
    filled = {name: value for name, value in defaults.items() if name not in text}
    if config.get("custom_text") is not True:
        filled["custom_text"] = True
    if filled:
        listed = ", ".join(f"{name} = {json.dumps(value)}" for name, value in filled.items())
        logger.info("%s: filled in %s", model, listed)
    complete = {**config, "custom_text": True, "text_cfg": {**defaults, **text}, "vision_cfg": dict(vision)}
    try:
        further = joined_configs(config)
    except ValueError as error:
        raise InputError(f"{model}: {error}") from error
    finished = (_complete(each, f"{model}, {name}") for _, name, each in further)
    for name, (_, part, _) in JOINED.items():
        if name in config:
            complete[name] = [{**each, part: next(finished)[part]} for each in config[name]]
    return complete


def _timm_tower(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return `vision_cfg` and `preprocess_cfg` of a timm backbone with a linear projection.

    Raises:
        SettingsError: timm has no backbone of that name.
    """
    import timm

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = timm.list_models(f"*{architecture}*")[:3] or get_close_matches(architecture, timm.list_models(), n=3)
        meant = f": did you mean {', '.join(near)}?" if near else ""
        raise SettingsError(f"train.image_tower: timm has no backbone {architecture!r}{meant}")
    known = timm.get_pretrained_cfg(name) if name in timm.list_pretrained(architecture) or not tag else None
    if known is None:
        tags = ", ".join(timm.list_pretrained(architecture))
        raise SettingsError(f"train.image_tower: timm has no weights {name!r}: name one of {tags or architecture}")
    sizes: Mapping[str, Any] = known.to_dict()
    _, height, width = sizes["input_size"]
    interpolation = str(sizes.get("interpolation"))
    if interpolation not in ("bicubic", "bilinear"):
        logger.warning("%s: images are resized by bicubic interpolation, as %s is not supported", name, interpolation)
        interpolation = "bicubic"
    mean, std = tuple(sizes["mean"]), tuple(sizes["std"])
    return _vision_of(name, Preprocessing(size=min(height, width), mean=mean, std=std, interpolation=interpolation))


def _packaged_tower(tower: PackagedTower) -> tuple[dict[str, Any], dict[str, Any]]:
    mean, std = (tower.mean,) * 3, (tower.std,) * 3
    return _vision_of(tower.architecture, Preprocessing(size=tower.size, mean=mean, std=std))


def _vision_of(name: str, preprocessing: Preprocessing) -> tuple[dict[str, Any], dict[str, Any]]:
    vision = {
        "image_size": preprocessing.size,
        "timm_model_name": name,
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
    }
    how = preprocessing.to_json()
    del how["size"]
    return vision, how
