"""What goes wrong where models of others are loaded, from folders or hubs, as sentences that say what to do."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from data_catalog.errors import InputError
from training.model_files import names_of, one_line, opening

OTHERS_REMEDY = (
    "if a file of it is missing, damaged or of another model, copy it again from where it is whole; if none is, it is "
    "no model that can be scored here"
)


@contextmanager
def loading(what: str, source: str, names: Sequence[str]) -> Iterator[None]:
    """Around what reads some files of a model; those that a folder has are named where they do not open.

    Args:
        what: the model, as it was named.
        source: a folder, or a name on a hub.
        names: of the files.

    Raises:
        InputError: they are damaged, would run code, or cannot be had.
    """
    if Path(source).is_dir():
        with opening(names_of(Path(source), names), remedy=OTHERS_REMEDY, kind=InputError), _refusing_code(what):
            yield
    else:
        with _fetching(what):
            yield


@contextmanager
def _refusing_code(what: str) -> Iterator[None]:
    from pickle import UnpicklingError

    try:
        yield
    except UnpicklingError as error:
        raise InputError(f"{what} holds more than weights, which to read would run code: it is refused") from error


@contextmanager
def _fetching(what: str) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        with _refusing_code(what):
            yield
    except RuntimeError as error:  # open_clip's, of weights that do not fit as of those that cannot be fetched
        raise InputError(
            f"{what} cannot be loaded ({one_line(error)}): its weights do not fit its config, or cannot be had; where "
            "there is no network, name a folder that it was copied to"
        ) from error
    except (TypeError, AssertionError, AttributeError, ImportError) as error:  # what constructors say of odd configs
        raise InputError(
            f"{what} cannot be loaded ({type(error).__name__}: {one_line(error)}): its config is damaged, or of "
            "another release, or needs a package that is not installed"
        ) from error
    except (OSError, ValueError, LookupError, SafetensorError) as error:
        raise InputError(
            f"{what} cannot be had ({one_line(error)}): copy it to a folder where there is a network, and name that"
        ) from error
