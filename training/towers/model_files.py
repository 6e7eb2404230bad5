"""Read, check and write the files of a model folder. Errors name the file that is missing or damaged.

Weights are in safetensors, never in a pickle, and are written atomically.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from data_catalog.base.errors import DamagedError, InputError, PipelineError
from data_catalog.disk.disk_errors import raise_if_disk_fails
from data_catalog.disk.files import read_json, save_tensors

if TYPE_CHECKING:
    import torch

REMEDY = "restore the folder from an intact copy, remove it and train again, or use another model"
# Texts to try a model with: their lengths differ, so that one is padded, and one has a rare character.
TRIAL_TEXTS = ("a", "a \N{SNOWMAN} a")
# Stands in a model config for the folder of the config, as open_clip takes no path relative to it.
HERE = "."
_MOST_LAYERS = 1000  # a config with more layers is damaged, and would keep a library busy for hours
_LAYERS = ("layers", "num_hidden_layers", "n_layers", "num_layers", "encoder_layers", "decoder_layers")
_TOWERS = ("open_clip_config.json", "config.json")  # the files with the number of layers of a tower
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
_PANIC = "PanicException"  # raised by the Rust code of tokenizers; not a subclass of `Exception`
_LONGEST = 240  # of an error's message


@contextmanager
def translate_errors(files: str, *, remedy: str = REMEDY, kind: type[PipelineError] = DamagedError) -> Iterator[None]:
    """Translate exceptions of libraries that read files, or fetch them, into an error that names them.

    This is the boundary around open_clip, timm, transformers, safetensors and tokenizers. They trust a config, so a
    wrong value in it may raise any exception, in any place. tokenizers may also raise a Rust panic.

    Args:
        files: what is read, as text.
        remedy: advice at the end of the message.
        kind: class of the error to raise.
    """
    try:
        yield
    except PipelineError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != _PANIC:
            raise
        if isinstance(error, Exception):
            raise_if_disk_fails(error, Path(files))
        reason = one_line(error)
        if isinstance(error, UnpicklingError):  # torch's message advises to read it all the same
            reason = "it contains more than weights, and reading it would run code"
        raise kind(f"{files} cannot be opened ({reason}): {remedy}") from error


def one_line(error: BaseException) -> str:
    """Return an error's message in one line of limited length."""
    message = " ".join(str(error).split()) or type(error).__name__
    return message if len(message) <= _LONGEST else f"{message[:_LONGEST]}..."


def require_file(path: Path) -> None:
    """Refuse a model folder without a file."""
    if not path.is_file():
        raise DamagedError(f"{path} is missing, or is no file: {REMEDY}")


def read_object(path: Path, *, remedy: str = REMEDY) -> dict[str, Any]:
    """Return the JSON object in a file of a model."""
    require_file(path)
    with translate_errors(str(path), remedy=remedy):
        found = read_json(path)
        if not isinstance(found, dict):
            raise ValueError("it is not a JSON object")
        return found


def read_open_clip_config(path: Path) -> dict[str, Any]:
    """Return the `model_cfg` of an `open_clip_config.json`, with the sizes that decide how the model is fed."""
    config = read_object(path).get("model_cfg")
    with translate_errors(str(path)):
        if not isinstance(config, dict):
            raise ValueError("model_cfg is missing")
        if config.get("custom_text") is not True:  # open_clip would name the weights of the text tower otherwise
            raise ValueError("model_cfg.custom_text is not true")
        for size in (config["embed_dim"], config["text_cfg"]["context_length"], config["vision_cfg"]["image_size"]):
            if type(size) is not int or size < 1:
                raise ValueError(f"{size!r} is no size")
    require_few_layers(path, config)
    return config


def require_few_layers(path: Path, settings: Mapping[str, Any], *, kind: type[PipelineError] = DamagedError) -> None:
    """Refuse a config of which a table has more layers than any real model."""
    for name, value in settings.items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, dict):
                require_few_layers(path, each, kind=kind)
            elif name in _LAYERS and isinstance(each, int) and each > _MOST_LAYERS:
                raise kind(f"{path} is damaged: no model has {name} = {value!r}: {REMEDY}")


def require_readable_files(folder: Path, names: Iterable[str], *, first: str) -> None:
    """Refuse a third-party model folder without weights or one of its files, or with one that cannot be parsed.

    Args:
        folder: the model folder.
        names: names of JSON files, which need not be there.
        first: the one of them that must be.
    """
    try:
        require_file(folder / first)
        for path in (folder / name for name in names if (folder / name).exists()):
            found = read_object(path)
            if path.name in _TOWERS:  # in a tokenizer's vocabulary, "layers" may be a word with its id
                require_few_layers(path, found)
        if not any(path.suffix in _WEIGHTS for path in folder.iterdir()):
            raise InputError(f"{folder} contains no weights file, such as model.safetensors: {REMEDY}")
        for path in sorted(folder.glob("*.safetensors")):
            with translate_errors(str(path)), safe_open(path, framework="pt"):
                pass
    except DamagedError as error:  # raise an InputError instead, because the model is not ours
        raise InputError(str(error)) from error


def rename_encoders(model_config: Mapping[str, Any], hub_name: str | None = None) -> dict[str, Any]:
    """Return a model config without the path of a Hugging Face text encoder, since it is private.

    Args:
        model_config: the open_clip model config. It is not changed.
        hub_name: name on the hub of the model itself, which replaces the path; None: `HERE` does.
    """
    found = deepcopy(dict(model_config))
    text = found["text_cfg"]
    if "hf_model_name" in text:
        text |= {"hf_model_name": hub_name or HERE, "hf_model_pretrained": False}
    # A local tokenizer comes from the folder under any name, but without a name open_clip would use its own.
    text["hf_tokenizer_name"] = hub_name or text.get("hf_model_name", "tokenizer")
    return found


def join_file_names(folder: Path, names: Iterable[str]) -> str:
    """Join names of files of a folder, as "FOLDER/a.json, or b.json beside it".

    Weights are listed only if they exist. Other files are always listed, since the error may be that one is missing.
    """
    named = [name for name in names if name.endswith(".json") or (folder / name).exists()]
    if not named:
        return str(folder)
    first, *others = named
    return f"{folder / first}{''.join(f', or {name}' for name in others)}{' beside it' * bool(others)}"


def save_weights(module: Any, path: Path) -> str:
    """Write a model's weights atomically, and return the file's sha256."""
    return save_tensors(module.state_dict(), path, {"format": "pt"})


def load_weights(module: Any, path: Path, *, without: Collection[str] = ()) -> None:
    """Load weights from a file into a model of the same architecture.

    Args:
        module: the model.
        path: the file.
        without: names of tensors that the file may have and the model does not take.
    """
    from safetensors.torch import load_file  # it imports torch

    with translate_errors(str(path)):
        tensors = {name: tensor for name, tensor in load_file(path).items() if name not in without}
    load_strictly(module, tensors, f"{path} for the model that open_clip_config.json and config.json describe")


def load_strictly(
    module: Any,
    tensors: "Mapping[str, torch.Tensor]",
    what: str,
    *,
    remedy: str = REMEDY,
    kind: type[PipelineError] = DamagedError,
) -> None:
    """Load tensors into a module that needs exactly these, of its shapes; whole numbers are no weights."""
    with translate_errors(what, remedy=remedy, kind=kind):
        wanted = module.state_dict()
        for name in wanted.keys() & tensors.keys():
            if wanted[name].is_floating_point() and not tensors[name].is_floating_point():
                raise ValueError(f"{name!r} is of {tensors[name].dtype}")
        module.load_state_dict(tensors, strict=True)
