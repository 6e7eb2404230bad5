"""Create, write and load model folders: open_clip model config, weights in safetensors, tokenizer and preprocessing.

open_clip alone can open a finished folder, `open_clip.create_model_and_transforms("local-dir:FOLDER")`, unless its text
tower is one of `training.towers.modules` that open_clip does not have.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_catalog.base.errors import InputError, SettingsError
from data_catalog.disk.files import sha256_of, write_json
from training.runs.attempts import WEIGHTS_FILE as WEIGHTS_FILE
from training.runs.processes import encode_where_fastest, prepare_for_torch
from training.towers.model_files import (
    TRIAL_TEXTS,
    join_file_names,
    load_weights,
    one_line,
    read_object,
    read_open_clip_config,
    require_few_layers,
    require_file,
    translate_errors,
)
from training.towers.preprocessing import Preprocessing, preprocessing_of
from training.towers.tokenizer import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, SavedTokenizer, load_tokenizer

if TYPE_CHECKING:
    import torch

OPEN_CLIP_CONFIG_FILE = "open_clip_config.json"
ENCODER_CONFIG_FILE = "config.json"  # config of a Hugging Face text encoder
HUB_WEIGHTS_FILE = "open_clip_model.safetensors"  # file name in open_clip's hub layout, which exports use
# Our own parts of a model config, which open_clip does not know.
OWN_PARTS = ("image_weights", "license", "preprocess_cfg", "recorded_features")
_PADDING = 1e-4  # largest change of a number of a unit feature by padding

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model with its tokenizer and preprocessing. It is on the CPU, and moves to a GPU to encode, if there is one.

    Args:
        module: the open_clip model.
        tokenizer: turns texts into int64 token ids, shape (texts, length of the longest).
        preprocessing: how its images are resized and normalised.
        sha256: sha256 of the weights file; "" for a model that was just made.
    """

    module: Any
    tokenizer: SavedTokenizer
    preprocessing: Preprocessing
    sha256: str

    @property
    def num_bytes(self) -> int:
        """Return the size of the weights."""
        return sum(int(tensor.nbytes) for tensor in self.module.state_dict().values())

    @property
    def image_size(self) -> int:
        """Return the side of the square input images, in pixels."""
        return self.preprocessing.size

    def encode_pixels(self, pixels: "torch.Tensor") -> "torch.Tensor":
        """Return features of prepared images, shape (images, 3, size, size), of any length."""
        return encode_where_fastest(self.module, self.module.encode_image, pixels)

    def encode_texts(self, texts: Sequence[str]) -> "torch.Tensor":
        """Return features of texts, of any length."""
        return encode_where_fastest(self.module, self.module.encode_text, self.tokenizer(texts))


def open_clip_part(model_config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model config without our own parts."""
    return {name: value for name, value in model_config.items() if name not in OWN_PARTS}


def create_model(model_config: Mapping[str, Any], folder: Path) -> Any:
    """Create an open_clip model with random weights from torch's global generator.

    Args:
        model_config: the open_clip model config.
        folder: folder with the config of a Hugging Face text encoder. Nothing is downloaded.
    """
    try:
        return _make(model_config, folder)
    except (TypeError, AssertionError, ValueError, LookupError, RuntimeError, ArithmeticError) as error:
        raise InputError(f"open_clip cannot create a model from the model config: {one_line(error)}") from error


def _make(model_config: Mapping[str, Any], folder: Path) -> Any:
    import torch

    from training.towers.modules import make_module

    known = open_clip_part(model_config)
    if (backbone := known["vision_cfg"].get("timm_model_name")) is not None:
        if ":" in str(backbone):  # timm would read another model, from the hub or from a folder
            raise InputError(f"vision_cfg.timm_model_name must be the name of a backbone of timm, got {backbone!r}")
        known["vision_cfg"] = {**known["vision_cfg"], "timm_model_pretrained": False}  # weights are loaded later
    module = make_module(known, folder)
    return module.to(memory_format=torch.channels_last)  # makes convolutions on CPUs about twice as fast


def write_model_config(folder: Path, model_config: Mapping[str, Any]) -> None:
    """Write `open_clip_config.json`, which describes the model and its image preprocessing to open_clip."""
    parts = {"model_cfg": open_clip_part(model_config), "preprocess_cfg": preprocessing_of(model_config).to_json()}
    write_json(folder / OPEN_CLIP_CONFIG_FILE, parts)


def weights_of(folder: Path) -> Path:
    """Return the weights file of a model folder, or that of an export."""
    own, exported = folder / WEIGHTS_FILE, folder / HUB_WEIGHTS_FILE
    return exported if exported.exists() and not own.exists() else own


def load_model(folder: Path) -> LoadedModel:
    """Load a model folder or its export to open_clip, in evaluation mode. Weights must match the model exactly."""
    logger.info("load the model %s", folder)  # before torch, which takes long to load on a busy machine
    config_path, weights_path = folder / OPEN_CLIP_CONFIG_FILE, weights_of(folder)
    if not config_path.exists():
        raise InputError(
            f"{folder} contains no model, because {OPEN_CLIP_CONFIG_FILE} is missing: train one first, name "
            "another folder, or restore it from an intact copy"
        )
    model_config = read_open_clip_config(config_path)
    preprocessing = _read_preprocessing(config_path, size=model_config["vision_cfg"]["image_size"])
    require_file(weights_path)
    tokenizer_files = (TOKENIZER_FILE, TOKENIZER_CONFIG_FILE)
    for name in tokenizer_files:
        read_object(folder / name)
    deciding = [OPEN_CLIP_CONFIG_FILE]
    if "hf_model_name" in model_config["text_cfg"]:
        deciding.insert(0, ENCODER_CONFIG_FILE)
        require_few_layers(folder / ENCODER_CONFIG_FILE, read_object(folder / ENCODER_CONFIG_FILE))
    with translate_errors(join_file_names(folder, deciding)):
        module = _make(model_config, folder)
    load_weights(module, weights_path)
    with translate_errors(join_file_names(folder, tokenizer_files)):
        tokenizer = load_tokenizer(
            folder,
            context_length=model_config["text_cfg"]["context_length"],
            vocab_size=getattr(module.text, "config", module.text).vocab_size,
        )
        tokenizer.too_long(TRIAL_TEXTS)
        tokenizer(TRIAL_TEXTS)
    with translate_errors(join_file_names(folder, [*deciding, *tokenizer_files])):
        _try(module.eval(), tokenizer, preprocessing.size)  # which detects other wrong values in the configs
    return LoadedModel(module=module, tokenizer=tokenizer, preprocessing=preprocessing, sha256=sha256_of(weights_path))


def _read_preprocessing(path: Path, *, size: int) -> Preprocessing:
    """Read the image preprocessing of an `open_clip_config.json`."""
    with translate_errors(str(path)):
        found = read_object(path)["preprocess_cfg"]
        if lacking := sorted({"mean", "std", "interpolation", "resize_mode"} - found.keys()):
            raise ValueError(f"preprocess_cfg lacks {', '.join(lacking)}")
        try:
            return Preprocessing.from_json(found, size=size)
        except SettingsError as error:
            raise InputError(
                f"{path} has an image preprocessing that is not supported here ({error}). `vernaclip scoreboard` can "
                "read it as open_clip=DIR"
            ) from error


def require_encoding(module: Any, tokenizer: SavedTokenizer, *, image_size: int, model: str) -> None:
    """Check that a model encodes an image and a text of full length to features of equal size, padded or not."""
    was_training = module.training
    try:
        with translate_errors(f"the model config {model}", remedy="correct it, or name another", kind=InputError):
            _try(module.eval(), tokenizer, image_size)
    finally:
        module.train(was_training)


def _try(module: Any, tokenizer: SavedTokenizer, image_size: int) -> None:
    """Encode an image, a text that is alone and then padded, and one of full length; raise if they do not fit."""
    import torch

    with torch.no_grad():
        image = module.encode_image(torch.zeros(1, 3, image_size, image_size))
        alone, padded = (module.encode_text(tokenizer(texts), normalize=True)[0] for texts in (["a"], ["a", "a " * 9]))
        module.encode_text(tokenizer(["a " * tokenizer.context_length]))
    if image[0].shape != alone.shape:
        raise ValueError("image and text features have different sizes")
    if float((alone - padded).abs().max()) > _PADDING:
        raise ValueError(
            "a text has another feature beside a longer one, which pads it: the text encoder's config.json has another "
            "pad_token_id than its tokenizer, or it cannot mask padding"
        )


def open_model(model: LoadedModel | Path) -> LoadedModel:
    """Open a folder in open_clip's hub layout with safetensors weights. Return a loaded model unchanged."""
    if isinstance(model, LoadedModel):
        return model
    prepare_for_torch()
    return load_model(model)


def require_texts(texts: Sequence[str]) -> None:
    """Refuse a text that is empty or cannot be encoded."""
    for text in texts:
        if not text.strip():
            raise SettingsError("a text is empty: enter the text to look for")
        if not text.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise SettingsError("a text is not valid Unicode: enter it in the terminal's encoding")
