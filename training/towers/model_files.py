"""Read, check and write the files of a model folder. Errors name the file that is missing or damaged.

Weights are in safetensors, never in a pickle, and are written atomically.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

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
_DECIDING = "the model that open_clip_config.json (and config.json, if there is one) describes"
_MOST_LAYERS = 1000  # a config with more layers is damaged, and would keep a library busy for hours
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
_LAYERS = ("layers", "num_hidden_layers", "n_layers", "num_layers", "encoder_layers", "decoder_layers")
_TOWERS = ("open_clip_config.json", "config.json")  # the files with the number of layers of a tower
_PANIC = "PanicException"  # raised by the Rust code of tokenizers; not a subclass of `Exception`
_LONGEST = 240
# Lists of further towers in a model config (`training.towers.joined`): side, the part that each has, and its key there.
JOINED = {
    "joined_images": ("image", "vision_cfg", "timm_model_name"),
    "joined_texts": ("text", "text_cfg", "hf_model_name"),
}
MOST_JOINED = 4  # further towers on a side
# The side that a further tower does not have, as small as open_clip makes it.
_NOTHING = {
    "vision_cfg": {"image_size": 8, "patch_size": 8, "layers": 1, "width": 64},
    "text_cfg": {
        "context_length": 4,
        "vocab_size": 8,
        "layers": 1,
        "width": 64,
        "hf_tokenizer_name": "tokenizer",
    },
}
_NAMED = 3  # maximum number of tensors that an error names, per kind of mismatch


def require_file(path: Path) -> None:
    """Check that a file of a model exists.

    Raises:
        DamagedError: it is missing, or is not a file. The message says which.
    """
    try:
        if path.is_file():
            return
        kind = "a folder" if path.is_dir() else "a broken link" if path.is_symlink() else None
    except OSError as error:
        raise DamagedError(f"{path} cannot be read ({error.strerror}): {REMEDY}") from error
    problem = f"is {kind} instead of a file of the model" if kind else "is missing"
    raise DamagedError(f"{path} {problem}: {REMEDY}")


def read_object(path: Path, *, remedy: str = REMEDY) -> dict[str, Any]:
    """Read a JSON object from a file of a model.

    Raises:
        DamagedError: the file is missing, cannot be read, or contains something else.
    """
    require_file(path)
    try:
        found = read_json(path)
    except OSError as error:
        raise_if_disk_fails(error, path)
        raise DamagedError(f"{path} cannot be read ({error.strerror}): {remedy}") from error
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or nested too deeply
        raise DamagedError(f"{path} is damaged ({one_line(error)}): {remedy}") from error
    if not isinstance(found, dict):
        raise DamagedError(f"{path} is damaged (it is not a JSON object): {remedy}")
    return found


def read_open_clip_config(path: Path) -> dict[str, Any]:
    """Read the `model_cfg` of an `open_clip_config.json`, and check the parts needed to create and feed the model.

    Raises:
        DamagedError: the file is damaged, or a needed value is missing or invalid.
    """
    config = read_object(path).get("model_cfg")
    if not isinstance(config, dict):
        raise DamagedError(f"{path} is not an open_clip model config, because model_cfg is missing: {REMEDY}")
    text, vision = (config.get(name) for name in ("text_cfg", "vision_cfg"))
    if not isinstance(text, dict) or not isinstance(vision, dict):
        raise DamagedError(
            f"{path} is not an open_clip model config, because text_cfg or vision_cfg is missing: {REMEDY}"
        )
    sizes = {
        "embed_dim": config.get("embed_dim"),
        "text_cfg.context_length": text.get("context_length"),
        "vision_cfg.image_size": vision.get("image_size"),
    }
    for name, value in sizes.items():
        if type(value) is not int or value < 1:
            raise DamagedError(f"{path}: model_cfg.{name} must be a positive number, got {value!r}: {REMEDY}")
    if config.get("custom_text") is not True:  # open_clip would create a text tower with other weight names
        raise DamagedError(f"{path}: model_cfg.custom_text must be true, got {config.get('custom_text')!r}: {REMEDY}")
    require_few_layers(path, config)
    return config


def rename_encoders(model_config: Mapping[str, Any], hub_name: str | None = None) -> dict[str, Any]:
    """Return a model config that is free of the paths of Hugging Face text encoders, since they are private.

    Args:
        model_config: the open_clip model config. It is not changed.
        hub_name: name on the hub of the model itself, which replaces the paths; None: `HERE` does.
    """
    found = deepcopy(dict(model_config))
    for each in (found, *(each for name in JOINED for each in found.get(name, ()))):
        text = each.get("text_cfg", {})
        has_encoder = "hf_model_name" in text
        # A local tokenizer comes from the folder under any name, but without a name open_clip would use its own.
        text["hf_tokenizer_name"] = hub_name or (HERE if has_encoder else "tokenizer")
        if has_encoder:
            text |= {"hf_model_name": hub_name or HERE, "hf_model_pretrained": False}
    return found


def joined_configs(model_config: Mapping[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Return side, folder and model config of each further tower; the config's other side is a minimal tower.

    Raises:
        ValueError: the config lists something else, or its first tower cannot be joined.
    """
    found = []
    for name, (side, part, key) in JOINED.items():
        stated = model_config.get(name, [])
        if not isinstance(stated, list) or len(stated) > MOST_JOINED:
            raise ValueError(f"{name} must be a list of at most {MOST_JOINED} towers")
        for each in (model_config, *stated) if stated else ():
            if not isinstance(each, dict) or not isinstance(each.get(part), dict) or key not in each[part]:
                raise ValueError(f"{name} needs {part}.{key} in each of its towers and in the model's own {side} tower")
        for number, each in enumerate(stated, start=1):
            config = {"embed_dim": 8, "custom_text": True, **deepcopy(_NOTHING), **each, part: dict(each[part])}
            found.append((side, f"{side}-{number}", config))
    return found


def require_readable_files(folder: Path, names: Iterable[str], *, first: str) -> None:
    """Check that the existing files of a third-party model folder can be read, without interpreting their content.

    Args:
        folder: the model folder.
        names: names of files that contain JSON objects.
        first: the one of them that must exist.

    Raises:
        InputError: the first file is missing, a JSON file or a file of tensors is damaged, or there are no weights.
    """
    try:
        require_file(folder / first)
        for path in (folder / name for name in names):
            if path.exists() or path.is_symlink():
                found = read_object(path)
                if path.name in _TOWERS:  # in a tokenizer's vocabulary, "layers" may be a word with its id
                    require_few_layers(path, found)
        if not any(path.suffix in _WEIGHTS for path in folder.iterdir()):
            raise InputError(f"{folder} contains no weights file, such as model.safetensors: {REMEDY}")
        for path in sorted(folder.glob("*.safetensors")):
            require_file(path)
            try:
                with safe_open(path, framework="pt"):
                    pass
            except (OSError, SafetensorError) as error:
                raise InputError(f"{path} is broken ({one_line(error)}): {REMEDY}") from error
    except DamagedError as error:  # raise an InputError instead, because the model is not ours
        raise InputError(str(error)) from error


def require_few_layers(path: Path, settings: Mapping[str, Any]) -> None:
    """Check that a config, and the tables in it, do not have more layers than any real model.

    Raises:
        DamagedError: there are too many layers.
    """
    for name, value in settings.items():
        for table in value if isinstance(value, list) else [value]:
            if isinstance(table, dict):
                require_few_layers(path, table)
        counts = value if isinstance(value, list) else [value]
        if name in _LAYERS and any(isinstance(count, int) and count > _MOST_LAYERS for count in counts):
            raise DamagedError(f"{path} is damaged: no model has {name} = {value!r}: {REMEDY}")


def describe_mismatch(wanted: "Mapping[str, torch.Tensor]", found: "Mapping[str, torch.Tensor]") -> str:
    """Describe up to three missing, unexpected and mismatched tensors each, or return "" if all match."""
    missing, left = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    problems = [f"{named_tensors(missing)} {'are' if len(missing) > 1 else 'is'} missing"] if missing else []
    problems += [f"{named_tensors(left)} {'are' if len(left) > 1 else 'is'} unexpected"] if left else []
    both = [(name, found[name], wanted[name]) for name in sorted(wanted.keys() & found.keys())]
    other = [
        f"{name!r} is of shape {tuple(a.shape)}, not {tuple(b.shape)}"
        if a.shape != b.shape
        else f"{name!r} is of {a.dtype}, not {b.dtype}"
        for name, a, b in both
        if a.shape != b.shape or a.is_floating_point() != b.is_floating_point()
    ]
    more = [f"and {len(other) - _NAMED:,} more of another shape or kind"] if len(other) > _NAMED else []
    return "; ".join([*problems, *other[:_NAMED], *more])


def named_tensors(names: Sequence[str]) -> str:
    """Return the names of the first three tensors, and the number of the others."""
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return f"the tensor{'s' * (len(names) > 1)} {', '.join(map(repr, names[:_NAMED]))}{more}"


@contextmanager
def translate_errors(files: str, *, remedy: str = REMEDY, kind: type[PipelineError] = DamagedError) -> Iterator[None]:
    """Translate exceptions of libraries that read damaged files into an error that names the files.

    This is the boundary around open_clip, transformers and tokenizers. They trust a config, so a wrong value in it may
    raise any exception, in any place. tokenizers may also raise a Rust panic.

    Args:
        files: the files that may be damaged, as text.
        kind: class of the error to raise.
        remedy: advice at the end of the message.
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
        raise kind(f"{files} cannot be opened ({one_line(error)}): {remedy}") from error


def one_line(error: BaseException) -> str:
    """Return an error's message in one line of limited length."""
    message = " ".join(str(error).split()) or type(error).__name__
    return message if len(message) <= _LONGEST else f"{message[:_LONGEST]}..."


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

    Raises:
        DamagedError: the file is damaged, or belongs to another model.
    """
    from safetensors.torch import load_file  # it imports torch

    try:
        tensors = {name: tensor for name, tensor in load_file(path).items() if name not in without}
    except (OSError, SafetensorError) as error:
        raise DamagedError(f"{path} is broken ({one_line(error)}): {REMEDY}") from error
    problem = describe_mismatch(module.state_dict(), tensors)
    if problem:
        raise DamagedError(f"{path} does not match {_DECIDING}: {problem}: {REMEDY}")
    module.load_state_dict(tensors, strict=True)
