"""Opens models for scoring: ours, open_clip's, Hugging Face's; from folders or by their names."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_catalog.errors import ConfigError
from data_catalog.shards import read_json, sha256_of
from training.encoders import Encoder
from training.tensor_hashes import tensors_sha256

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

_CONFIGS_AND_TOKENIZERS = {".json", ".txt", ".model", ".bpe", ".spm", ".vocab", ".tiktoken", ".jinja", ".py"}
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def open_model_folder(folder: Path, name: str) -> Encoder:
    """A model that was trained here.

    Raises:
        ConfigError: the folder holds none, or one that sees pictures otherwise.
    """
    import torch

    from training.images import squashed
    from training.model import load_model, normalise_pixels

    with _reading(folder):
        model = load_model(folder)
        _require_our_pictures(folder)

    def prepare(image: "Image") -> "torch.Tensor":
        return normalise_pixels(torch.from_numpy(squashed(image, model.image_size).copy())[None])[0]

    return Encoder(
        name=name,
        origin=f"vernaclip {folder.name}, weights {model.sha256[:12]}",
        prepare=prepare,
        encode_pixels=model.module.encode_image,
        encode_texts=lambda texts: model.module.encode_text(model.tokenizer(texts)),
        tensors_sha256=tensors_sha256(model.module.state_dict()),
        files=_configs_and_tokenizers(folder),
    )


def _configs_and_tokenizers(folder: Path) -> tuple[dict[str, str], ...]:
    """What decides, beside weights, what a model in a folder makes of pictures and texts; nothing of one of the hub."""
    if not folder.is_dir():
        return ()
    told = (file for file in sorted(folder.iterdir()) if file.suffix.lower() in _CONFIGS_AND_TOKENIZERS)
    return tuple({"name": file.name, "sha256": sha256_of(file)} for file in told if file.is_file())


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        told = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"{folder} holds a model that is damaged, or was not trained here ({type(error).__name__}: {told}): copy "
            "it again, or name it by open_clip=DIR"
        ) from error


def _require_our_pictures(folder: Path) -> None:
    """Refuse a model of others in the same layout: its pictures would be squashed and scaled as ours are."""
    from training.model import OPEN_CLIP_CONFIG_FILE, PREPROCESSING

    found = read_json(folder / OPEN_CLIP_CONFIG_FILE).get("preprocess_cfg", {})
    other = sorted(name for name, value in PREPROCESSING.items() if found.get(name) != value)
    if other:
        raise ConfigError(
            f"{folder} holds a model that was not trained here: its preprocess_cfg has {other[0]} = "
            f"{found.get(other[0])!r}; name it by open_clip=DIR, which prepares pictures as that says"
        )


def open_open_clip(source: str, name: str) -> Encoder:
    """A model of open_clip: "MODEL/PRETRAINED" by its names, or a folder in hub layout.

    Raises:
        ConfigError: there is no such model, or its weights cannot be had.
    """
    import open_clip

    model_name, pretrained = f"local-dir:{source}", None
    if not Path(source).is_dir():
        model_name, _, pretrained = source.partition("/")
        if model_name not in open_clip.list_models() or not pretrained:
            raise ConfigError(
                f"open_clip={source} is no folder, and no MODEL/PRETRAINED of open_clip, such as ViT-B-32/openai"
            )
    known = open_clip.get_pretrained_cfg(model_name, pretrained) if pretrained else {}
    with _fetching(f"open_clip={source}"):
        module, _, prepare = open_clip.create_model_and_transforms(
            model_name,
            pretrained=pretrained,
            weights_only=True,
            require_pretrained=True,
            force_quick_gelu=bool(known.get("quick_gelu")),  # the weights' own activation, not the name's
        )
        tokenizer = open_clip.get_tokenizer(model_name)
    module.eval()
    loaded = tensors_sha256(module.state_dict())
    return Encoder(
        name=name,
        origin=f"open_clip {source}, tensors {loaded[:12]}",
        prepare=prepare,
        encode_pixels=module.encode_image,
        encode_texts=lambda texts: module.encode_text(tokenizer(list(texts))),
        tensors_sha256=loaded,
        files=_configs_and_tokenizers(Path(source)),
    )


def open_transformers(source: str, name: str) -> Encoder:
    """A dual encoder of Hugging Face, such as `VisionTextDualEncoderModel` or `CLIPModel`: a folder, or a hub's name.

    Nothing but weights is taken from it: a model that brings code of its own is refused.

    Raises:
        ConfigError: it cannot be had, is no dual encoder of one space, lacks weights, or wants more of an image than
            its pixels.
    """
    from transformers import AutoModel, AutoProcessor

    what = f"transformers={source}"
    with _fetching(what):
        module, told = AutoModel.from_pretrained(
            source, output_loading_info=True, weights_only=True, trust_remote_code=False
        )
        processor = AutoProcessor.from_pretrained(source, trust_remote_code=False)
    if told["missing_keys"]:
        raise ConfigError(f"{what} lacks weights, such as {min(told['missing_keys'])}")
    towers = ("get_image_features", "get_text_features")
    if not (all(hasattr(module, tower) for tower in towers) and hasattr(processor, "image_processor")):
        raise ConfigError(f"{what} is a {type(module).__name__}, which does not have two towers")
    # Newer releases leave weights in the half precision that they were saved in, whose features are full of ties.
    module.float().eval()
    prepare = _image_preparation(processor, what)
    tokenize = _tokenization(module.config, processor.tokenizer)
    loaded = tensors_sha256(module.state_dict())
    encoder = Encoder(
        name=name,
        origin=f"transformers {source}, tensors {loaded[:12]}",
        prepare=prepare,
        encode_pixels=lambda pixels: _pooled(module.get_image_features(pixel_values=pixels)),
        encode_texts=lambda texts: _pooled(module.get_text_features(**tokenize(texts))),
        tensors_sha256=loaded,
        files=_configs_and_tokenizers(Path(source)),
    )
    _require_one_space(encoder, what)
    return encoder


def _require_one_space(encoder: Encoder, what: str) -> None:
    """Refuse what has both functions, and does not make one vector of an image and one of a text of equal length."""
    import torch
    from PIL import Image

    try:
        with torch.no_grad():
            picture = encoder.encode_pixels(encoder.prepare(Image.new("RGB", (64, 64)))[None])
            texts = encoder.encode_texts(["a", "a b c"])
        shapes = [tuple(picture.shape), tuple(texts.shape)]
    except (AttributeError, TypeError, ValueError, LookupError, RuntimeError) as error:
        told = " ".join(str(error).split())[:200]
        raise ConfigError(f"{what} cannot encode a picture and a text ({type(error).__name__}: {told})") from error
    if shapes != [(1, picture.shape[-1]), (2, picture.shape[-1])]:
        raise ConfigError(
            f"{what} makes features of shape {shapes[0]} of a picture and {shapes[1]} of two texts: it does not map "
            "both into one space, a vector each"
        )


def _image_preparation(processor: Any, what: str) -> "Callable[[Image], torch.Tensor]":
    from PIL import Image

    made, wide = (
        processor.image_processor(images=Image.new("RGB", size), return_tensors="pt") for size in ((64, 64), (96, 64))
    )
    if set(made) != {"pixel_values"}:
        raise ConfigError(f"{what} wants more of an image than its pixels ({', '.join(sorted(made))}): not known here")
    if made["pixel_values"].shape != wide["pixel_values"].shape:
        raise ConfigError(f"{what} makes pictures of different sizes of images that have other shapes: not known here")

    def prepare(image: "Image.Image") -> "torch.Tensor":
        found: torch.Tensor = processor.image_processor(images=image, return_tensors="pt")["pixel_values"][0]
        return found

    return prepare


def _tokenization(config: Any, tokenizer: Any) -> Callable[[Sequence[str]], Any]:
    """How a model's texts are cut and padded: SigLIP pools the last position of full length, without a mask."""
    text = getattr(config, "text_config", config)
    most = text.max_position_embeddings
    if "roberta" in text.model_type or text.model_type == "camembert":
        most -= text.pad_token_id + 1  # their positions begin behind the one of padding
    how = {"truncation": True, "max_length": min(most, tokenizer.model_max_length), "return_tensors": "pt"}
    if config.model_type.startswith("siglip"):
        return lambda texts: {"input_ids": tokenizer(list(texts), padding="max_length", **how)["input_ids"]}
    return lambda texts: tokenizer(list(texts), padding=True, **how)


def check_source(kind: str, source: str, option: str) -> None:
    """Refuse, before any work, a model that cannot be there.

    Raises:
        ConfigError: a folder that does not exist, or that is no name of a model either.
    """
    if Path(source).is_dir():
        return
    is_path = kind == "folder" or source.startswith((".", "/", "~")) or not _HUB_NAME.fullmatch(source)
    if is_path:
        raise ConfigError(f"{option}: {kind}={source} is no folder")


OPENERS: dict[str, Callable[[str, str], Encoder]] = {
    "folder": lambda source, name: open_model_folder(Path(source), name),
    "open_clip": open_open_clip,
    "transformers": open_transformers,
}


def _pooled(found: Any) -> "torch.Tensor":
    """Features, which newer releases of transformers wrap into an output of several parts."""
    features: torch.Tensor = getattr(found, "pooler_output", found)
    return features


@contextmanager
def _fetching(what: str) -> Iterator[None]:
    from pickle import UnpicklingError

    from safetensors import SafetensorError

    try:
        yield
    except UnpicklingError as error:
        raise ConfigError(f"{what} holds more than weights, which to read would run code: it is refused") from error
    except RuntimeError as error:  # open_clip's, of weights that do not fit as of those that cannot be fetched
        told = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"{what} cannot be loaded ({told}): its weights do not fit its config, or cannot be had; where there is no "
            "network, name a folder that it was copied to"
        ) from error
    except (TypeError, AssertionError, AttributeError, ImportError) as error:  # what constructors say of odd configs
        told = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"{what} cannot be loaded ({type(error).__name__}: {told}): its config is damaged, or of another release, "
            "or needs a package that is not installed"
        ) from error
    except (OSError, ValueError, LookupError, SafetensorError) as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"{what} cannot be had ({line}): copy it to a folder where there is a network, and name that"
        ) from error
