"""Plan what a model is made of: an architecture in open_clip's terms, and where the weights of its towers come from.

Beside open_clip's parts, a model config may have `image_weights` (initial weights of the image tower), `preprocess_cfg`
(open_clip's image preprocessing) and `recorded_features` (features that the towers must return, see
`training.towers.weights`). Settings replace parts of it.
"""

import logging
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from data_catalog.base.errors import InputError, SettingsError
from data_catalog.disk.files import sha256_of, write_bytes
from training.config import TowerConfig
from training.towers.lineage import read_lineage
from training.towers.model import (
    ENCODER_CONFIG_FILE,
    LoadedModel,
    create_model,
    require_encoding,
    weights_of,
    write_model_config,
)
from training.towers.model_config import CONTEXT_LENGTH, is_folder, read_model_config
from training.towers.model_files import load_weights, translate_errors
from training.towers.packaged import PACKAGED, encoder_source, packaged_image_tower, recorded_feature
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
    Weights,
    hashes,
    load_image_tower,
    load_text_encoder,
    require_recorded_features,
    save_encoder_config,
    text_identity,
)

logger = logging.getLogger(__name__)

RANDOM: Final = "random"
TEXT_FILES = (ENCODER_CONFIG_FILE, TOKENIZER_FILE, TOKENIZER_CONFIG_FILE)  # of the text tower in a model folder
_REPLACING = (  # settings that replace a part of a model config
    *("image_tower", "image_weights", "image_size", "image_mean", "image_std", "image_resize"),
    *("text_encoder", "text_pooler", "embed_dim", "context_length"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerPlan:
    """The parts of a model, and where their weights come from.

    Args:
        name: the architecture, as `train.model` names it.
        config: the whole model config, with our own parts.
        image: initial weights of the image tower.
        text: initial weights of the text tower.
        start: a model folder, with all of whose weights the model starts.
        vocab_size: maximum vocabulary of a tokenizer that is trained.
    """

    name: str
    config: Mapping[str, Any]
    image: Weights
    text: Weights
    start: Path | None
    vocab_size: int

    @classmethod
    def of(cls, towers: TowerConfig, *, loss: str = "clip", dropout: float = 0.0) -> "TowerPlan":
        """Return the plan that settings describe.

        Args:
            towers: the settings.
            loss: loss of the training; "siglip" needs a bias, which "clip" does not train.
            dropout: share of a timm backbone's features that a step drops.
        """
        config = read_model_config(towers.model)
        start = Path(towers.model) if is_folder(towers.model) else None
        if start is not None:
            if others := [name for name in _REPLACING if getattr(towers, name)]:
                raise SettingsError(
                    f"train.{others[0]} is set, but train.model is a model folder, which states the architecture: "
                    "unset it"
                )
            if loss == "siglip" and "init_logit_bias" not in config:
                raise SettingsError(
                    f"train.loss is siglip, which needs a bias that the model {towers.model} does not have: set "
                    "train.loss to clip, or start from a model that was trained with siglip"
                )
        if loss == "clip":  # a model with a bias is one for sigmoids
            config.pop("init_logit_bias", None)
        if towers.embed_dim:
            config["embed_dim"] = towers.embed_dim
        image = _with_image_tower(config, towers)
        if dropout and "timm_model_name" in config["vision_cfg"]:
            config["vision_cfg"]["timm_drop"] = dropout
        text = _with_text_tower(config, towers)
        preprocessing = config.setdefault("preprocess_cfg", {})
        how = {"mean": list(towers.image_mean), "std": list(towers.image_std), "resize_mode": towers.image_resize}
        preprocessing |= {name: value for name, value in how.items() if value}
        for name in ("preprocess_cfg", "recorded_features"):
            if not config.get(name):
                config.pop(name, None)
        plan = cls(name=towers.model, config=config, image=image, text=text, start=start, vocab_size=towers.vocab_size)
        with translate_errors(f"preprocess_cfg of {towers.model}", remedy="correct it", kind=InputError):
            preprocessing_of(config)
        return plan

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
        return self.start is not None or self.image.kind != RANDOM

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
        recorded = config.get("recorded_features", {})
        weights: dict[str, Any] = {}
        if self.start is not None:
            weights["model"] = sha256_of(weights_of(self.start))
            weights["files"] = hashes(self.start, (ENCODER_CONFIG_FILE, *TOKENIZER_FILES))
        else:
            if self.has_encoder:
                weights["text"] = self.text.identity()
                if text["hf_tokenizer_name"] != text["hf_model_name"]:
                    weights["tokenizer"] = text_identity(text["hf_tokenizer_name"])
            if self.image.kind != RANDOM:
                weights["image"] = self.image.identity()
            for side, stated in recorded.items():
                if "file" in stated and Path(stated["file"]).is_file():
                    weights[f"recorded {side}"] = sha256_of(Path(stated["file"]))
        for stated in recorded.values():
            stated.pop("file", None)
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
        if self.start is not None:
            licenses = {"image": self.image.license, "text": self.text.license}
            earlier, own = read_lineage(self.start).borrowed_of(licenses, self.start.name)
        else:
            own = [self.image.borrowed("image")] if self.image.kind != RANDOM else []
            if self.image.kind == "file":
                start = read_lineage(_folder_of(Path(self.image.source)))
                earlier, own = start.borrowed_of({"image": self.image.license}, self.image.name)
            own += [self.text.borrowed("text")] if self.text.kind != RANDOM else []
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
        path = Path(self.image.source)
        return [_folder_of(path)] if self.image.kind == "file" and path.exists() else []

    def learned(self) -> list[str]:
        """Return the sha256 of the pair shards that decided the weights in all folders of `starts`."""
        return [shard for folder in self.starts() for shard in read_lineage(folder).learned or ()]

    def distilled(self) -> dict[str, Any]:
        """Return the settings by which the start was distilled, which a run keeps; {} if it was not."""
        settings = read_lineage(self.start).settings if self.start is not None else {}
        return {"distil": settings["distil"]} if "distil" in settings else {}

    def build(self, folder: Path, captions: Iterable[str] = ()) -> LoadedModel:
        """Return the initial model, and write its files except weights into a folder.

        Random weights are drawn from torch's global generator.

        Args:
            folder: the model folder.
            captions: texts on which a tokenizer is trained, unless the text tower is an encoder.
        """
        folder.mkdir(exist_ok=True)
        config = {**self.config, "text_cfg": dict(self.config["text_cfg"])}
        text = config["text_cfg"]
        if self.start is not None:
            for name in TEXT_FILES:
                if (self.start / name).is_file():
                    write_bytes(folder / name, (self.start / name).read_bytes())
        elif self.has_encoder:
            save_encoder_config(config, folder)
            copy_tokenizer(text["hf_tokenizer_name"], folder)
        else:
            trained = train_tokenizer(captions, vocab_size=self.vocab_size)
            save_tokenizer(trained, folder, context_length=text["context_length"])
            text["vocab_size"] = trained.get_vocab_size()
        tokenizer = load_tokenizer(folder, context_length=text["context_length"])
        write_model_config(folder, config)
        module = create_model(config, folder)
        if self.start is not None:
            without = () if "init_logit_bias" in config else ("logit_bias",)
            load_weights(module, weights_of(self.start), without=without)
        else:
            load_image_tower(module, self.image)
            if self.has_encoder:
                load_text_encoder(module, config)
            require_recorded_features(module, tokenizer, self.preprocessing, config.get("recorded_features", {}))
        require_encoding(module, tokenizer, image_size=self.preprocessing.size, model=self.name)
        return LoadedModel(module=module, tokenizer=tokenizer, preprocessing=self.preprocessing, sha256="")


def _folder_of(weights: Path) -> Path:
    """Return the folder of a weights file; a folder is its own."""
    return weights if weights.is_dir() else weights.parent


def _with_image_tower(config: dict[str, Any], towers: TowerConfig) -> Weights:
    """Put the image tower of the settings into a model config, and return its weights."""
    if towers.image_tower:
        config.pop("quick_gelu", None)
        recorded = config.setdefault("recorded_features", {})
        recorded.pop("image", None)
        if packaged := packaged_image_tower(towers.image_tower):
            architecture, mean, std = packaged.architecture, (packaged.mean,) * 3, (packaged.std,) * 3
            preprocessing = Preprocessing(size=packaged.size, mean=mean, std=std)
            config["image_weights"] = {"packaged": towers.image_tower, "sha256": packaged.sha256}
            if not towers.image_weights:
                recorded["image"] = recorded_feature(packaged)
        else:
            architecture, preprocessing = towers.image_tower, _timm_preprocessing(towers.image_tower)
            config["image_weights"] = {"timm": towers.image_tower}
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
    elif towers.image_weights:
        return Weights(kind="file", source=towers.image_weights, license=towers.image_license)
    named = config.get("image_weights", {})
    license = towers.image_license
    if "file" in named:
        return Weights(kind="file", source=named["file"], license=license)
    if "packaged" in named:
        return Weights(kind="package", source=named["packaged"], license=license)
    if "timm" in named:
        return Weights(kind="timm", source=named["timm"], license=license)
    if named:
        return Weights(kind="open_clip", source=f"{named['model']}/{named['pretrained']}", license=license)
    return Weights(kind=RANDOM, license=license)


def _with_text_tower(config: dict[str, Any], towers: TowerConfig) -> Weights:
    """Put the text tower of the settings into a model config, and return its weights."""
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
    source = text.get("hf_model_name", "")
    if not source:
        return Weights(kind=RANDOM, license=towers.text_license)
    return Weights(kind="folder" if Path(source).is_dir() else "hub", source=source, license=towers.text_license)


def _timm_preprocessing(name: str) -> Preprocessing:
    """Return the preprocessing of a timm backbone; raise if timm has none of that name."""
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
    stated: Mapping[str, Any] = known.to_dict()
    _, height, width = stated["input_size"]
    interpolation = str(stated.get("interpolation"))
    if interpolation not in ("bicubic", "bilinear"):
        logger.warning("%s: images are resized by bicubic interpolation, as %s is not supported", name, interpolation)
        interpolation = "bicubic"
    return Preprocessing(
        size=min(height, width), mean=tuple(stated["mean"]), std=tuple(stated["std"]), interpolation=interpolation
    )
