"""Files of a model folder: each is there, whole and what it is called, or told of by its name in one sentence.

Weights are in safetensors, written whole or not at all, and never a pickle.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from data_catalog.errors import DamagedError, InputError, PipelineError
from data_catalog.storage.disk_errors import raise_if_disk_fails
from data_catalog.storage.shards import read_json, save_tensors

if TYPE_CHECKING:
    import torch

REMEDY = "copy the folder again from where it is whole, remove it and train again, or name another model"
# To try a model with: of differing lengths, so that one is filled up, and with what few tokenizers have seen.
ANY_TEXTS = ("a", "a \N{SNOWMAN} a")
_DECIDING = "the model that open_clip_config.json (and config.json, where there is one) describes"
_MOST_LAYERS = 1000  # a config with more of them is damaged, and a library would be making them for hours
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
_LAYERS = ("layers", "num_hidden_layers")
_TOWERS = ("open_clip_config.json", "config.json")  # the files that say of how many layers towers are
_PANIC = "PanicException"  # how tokenizers' Rust code ends; no `Exception`
_LONGEST = 240
_NAMED = 3  # tensors, of each way not to fit


def require_file(path: Path) -> None:
    """Make sure that a file of a model is there.

    Raises:
        DamagedError: it is not, or is something else; says which.
    """
    try:
        if path.is_file():
            return
        kind = "a folder" if path.is_dir() else "a link to nothing" if path.is_symlink() else None
    except OSError as error:
        raise DamagedError(f"{path} cannot be read ({error.strerror}): {REMEDY}") from error
    told = f"is {kind}, where a file of the model should be" if kind else "is missing"
    raise DamagedError(f"{path} {told}: {REMEDY}")


def read_object(path: Path, *, remedy: str = REMEDY) -> dict[str, Any]:
    """Return a file of a model that holds a JSON object.

    Raises:
        DamagedError: it is missing, cannot be read, or holds something else.
    """
    require_file(path)
    try:
        found = read_json(path)
    except OSError as error:
        raise_if_disk_fails(error, path)
        raise DamagedError(f"{path} cannot be read ({error.strerror}): {remedy}") from error
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, or brackets in brackets in brackets
        raise DamagedError(f"{path} is damaged ({one_line(error)}): {remedy}") from error
    if not isinstance(found, dict):
        raise DamagedError(f"{path} is damaged (it is no JSON object): {remedy}")
    return found


def read_open_clip_config(path: Path) -> dict[str, Any]:
    """Return the `model_cfg` of an `open_clip_config.json`, with all that is needed to make and feed the model.

    Raises:
        DamagedError: the file is damaged, or something of that is missing or no such value.
    """
    config = read_object(path).get("model_cfg")
    if not isinstance(config, dict):
        raise DamagedError(f"{path} is no open_clip config, since it has no model_cfg: {REMEDY}")
    text, vision = (config.get(name) for name in ("text_cfg", "vision_cfg"))
    if not isinstance(text, dict) or not isinstance(vision, dict):
        raise DamagedError(f"{path} is no open_clip config, since model_cfg has no text_cfg or no vision_cfg: {REMEDY}")
    sizes = {
        "embed_dim": config.get("embed_dim"),
        "text_cfg.context_length": text.get("context_length"),
        "vision_cfg.image_size": vision.get("image_size"),
    }
    for name, value in sizes.items():
        if type(value) is not int or value < 1:
            raise DamagedError(f"{path}: model_cfg.{name} must be a positive number, got {value!r}: {REMEDY}")
    if config.get("custom_text") is not True:  # open_clip would make another text tower, with weights of other names
        raise DamagedError(f"{path}: model_cfg.custom_text must be true, got {config.get('custom_text')!r}: {REMEDY}")
    require_few_layers(path, config)
    return config


def require_whole(folder: Path, names: Iterable[str], *, first: str) -> None:
    """Make sure that those files of a folder of others that are there can be read, whatever they say.

    Args:
        names: of files that hold JSON objects.
        first: of them the one without which the folder is nothing.

    Raises:
        InputError: it is missing, or one of them, or a file of tensors, is damaged; or there are no weights at all.
    """
    try:
        require_file(folder / first)
        for path in (folder / name for name in names):
            if path.exists() or path.is_symlink():
                found = read_object(path)
                if path.name in _TOWERS:  # in a tokenizer's vocabulary "layers" is a word, and its number a token
                    require_few_layers(path, found)
        if not any(path.suffix in _WEIGHTS for path in folder.iterdir()):
            raise InputError(f"{folder} holds no file of weights, such as model.safetensors: {REMEDY}")
        for path in sorted(folder.glob("*.safetensors")):
            require_file(path)
            try:
                with safe_open(path, framework="pt"):
                    pass
            except (OSError, SafetensorError) as error:
                raise InputError(f"{path} is broken ({one_line(error)}): {REMEDY}") from error
    except DamagedError as error:  # of a model of others
        raise InputError(str(error)) from error


def require_few_layers(path: Path, settings: Mapping[str, Any]) -> None:
    """Make sure that of a config, or of a table in it, a model can be made in a lifetime.

    Raises:
        DamagedError: it has more layers than any.
    """
    for name, value in settings.items():
        if isinstance(value, dict):
            require_few_layers(path, value)
        counts = value if isinstance(value, list) else [value]
        if name in _LAYERS and any(isinstance(count, int) and count > _MOST_LAYERS for count in counts):
            raise DamagedError(f"{path} is damaged: no model has {name} = {value!r}: {REMEDY}")


def misfits(wanted: "Mapping[str, torch.Tensor]", found: "Mapping[str, torch.Tensor]") -> str:
    """Say which tensors a file lacks, has besides, or has of another shape or kind, three of each; "" if all fit."""
    missing, left = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    told = [f"it lacks {named_tensors(missing)}"] if missing else []
    told += [f"it has {named_tensors(left)} besides"] if left else []
    both = [(name, found[name], wanted[name]) for name in sorted(wanted.keys() & found.keys())]
    other = [
        f"{name!r} is of shape {tuple(a.shape)}, not {tuple(b.shape)}"
        if a.shape != b.shape
        else f"{name!r} is of {a.dtype}, not {b.dtype}"
        for name, a, b in both
        if a.shape != b.shape or a.is_floating_point() != b.is_floating_point()
    ]
    more = [f"and {len(other) - _NAMED:,} more of another shape or kind"] if len(other) > _NAMED else []
    return "; ".join([*told, *other[:_NAMED], *more])


def named_tensors(names: Sequence[str]) -> str:
    """Name the first three of some tensors, and count the others."""
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return f"the tensor{'s' * (len(names) > 1)} {', '.join(map(repr, names[:_NAMED]))}{more}"


@contextmanager
def opening(files: str, *, remedy: str = REMEDY, kind: type[PipelineError] = DamagedError) -> Iterator[None]:
    """While inside, tell whatever libraries make of damaged files in a sentence that names the files.

    The boundary around open_clip, transformers and tokenizers: they take a config at its word, so that a wrong value
    in one ends in any exception, anywhere, Rust's panic among them.

    Args:
        files: which it may be, in words.
        kind: what is raised where something was raised that was not meant for the user.
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
    """Return what an error says, in one line that is not endless."""
    told = " ".join(str(error).split()) or type(error).__name__
    return told if len(told) <= _LONGEST else f"{told[:_LONGEST]}..."


def names_of(folder: Path, names: Iterable[str]) -> str:
    """Name some files of a folder, as "FOLDER/a.json, or b.json beside it".

    Of files of weights only those that are there, of others all: that one is missing may be what is wrong.
    """
    named = [name for name in names if name.endswith(".json") or (folder / name).exists()]
    if not named:
        return str(folder)
    first, *others = named
    return f"{folder / first}{''.join(f', or {name}' for name in others)}{' beside it' * bool(others)}"


def save_weights(module: Any, path: Path) -> str:
    """Write a model's weights atomically; returns the file's sha256."""
    return save_tensors(module.state_dict(), path, {"format": "pt"})


def load_weights(module: Any, path: Path) -> None:
    """Put written weights back into a model of the same architecture.

    Raises:
        DamagedError: the file is broken, or of another model.
    """
    from safetensors.torch import load_file  # which loads torch

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DamagedError(f"{path} is broken ({one_line(error)}): {REMEDY}") from error
    problem = misfits(module.state_dict(), tensors)
    if problem:
        raise DamagedError(f"{path} does not fit {_DECIDING}: {problem}: {REMEDY}")
    module.load_state_dict(tensors, strict=True)
