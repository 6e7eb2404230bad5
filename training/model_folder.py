"""A model that somebody names by its folder, opened only if its images are to be prepared as ours are."""

from collections.abc import Sequence
from pathlib import Path

from data_catalog.errors import DamagedError, InputError, SettingsError
from training.model import OPEN_CLIP_CONFIG_FILE, PREPROCESSING, LoadedModel, load_model
from training.model_files import REMEDY, read_object
from training.threads import let_threads_sleep


def open_model(model: LoadedModel | Path) -> LoadedModel:
    """A loaded model as it is, or the one of a folder in open_clip's hub layout with weights in safetensors.

    Raises:
        InputError: the folder holds no such model, or its images are prepared in another way.
        DamagedError: a file of it is missing or damaged.
    """
    if isinstance(model, LoadedModel):
        return model
    let_threads_sleep()
    _check_preprocessing(model)
    return load_model(model)


def _check_preprocessing(folder: Path) -> None:
    path = folder / OPEN_CLIP_CONFIG_FILE
    if not path.exists() and not path.is_symlink():
        raise InputError(f"{folder} holds no model: there is no {OPEN_CLIP_CONFIG_FILE} in it")
    preparing = read_object(path).get("preprocess_cfg")
    if not isinstance(preparing, dict):
        raise DamagedError(f"{path} is no open_clip config of a model, since it has no preprocess_cfg: {REMEDY}")
    other = [name for name, value in PREPROCESSING.items() if preparing.get(name) != value]
    if other:
        raise InputError(
            f"{path} says that images are prepared in another way than here ({', '.join(other)}): its features would "
            "mean nothing; `vernaclip scoreboard` reads it as open_clip=DIR"
        )


def require_texts(texts: Sequence[str]) -> None:
    """Refuse texts that say nothing.

    Raises:
        SettingsError: one is empty, or is no text that can be encoded.
    """
    for text in texts:
        if not text.strip():
            raise SettingsError("a text is empty: say what to look for")
        if not text.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise SettingsError("a text is not valid Unicode: give it in the terminal's encoding")
