"""Full and failing disks, reported in the same way whichever library meets them."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_catalog.base.boundary import about
from data_catalog.base.boundary import raise_if_disk_fails as raise_if_disk_fails
from data_catalog.base.errors import DiskError

_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Raise a `DiskError` for a full or failing disk while `path`, or something below it, is written."""
    try:
        yield
    except Exception as error:
        raise_if_disk_fails(error, path)
        raise


@contextmanager
def access_errors() -> Iterator[None]:
    """Raise a `DiskError` for a file or folder that this user may not use, or not write; for the end of a job."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DENIED or not isinstance(error.filename, str | bytes):
            raise
        named = Path(os.fsdecode(error.filename))
        is_temporary = named.name.startswith(".tmp-")  # users do not know it
        place, what = (named.absolute().parent, "written") if is_temporary else (named, "used")
        raise DiskError(
            f"{place} cannot be {what} ({error.strerror}): change its permissions, or choose another place"
        ) from error


def nearest_existing(path: Path) -> Path:
    """Return the path itself or its nearest existing folder: free space and permissions can be read there."""
    path = path.absolute()
    return next(each for each in (path, *path.parents) if each.exists())


def make_writable_folder(folder: Path, option: str) -> None:
    """Make a folder for results, which an option named, and check that it is writable, before the work starts."""
    with about(f"{option} {folder} cannot be written", kind=DiskError, remedy="name another folder"):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
