"""Open models for scoring: our own, open_clip's and Hugging Face's, from folders or by name."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from data_catalog.base.errors import InputError, SettingsError
from data_catalog.catalog.manifest import RUN_FILE
from data_catalog.disk.files import sha256_of
from training.data.features import Encoder
from training.runs.processes import encode_where_fastest
from training.towers.model import HUB_WEIGHTS_FILE, OPEN_CLIP_CONFIG_FILE, open_model
from training.towers.model_files import (
    HERE,
    TRIAL_TEXTS,
    join_file_names,
    require_readable_files,
    translate_errors,
)
from training.towers.weights import WEIGHT_FILES, files_identity

if TYPE_CHECKING:
    import torch

_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
# JSON files of a model that are checked if they exist.
_CONFIGS = (
    *(OPEN_CLIP_CONFIG_FILE, "config.json", *_PROCESSORS, *_TOKENIZER),
    *("special_tokens_map.json", "model.safetensors.index.json"),
)
# Weights of older releases that are not needed: position ids, and poolers of models that do not use one.
_NOT_READ = re.compile(r"position_ids$|(^|\.)pooler\.")
_CONFIGS_AND_TOKENIZERS = {".json", ".txt", ".model", ".bpe", ".spm", ".vocab", ".tiktoken", ".jinja", ".py"}
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
# Settings of a tokenizer that a model config may have. open_clip passes all of them on to transformers, which would
# also take `trust_remote_code`, and paths of other files.
_TOKENIZER_SETTINGS = ("clean", "strip_sep_token", "language")
OTHERS_REMEDY = (
    "if a file is missing, damaged or belongs to another model, restore it from an intact copy. Otherwise this kind of "
    "model cannot be scored here"
)


def open_model_folder(folder: Path, name: str) -> Encoder:
    """Open a model folder of ours.

    Raises:
        InputError: the folder contains no model, or a model with other image preprocessing.
        DamagedError: a file is missing or damaged.
    """
    import torch

    model = open_model(folder)

    def prepare(image: Image.Image) -> "torch.Tensor":
        pixels = torch.from_numpy(model.preprocessing.resized(image).copy())
        return model.preprocessing.normalised(pixels[None])[0]

    return Encoder(
        name=name,
        origin=f"vernaclip {folder.name}, weights {model.sha256[:12]}",
        prepare=prepare,
        encode_pixels=model.encode_pixels,
        encode_texts=model.encode_texts,
        tensors_sha256=tensors_sha256(model.module.state_dict()),
        files=_configs_and_tokenizers(folder),
        module=model.module,
    )


def _configs_and_tokenizers(folder: Path) -> tuple[dict[str, str], ...]:
    """Return name and sha256 of the configs and tokenizers in a model's folder. Return none for a model of a hub."""
    if not folder.is_dir():
        return ()
    files = (file for file in sorted(folder.iterdir()) if file.suffix.lower() in _CONFIGS_AND_TOKENIZERS)
    return tuple({"name": file.name, "sha256": sha256_of(file)} for file in files if file.is_file())


def open_open_clip(source: str, name: str) -> Encoder:
    """Open an open_clip model, named as "MODEL/PRETRAINED" or by a folder in hub layout.

    Raises:
        SettingsError: there is no such model.
        InputError: its weights cannot be fetched, or one of its files is damaged.
    """
    import open_clip

    model_name, pretrained = f"local-dir:{source}", None
    if not Path(source).is_dir():
        _require_listed(source)
        model_name, _, pretrained = source.partition("/")
    known = open_clip.get_pretrained_cfg(model_name, pretrained) if pretrained else {}
    what = f"open_clip={source}"
    if Path(source).is_dir():
        require_readable_files(Path(source), _CONFIGS, first=OPEN_CLIP_CONFIG_FILE)
    encoder = ("config.json",) if (Path(source) / "config.json").exists() else ()  # of a Hugging Face encoder
    arguments = {}
    with translate_loading_errors(what, source, (OPEN_CLIP_CONFIG_FILE, *WEIGHT_FILES, *encoder)):
        text = (open_clip.get_model_config(model_name) or {}).get("text_cfg", {})
        refused = sorted(set(text.get("tokenizer_kwargs", {})) - set(_TOKENIZER_SETTINGS))
        if refused:
            raise InputError(
                f"{what} is refused: text_cfg.tokenizer_kwargs may set only {', '.join(_TOKENIZER_SETTINGS)}, not "
                f"{', '.join(refused)}, because others may run code"
            )
        if text.get("hf_model_name") == HERE:
            arguments["text_cfg"] = {**text, "hf_model_name": source}
        module, _, prepare = open_clip.create_model_and_transforms(
            model_name,
            pretrained=pretrained,
            weights_only=True,
            require_pretrained=True,
            force_quick_gelu=bool(known.get("quick_gelu")),  # the activation that the weights were trained with
            **arguments,
        )
    with translate_loading_errors(what, source, (*_TOKENIZER, OPEN_CLIP_CONFIG_FILE)):
        # open_clip's own tokenizers do not know the argument.
        safe = {"trust_remote_code": False} if text.get("hf_tokenizer_name") else {}
        tokenizer = open_clip.get_tokenizer(model_name, **safe)
    module.eval()
    loaded = tensors_sha256(module.state_dict())
    found = Encoder(
        name=name,
        origin=f"open_clip {source}, tensors {loaded[:12]}",
        prepare=prepare,
        encode_pixels=partial(encode_where_fastest, module, module.encode_image),
        encode_texts=lambda texts: encode_where_fastest(module, module.encode_text, tokenizer(list(texts))),
        tensors_sha256=loaded,
        files=_configs_and_tokenizers(Path(source)),
        module=module,
    )
    return _require_encoding(found, what, source, (OPEN_CLIP_CONFIG_FILE, *encoder))


def _require_listed(source: str) -> None:
    """Raise `SettingsError` unless open_clip lists a model and its pretrained weights, or these are a file."""
    import open_clip

    model_name, _, pretrained = source.partition("/")
    is_there = bool(open_clip.get_pretrained_cfg(model_name, pretrained)) or Path(pretrained).is_file()
    if model_name not in open_clip.list_models() or not is_there:
        raise SettingsError(
            f"open_clip={source} is neither a folder nor a MODEL/PRETRAINED of open_clip, such as ViT-B-32/openai"
        )


def open_transformers(source: str, name: str) -> Encoder:
    """Open a Hugging Face dual encoder, such as `VisionTextDualEncoderModel` or `CLIPModel`, by folder or hub name.

    Only weights and configs are read. A model that needs its own code is refused.

    Raises:
        InputError: the model cannot be fetched, does not map images and texts into one space, lacks weights, or needs
            more image inputs than pixels.
    """
    from transformers import AutoModel, AutoProcessor, BatchFeature

    what, is_folder = f"transformers={source}", Path(source).is_dir()
    if is_folder:
        require_readable_files(Path(source), _CONFIGS, first="config.json")
    with translate_loading_errors(what, source, ("config.json", *WEIGHT_FILES)):
        module, info = AutoModel.from_pretrained(
            source, output_loading_info=True, weights_only=True, trust_remote_code=False
        )
    with translate_loading_errors(what, source, (*_PROCESSORS, *_TOKENIZER)):
        processor = AutoProcessor.from_pretrained(source, trust_remote_code=False)
    # Refuse missing weights, and also unused ones, which mean that the config belongs to another model.
    where = join_file_names(Path(source), WEIGHT_FILES) if is_folder else what
    if info["missing_keys"]:
        lacking = min(info["missing_keys"])
        raise InputError(f"{where} lacks weights that its config.json needs, such as {lacking}: {OTHERS_REMEDY}")
    left = [name for name in info["unexpected_keys"] if not _NOT_READ.search(name)]
    if left:
        raise InputError(
            f"{where} has weights that do not exist in the model of its config.json, such as {min(left)!r}: "
            f"{OTHERS_REMEDY}"
        )
    towers = ("get_image_features", "get_text_features")
    if not (all(hasattr(module, tower) for tower in towers) and hasattr(processor, "image_processor")):
        raise InputError(f"{what} is a {type(module).__name__}, which does not have two towers")
    # Newer releases keep weights in the half precision of the file, which gives many equal features.
    module.float().eval()
    with translate_loading_errors(what, source, (*_PROCESSORS, *_TOKENIZER)):
        prepare = _image_preparation(processor, what)
        tokenize = _tokenization(module.config, processor.tokenizer)

    def encode(tower: Callable[..., Any], inputs: Any) -> "torch.Tensor":
        """Return the features, which newer releases of transformers wrap in an output object."""

        def features(inputs: Any) -> "torch.Tensor":
            found = tower(**inputs)
            return getattr(found, "pooler_output", found)  # type: ignore[no-any-return]

        return encode_where_fastest(module, features, inputs)

    loaded = tensors_sha256(module.state_dict())
    found = Encoder(
        name=name,
        origin=f"transformers {source}, tensors {loaded[:12]}",
        prepare=prepare,
        encode_pixels=lambda pixels: encode(module.get_image_features, BatchFeature({"pixel_values": pixels})),
        encode_texts=lambda texts: encode(module.get_text_features, tokenize(texts)),
        tensors_sha256=loaded,
        files=_configs_and_tokenizers(Path(source)),
    )
    return _require_encoding(found, what, source, ("config.json",))


def _image_preparation(processor: Any, what: str) -> "Callable[[Image.Image], torch.Tensor]":
    made, wide = (
        processor.image_processor(images=Image.new("RGB", size), return_tensors="pt") for size in ((64, 64), (96, 64))
    )
    if set(made) != {"pixel_values"}:
        raise InputError(f"{what} needs other image inputs than pixels ({', '.join(sorted(made))}): not supported")
    if made["pixel_values"].shape != wide["pixel_values"].shape:
        raise InputError(f"{what} does not resize all images to the same size: not supported")

    def prepare(image: Image.Image) -> "torch.Tensor":
        found: torch.Tensor = processor.image_processor(images=image, return_tensors="pt")["pixel_values"][0]
        return found

    return prepare


def _tokenization(config: Any, tokenizer: Any) -> Callable[[Sequence[str]], Any]:
    """Return a function that cuts and pads texts. SigLIP needs full length, as it pools the last position unmasked."""
    text = getattr(config, "text_config", config)
    most = text.max_position_embeddings
    if "roberta" in text.model_type or text.model_type == "camembert":
        most -= text.pad_token_id + 1  # their positions start after that of padding
    how = {"truncation": True, "max_length": min(most, tokenizer.model_max_length), "return_tensors": "pt"}
    if config.model_type.startswith("siglip"):
        how |= {"padding": "max_length", "return_attention_mask": False, "return_token_type_ids": False}
        return lambda texts: tokenizer(list(texts), **how)
    return lambda texts: tokenizer(list(texts), padding=True, **how)


def _require_encoding(encoder: Encoder, what: str, source: str, names: Sequence[str]) -> Encoder:
    """Return the encoder after it has encoded an image and texts, which reveals other wrong values in its config."""
    import torch

    with translate_loading_errors(what, source, (*names, *_PROCESSORS)), torch.no_grad():
        image = encoder.encode_pixels(encoder.prepare(Image.new("RGB", (64, 64)))[None])
    with translate_loading_errors(what, source, (*names, *_TOKENIZER)), torch.no_grad():
        texts = encoder.encode_texts(TRIAL_TEXTS)
    shapes = [tuple(image.shape), tuple(texts.shape)]
    if shapes != [(1, image.shape[-1]), (len(TRIAL_TEXTS), image.shape[-1])]:
        raise InputError(
            f"{what} returns features of shape {shapes[0]} for an image and {shapes[1]} for two texts: it does not map "
            "both into one space with one vector each"
        )
    return encoder


def check_source(kind: str, source: str, option: str) -> None:
    """Raise if a model cannot exist, before any work starts.

    Raises:
        InputError: the folder does not exist, or the text is not a valid model name.
        SettingsError: open_clip does not list the model.
    """
    if Path(source).is_dir():
        return
    is_path = kind == "folder" or source.startswith((".", "/", "~")) or not _HUB_NAME.fullmatch(source)
    if is_path:
        raise InputError(f"{option}: {kind}={source} is not a folder")
    if kind == "open_clip":
        try:
            _require_listed(source)
        except SettingsError as error:
            raise SettingsError(f"{option}: {error}") from error


OPENERS: dict[str, Callable[[str, str], Encoder]] = {
    "folder": lambda source, name: open_model_folder(Path(source), name),
    "open_clip": open_open_clip,
    "transformers": open_transformers,
}


def kind_of(source: str) -> str:
    """Return the key of `OPENERS` for a model that is named without its kind.

    Raises:
        InputError: the folder contains no model.
    """
    import open_clip

    folder = Path(source)
    if (folder / OPEN_CLIP_CONFIG_FILE).is_file():
        is_own = (folder / RUN_FILE).is_file() and not (folder / HUB_WEIGHTS_FILE).is_file()  # exports have both
        return "folder" if is_own else "open_clip"
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise InputError(f"{source} is not a model folder: it has neither {OPEN_CLIP_CONFIG_FILE} nor config.json")
    is_open_clip = source.count("/") == 1 and bool(open_clip.get_pretrained_cfg(*source.split("/")))
    return "open_clip" if is_open_clip and not folder.is_dir() else "transformers"


def open_encoder(source: str) -> Encoder:
    """Open a model of any kind, named by a folder or by its name on a hub.

    Raises:
        SettingsError: there is no such model.
        InputError: it cannot be fetched, or does not map images and texts into one space.
        DamagedError: a file of the folder is damaged.
    """
    return OPENERS[kind_of(source)](source, Path(source).name if Path(source).is_dir() else source)


def encoder_identity(source: str) -> Any:
    """Return what identifies a model in keys: the sha256 of its files, or of the weights of a model of a hub.

    Raises:
        InputError: the folder contains no model, or the model cannot be fetched.
    """
    if kind_of(source) and Path(source).is_dir():
        return files_identity(Path(source), (OPEN_CLIP_CONFIG_FILE, *_PROCESSORS))
    return open_encoder(source).tensors_sha256


def image_part(encoder: Encoder) -> Encoder:
    """Return the image side of a model as an encoder of images alone.

    Models with the same image tower then share its cached features, if the tower can be told apart: in a model of
    ours or open_clip's.
    """
    visual = getattr(encoder.module, "visual", None)
    return replace(
        encoder,
        tensors_sha256=encoder.tensors_sha256 if visual is None else tensors_sha256(visual.state_dict()),
        files=encoder.files if visual is None else (),
        encode_texts=_no_texts,
    )


def _no_texts(texts: Sequence[str]) -> "torch.Tensor":
    import torch

    return torch.zeros(len(texts), 0)


@contextmanager
def translate_loading_errors(what: str, source: str, names: Sequence[str]) -> Iterator[None]:
    """Translate exceptions of loading a model's files into an error that names them.

    Args:
        what: the model, as the user named it.
        source: a folder, or a name on a hub.
        names: names of the files.

    Raises:
        InputError: the files are damaged, would run code, or cannot be fetched.
    """
    remedy = "copy it into a folder on a machine with network access, and name the folder"
    if Path(source).is_dir():
        what, remedy = join_file_names(Path(source), names), OTHERS_REMEDY
    with translate_errors(what, remedy=remedy, kind=InputError), _refusing_code():
        yield


@contextmanager
def _refusing_code() -> Iterator[None]:
    """Make transformers refuse a model's own code where it would ask at the terminal whether to run it.

    open_clip, and transformers for parts of a model, leave `trust_remote_code` undecided.
    """
    from transformers import dynamic_module_utils as modules

    before, modules.TIME_OUT_REMOTE_CODE = modules.TIME_OUT_REMOTE_CODE, 0  # seconds to wait for an answer
    try:
        yield
    finally:
        modules.TIME_OUT_REMOTE_CODE = before


def tensors_sha256(tensors: Mapping[str, Any]) -> str:
    """Return the sha256 of tensors: their names, types, shapes and bytes, sorted by name.

    It identifies a model's weights independently of their file, hub and memory layout. At most one tensor at a time is
    copied, if it is not contiguous.

    Args:
        tensors: a model's `state_dict()`. Values that are not tensors are ignored.
    """
    import torch

    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        if isinstance(tensor, torch.Tensor):
            # The length marks the end of the head, and type and shape give the number of bytes, so the hash is
            # unambiguous.
            head = json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode()
            found.update(len(head).to_bytes(8, "little"))
            found.update(head)
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            found.update(flat.view(torch.uint8).numpy().data)  # as bytes, because NumPy has no bfloat16
    return found.hexdigest()
