"""The boundary around code of others: whatever it raises becomes one sentence that says whose it is."""

from collections.abc import Iterator
from contextlib import contextmanager

from data_catalog.errors import KINDS, InputError, PipelineError, TransientError

_PANIC = "PanicException"  # how Rust code ends, such as that of tokenizers; no `Exception`
_MAY_PASS = (ConnectionError, TimeoutError)
_LONGEST = 300


@contextmanager
def opening(what: str, remedy: str) -> Iterator[None]:
    """Turn whatever is raised inside into an InputError: `what` (what was said): `remedy`.

    An error of ours keeps its class and its words, behind `what`.
    """
    try:
        yield
    except PipelineError as error:
        raise _class_of(error)(f"{what}: {error}") from error
    except BaseException as error:
        if not _is_of_others(error):
            raise
        raise InputError(f"{what} ({one_line(error)}): {remedy}") from error


@contextmanager
def working(what: str, remedy: str) -> Iterator[None]:
    """Turn whatever is raised inside into an InputError, or into a TransientError where a connection failed.

    An error of ours keeps its class and its words, behind `what`.
    """
    try:
        yield
    except PipelineError as error:
        raise _class_of(error)(f"{what}: {error}") from error
    except _MAY_PASS as error:
        raise TransientError(f"{what} ({one_line(error)}): it may work at another time") from error
    except BaseException as error:
        if not _is_of_others(error):
            raise
        raise InputError(f"{what} ({one_line(error)}): {remedy}") from error


def one_line(error: BaseException) -> str:
    """Return what an error says, behind the name of its class, in one line that is not endless."""
    told = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    return told if len(told) <= _LONGEST else f"{told[:_LONGEST]}..."


def _class_of(error: PipelineError) -> type[PipelineError]:
    """Return which of our classes an error is of; a package's own subclass may want other arguments than a text."""
    return next((kind for kind in KINDS if isinstance(error, kind)), InputError)


def _is_of_others(error: BaseException) -> bool:
    """Tell whether an error is code's own, not ours or the user's: `SystemExit` is one, Ctrl-C is none."""
    return isinstance(error, Exception | SystemExit) or type(error).__name__ == _PANIC
