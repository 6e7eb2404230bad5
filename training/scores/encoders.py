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

from data_catalog.base.boundary import about
from data_catalog.base.errors import InputError, SettingsError
from data_catalog.catalog.manifest import RUN_FILE
from data_catalog.disk.files import sha256_of
from training.data.features import Encoder, ImageEncoder, TextEncoder
from training.runs.processes import encode_where_fastest
from training.towers.model import HUB_WEIGHTS_FILE, OPEN_CLIP_CONFIG_FILE, open_model
from training.towers.model_files import HERE, read_config
from training.towers.tokenizer import TOKENIZER_FILE
from training.towers.weights import files_identity

if TYPE_CHECKING:
    import torch

_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_TOKENIZER = (TOKENIZER_FILE, "tokenizer_config.json")
# Their lengths differ, so that one is padded, and one has a rare character.
_TRIAL_TEXTS = ("a", "a \N{SNOWMAN} a")
_CONFIGS_AND_TOKENIZERS = {".json", ".txt", ".model", ".bpe", ".spm", ".vocab", ".tiktoken", ".jinja", ".py"}
# Weights of older releases that are not needed: position ids, and poolers of models that do not use one.
_NOT_READ = re.compile(r"position_ids$|(^|\.)pooler\.")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
# Settings of a tokenizer that a model config may have. open_clip passes all of them on to transformers, which would
# also take `trust_remote_code`, and paths of other files.
_TOKENIZER_SETTINGS = ("clean", "strip_sep_token", "language")
_REMEDY = (
    "if a file is missing, damaged or belongs to another model, restore it from an intact copy. Otherwise this kind of "
    "model cannot be scored here"
)
_FETCH_REMEDY = "copy it into a folder on a machine with network access, and name the folder"


def open_model_folder(folder: Path, name: str) -> Encoder:
    """Open a model folder of ours."""
    import torch

    model = open_model(folder)

    def prepare(image: Image.Image) -> "torch.Tensor":
        pixels = torch.from_numpy(model.preprocessing.resized(image).copy())
        return model.preprocessing.normalised(pixels[None])[0]

    found = _encoder(model.module, prepare, model.tokenizer, name=name, folder=folder)
    return replace(found, origin=f"vernaclip {folder.name}, weights {model.sha256[:12]}")


def open_open_clip(source: str, name: str) -> Encoder:
    """Open an open_clip model, named as "MODEL/PRETRAINED" or by a folder in hub layout."""
    import open_clip

    folder, what = Path(source), f"open_clip={source}"
    if folder.is_dir():
        _require_few_layers(folder)
        model_name, pretrained, known = f"local-dir:{source}", None, {}
    else:
        _require_listed(source)
        model_name, _, pretrained = source.partition("/")
        known = open_clip.get_pretrained_cfg(model_name, pretrained)
    with _opening(what, source):
        text = (open_clip.get_model_config(model_name) or {}).get("text_cfg", {})
        refused = sorted(set(text.get("tokenizer_kwargs", {})) - set(_TOKENIZER_SETTINGS))
        if refused:
            raise InputError(
                f"{what} is refused: text_cfg.tokenizer_kwargs may set only {', '.join(_TOKENIZER_SETTINGS)}, not "
                f"{', '.join(refused)}, because others may run code"
            )
        here = {"text_cfg": {**text, "hf_model_name": source}} if text.get("hf_model_name") == HERE else {}
        module, _, prepare = open_clip.create_model_and_transforms(
            model_name,
            pretrained=pretrained,
            weights_only=True,
            require_pretrained=True,
            force_quick_gelu=bool(known.get("quick_gelu")),  # the activation that the weights were trained with
            **here,
        )
        # open_clip's own tokenizers do not know the argument.
        safe = {"trust_remote_code": False} if text.get("hf_tokenizer_name") else {}
        tokenizer = open_clip.get_tokenizer(model_name, **safe)
        found = _encoder(module.eval(), prepare, lambda texts: tokenizer(list(texts)), name=name, folder=folder)
        return _tried(replace(found, origin=f"open_clip {source}, {found.origin}"), what)


def _encoder(
    module: Any, prepare: Any, tokenize: Callable[[Sequence[str]], Any], *, name: str, folder: Path
) -> Encoder:
    """Return an open_clip model as an encoder. Its image tower alone identifies its image side."""
    loaded, files = tensors_sha256(module.state_dict()), _configs_and_tokenizers(folder)
    return Encoder(
        name=name,
        origin=f"tensors {loaded[:12]}",
        image=ImageEncoder(
            prepare=prepare,
            encode=partial(encode_where_fastest, module, module.encode_image),
            identity=tensors_sha256(module.visual.state_dict()),
        ),
        text=TextEncoder(
            encode=lambda texts: encode_where_fastest(module, module.encode_text, tokenize(texts)),
            identity=[loaded, *files],
        ),
        tensors_sha256=loaded,
        files=files,
        module=module,
    )


def _configs_and_tokenizers(folder: Path) -> tuple[dict[str, str], ...]:
    """Return name and sha256 of the configs and tokenizers in a model's folder. Return none for a model of a hub."""
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return tuple(
        {"name": file.name, "sha256": sha256_of(file)}
        for file in files
        if file.suffix.lower() in _CONFIGS_AND_TOKENIZERS and file.is_file()
    )


def _require_listed(source: str) -> None:
    """Refuse a model that open_clip does not list, or whose weights it does not list and are no file."""
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
    """
    from transformers import AutoModel, AutoProcessor, BatchFeature

    folder, what = Path(source), f"transformers={source}"
    if folder.is_dir():
        _require_few_layers(folder)
    with _opening(what, source):
        module, info = AutoModel.from_pretrained(
            source, output_loading_info=True, weights_only=True, trust_remote_code=False
        )
        _require_all_weights(info, str(folder) if folder.is_dir() else what)
        processor = AutoProcessor.from_pretrained(source, trust_remote_code=False)
        tokenizer, image_processor = (getattr(processor, part, None) for part in ("tokenizer", "image_processor"))
        if not (hasattr(module, "get_image_features") and hasattr(module, "get_text_features") and image_processor):
            raise InputError(f"{what} is a {type(module).__name__}, which does not have two towers")
        # Newer releases keep weights in the half precision of the file, which gives many equal features.
        module.float().eval()
        tokenize = _tokenization(module.config, tokenizer)

        def prepare(image: Image.Image) -> "torch.Tensor":
            inputs = image_processor(images=image, return_tensors="pt")
            if set(inputs) != {"pixel_values"}:
                raise InputError(f"{what} needs other image inputs than pixels ({', '.join(sorted(inputs))})")
            return inputs["pixel_values"][0]  # type: ignore[no-any-return]

        if prepare(Image.new("RGB", (64, 64))).shape != prepare(Image.new("RGB", (96, 64))).shape:
            raise InputError(f"{what} does not resize all images to the same size: not supported")

        def features(tower: Callable[..., Any], inputs: Any) -> "torch.Tensor":
            """Return the features, which newer releases of transformers wrap in an output object."""
            found = tower(**inputs)
            return getattr(found, "pooler_output", found)  # type: ignore[no-any-return]

        of_image, of_text = (
            partial(features, tower) for tower in (module.get_image_features, module.get_text_features)
        )
        loaded, files = tensors_sha256(module.state_dict()), _configs_and_tokenizers(folder)
        found = Encoder(
            name=name,
            origin=f"transformers {source}, tensors {loaded[:12]}",
            image=ImageEncoder(
                prepare=prepare,
                encode=lambda pixels: encode_where_fastest(module, of_image, BatchFeature({"pixel_values": pixels})),
                identity=[loaded, *files],
            ),
            text=TextEncoder(
                encode=lambda texts: encode_where_fastest(module, of_text, tokenize(texts)), identity=[loaded, *files]
            ),
            tensors_sha256=loaded,
            files=files,
        )
        return _tried(found, what)


def _require_all_weights(info: Mapping[str, Any], where: str) -> None:
    """Refuse missing weights, which would be random, and unused ones: then the config belongs to another model."""
    missing, left = info["missing_keys"], [name for name in info["unexpected_keys"] if not _NOT_READ.search(name)]
    if missing:
        raise InputError(f"{where} lacks weights that its config.json needs, such as {min(missing)}: {_REMEDY}")
    if left:
        raise InputError(
            f"{where} has weights that do not exist in the model of its config.json, such as {min(left)!r}: {_REMEDY}"
        )


def _tokenization(config: Any, tokenizer: Any) -> Callable[[Sequence[str]], Any]:
    """Return a function that cuts and pads texts. SigLIP needs full length, as it pools the last position unmasked."""
    text = getattr(config, "text_config", config)
    most = text.max_position_embeddings
    if "roberta" in text.model_type or text.model_type == "camembert":
        most -= text.pad_token_id + 1  # their positions start after that of padding
    how = {"truncation": True, "max_length": min(most, tokenizer.model_max_length), "return_tensors": "pt"}
    if config.model_type.startswith("siglip"):
        how |= {"padding": "max_length", "return_attention_mask": False, "return_token_type_ids": False}
    else:
        how["padding"] = True
    return lambda texts: tokenizer(list(texts), **how)


def _tried(encoder: Encoder, what: str) -> Encoder:
    """Return the encoder after it has encoded an image and texts, which reveals other wrong values in its config."""
    import torch

    with torch.no_grad():
        image = encoder.image.encode(encoder.image.prepare(Image.new("RGB", (64, 64)))[None])
        texts = encoder.text.encode(_TRIAL_TEXTS)
    shapes = [tuple(image.shape), tuple(texts.shape)]
    if shapes != [(1, image.shape[-1]), (len(_TRIAL_TEXTS), image.shape[-1])]:
        raise InputError(
            f"{what} returns features of shape {shapes[0]} for an image and {shapes[1]} for two texts: it does not map "
            "both into one space with one vector each"
        )
    return encoder


def _require_few_layers(folder: Path) -> None:
    """Refuse a folder of other people whose configs have more layers than a real model has."""
    for path in (folder / OPEN_CLIP_CONFIG_FILE, folder / "config.json"):
        if path.is_file():
            read_config(path, kind=InputError)


@contextmanager
def _opening(what: str, source: str) -> Iterator[None]:
    """Translate exceptions of libraries that open a model of others, and make them refuse code.

    open_clip, and transformers for parts of a model, leave `trust_remote_code` undecided. Then transformers would ask
    at the terminal whether to run a model's own code.
    """
    from transformers import dynamic_module_utils as modules

    named, remedy = (source, _REMEDY) if Path(source).is_dir() else (what, _FETCH_REMEDY)
    before, modules.TIME_OUT_REMOTE_CODE = modules.TIME_OUT_REMOTE_CODE, 0  # seconds to wait for an answer
    try:
        with about(f"{named} cannot be opened", remedy=remedy):
            yield
    finally:
        modules.TIME_OUT_REMOTE_CODE = before


OPENERS: dict[str, Callable[[str, str], Encoder]] = {
    "folder": lambda source, name: open_model_folder(Path(source), name),
    "open_clip": open_open_clip,
    "transformers": open_transformers,
}


def check_source(kind: str, source: str, option: str) -> None:
    """Refuse a model of a kind in `OPENERS` that cannot exist, before any work starts."""
    if Path(source).is_dir():
        return
    if kind == "folder" or source.startswith((".", "/", "~")) or not _HUB_NAME.fullmatch(source):
        raise InputError(f"{option}: {kind}={source} is not a folder")
    if kind == "open_clip":
        try:
            _require_listed(source)
        except SettingsError as error:
            raise SettingsError(f"{option}: {error}") from error


def kind_of(source: str) -> str:
    """Return the key of `OPENERS` for a model that is named without its kind."""
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
    """Open a model of any kind, named by a folder or by its name on a hub."""
    return OPENERS[kind_of(source)](source, Path(source).name if Path(source).is_dir() else source)


def encoder_identity(source: str) -> Any:
    """Return what identifies a model in keys: the sha256 of its files, or of the weights of a model of a hub."""
    if kind_of(source) and Path(source).is_dir():
        return files_identity(Path(source), (OPEN_CLIP_CONFIG_FILE, *_PROCESSORS))
    return open_encoder(source).tensors_sha256


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
