"""Opens models for scoring: ours, open_clip's, Hugging Face's; from folders or by their names."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from PIL import Image
from safetensors import SafetensorError

from data_catalog.errors import InputError, SettingsError
from data_catalog.storage.shards import sha256_of
from training.data.features import Encoder
from training.data.images import squashed
from training.towers.model import OPEN_CLIP_CONFIG_FILE, normalise_pixels, open_model
from training.towers.model_files import ANY_TEXTS, names_of, one_line, opening, require_whole
from training.towers.pretrained import WEIGHT_FILES
from training.towers.tokenizer import TOKENIZER_FILE, refuse_endless, try_tokenizer

if TYPE_CHECKING:
    import torch

_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
# Files of a model that hold a JSON object each, if they are there.
_CONFIGS = (
    *(OPEN_CLIP_CONFIG_FILE, "config.json", *_PROCESSORS, *_TOKENIZER),
    *("special_tokens_map.json", "model.safetensors.index.json"),
)
# What older releases wrote and needs no reading: which positions there are, and poolers that a model goes without.
_NOT_READ = re.compile(r"position_ids$|(^|\.)pooler\.")
_CONFIGS_AND_TOKENIZERS = {".json", ".txt", ".model", ".bpe", ".spm", ".vocab", ".tiktoken", ".jinja", ".py"}
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
OTHERS_REMEDY = (
    "if a file of it is missing, damaged or of another model, copy it again from where it is whole; if none is, it is "
    "no model that can be scored here"
)


def open_model_folder(folder: Path, name: str) -> Encoder:
    """Open a model that was trained here.

    Raises:
        InputError: the folder holds none, or one that sees pictures otherwise.
        DamagedError: a file of it is missing or damaged.
    """
    import torch

    model = open_model(folder)

    def prepare(image: Image.Image) -> "torch.Tensor":
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
    """Return what decides, beside weights, what a model in a folder makes of its inputs; nothing for one of the hub."""
    if not folder.is_dir():
        return ()
    told = (file for file in sorted(folder.iterdir()) if file.suffix.lower() in _CONFIGS_AND_TOKENIZERS)
    return tuple({"name": file.name, "sha256": sha256_of(file)} for file in told if file.is_file())


def open_open_clip(source: str, name: str) -> Encoder:
    """Open a model of open_clip: "MODEL/PRETRAINED" by its names, or a folder in hub layout.

    Raises:
        SettingsError: there is no such model.
        InputError: its weights cannot be had, or a file of it is damaged.
    """
    import open_clip

    model_name, pretrained = f"local-dir:{source}", None
    if not Path(source).is_dir():
        model_name, _, pretrained = source.partition("/")
        if model_name not in open_clip.list_models() or not pretrained:
            raise SettingsError(
                f"open_clip={source} is no folder, and no MODEL/PRETRAINED of open_clip, such as ViT-B-32/openai"
            )
    known = open_clip.get_pretrained_cfg(model_name, pretrained) if pretrained else {}
    what = f"open_clip={source}"
    if Path(source).is_dir():
        require_whole(Path(source), _CONFIGS, first=OPEN_CLIP_CONFIG_FILE)
    encoder = ("config.json",) if (Path(source) / "config.json").exists() else ()  # of Hugging Face, if it has one
    with loading(what, source, (OPEN_CLIP_CONFIG_FILE, *WEIGHT_FILES, *encoder)):
        module, _, prepare = open_clip.create_model_and_transforms(
            model_name,
            pretrained=pretrained,
            weights_only=True,
            require_pretrained=True,
            force_quick_gelu=bool(known.get("quick_gelu")),  # the weights' own activation, not the name's
        )
    with loading(what, source, (*_TOKENIZER, OPEN_CLIP_CONFIG_FILE)):
        try_tokenizer(Path(source) / TOKENIZER_FILE)
        tokenizer = open_clip.get_tokenizer(model_name)
        _refuse_endless(getattr(tokenizer, "tokenizer", None), what)
    module.eval()
    loaded = tensors_sha256(module.state_dict())
    found = Encoder(
        name=name,
        origin=f"open_clip {source}, tensors {loaded[:12]}",
        prepare=prepare,
        encode_pixels=module.encode_image,
        encode_texts=lambda texts: module.encode_text(tokenizer(list(texts))),
        tensors_sha256=loaded,
        files=_configs_and_tokenizers(Path(source)),
    )
    return _tried(found, what, source, (OPEN_CLIP_CONFIG_FILE, *encoder))


def open_transformers(source: str, name: str) -> Encoder:
    """Open a dual encoder of Hugging Face, such as `VisionTextDualEncoderModel` or `CLIPModel`: a folder, or a name.

    Nothing but weights is taken from it: a model that brings code of its own is refused.

    Raises:
        InputError: it cannot be had, is no dual encoder of one space, lacks weights, or wants more of an image than
            its pixels.
    """
    from transformers import AutoModel, AutoProcessor

    what, is_folder = f"transformers={source}", Path(source).is_dir()
    if is_folder:
        require_whole(Path(source), _CONFIGS, first="config.json")
    with loading(what, source, ("config.json", *WEIGHT_FILES)):
        module, told = AutoModel.from_pretrained(
            source, output_loading_info=True, weights_only=True, trust_remote_code=False
        )
    with loading(what, source, (*_PROCESSORS, *_TOKENIZER)):
        try_tokenizer(Path(source) / TOKENIZER_FILE)
        processor = AutoProcessor.from_pretrained(source, trust_remote_code=False)
        _refuse_endless(getattr(processor, "tokenizer", None), what)
    # Refused are weights that are not there, and those that are and would stay unread: a config of another model.
    where = names_of(Path(source), WEIGHT_FILES) if is_folder else what
    if told["missing_keys"]:
        lacking = min(told["missing_keys"])
        raise InputError(f"{where} lacks weights, such as {lacking}, that its config.json asks for: {OTHERS_REMEDY}")
    left = [name for name in told["unexpected_keys"] if not _NOT_READ.search(name)]
    if left:
        raise InputError(
            f"{where} has weights, such as {min(left)!r}, that the model of its config.json has no place for: "
            f"{OTHERS_REMEDY}"
        )
    towers = ("get_image_features", "get_text_features")
    if not (all(hasattr(module, tower) for tower in towers) and hasattr(processor, "image_processor")):
        raise InputError(f"{what} is a {type(module).__name__}, which does not have two towers")
    # Newer releases leave weights in the half precision that they were saved in, whose features are full of ties.
    module.float().eval()
    with loading(what, source, (*_PROCESSORS, *_TOKENIZER)):
        prepare = _image_preparation(processor, what)
        tokenize = _tokenization(module.config, processor.tokenizer)

    def pooled(found: Any) -> "torch.Tensor":
        """Return features, which newer releases of transformers wrap into an output of several parts."""
        features: torch.Tensor = getattr(found, "pooler_output", found)
        return features

    loaded = tensors_sha256(module.state_dict())
    found = Encoder(
        name=name,
        origin=f"transformers {source}, tensors {loaded[:12]}",
        prepare=prepare,
        encode_pixels=lambda pixels: pooled(module.get_image_features(pixel_values=pixels)),
        encode_texts=lambda texts: pooled(module.get_text_features(**tokenize(texts))),
        tensors_sha256=loaded,
        files=_configs_and_tokenizers(Path(source)),
    )
    return _tried(found, what, source, ("config.json",))


def _refuse_endless(tokenizer: Any, what: str) -> None:
    """Hold what transformers loaded to the limits, wherever it came from; its tokenizers in Python have no steps."""
    found = getattr(tokenizer, "backend_tokenizer", None)
    if found is not None:
        refuse_endless(found, f"{TOKENIZER_FILE} of {what}")


def _image_preparation(processor: Any, what: str) -> "Callable[[Image.Image], torch.Tensor]":
    made, wide = (
        processor.image_processor(images=Image.new("RGB", size), return_tensors="pt") for size in ((64, 64), (96, 64))
    )
    if set(made) != {"pixel_values"}:
        raise InputError(f"{what} wants more of an image than its pixels ({', '.join(sorted(made))}): not known here")
    if made["pixel_values"].shape != wide["pixel_values"].shape:
        raise InputError(f"{what} makes pictures of different sizes of images that have other shapes: not known here")

    def prepare(image: Image.Image) -> "torch.Tensor":
        found: torch.Tensor = processor.image_processor(images=image, return_tensors="pt")["pixel_values"][0]
        return found

    return prepare


def _tokenization(config: Any, tokenizer: Any) -> Callable[[Sequence[str]], Any]:
    """Return what cuts and pads a model's texts: SigLIP pools the last position of full length, without a mask."""
    text = getattr(config, "text_config", config)
    most = text.max_position_embeddings
    if "roberta" in text.model_type or text.model_type == "camembert":
        most -= text.pad_token_id + 1  # their positions begin behind the one of padding
    how = {"truncation": True, "max_length": min(most, tokenizer.model_max_length), "return_tensors": "pt"}
    if config.model_type.startswith("siglip"):
        return lambda texts: {"input_ids": tokenizer(list(texts), padding="max_length", **how)["input_ids"]}
    return lambda texts: tokenizer(list(texts), padding=True, **how)


def _tried(encoder: Encoder, what: str, source: str, names: Sequence[str]) -> Encoder:
    """Return the encoder, if it encodes an image and texts: some wrong values of a config show only then."""
    import torch

    with loading(what, source, (*names, *_PROCESSORS)), torch.no_grad():
        image = encoder.encode_pixels(encoder.prepare(Image.new("RGB", (64, 64)))[None])
    with loading(what, source, (*names, *_TOKENIZER)), torch.no_grad():
        texts = encoder.encode_texts(ANY_TEXTS)
    shapes = [tuple(image.shape), tuple(texts.shape)]
    if shapes != [(1, image.shape[-1]), (len(ANY_TEXTS), image.shape[-1])]:
        raise InputError(
            f"{what} makes features of shape {shapes[0]} of a picture and {shapes[1]} of two texts: it does not map "
            "both into one space, a vector each"
        )
    return encoder


def check_source(kind: str, source: str, option: str) -> None:
    """Refuse, before any work, a model that cannot be there.

    Raises:
        InputError: a folder that does not exist, or that is no name of a model either.
    """
    if Path(source).is_dir():
        return
    is_path = kind == "folder" or source.startswith((".", "/", "~")) or not _HUB_NAME.fullmatch(source)
    if is_path:
        raise InputError(f"{option}: {kind}={source} is no folder")


OPENERS: dict[str, Callable[[str, str], Encoder]] = {
    "folder": lambda source, name: open_model_folder(Path(source), name),
    "open_clip": open_open_clip,
    "transformers": open_transformers,
}


@contextmanager
def loading(what: str, source: str, names: Sequence[str]) -> Iterator[None]:
    """Name the files of a folder that do not open, around what reads some files of a model.

    Args:
        what: the model, as it was named.
        source: a folder, or a name on a hub.
        names: of the files.

    Raises:
        InputError: they are damaged, would run code, or cannot be had.
    """
    if Path(source).is_dir():
        opened = opening(names_of(Path(source), names), remedy=OTHERS_REMEDY, kind=InputError)
    else:
        opened = _fetching(what)
    with opened:
        try:
            yield
        except UnpicklingError as error:
            raise InputError(f"{what} holds more than weights, which to read would run code: it is refused") from error


@contextmanager
def _fetching(what: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # open_clip's, of weights that do not fit as of those that cannot be fetched
        raise InputError(
            f"{what} cannot be loaded ({one_line(error)}): its weights do not fit its config, or cannot be had; where "
            "there is no network, name a folder that it was copied to"
        ) from error
    except (TypeError, AssertionError, AttributeError, ImportError) as error:  # what constructors say of odd configs
        raise InputError(
            f"{what} cannot be loaded ({type(error).__name__}: {one_line(error)}): its config is damaged, or of "
            "another release, or needs a package that is not installed"
        ) from error
    except (OSError, ValueError, LookupError, SafetensorError) as error:
        raise InputError(
            f"{what} cannot be had ({one_line(error)}): copy it to a folder where there is a network, and name that"
        ) from error


def tensors_sha256(tensors: Mapping[str, Any]) -> str:
    """Return the hexadecimal sha256 of names, types, shapes and bytes of tensors, by name, however they lie in memory.

    That is one name for what a model has in memory, whatever file or place of the hub it came from. Nothing is copied
    but one tensor at a time, where its numbers do not lie one behind the other.

    Args:
        tensors: a model's `state_dict()`; what is no tensor in it is passed over.
    """
    import torch

    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        if isinstance(tensor, torch.Tensor):
            # The length of the head ends it, type and shape tell the number of bytes: so no two sets read alike.
            head = json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode()
            found.update(len(head).to_bytes(8, "little"))
            found.update(head)
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            found.update(flat.view(torch.uint8).numpy().data)  # as bytes, since NumPy has no bfloat16
    return found.hexdigest()
