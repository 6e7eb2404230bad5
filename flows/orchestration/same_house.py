"""What must be the same in every process that has a hand in one build: code, versions, and the files that they see."""

import functools
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

from data_catalog.errors import InputError
from data_catalog.storage.shards import digest, sha256_of

_DISTRIBUTION = "vernaclip"
_PACKAGES = ("flows", "translation", "cleaning", "data_catalog")
_CODE = "vernaclip's own code"


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """Where a flow runs, as far as whoever does its steps must agree with it.

    Args:
        folder: the flow's current folder, to which a recipe's paths are relative.
        mark: a file below the root that this flow alone has made; absolute.
        versions: see `versions`; None where they cannot differ.
    """

    folder: Path
    mark: Path
    versions: Mapping[str, str] | None


@functools.lru_cache(maxsize=1)
def versions() -> Mapping[str, str]:
    """What the bytes that this process writes depend on: the kind of machine, Python, our code, packages, by name."""
    found = {"the kind of machine": platform.machine(), "Python": sys.version.split()[0], _CODE: _code_digest()}
    for requirement in requires(_DISTRIBUTION) or []:
        if "extra ==" not in requirement:
            name = _name(requirement)
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                continue
    return found


def _name(requirement: str) -> str:
    from packaging.requirements import Requirement

    return Requirement(requirement).name


def _code_digest() -> str:
    files: dict[str, str] = {}
    for package in _PACKAGES:
        spec = find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        folder = Path(spec.origin).parent
        files |= {f"{package}/{path.relative_to(folder)}": sha256_of(path) for path in folder.rglob("*.py")}
    return digest(files)[:12]


# Marks of the flows whose steps this process does.
_entered: set[Path] = set()


def enter(house: House) -> None:
    """Make sure, once for each flow, that this process may do its steps, and go to its folder, from another's perhaps.

    Raises:
        InputError: this process sees other files, or has other versions; the text says which.
    """
    if house.mark not in _entered:
        _require_agreement(house)
        _entered.add(house.mark)
    os.chdir(house.folder)


def _require_agreement(house: House) -> None:
    here = f"the worker on {platform.node()}"
    if not house.mark.is_file() or not house.folder.is_dir():
        missing = house.folder if house.mark.is_file() else house.mark.parent
        raise InputError(
            f"{here} does not see {missing} as the flow does: put the root, and the folder that the build is started "
            "in, on a file system that all machines share under the same names"
        )
    if house.versions is not None:
        _require_same(house.versions, here)


def _require_same(wanted: Mapping[str, str], here: str) -> None:
    own = versions()
    for name in sorted({*own, *wanted}):
        if own.get(name) != wanted.get(name):
            raise InputError(
                f"{here} has {name} {own.get(name, 'not at all')}, the flow {wanted.get(name, 'not at all')}: install "
                "the same on all machines and start the workers again, or the bytes would differ"
            )
