"""Create, write and load model folders: open_clip model config, weights in safetensors, tokenizer and preprocessing.

Weights are never in a pickle. open_clip alone can open a finished folder,
`open_clip.create_model_and_transforms("local-dir:FOLDER")`, unless its text tower is one of `training.towers.modules`
that open_clip does not have.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from data_catalog.base.boundary import about
from data_catalog.base.errors import DamagedError, InputError, PipelineError, SettingsError
from data_catalog.disk.files import read_json, save_tensors, sha256_of, write_json
from training.runs.attempts import WEIGHTS_FILE as WEIGHTS_FILE
from training.runs.processes import encode_where_fastest, prepare_for_torch
from training.towers.preprocessing import Preprocessing, preprocessing_of
from training.towers.tokenizer import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, SavedTokenizer, load_tokenizer

if TYPE_CHECKING:
    import torch

OPEN_CLIP_CONFIG_FILE = "open_clip_config.json"
ENCODER_CONFIG_FILE = "config.json"  # config of a Hugging Face text encoder
HUB_WEIGHTS_FILE = "open_clip_model.safetensors"  # file name in open_clip's hub layout, which exports use
REMEDY = "restore the folder from an intact copy, remove it and train again, or use another model"
# Stands in a model config for the folder of the config, as open_clip takes no path relative to it.
HERE = "."
# Our own parts of a model config, which open_clip does not know.
_OWN_PARTS = ("image_weights", "license", "preprocess_cfg", "recorded_features")
_PADDING = 1e-4  # largest change of a number of a unit feature by padding
_MOST_LAYERS = 1000
_LAYERS = ("layers", "num_hidden_layers", "n_layers", "num_layers", "encoder_layers", "decoder_layers")
_OBJECT = TypeAdapter(dict[str, Any])
_CONFIG_REMEDY = "correct the model config, restore it from an intact copy, or name another model"

logger = logging.getLogger(__name__)


def read_object(path: Path, *, remedy: str = REMEDY, kind: type[PipelineError] = DamagedError) -> dict[str, Any]:
    """Return the JSON object in a file of a model."""
    with about(f"{path} cannot be opened", kind=kind, remedy=remedy):
        return _OBJECT.validate_python(read_json(path))


def read_config(path: Path, *, kind: type[PipelineError] = DamagedError) -> dict[str, Any]:
    """Return the config of a model from a file; refuse one with more layers than a real model has."""
    found = read_object(path, kind=kind)
    require_few_layers(path, found, kind=kind)
    return found


def require_few_layers(path: Path, settings: Mapping[str, Any], *, kind: type[PipelineError]) -> None:
    """Refuse a config with more layers than a real model has, which would keep a library busy for hours."""
    for name, value in settings.items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, dict):
                require_few_layers(path, each, kind=kind)
            elif name in _LAYERS and isinstance(each, int) and each > _MOST_LAYERS:
                raise kind(f"{path} is damaged: no model has {name} = {value!r}: {REMEDY}")


def rename_encoders(model_config: Mapping[str, Any], hub_name: str | None = None) -> dict[str, Any]:
    """Return a copy of a model config without the path of a Hugging Face text encoder, since it is private.

    The name on the hub of the model itself replaces it; without one, `HERE` does.
    """
    found = deepcopy(dict(model_config))
    text = found["text_cfg"]
    if "hf_model_name" in text:
        text |= {"hf_model_name": hub_name or HERE, "hf_model_pretrained": False}
    # A local tokenizer comes from the folder under any name, but without a name open_clip would use its own.
    text["hf_tokenizer_name"] = hub_name or text.get("hf_model_name", "tokenizer")
    return found


def save_weights(module: Any, path: Path) -> str:
    """Write a model's weights atomically, and return the file's sha256."""
    return save_tensors(module.state_dict(), path, {"format": "pt"})


def load_weights(module: Any, path: Path, *, without: Collection[str] = ()) -> None:
    """Load weights from a file into a model of the same architecture, except tensors that it does not take."""
    from safetensors.torch import load_file  # it imports torch

    what = f"{path} for the model that open_clip_config.json and config.json describe"
    with about(f"{what} cannot be opened", kind=DamagedError, remedy=REMEDY):
        load_strictly(module, {name: tensor for name, tensor in load_file(path).items() if name not in without})


def load_strictly(module: Any, tensors: "Mapping[str, torch.Tensor]") -> None:
    """Load tensors into a module that needs exactly these, of its shapes; whole numbers are no weights."""
    wanted = module.state_dict()
    for name in wanted.keys() & tensors.keys():
        if wanted[name].is_floating_point() and not tensors[name].is_floating_point():
            raise ValueError(f"{name!r} is of {tensors[name].dtype}")
    module.load_state_dict(tensors, strict=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model with its tokenizer and preprocessing. It is on the CPU, and moves to a GPU to encode, if there is one."""

    module: Any  # of open_clip
    tokenizer: SavedTokenizer
    preprocessing: Preprocessing
    sha256: str  # of the weights file; "" for a model that was just made

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


def create_model(model_config: Mapping[str, Any], folder: Path) -> Any:
    """Create an open_clip model with random weights from torch's global generator. Nothing is downloaded.

    The folder has the config of a Hugging Face text encoder.
    """
    import torch

    from training.towers.modules import make_module

    with about(f"open_clip cannot create a model from the model config in {folder}", remedy=_CONFIG_REMEDY):
        known = _open_clip_part(model_config)
        if (backbone := known["vision_cfg"].get("timm_model_name")) is not None:
            if ":" in str(backbone):  # timm would read another model, from the hub or from a folder
                raise InputError(f"vision_cfg.timm_model_name must be the name of a backbone of timm, got {backbone!r}")
            known["vision_cfg"] = {**known["vision_cfg"], "timm_model_pretrained": False}  # weights are loaded later
        module = make_module(known, folder)
    return module.to(memory_format=torch.channels_last)  # makes convolutions on CPUs about twice as fast


def _open_clip_part(model_config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in model_config.items() if name not in _OWN_PARTS}


def write_model_config(folder: Path, model_config: Mapping[str, Any]) -> None:
    """Write `open_clip_config.json`, which describes the model and its image preprocessing to open_clip."""
    parts = {"model_cfg": _open_clip_part(model_config), "preprocess_cfg": preprocessing_of(model_config).to_json()}
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
    stated = read_config(config_path)
    with about(f"{config_path} cannot be opened", kind=DamagedError, remedy=REMEDY):
        model_config = stated["model_cfg"]
        context_length = model_config["text_cfg"]["context_length"]
        image_size = model_config["vision_cfg"]["image_size"]
        if "hf_model_name" in model_config["text_cfg"]:
            read_config(folder / ENCODER_CONFIG_FILE)
    unknown = f"{config_path} has an image preprocessing that is not supported here"
    with about(unknown, remedy="`vernaclip scoreboard` can read it as open_clip=DIR"):
        known = {name: stated["preprocess_cfg"][name] for name in ("mean", "std", "interpolation", "resize_mode")}
        preprocessing = Preprocessing.from_json(known, size=image_size)
    for name in (TOKENIZER_FILE, TOKENIZER_CONFIG_FILE):
        read_object(folder / name)
    module = create_model(model_config, folder)
    load_weights(module, weights_path)
    with about(f"the tokenizer of {folder} cannot be opened", kind=DamagedError, remedy=REMEDY):
        tokenizer = load_tokenizer(folder, context_length=context_length)
    # This detects other wrong values in the configs.
    require_encoding(module.eval(), tokenizer, image_size=image_size, model=str(folder))
    return LoadedModel(module=module, tokenizer=tokenizer, preprocessing=preprocessing, sha256=sha256_of(weights_path))


def require_encoding(module: Any, tokenizer: SavedTokenizer, *, image_size: int, model: str) -> None:
    """Check that a model encodes an image and a text of full length to features of equal size, padded or not."""
    import torch

    was_training = module.training
    with about(f"the model {model} cannot encode", remedy=_CONFIG_REMEDY), torch.no_grad():
        image = module.eval().encode_image(torch.zeros(1, 3, image_size, image_size))
        alone, padded = (module.encode_text(tokenizer(texts), normalize=True)[0] for texts in (["a"], ["a", "a " * 9]))
        module.encode_text(tokenizer(["a " * tokenizer.context_length, "a \N{SNOWMAN} a"]))  # a rare character
        torch.stack([image[0], alone])  # of equal size
        if float((alone - padded).abs().max()) > _PADDING:
            raise ValueError(
                "a text has another feature beside a longer one, which pads it: the text encoder's config.json has "
                "another pad_token_id than its tokenizer, or it cannot mask padding"
            )
    module.train(was_training)


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
        with about("a text is not valid Unicode", kind=SettingsError, remedy="enter it in the terminal's encoding"):
            text.encode()
