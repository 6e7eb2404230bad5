"""Weights of others to start from: an image tower of open_clip, a text encoder of Hugging Face; from a hub or a folder.

open_clip's own `pretrained_image_path` and `from_pretrained` go on in silence where a weight is missing; here all of
them must be there.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from safetensors import SafetensorError

from data_catalog.errors import InputError, SettingsError
from data_catalog.storage.shards import sha256_of, write_json
from training.config import TrainConfig
from training.towers.model import ENCODER_CONFIG_FILE
from training.towers.model_files import misfits, named_tensors, one_line

logger = logging.getLogger(__name__)

# Of a folder of weights, the first that is there.
WEIGHT_FILES = ("open_clip_model.safetensors", "model.safetensors", "open_clip_pytorch_model.bin", "pytorch_model.bin")
_ENCODER_ELSEWHERE = (
    "it is neither a folder nor within reach on the hub; copy it to a folder where there is a network, and give that "
    "by train.text_encoder"
)
# Weights of heads that an encoder was once trained with; nothing of the encoder itself may be left over.
_HEADS = ("cls.", "lm_head.", "classifier.", "qa_outputs.", "pooler.")


def with_text_encoder(model_config: dict[str, Any], config: TrainConfig) -> dict[str, Any]:
    """Return the model config with the text encoder that the settings name, if they do.

    Raises:
        SettingsError: they name one, and the model's text tower is not of Hugging Face.
    """
    if not config.text_encoder:
        return model_config
    if "hf_model_name" not in model_config["text_cfg"]:
        raise SettingsError(f"train.text_encoder is for models with a Hugging Face text tower, {config.model} has none")
    names = {"hf_model_name": config.text_encoder, "hf_tokenizer_name": config.text_encoder}
    return {**model_config, "text_cfg": {**model_config["text_cfg"], **names}}


def identity_of_weights(model_config: Mapping[str, Any], config: TrainConfig) -> dict[str, Any]:
    """Return what stands for the weights in a run's key: content of local files, names of what a hub has.

    Raises:
        InputError: a local file is missing.
    """
    found: dict[str, Any] = {}
    text = model_config["text_cfg"].get("hf_model_name")
    if text:
        names = (ENCODER_CONFIG_FILE, *WEIGHT_FILES, "tokenizer.json", "vocab.txt")
        folder = Path(text)
        found["text"] = (
            {name: sha256_of(folder / name) for name in names if (folder / name).is_file()} if folder.is_dir() else text
        )
    if config.image_weights:
        found["image"] = sha256_of(_weights_file(Path(config.image_weights)))
    elif "image_weights" in model_config:
        found["image"] = model_config["image_weights"]
    return found


def load_image_tower(module: Any, model_config: Mapping[str, Any], config: TrainConfig) -> None:
    """Put the weights of an image tower into a model, if there are any to start from.

    Raises:
        InputError: they cannot be had, are no weights, or do not fit the tower to the last one.
    """
    from open_clip.factory import load_state_dict
    from open_clip.pretrained import download_pretrained, get_pretrained_cfg

    if not config.image_weights and "image_weights" not in model_config:
        return
    if config.image_weights:
        path = _weights_file(Path(config.image_weights))
    else:
        named = model_config["image_weights"]
        known = get_pretrained_cfg(named["model"], named["pretrained"])
        if not known:
            raise InputError(f"open_clip knows no weights {named['pretrained']!r} of {named['model']!r}")
        remedy = "copy them where there is a network, and give the file by train.image_weights"
        with _fetching(f"the weights {named['pretrained']} of {named['model']}", remedy):
            path = Path(download_pretrained(known))
    try:
        with _reading(str(path)):  # pickles are read without running anything in them
            tensors = load_state_dict(str(path), device="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path} is no whole file of weights: {one_line(error)}") from error
    visual = {name.removeprefix("visual."): value for name, value in tensors.items() if name.startswith("visual.")}
    found = visual or tensors
    # Files of before torch 1.0 have no counts of batches; torch starts them at 0.
    wanted = {
        name: value
        for name, value in module.visual.state_dict().items()
        if name in found or not name.endswith(".num_batches_tracked")
    }
    if told := misfits(wanted, found):
        raise InputError(f"{path} does not fit the model's image tower: {told}")
    module.visual.load_state_dict(found, strict=True)
    logger.info("image tower: %s", path)


def load_text_encoder(module: Any, model_config: Mapping[str, Any]) -> None:
    """Put the weights of a Hugging Face encoder into a model's text tower; its projection stays random.

    Raises:
        InputError: it cannot be had, is not whole, lacks weights, or has others.
    """
    from transformers import AutoModel

    source = model_config["text_cfg"]["hf_model_name"]
    pooling = {"add_pooling_layer": getattr(module.text.transformer, "pooler", None) is not None}
    how = {"output_loading_info": True, "use_safetensors": None, "ignore_mismatched_sizes": True}
    with _fetching(f"the text encoder {source}", _ENCODER_ELSEWHERE), _reading(f"the text encoder {source}"):
        encoder, told = AutoModel.from_pretrained(source, **how, **pooling)
    mismatched = sorted(found[0] for found in told["mismatched_keys"])
    if mismatched:
        raise InputError(
            f"the text encoder {source} has weights of another shape than its config.json says: "
            f"{named_tensors(mismatched)}"
        )
    missing = sorted(told["missing_keys"])
    if missing:
        raise InputError(f"the text encoder {source} lacks weights of its own architecture: {named_tensors(missing)}")
    left = sorted(name for name in told["unexpected_keys"] if not name.startswith(_HEADS))
    if left:
        raise InputError(f"the text encoder {source} has weights that its architecture has not: {named_tensors(left)}")
    module.text.transformer.load_state_dict(encoder.state_dict(), strict=True)
    logger.info("text encoder: %s", source)


def save_encoder_config(model_config: Mapping[str, Any], folder: Path) -> None:
    """Write the architecture of a Hugging Face text encoder, without which the model cannot be made again.

    Raises:
        InputError: it cannot be had.
    """
    from transformers import AutoConfig

    source = model_config["text_cfg"]["hf_model_name"]
    with _fetching(f"the text encoder {source}", _ENCODER_ELSEWHERE):
        found = AutoConfig.from_pretrained(source)
    write_json(folder / ENCODER_CONFIG_FILE, found.to_dict())


@contextmanager
def _fetching(what: str, remedy: str) -> Iterator[None]:
    """While inside, tell in a sentence what cannot be had from a hub, and what to do instead."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise InputError(f"{what} cannot be had ({one_line(error)}): {remedy}") from error


def _weights_file(path: Path) -> Path:
    found = path if path.is_file() else next((path / name for name in WEIGHT_FILES if (path / name).is_file()), None)
    if found is None:
        raise InputError(f"train.image_weights: {path} is no file of weights, nor a folder with one")
    return found


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """While inside, tell in a sentence of weights that are cut off, or that are a pickle with more in it."""
    try:
        yield
    except UnpicklingError as error:
        raise InputError(f"{what} holds more than weights, which to read would run code: it is refused") from error
    except (SafetensorError, RuntimeError, EOFError, AttributeError) as error:
        raise InputError(f"{what} is no whole file of weights: {one_line(error)}") from error
