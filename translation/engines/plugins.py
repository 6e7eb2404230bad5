"""Translation engines of installed packages, found by entry points; docs/translation.md shows how to write one.

A package names a factory in the entry point group `vernaclip.engines`. Names are read from the metadata of installed
packages. A package is imported only when a recipe uses its engine.
"""

import copy
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

from data_catalog.base.boundary import about
from data_catalog.base.errors import KINDS, DiskError, InputError, PipelineError, SettingsError, TransientError
from data_catalog.base.language_pack import LanguagePack
from data_catalog.disk.files import digest
from translation.config import ENGINE_NAME, ENGINES, TranslateConfig
from translation.engines.answers import Answer, CheckedTranslator, TextEngine, shown

logger = logging.getLogger(__name__)

GROUP = "vernaclip.engines"
# Increase it when a change of this module gives another text or score for the same engine.
PROTOCOL_VERSION = 1
_LONGEST = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """The argument of a package's factory.

    Args:
        source: the language that the engine reads: `code` ("en"), `iso639_3`, `flores` and more, see `LanguagePack`.
        target: the language that it writes.
        settings: a copy of the recipe's table `[translate.settings]`.
        folder: the engine's own folder, for files that can be recreated, such as downloaded models.
    """

    source: LanguagePack
    target: LanguagePack
    settings: Mapping[str, Any]
    folder: Path


@dataclass(frozen=True, slots=True)
class Plugin:
    """An engine of an installed package."""

    name: str
    package: str
    version: str
    entry_point: metadata.EntryPoint

    def __str__(self) -> str:
        return f"the engine {self.name!r} of the package {self.package} {self.version}"


def find_plugins() -> list[Plugin]:
    """Return the engines of installed packages, by name; no package is imported."""
    found: dict[tuple[str, str], Plugin] = {}
    for package in metadata.distributions():  # the first of a name hides others, as in imports
        try:
            engines = package.entry_points.select(group=GROUP)
            if not engines:  # reading the name of every package takes a second
                continue
            name, version = package.name or "without a name", package.version or "of no version"
        except Exception as error:  # noqa: BLE001  a package may be broken in any way, and others are still good
            logger.debug("a damaged package is left out: %s", error)
            continue
        for each in engines:
            if re.fullmatch(ENGINE_NAME, each.name):
                found.setdefault((each.name, name), Plugin(each.name, name, version, each))
    return [found[key] for key in sorted(found)]


def engine_names() -> list[str]:
    """Return the names of all engines, built-in ones first."""
    return [*ENGINES, *dict.fromkeys(each.name for each in find_plugins() if each.name not in ENGINES)]


def find_plugin(name: str) -> Plugin | None:
    """Return the installed package's engine of this name, or None for a built-in engine."""
    found = [each for each in find_plugins() if each.name == name]
    packages = " and ".join(each.package for each in found)
    if found and name in ENGINES:
        raise InputError(
            f"the package {packages} has an engine {name!r}, which is the name of a built-in engine: uninstall the "
            "package, or rename its engine"
        )
    if len(found) > 1:
        raise InputError(f"the engine {name!r} is in several packages, {packages}: uninstall all but one")
    if not found and name not in ENGINES:
        raise SettingsError(
            f"translate.engine must be one of {', '.join(engine_names())}, got {name!r}. A package can add an engine "
            f"in the entry point group {GROUP} (docs/translation.md)"
        )
    return found[0] if found else None


def open_plugin(
    plugin: Plugin, config: TranslateConfig, source: LanguagePack, target: LanguagePack, cache_dir: Path
) -> CheckedTranslator:
    """Import a package and open its engine, with a folder of its own below the user's cache."""
    remedy = f"repair or uninstall {plugin.package}"
    with _foreign_errors(f"{plugin} cannot be imported", remedy):
        factory = plugin.entry_point.load()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(cache) / "vernaclip" / "engines" / plugin.name
    with about(f"the folder {folder} of the engine {plugin.name!r} cannot be created", kind=DiskError):
        folder.mkdir(parents=True, exist_ok=True)
    request = EngineRequest(
        source=source,
        target=target,
        settings=MappingProxyType(copy.deepcopy(dict(config.settings))),
        folder=folder,
    )
    with _foreign_errors(f"{plugin} cannot be opened", f"correct translate.settings or {plugin.package}"):
        engine = _PackageEngine(factory(request), plugin, f"{source.code}-{target.code}")
    return CheckedTranslator(engine, source.code, target.code, name=str(plugin))


class _PackageEngine:
    """The engine of a package, with its attributes checked and its errors named.

    The package's name is part of the fingerprint, so that no package can use the cached translations of another engine.
    """

    def __init__(self, engine: TextEngine, plugin: Plugin, pair: str) -> None:
        said, size = getattr(engine, "fingerprint", None), getattr(engine, "max_chunk_size", None)
        if not isinstance(said, str) or not said.strip():
            raise InputError(f"its fingerprint must be a non-empty string, got {shown(said)}")
        if size is not None and (type(size) is not int or size < 1):
            raise InputError(f"its max_chunk_size must be a positive number or None, got {shown(size)}")
        if engine.fingerprint != said:
            raise InputError(f"its fingerprint changed between two reads; it was {shown(said)}")
        self._engine, self._plugin, self._said, self.max_chunk_size = engine, plugin, said, size
        what = {"protocol": PROTOCOL_VERSION, "package": plugin.package, "fingerprint": said}
        self.fingerprint = f"{plugin.name}:{pair}:{digest(what)[:12]}"

    def translate(self, captions: list[str]) -> list[Answer]:
        remedy = f"repair {self._plugin.package}; finished translations are kept"
        with _foreign_errors(f"{self._plugin} failed", remedy, may_pass=True):
            answers = self._engine.translate(captions)
            if not isinstance(answers, list | tuple):
                raise InputError(f"it returned {shown(answers)}, not a list")
            if self._engine.fingerprint != self._said:
                raise InputError("its fingerprint changed while it translated")
            return list(answers)


@contextmanager
def _foreign_errors(what: str, remedy: str, *, may_pass: bool = False) -> Iterator[None]:
    """Turn any error of a package in the block into one of ours, with its class, as a package's author needs it.

    An error of ours keeps its class, and a failed connection is a TransientError if it `may_pass`.
    """
    try:
        yield
    except PipelineError as error:
        # A subclass of the package may take other arguments than a message.
        kind = next((kind for kind in KINDS if isinstance(error, kind)), InputError)
        raise kind(f"{what}: {error}") from error
    except BaseException as error:
        # `SystemExit` comes from the code, Ctrl-C from the user. Rust code, such as tokenizers, raises PanicException.
        if not isinstance(error, Exception | SystemExit) and type(error).__name__ != "PanicException":
            raise
        text = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")[:_LONGEST]
        if may_pass and isinstance(error, ConnectionError | TimeoutError):
            raise TransientError(f"{what} ({text}). It may work later") from error
        raise InputError(f"{what} ({text}): {remedy}") from error
