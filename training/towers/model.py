"""Create, write and load model folders: open_clip model config, weights in safetensors, tokenizer and preprocessing.

open_clip alone can open a finished folder, `open_clip.create_model_and_transforms("local-dir:FOLDER")`, unless its text
tower is one of `training.towers.modules` that open_clip does not have.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_catalog.base.errors import DamagedError, InputError, SettingsError
from data_catalog.disk.files import sha256_of, write_json
from training.runs.attempts import WEIGHTS_FILE as WEIGHTS_FILE
from training.runs.processes import encode_where_fastest, prepare_for_torch
from training.towers.model_files import (
    JOINED,
    REMEDY,
    TRIAL_TEXTS,
    join_file_names,
    joined_configs,
    load_weights,
    one_line,
    read_object,
    read_open_clip_config,
    require_few_layers,
    require_file,
    translate_errors,
)
from training.towers.preprocessing import Preprocessing, preprocessing_of
from training.towers.tokenizer import (
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    AnyTokenizer,
    JoinedTokenizer,
    load_tokenizer,
)

if TYPE_CHECKING:
    import torch

OPEN_CLIP_CONFIG_FILE = "open_clip_config.json"
ENCODER_CONFIG_FILE = "config.json"  # config of a Hugging Face text encoder
HUB_WEIGHTS_FILE = "open_clip_model.safetensors"  # file name in open_clip's hub layout, which exports use

logger = logging.getLogger(__name__)

# Our own parts of a model config, which open_clip does not know.
NOT_OPEN_CLIP = ("image_weights", "license", "preprocess_cfg", "recorded_features", "start_folder", "start_weights")
_PADDING = 1e-4  # largest change of a number of a unit feature by padding
CONFIGS = Path(str(files("training.towers") / "model_configs"))


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model ready to encode, in evaluation mode. It starts on the CPU, and moves to a GPU to encode, if there is one.

    Args:
        module: the open_clip model.
        tokenizer: turns texts into int64 token ids, shape (texts, length of the longest), or of joined towers (texts,
            towers, length).
        preprocessing: how its images are resized and normalised.
        sha256: sha256 of the weights file.
    """

    module: Any
    tokenizer: AnyTokenizer
    preprocessing: Preprocessing
    sha256: str

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


def create_model(model_config: dict[str, Any], folder: Path) -> Any:
    """Create an open_clip model with random weights from torch's global generator.

    Args:
        model_config: the open_clip model config.
        folder: folder with the config of a Hugging Face text encoder. Nothing is downloaded.

    Raises:
        InputError: open_clip rejects the config, or it names a model elsewhere.
    """
    try:
        return _make(model_config, folder)
    except (TypeError, AssertionError, ValueError, LookupError, RuntimeError, ArithmeticError) as error:
        raise InputError(f"open_clip cannot create a model from the model config: {one_line(error)}") from error


def _make(model_config: dict[str, Any], folder: Path) -> Any:
    import torch

    from training.towers.joined import join
    from training.towers.modules import make_module, read_encoder_config

    others = [_make(config, folder / name) for _, name, config in joined_configs(model_config)]
    known = {name: value for name, value in model_config.items() if name not in (*NOT_OPEN_CLIP, *JOINED)}
    if (backbone := known["vision_cfg"].get("timm_model_name")) is not None:
        if ":" in str(backbone):  # timm would read another model, from the hub or from a folder
            raise InputError(f"vision_cfg.timm_model_name must be the name of a backbone of timm, got {backbone!r}")
        known["vision_cfg"] = {**known["vision_cfg"], "timm_model_pretrained": False}  # weights are loaded later
    encoder = read_encoder_config(folder) if "hf_model_name" in model_config["text_cfg"] else None
    module = make_module(known, encoder, folder)
    if others:
        join(module, model_config, others)
    return module.to(memory_format=torch.channels_last)  # makes convolutions on CPUs about twice as fast


def write_model_config(folder: Path, model_config: dict[str, Any]) -> None:
    """Write `open_clip_config.json`, which describes the model and its image preprocessing to open_clip."""
    written = {name: value for name, value in model_config.items() if name not in NOT_OPEN_CLIP}
    kept = ("vision_cfg", "text_cfg", "preprocess_cfg")  # of further towers
    for name in JOINED.keys() & written.keys():
        written[name] = [{key: each[key] for key in kept if key in each} for each in written[name]]
    preprocessing = preprocessing_of(model_config)
    write_json(folder / OPEN_CLIP_CONFIG_FILE, {"model_cfg": written, "preprocess_cfg": preprocessing.to_json()})


def load_model(folder: Path) -> LoadedModel:
    """Load a model folder or its export to open_clip. Weights must match the model exactly.

    Raises:
        InputError: the folder contains no model, its tokenizer exceeds the limits, or padding changes text features.
        DamagedError: a file is missing or damaged, or the weights do not match the config. The message names the file.
    """
    logger.info("load the model %s", folder)  # before torch, which takes long to load on a busy machine
    import torch

    config_path, weights_path = folder / OPEN_CLIP_CONFIG_FILE, folder / WEIGHTS_FILE
    if not weights_path.exists() and (folder / HUB_WEIGHTS_FILE).exists():
        weights_path = folder / HUB_WEIGHTS_FILE
    if not (config_path.exists() or weights_path.exists()):
        raise InputError(f"{folder} contains no trained model: train one first, or name another folder")
    model_config = read_open_clip_config(config_path)
    preprocessing = _read_preprocessing(config_path, size=model_config["vision_cfg"]["image_size"])
    require_file(weights_path)
    has_encoder = "hf_model_name" in model_config["text_cfg"]
    deciding = [*([ENCODER_CONFIG_FILE] if has_encoder else []), OPEN_CLIP_CONFIG_FILE]
    with translate_errors(str(config_path)):
        further = joined_configs(model_config)
    text_towers = [(folder, model_config), *((folder / name, one) for side, name, one in further if side == "text")]
    for place, _ in text_towers:
        if has_encoder:
            require_few_layers(place / ENCODER_CONFIG_FILE, read_object(place / ENCODER_CONFIG_FILE))
        for name in (TOKENIZER_FILE, TOKENIZER_CONFIG_FILE):
            read_object(place / name)
    with translate_errors(join_file_names(folder, deciding)):
        module = _make(model_config, folder)
    load_weights(module, weights_path)
    with translate_errors(join_file_names(folder, [TOKENIZER_FILE, TOKENIZER_CONFIG_FILE])):
        towers = getattr(module.text, "towers", [module.text])
        tokenizers = [
            load_tokenizer(
                place,
                context_length=config["text_cfg"]["context_length"],
                vocab_size=tower.config.vocab_size if has_encoder else tower.vocab_size,
            )
            for (place, config), tower in zip(text_towers, towers, strict=True)
        ]
        tokenizer = tokenizers[0] if len(tokenizers) == 1 else JoinedTokenizer(tokenizers)
        tokenizer.too_long(TRIAL_TEXTS)
        tokenizer(TRIAL_TEXTS)
    found = LoadedModel(
        module=module.eval(),
        tokenizer=tokenizer,
        preprocessing=preprocessing,
        sha256=sha256_of(weights_path),
    )
    side = found.image_size
    with torch.no_grad():  # run the model once, which detects other wrong values in the configs
        with translate_errors(join_file_names(folder, [OPEN_CLIP_CONFIG_FILE])):
            dim = module.encode_image(torch.zeros(1, 3, side, side)).shape[-1]
        with translate_errors(join_file_names(folder, [*deciding, TOKENIZER_FILE, TOKENIZER_CONFIG_FILE])):
            texts = module.encode_text(tokenizer(TRIAL_TEXTS))
    if texts.shape != (len(TRIAL_TEXTS), dim):
        raise DamagedError(f"{config_path} gives image and text features of different sizes")
    with translate_errors(join_file_names(folder, deciding)), torch.no_grad():
        _require_same_if_padded(module, tokenizer, str(folder))
    return found


def _read_preprocessing(path: Path, *, size: int) -> Preprocessing:
    """Read the image preprocessing of an `open_clip_config.json`."""
    found = read_object(path).get("preprocess_cfg")
    needed = {"mean", "std", "interpolation", "resize_mode"}
    if not isinstance(found, dict) or not needed <= found.keys():
        raise DamagedError(f"{path} is not an open_clip model config, because preprocess_cfg is missing: {REMEDY}")
    try:
        return Preprocessing.from_json(found, size=size)
    except SettingsError as error:
        raise InputError(
            f"{path} has an image preprocessing that is not supported here ({error}). `vernaclip scoreboard` can read "
            "it as open_clip=DIR"
        ) from error


def require_encoding(module: Any, tokenizer: AnyTokenizer, *, image_size: int, model: str) -> None:
    """Check that a model encodes an image and a text of full length to features of equal size, padded or not.

    Raises:
        InputError: sizes in its config contradict each other, or padding changes the feature of a text.
    """
    import torch

    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            image = module.encode_image(torch.zeros(1, 3, image_size, image_size))
            text = module.encode_text(tokenizer(["a " * tokenizer.context_length]))
            _require_same_if_padded(module, tokenizer, model)
    except (AttributeError, TypeError) as error:
        raise InputError(f"a tower of {model} does not take images or texts alone: {one_line(error)}") from error
    except (RuntimeError, IndexError, AssertionError, ValueError) as error:
        raise InputError(f"sizes in the model config {model} do not match: {one_line(error)}") from error
    finally:
        module.train(was_training)
    if image.shape != text.shape:
        raise InputError(f"the model config {model} gives image and text features of different sizes")


def _require_same_if_padded(module: Any, tokenizer: AnyTokenizer, model: str) -> None:
    alone, padded = (module.encode_text(tokenizer(texts), normalize=True)[0] for texts in (["a"], ["a", "a " * 9]))
    if float((alone - padded).abs().max()) > _PADDING:
        raise InputError(
            f"the text encoder of {model} gives a text another feature beside a longer one, which pads it: its "
            "config.json has another pad_token_id than its tokenizer, or it cannot mask padding. Correct the former, "
            "or use another text encoder"
        )


def open_model(model: LoadedModel | Path) -> LoadedModel:
    """Open a folder in open_clip's hub layout with safetensors weights. Return a loaded model unchanged.

    Raises:
        InputError: the folder contains no model, or its image preprocessing is not supported.
        DamagedError: a file is missing or damaged.
    """
    if isinstance(model, LoadedModel):
        return model
    path = model / OPEN_CLIP_CONFIG_FILE
    if not path.exists() and not path.is_symlink():
        raise InputError(f"{model} contains no model: {OPEN_CLIP_CONFIG_FILE} is missing")
    prepare_for_torch()
    return load_model(model)


def require_texts(texts: Sequence[str]) -> None:
    """Raise if a text is empty or cannot be encoded.

    Raises:
        SettingsError: a text is empty or is not valid Unicode.
    """
    for text in texts:
        if not text.strip():
            raise SettingsError("a text is empty: enter the text to look for")
        if not text.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise SettingsError("a text is not valid Unicode: enter it in the terminal's encoding")
