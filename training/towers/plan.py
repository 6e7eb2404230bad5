"""Plan what a model is made of: an architecture in open_clip's terms, and where the weights of its towers come from.

A model config is one of open_clip by name, a JSON file, or that of a model folder of ours; parts left out are filled
in. Beside open_clip's parts, it may have `image_weights` (initial weights of the image tower), `preprocess_cfg`
(open_clip's image preprocessing) and `recorded_features` (features that the towers must return, see
`training.towers.weights`). Settings replace parts of it.
"""

import json
import logging
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from data_catalog.base.boundary import about
from data_catalog.base.errors import DamagedError, SettingsError
from data_catalog.disk.files import read_json, sha256_of, write_bytes
from training.config import TowerConfig
from training.towers.lineage import read_lineage
from training.towers.model import (
    ENCODER_CONFIG_FILE,
    OPEN_CLIP_CONFIG_FILE,
    REMEDY,
    LoadedModel,
    create_model,
    load_weights,
    read_config,
    require_encoding,
    weights_of,
    write_model_config,
)
from training.towers.packaged import PACKAGED, encoder_source, license_of_folder, recorded_feature
from training.towers.preprocessing import Preprocessing, preprocessing_of
from training.towers.tokenizer import (
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    copy_tokenizer,
    load_tokenizer,
    save_tokenizer,
    train_tokenizer,
)
from training.towers.weights import (
    TOKENIZER_FILES,
    hashes,
    image_identity,
    image_license,
    image_name,
    load_image_tower,
    load_text_encoder,
    require_recorded_features,
    save_encoder_config,
    text_identity,
)

logger = logging.getLogger(__name__)

CONFIGS = Path(str(files("training.towers") / "model_configs"))
CONTEXT_LENGTH = 77  # CLIP's
RANDOM: Final = "random"
TEXT_FILES = (ENCODER_CONFIG_FILE, TOKENIZER_FILE, TOKENIZER_CONFIG_FILE)  # of the text tower in a model folder
_OWN_TOKENIZER = "tokenizer"  # trained on the captions
_REPLACING = (  # settings that replace a part of a model config
    *("image_tower", "image_weights", "image_size", "image_mean", "image_std", "image_resize"),
    *("text_encoder", "text_pooler", "embed_dim", "context_length"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerPlan:
    """The parts of a model, and where their weights come from."""

    towers: TowerConfig
    config: Mapping[str, Any]  # the whole model config, with our own parts
    image: Mapping[str, str]  # initial weights of the image tower, as `image_weights` of it; {} for random ones
    start: Path | None  # a model folder, with all of whose weights the model starts

    @classmethod
    def of(cls, towers: TowerConfig, *, loss: str = "clip", dropout: float = 0.0) -> "TowerPlan":
        """Return the plan that settings describe. The loss "siglip" needs a bias, which "clip" does not train.

        `dropout` is the share of a timm backbone's features that a step drops.
        """
        config = read_model_config(towers.model)
        start = Path(towers.model) if is_folder(towers.model) else None
        if start is not None and (others := [name for name in _REPLACING if getattr(towers, name)]):
            raise SettingsError(
                f"train.{others[0]} is set, but train.model is a model folder, which states the architecture: unset it"
            )
        if start is not None and loss == "siglip" and "init_logit_bias" not in config:
            raise SettingsError(
                f"train.loss is siglip, which needs a bias that the model {towers.model} does not have: set "
                "train.loss to clip, or start from a model that was trained with siglip"
            )
        if loss == "clip":  # a model with a bias is one for sigmoids
            config.pop("init_logit_bias", None)
        if towers.embed_dim:
            config["embed_dim"] = towers.embed_dim
        with about(f"the model config {towers.model} cannot be used", remedy="correct it, or name another"):
            image = _put_image_tower(config, towers)
            _put_text_tower(config, towers)
            if dropout and "timm_model_name" in config["vision_cfg"]:
                config["vision_cfg"]["timm_drop"] = dropout
            how = {"mean": list(towers.image_mean), "std": list(towers.image_std), "resize_mode": towers.image_resize}
            stated = {name: value for name, value in how.items() if value}
            config["preprocess_cfg"] = {**config.get("preprocess_cfg", {}), **stated}
            for name in ("preprocess_cfg", "recorded_features"):
                if not config.get(name):
                    config.pop(name, None)
            preprocessing_of(config)
        return cls(towers=towers, config=config, image=image, start=start)

    @property
    def name(self) -> str:
        """Return the architecture, as `train.model` names it."""
        return self.towers.model

    @property
    def preprocessing(self) -> Preprocessing:
        """Return how the model's images are prepared."""
        return preprocessing_of(self.config)

    @property
    def has_encoder(self) -> bool:
        """Return whether the text tower is a Hugging Face encoder."""
        return "hf_model_name" in self.config["text_cfg"]

    @property
    def has_image_weights(self) -> bool:
        """Return whether the image tower starts from given weights, not from random ones."""
        return self.start is not None or bool(self.image)

    def projected(self, kind: str) -> "TowerPlan":
        """Return the plan with projections "linear" or "mlp" (with a hidden layer) at the ends of its towers."""
        config = deepcopy(dict(self.config))
        config["text_cfg"]["hf_proj_type"] = kind
        if "timm_model_name" in config["vision_cfg"]:
            config["vision_cfg"]["timm_proj"] = kind
        return replace(self, config=config)

    def key(self) -> dict[str, Any]:
        """Return what identifies the model in a run's key: its config without paths, and its initial weights."""
        config, text = deepcopy(dict(self.config)), self.config["text_cfg"]
        for name in ("hf_model_name", "hf_tokenizer_name"):
            if name in text and (self.start is not None or Path(text[name]).is_dir()):
                del config["text_cfg"][name]
        weights: dict[str, Any] = {}
        if self.start is not None:
            with about(f"{self.start} cannot be opened", kind=DamagedError, remedy=REMEDY):
                weights["model"] = sha256_of(weights_of(self.start))
            weights["files"] = hashes(self.start, (ENCODER_CONFIG_FILE, *TOKENIZER_FILES))
        elif self.has_encoder:
            weights["text"] = text_identity(text["hf_model_name"])
            if text["hf_tokenizer_name"] != text["hf_model_name"]:
                weights["tokenizer"] = text_identity(text["hf_tokenizer_name"])
        if self.image:
            weights["image"] = image_identity(self.image)
        for side, stated in config.get("recorded_features", {}).items():
            file = Path(stated.pop("file", ""))
            if file.is_file():
                weights[f"recorded {side}"] = sha256_of(file)
        config.pop("license", None)
        if "file" in config.get("image_weights", {}):
            del config["image_weights"]
        return {"model": config, "weights": weights}

    def borrowed(self) -> list[dict[str, str]]:
        """Return the initial weights of other people: `tower`, `weights` (a name) and `license`, which may be "".

        timm states a license for each of its weights, and a model of ours those of its own. Others are stated by the
        settings; a warning asks for those that are not.
        """
        earlier: list[dict[str, str]] = []
        own: list[dict[str, str]] = []
        licenses = {"image": self.towers.image_license, "text": self.towers.text_license}
        name, text = image_name(self.image), self.config["text_cfg"].get("hf_model_name", "")
        if self.start is not None:
            earlier, own = read_lineage(self.start).borrowed_of(licenses, self.start.name)
        elif "file" in self.image:
            start = read_lineage(_folder_of(Path(self.image["file"])))
            earlier, own = start.borrowed_of({"image": licenses["image"]}, name)
        elif self.image:
            own = [{"tower": "image", "weights": name, "license": licenses["image"] or image_license(self.image)}]
        if self.start is None and self.has_encoder:
            known = licenses["text"] or license_of_folder(text)
            name = Path(text).name if Path(text).is_dir() else text
            own = [*own, {"tower": "text", "weights": name, "license": known}]
        for weights in own:
            if not weights["license"]:
                logger.warning(
                    "the license of the %s tower's weights (%s) is not stated: set train.%s_license, which the model "
                    "card and exports need",
                    *(weights["tower"], weights["weights"], weights["tower"]),
                )
        return [*earlier, *own]

    def starts(self) -> list[Path]:
        """Return the folders with the weights that the model starts from, as a whole or its image tower alone."""
        if self.start is not None:
            return [self.start]
        files = [Path(self.image["file"])] if "file" in self.image else []
        return [_folder_of(path) for path in files if path.exists()]

    def learned(self) -> list[str]:
        """Return the sha256 of the pair shards that decided the weights in all folders of `starts`."""
        return [shard for folder in self.starts() for shard in read_lineage(folder).learned or ()]

    def distilled(self) -> dict[str, Any]:
        """Return the settings by which the start was distilled, which a run keeps; {} if it was not."""
        settings = read_lineage(self.start).settings if self.start is not None else {}
        return {"distil": settings["distil"]} if "distil" in settings else {}

    def build(self, folder: Path, captions: Iterable[str] = ()) -> LoadedModel:
        """Return the initial model, and write its files except weights into a folder.

        Random weights are drawn from torch's global generator. A tokenizer is trained on the captions, unless the text
        tower is an encoder.
        """
        folder.mkdir(exist_ok=True)
        config = {**self.config, "text_cfg": dict(self.config["text_cfg"])}
        text = config["text_cfg"]
        if self.start is not None:
            for path in (self.start / name for name in TEXT_FILES):
                if path.is_file():
                    write_bytes(folder / path.name, path.read_bytes())
        elif self.has_encoder:
            save_encoder_config(config, folder)
            copy_tokenizer(text["hf_tokenizer_name"], folder)
        else:
            trained = train_tokenizer(captions, vocab_size=self.towers.vocab_size)
            save_tokenizer(trained, folder, context_length=text["context_length"])
            text["vocab_size"] = trained.get_vocab_size()
        tokenizer = load_tokenizer(folder, context_length=text["context_length"])
        write_model_config(folder, config)
        module = create_model(config, folder)
        if self.start is not None:
            without = () if "init_logit_bias" in config else ("logit_bias",)
            load_weights(module, weights_of(self.start), without=without)
        else:
            if self.image:
                load_image_tower(module, self.image)
            if self.has_encoder:
                load_text_encoder(module, config)
            require_recorded_features(module, tokenizer, self.preprocessing, config.get("recorded_features", {}))
        require_encoding(module, tokenizer, image_size=self.preprocessing.size, model=self.name)
        return LoadedModel(module=module, tokenizer=tokenizer, preprocessing=self.preprocessing, sha256="")


def _folder_of(weights: Path) -> Path:
    """Return the folder of a weights file; a folder is its own."""
    return weights if weights.is_dir() else weights.parent


def _put_image_tower(config: dict[str, Any], towers: TowerConfig) -> Mapping[str, str]:
    """Put the image tower of the settings into a model config, and return its initial weights."""
    if name := towers.image_tower:
        config.pop("quick_gelu", None)
        recorded = config.setdefault("recorded_features", {})
        recorded.pop("image", None)
        packaged = PACKAGED.get(name)
        if packaged is not None and packaged.architecture:
            architecture, mean, std = packaged.architecture, (packaged.mean,) * 3, (packaged.std,) * 3
            preprocessing = Preprocessing(size=packaged.size, mean=mean, std=std)
            config["image_weights"] = {"packaged": name, "sha256": packaged.sha256}
            if not towers.image_weights:
                recorded["image"] = recorded_feature(packaged)
        else:
            architecture, preprocessing = name, _timm_preprocessing(name)
            config["image_weights"] = {"timm": name}
        config["vision_cfg"] = {
            "image_size": preprocessing.size,
            "timm_model_name": architecture,
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": "linear",
        }
        config["preprocess_cfg"] = {name: how for name, how in preprocessing.to_json().items() if name != "size"}
    if towers.image_size:
        config["vision_cfg"]["image_size"] = towers.image_size
    if towers.image_weights == RANDOM:
        config.pop("image_weights", None)
    if towers.image_weights not in ("", RANDOM):
        return {"file": towers.image_weights}
    named: dict[str, str] = config.get("image_weights", {})
    if not named:
        return {}
    kinds = (("file",), ("packaged", "sha256"), ("timm",), ("model", "pretrained"))
    return {key: named[key] for key in next((kind for kind in kinds if kind[0] in named), kinds[-1])}


def _put_text_tower(config: dict[str, Any], towers: TowerConfig) -> None:
    """Put the text tower of the settings into a model config."""
    text = config["text_cfg"]
    if towers.text_encoder:
        if "hf_model_name" not in text:
            text = {"hf_proj_type": "linear", "hf_pooler_type": "mean_pooler", "context_length": CONTEXT_LENGTH}
        source = encoder_source(towers.text_encoder)
        text |= {"hf_model_name": source, "hf_tokenizer_name": source}
        recorded = config.setdefault("recorded_features", {})
        recorded.pop("text", None)
        if source != towers.text_encoder and towers.text_pooler in ("", text["hf_pooler_type"]):
            recorded["text"] = recorded_feature(PACKAGED[towers.text_encoder])
    if towers.text_pooler:
        if "hf_model_name" not in text:
            raise SettingsError(
                f"train.text_pooler is set, but the model {towers.model} has no Hugging Face text tower: leave it empty"
            )
        text["hf_pooler_type"] = towers.text_pooler
    if towers.context_length:
        text["context_length"] = towers.context_length
    config["text_cfg"] = text


def _timm_preprocessing(name: str) -> Preprocessing:
    """Return the preprocessing of a timm backbone."""
    import timm

    remedy = "name a backbone of timm, or one of its weights (`timm.list_models()`, `timm.list_pretrained()`)"
    with about(f"train.image_tower {name}", kind=SettingsError, remedy=remedy):
        stated: Mapping[str, Any] = timm.get_pretrained_cfg(name, allow_unregistered=False).to_dict()
    _, height, width = stated["input_size"]
    interpolation = str(stated.get("interpolation"))
    if interpolation not in ("bicubic", "bilinear"):
        logger.warning("%s: images are resized by bicubic interpolation, as %s is not supported", name, interpolation)
        interpolation = "bicubic"
    return Preprocessing(
        size=min(height, width), mean=tuple(stated["mean"]), std=tuple(stated["std"]), interpolation=interpolation
    )


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
