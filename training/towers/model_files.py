"""Read and write the files of a model folder: JSON configs, and weights in safetensors, never in a pickle."""

from collections.abc import Collection, Mapping
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from data_catalog.base.boundary import about
from data_catalog.base.errors import DamagedError, PipelineError
from data_catalog.disk.files import read_json, save_tensors

if TYPE_CHECKING:
    import torch

REMEDY = "restore the folder from an intact copy, remove it and train again, or use another model"
# Stands in a model config for the folder of the config, as open_clip takes no path relative to it.
HERE = "."
_MOST_LAYERS = 1000
_LAYERS = ("layers", "num_hidden_layers", "n_layers", "num_layers", "encoder_layers", "decoder_layers")
_OBJECT = TypeAdapter(dict[str, Any])


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


def read_open_clip_config(path: Path) -> dict[str, Any]:
    """Return the `model_cfg` of an `open_clip_config.json`."""
    with about(f"{path} cannot be opened", kind=DamagedError, remedy=REMEDY):
        return _OBJECT.validate_python(read_config(path)["model_cfg"])


def rename_encoders(model_config: Mapping[str, Any], hub_name: str | None = None) -> dict[str, Any]:
    """Return a copy of a model config without the path of a Hugging Face text encoder, since it is private.

    Args:
        model_config: the open_clip model config.
        hub_name: name on the hub of the model itself, which replaces the path; None: `HERE` does.
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
