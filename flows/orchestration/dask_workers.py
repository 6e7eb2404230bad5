"""Environment of the steps of a flow on a worker of a Dask cluster: files, code, Python and current folder.

Workers import this module, which imports no Prefect.
"""

import functools
import os
import platform
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed.protocol import pickle

from data_catalog.base.errors import InputError
from data_catalog.disk.files import digest, sha256_of
from flows import PACKAGES

# Marks of the flows that this process has been checked for.
_checked: set[Path] = set()


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowEnvironment:
    """The environment of a flow that workers must share to run its steps.

    Args:
        folder: the flow's current folder, to which a recipe's paths are relative.
        mark: absolute path of a file below the root that only this flow has made.
        versions: see `versions`; None if they cannot differ.
    """

    folder: Path
    mark: Path
    versions: Mapping[str, str] | None


@functools.lru_cache(maxsize=1)
def versions() -> Mapping[str, str]:
    """Return the versions of Python and of our code, which decide the bytes of outputs."""
    base = Path(__file__).parents[2]
    files = (path for package in PACKAGES for path in (base / package).rglob("*.py"))
    code = digest({path.relative_to(base).as_posix(): sha256_of(path) for path in files})[:12]
    return {"Python": sys.version.split()[0], "vernaclip code": code}


def enter(environment: FlowEnvironment) -> None:
    """Check, once for each flow, that this process has the flow's files and versions, and change to its folder."""
    if environment.mark not in _checked:
        here = f"the worker on {platform.node()}"
        places = {environment.mark.parent: environment.mark.is_file(), environment.folder: environment.folder.is_dir()}
        for missing in (place for place, is_there in places.items() if not is_there):
            raise InputError(
                f"{here} does not see {missing} as the flow does: put the root and the folder in which the build is "
                "started on a file system that all machines share under the same paths"
            )
        for name, wanted in (environment.versions or {}).items():
            if versions()[name] != wanted:
                raise InputError(
                    f"{here} has {name} {versions()[name]}, but the flow has {wanted}, so outputs would differ: "
                    "install the same version on all machines, and restart the workers"
                )
        _checked.add(environment.mark)
    os.chdir(environment.folder)


def run_remotely(environment: FlowEnvironment, pickled: bytes) -> Any:
    """Run a pickled call in the process of a worker.

    It is unpickled here, in a thread: Dask would import its modules between the heartbeats of the worker, and one that
    is silent for long passes for lost.
    """
    enter(environment)
    call: Callable[[], Any] = pickle.loads(pickled)  # type: ignore[no-untyped-call]
    try:
        return call()
    except Exception as error:
        if error.__cause__ is not None:  # which does not travel
            error.add_note("".join(traceback.format_exception(error.__cause__)))
        raise
