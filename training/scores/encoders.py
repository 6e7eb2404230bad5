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
from data_catalog.base.errors import InputError
from data_catalog.catalog.manifest import RUN_FILE
from data_catalog.disk.files import sha256_of
from training.data.features import Encoder, ImageEncoder, TextEncoder
from training.runs.processes import encode_where_fastest
from training.towers.model import (
    HERE,
    HUB_WEIGHTS_FILE,
    OPEN_CLIP_CONFIG_FILE,
    open_model,
    read_object,
    require_few_layers,
)
from training.towers.weights import files_identity

if TYPE_CHECKING:
    import torch

_HUB_CONFIG = "config.json"
# Their lengths differ, so that one is padded, and one has a rare character.
_TRIAL_TEXTS = ("a", "a \N{SNOWMAN} a")
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_CONFIGS_AND_TOKENIZERS = {".json", ".txt", ".model", ".bpe", ".spm", ".vocab", ".tiktoken", ".jinja", ".py"}
# Weights of older releases that are not needed: position ids, and poolers of models that do not use one.
_NOT_READ = re.compile(r"position_ids$|(^|\.)pooler\.")
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
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
    module = model.module

    def prepare(image: Image.Image) -> "torch.Tensor":
        pixels = torch.from_numpy(model.preprocessing.resized(image).copy())
        return model.preprocessing.normalised(pixels[None])[0]

    found = _encoder(
        module, module.encode_image, module.encode_text, prepare, model.tokenizer, name=name, folder=folder
    )
    return replace(found, origin=f"vernaclip {folder.name}, weights {model.sha256[:12]}")


def open_open_clip(source: str, name: str) -> Encoder:
    """Open an open_clip model, named as "MODEL/PRETRAINED" or by a folder in hub layout."""
    import open_clip

    folder, what = Path(source), f"open_clip={source}"
    model_name, _, pretrained = source.partition("/")
    if folder.is_dir():
        _require_few_layers(folder)
        model_name, pretrained = f"local-dir:{source}", ""
    known = open_clip.get_pretrained_cfg(model_name, pretrained)
    with _opening(what, folder):
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
            pretrained=pretrained or None,
            weights_only=True,
            require_pretrained=True,
            force_quick_gelu=bool(known.get("quick_gelu")),  # the activation that the weights were trained with
            **here,
        )
        # open_clip's own tokenizers do not know the argument.
        safe = {"trust_remote_code": False} if text.get("hf_tokenizer_name") else {}
        tokenizer = open_clip.get_tokenizer(model_name, **safe)

        def tokenize(texts: Sequence[str]) -> "torch.Tensor":
            return tokenizer(list(texts))  # type: ignore[no-any-return]

        module.eval()
        found = _encoder(module, module.encode_image, module.encode_text, prepare, tokenize, name=name, folder=folder)
        return _tried(replace(found, origin=f"open_clip {source}, {found.origin}"))


def _encoder(
    module: Any, encode_image: Any, encode_text: Any, prepare: Any, tokenize: Any, *, name: str, folder: Path
) -> Encoder:
    """Return a loaded model as an encoder. The image side of open_clip's models is identified by that tower alone."""
    loaded, files = tensors_sha256(module.state_dict()), _configs_and_tokenizers(folder)
    is_open_clip = hasattr(module, "encode_image")
    return Encoder(
        name=name,
        origin=f"tensors {loaded[:12]}",
        image=ImageEncoder(
            prepare=prepare,
            encode=partial(encode_where_fastest, module, encode_image),
            identity=tensors_sha256(module.visual.state_dict()) if is_open_clip else [loaded, *files],
        ),
        text=TextEncoder(
            encode=lambda texts: encode_where_fastest(module, encode_text, tokenize(texts)), identity=[loaded, *files]
        ),
        tensors_sha256=loaded,
        files=files,
        module=module if is_open_clip else None,
    )


def _configs_and_tokenizers(folder: Path) -> tuple[dict[str, str], ...]:
    """Return name and sha256 of the configs and tokenizers in a model's folder; none for a model of a hub."""
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return tuple(
        {"name": file.name, "sha256": sha256_of(file)}
        for file in files
        if file.suffix.lower() in _CONFIGS_AND_TOKENIZERS and file.is_file()
    )


def open_transformers(source: str, name: str) -> Encoder:
    """Open a Hugging Face dual encoder, such as `VisionTextDualEncoderModel` or `CLIPModel`, by folder or hub name.

    Only weights and configs are read. A model that needs its own code is refused.
    """
    from transformers import AutoModel, AutoProcessor

    folder, what = Path(source), f"transformers={source}"
    if folder.is_dir():
        _require_few_layers(folder)
    with _opening(what, folder):
        module, info = AutoModel.from_pretrained(
            source, output_loading_info=True, weights_only=True, trust_remote_code=False
        )
        missing = info["missing_keys"]
        unused = [name for name in info["unexpected_keys"] if not _NOT_READ.search(name)]
        if missing or unused:  # they would be random, or the config belongs to another model
            raise InputError(
                f"{what} lacks weights that its config.json needs, or has others, such as "
                f"{min(missing or unused)!r}: {_REMEDY}"
            )
        processor = AutoProcessor.from_pretrained(source, trust_remote_code=False)
        # Newer releases keep weights in the half precision of the file, which gives many equal features.
        module.float().eval()
        tokenize = _tokenization(module.config, processor.tokenizer)

        def prepare(image: Image.Image) -> "torch.Tensor":
            inputs = processor.image_processor(images=image, return_tensors="pt")
            if set(inputs) != {"pixel_values"}:
                raise InputError(f"{what} needs other image inputs than pixels ({', '.join(sorted(inputs))})")
            return inputs["pixel_values"][0]  # type: ignore[no-any-return]

        def features(tower: Callable[..., Any], **inputs: Any) -> "torch.Tensor":
            """Return the features, which newer releases of transformers wrap in an output object."""
            found = tower(**inputs)
            return getattr(found, "pooler_output", found)  # type: ignore[no-any-return]

        found = _encoder(
            module,
            lambda pixels: features(module.get_image_features, pixel_values=pixels),
            lambda tokens: features(module.get_text_features, **tokens),
            prepare,
            tokenize,
            name=name,
            folder=folder,
        )
        return _tried(replace(found, origin=f"transformers {source}, {found.origin}"))


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


def _tried(encoder: Encoder) -> Encoder:
    """Return the encoder after it encoded images of two sizes and texts, which reveals wrong values in its config."""
    import torch

    pictures = [encoder.image.prepare(Image.new("RGB", size)) for size in ((64, 64), (96, 64))]
    with torch.no_grad():  # both sides must be rows of one space
        torch.mm(encoder.image.encode(torch.stack(pictures)), encoder.text.encode(_TRIAL_TEXTS).T)
    return encoder


def _require_few_layers(folder: Path) -> None:
    """Refuse a folder of other people whose configs have more layers than a real model has."""
    for path in (folder / OPEN_CLIP_CONFIG_FILE, folder / _HUB_CONFIG):
        if path.is_file():
            require_few_layers(path, read_object(path), kind=InputError)


@contextmanager
def _opening(what: str, folder: Path) -> Iterator[None]:
    """Turn errors of libraries that open a model of others into ours, and make the libraries refuse code."""
    from transformers import dynamic_module_utils as modules

    # open_clip, and transformers for parts of a model, leave `trust_remote_code` undecided. Then transformers would ask
    # at the terminal whether to run a model's own code.
    before, modules.TIME_OUT_REMOTE_CODE = modules.TIME_OUT_REMOTE_CODE, 0  # seconds to wait for an answer
    try:
        with about(f"{what} cannot be opened", remedy=_REMEDY if folder.is_dir() else _FETCH_REMEDY):
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
    folder = Path(source)
    if folder.is_dir():
        is_there = any((folder / name).is_file() for name in (OPEN_CLIP_CONFIG_FILE, _HUB_CONFIG))
    elif kind == "open_clip":
        import open_clip

        model_name, _, pretrained = source.partition("/")
        has_weights = bool(open_clip.get_pretrained_cfg(model_name, pretrained)) or Path(pretrained).is_file()
        is_there = has_weights and model_name in open_clip.list_models()
    else:
        is_there = kind == "transformers" and _HUB_NAME.fullmatch(source) is not None
    if not is_there:
        raise InputError(
            f"{option}: {kind}={source} is neither a model folder nor the name of a model on the hub or in open_clip's "
            "list, such as ViT-B-32/openai"
        )


def kind_of(source: str) -> str:
    """Return the key of `OPENERS` for a model that is named without its kind."""
    import open_clip

    folder = Path(source)
    if (folder / OPEN_CLIP_CONFIG_FILE).is_file():
        is_own = (folder / RUN_FILE).is_file() and not (folder / HUB_WEIGHTS_FILE).is_file()  # exports have both
        return "folder" if is_own else "open_clip"
    is_listed = source.count("/") == 1 and bool(open_clip.get_pretrained_cfg(*source.split("/")))
    return "open_clip" if is_listed and not folder.is_dir() else "transformers"


def open_encoder(source: str) -> Encoder:
    """Open a model of any kind, named by a folder or by its name on a hub."""
    return OPENERS[kind_of(source)](source, Path(source).name if Path(source).is_dir() else source)


def encoder_identity(source: str) -> Any:
    """Return what identifies a model in keys: the sha256 of its files, or of the weights of a model of a hub."""
    if Path(source).is_dir():
        return files_identity(Path(source), (OPEN_CLIP_CONFIG_FILE, *_PROCESSORS))
    return open_encoder(source).tensors_sha256


def tensors_sha256(tensors: Mapping[str, Any]) -> str:
    """Return the sha256 of the tensors in a `state_dict()`: their names, types, shapes and bytes, sorted by name.

    It identifies a model's weights independently of their file, hub and memory layout. At most one tensor at a time is
    copied, if it is not contiguous.
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
