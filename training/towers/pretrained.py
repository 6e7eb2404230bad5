"""Load pretrained weights: an open_clip image tower and a Hugging Face text encoder, from a hub or a folder.

Weights load strictly: every tensor must be present. open_clip's `pretrained_image_path` and transformers'
`from_pretrained` would ignore missing ones.
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
from training.towers.model_files import describe_mismatch, named_tensors, one_line

logger = logging.getLogger(__name__)

# Names of weights files in a folder, in order of preference.
WEIGHT_FILES = ("open_clip_model.safetensors", "model.safetensors", "open_clip_pytorch_model.bin", "pytorch_model.bin")
_ENCODER_REMEDY = (
    "train.text_encoder must be a folder with an encoder, or its name on the hub. Without network access, copy the "
    "encoder into a folder, and name the folder"
)
# Prefixes of head weights from an encoder's pretraining. All other weights must be used.
_HEADS = ("cls.", "lm_head.", "classifier.", "qa_outputs.", "pooler.")


def with_text_encoder(model_config: dict[str, Any], config: TrainConfig) -> dict[str, Any]:
    """Return the model config with the text encoder of the settings, if they name one.

    Raises:
        SettingsError: they name one, but the model's text tower is not a Hugging Face encoder.
    """
    if not config.text_encoder:
        return model_config
    if "hf_model_name" not in model_config["text_cfg"]:
        raise SettingsError(
            f"train.text_encoder is set, but the model {config.model} has no Hugging Face text tower: leave it empty"
        )
    names = {"hf_model_name": config.text_encoder, "hf_tokenizer_name": config.text_encoder}
    return {**model_config, "text_cfg": {**model_config["text_cfg"], **names}}


def identity_of_weights(model_config: Mapping[str, Any], config: TrainConfig) -> dict[str, Any]:
    """Return what identifies the initial weights in a run's key: sha256 of local files, names of hub weights.

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
    """Load the initial weights of the image tower, if the settings or the model config name some.

    Raises:
        InputError: the weights cannot be fetched or read, or do not match the tower exactly.
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
            raise InputError(f"open_clip has no weights {named['pretrained']!r} for {named['model']!r}")
        remedy = "copy them from a machine with network access, and set train.image_weights to the file"
        with _fetching(f"the weights {named['pretrained']} of {named['model']}", remedy):
            path = Path(download_pretrained(known))
    try:
        with _reading(str(path)):  # pickles are read without executing code
            tensors = load_state_dict(str(path), device="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path} is not a complete weights file: {one_line(error)}") from error
    visual = {name.removeprefix("visual."): value for name, value in tensors.items() if name.startswith("visual.")}
    found = visual or tensors
    # Files older than torch 1.0 have no batch counters. They start at 0.
    wanted = {
        name: value
        for name, value in module.visual.state_dict().items()
        if name in found or not name.endswith(".num_batches_tracked")
    }
    if mismatch := describe_mismatch(wanted, found):
        raise InputError(f"{path} does not match the model's image tower: {mismatch}")
    module.visual.load_state_dict(found, strict=True)
    logger.info("image tower: %s", path)


def load_text_encoder(module: Any, model_config: Mapping[str, Any]) -> None:
    """Load the weights of a Hugging Face encoder into the text tower. Its projection stays random.

    Raises:
        InputError: the encoder cannot be fetched or is incomplete, or weights are missing or unexpected.
    """
    from transformers import AutoModel

    source = model_config["text_cfg"]["hf_model_name"]
    pooling = {"add_pooling_layer": getattr(module.text.transformer, "pooler", None) is not None}
    how = {"output_loading_info": True, "use_safetensors": None, "ignore_mismatched_sizes": True}
    with _fetching(f"the text encoder {source}", _ENCODER_REMEDY), _reading(f"the text encoder {source}"):
        encoder, info = AutoModel.from_pretrained(source, **how, **pooling)
    mismatched = sorted(found[0] for found in info["mismatched_keys"])
    if mismatched:
        raise InputError(
            f"the text encoder {source} has weights whose shape differs from its config.json: "
            f"{named_tensors(mismatched)}"
        )
    missing = sorted(info["missing_keys"])
    if missing:
        raise InputError(
            f"the text encoder {source} lacks weights that its architecture needs: {named_tensors(missing)}"
        )
    left = sorted(name for name in info["unexpected_keys"] if not name.startswith(_HEADS))
    if left:
        raise InputError(f"the text encoder {source} has weights unknown to its architecture: {named_tensors(left)}")
    module.text.transformer.load_state_dict(encoder.state_dict(), strict=True)
    logger.info("text encoder: %s", source)


def save_encoder_config(model_config: Mapping[str, Any], folder: Path) -> None:
    """Write the config of a Hugging Face text encoder, which is needed to create the model again.

    Raises:
        InputError: the config cannot be fetched.
    """
    from transformers import AutoConfig

    source = model_config["text_cfg"]["hf_model_name"]
    with _fetching(f"the text encoder {source}", _ENCODER_REMEDY):
        found = AutoConfig.from_pretrained(source)
    write_json(folder / ENCODER_CONFIG_FILE, found.to_dict())


@contextmanager
def _fetching(what: str, remedy: str) -> Iterator[None]:
    """Translate errors of loading something from a hub or folder into an error with a remedy."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise InputError(f"{what} cannot be loaded ({one_line(error)}): {remedy}") from error


def _weights_file(path: Path) -> Path:
    found = path if path.is_file() else next((path / name for name in WEIGHT_FILES if (path / name).is_file()), None)
    if found is None:
        raise InputError(f"train.image_weights: {path} is neither a weights file nor a folder with one")
    return found


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Translate errors of reading weights that are incomplete, or a pickle with code, into an error that names them."""
    try:
        yield
    except UnpicklingError as error:
        raise InputError(
            f"{what} contains more than weights, and reading it would run code, so it is refused"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, AttributeError) as error:
        raise InputError(f"{what} is not a complete weights file: {one_line(error)}") from error
