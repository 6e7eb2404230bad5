"""The boundary around libraries: their errors, with the file, step or setting that they are about."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EDQUOT, EIO, ENOSPC, ESTALE
from itertools import takewhile
from pathlib import Path
from pickle import UnpicklingError

from data_catalog.base.errors import DiskError, InputError, PipelineError

_FULL = (ENOSPC, EDQUOT)
_FAILED = (EIO, ESTALE)  # ESTALE: of a network file system
# Messages of pyarrow, DuckDB and SQLite, which may give no errno.
_FULL_TEXTS = ("No space left on device", "Disk quota exceeded", "database or disk is full")
_SQLITE_FAILED = "disk I/O error"
_FAILED_TEXTS = ("Input/output error", _SQLITE_FAILED)
_SHARED_MEMORY_BYTES = 1 << 16  # SQLite enlarges its file by less at a time
# These raise their own error classes, not `OSError`, and importing them is slow.
_LIBRARIES = ("duckdb", "_duckdb", "sqlite3", "pyarrow")
_PANIC = "PanicException"  # raised by Rust code, such as tokenizers; not a subclass of `Exception`
_LONGEST = 240  # of an error's message, in characters


@contextmanager
def about(what: object, *, kind: type[PipelineError] = InputError, remedy: str = "") -> Iterator[None]:
    """Turn any error of a library in the block into one of ours: `what (the error's text): remedy`.

    Errors of ours and of memory pass unchanged, and a full or failing disk becomes a `DiskError`.

    Args:
        what: the file, step or setting, or a sentence about it ("the model x cannot be opened").
        kind: class of the error to raise.
        remedy: what the user can do.
    """
    try:
        yield
    except (PipelineError, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != _PANIC:
            raise
        raise_if_disk_fails(error, Path(str(what)))
        reason = one_line(error)
        if isinstance(error, OSError) and error.strerror and str(error.filename or "") in str(what):
            reason = error.strerror  # without the number, and without the path again
        if isinstance(error, UnpicklingError):  # torch's message advises to read it all the same
            reason = "it contains more than data, and reading it would run code"
        raise kind(f"{what} ({reason}): {remedy}" if remedy else f"{what}: {reason}") from error


def one_line(error: BaseException) -> str:
    """Return an error's message, or its class without one, in one line of limited length."""
    message = " ".join(str(error).split()) or type(error).__name__
    return message if len(message) <= _LONGEST else f"{message[:_LONGEST]}..."


def raise_if_disk_fails(error: BaseException, path: Path) -> None:
    """Raise a `DiskError` for a full or failing disk while `path` was written; leave other errors to the caller."""
    number, text = getattr(error, "errno", None), str(error)
    if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in _LIBRARIES:
        return
    named = Path(str(getattr(error, "filename", None) or path))
    known = Path(*takewhile(lambda part: not part.startswith(".tmp-"), named.parts))  # no user knows temporary files
    if number in _FULL or any(message in text for message in _FULL_TEXTS) or _has_no_room(text, named):
        folder = named.parent if known == named else known
        raise DiskError(f"the disk that holds {folder} is full: free space and run the same command again") from error
    if number in _FAILED or any(message in text for message in _FAILED_TEXTS):
        place = named if known == named else path
        raise DiskError(
            f"the disk failed at {place} (input/output error): check the disk, then run the same command again. It "
            "resumes from the finished steps"
        ) from error


def _has_no_room(text: str, path: Path) -> bool:
    """Return whether SQLite failed since the disk is full: it says so of data, but not of its shared memory."""
    with suppress(OSError):
        return _SQLITE_FAILED in text and shutil.disk_usage(path.parent).free < _SHARED_MEMORY_BYTES
    return False
