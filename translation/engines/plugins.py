"""Translation engines of installed packages, found by entry points; docs/translation.md shows how to write one.

A package names a factory in the entry point group `vernaclip.engines`. Names are read from the metadata of installed
packages. A package is imported only when a recipe uses its engine.
"""

import copy
import logging
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from numbers import Real
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from data_catalog.base.errors import KINDS, DiskError, InputError, PipelineError, SettingsError, TransientError
from data_catalog.base.language_pack import LanguagePack
from data_catalog.disk.files import digest
from translation.config import ENGINE_NAME, ENGINES, TranslateConfig
from translation.engine import Translation, translate_distinct

logger = logging.getLogger(__name__)

GROUP = "vernaclip.engines"
# Increase it when a change of this module gives another text or score for the same engine.
PROTOCOL_VERSION = 1
CAPTIONS_PER_CALL = 500  # for an engine without a limit of its own; progress is reported after each call
_ENTRY_POINTS = "entry_points.txt"
_SHOWN, _LONGEST = 60, 300

# A text, or a text and its score: the mean log-probability of its tokens, at most 0, or None.
Answer = str | tuple[str, float | None]


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


class PluginEngine(Protocol):
    """The engine that a package's factory returns; `max_chunk_size` may be missing."""

    @property
    def fingerprint(self) -> str:
        """Return a name of everything that decides the translations: the package's version, a model's hash, settings.

        Translations are cached under it and never requested again. It must not change during the engine's life.
        """

    @property
    def max_chunk_size(self) -> int | None:
        """Return the most captions of a call, and so the most that a crash can lose; None if they cost only time."""

    def translate(self, captions: list[str]) -> Sequence[Answer]:
        """Return one translation per caption, in the same order; captions are distinct and never blank.

        Raises:
            ConnectionError, TimeoutError: the captions are tried again later. Any other error ends the run.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """An engine of an installed package.

    Args:
        name: its name in a recipe.
        package: name of the package.
        version: version of the package.
        entry_point: names the factory.
    """

    name: str
    package: str
    version: str
    entry_point: metadata.EntryPoint

    def __str__(self) -> str:
        return f"the engine {self.name!r} of the package {self.package} {self.version}"


def find_plugins() -> list[Plugin]:
    """Return the engines of installed packages, by name; no package is imported."""
    found: dict[str, list[Plugin]] = {}
    for distribution in metadata.distributions():
        try:
            announced = GROUP in (distribution.read_text(_ENTRY_POINTS) or "")
        except (OSError, ValueError):  # not UTF-8
            continue
        if announced:
            package, version = _identity(distribution)
            found.setdefault(package, _of_package(distribution, package, version))  # Python imports the first one
    return sorted((each for own in found.values() for each in own), key=lambda each: (each.name, each.package))


def engine_names() -> list[str]:
    """Return the names of all engines, built-in ones first."""
    return [*ENGINES, *dict.fromkeys(each.name for each in find_plugins() if each.name not in ENGINES)]


def find_plugin(name: str) -> Plugin | None:
    """Return the installed package's engine of this name, or None for a built-in engine.

    Raises:
        SettingsError: there is no engine of this name.
        InputError: several packages have an engine of this name, or it is the name of a built-in engine.
    """
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
) -> "PluginTranslator":
    """Import a package and open its engine, with a folder of its own below the user's cache.

    Raises:
        InputError: the package cannot be imported, refuses, or returns no engine. The message names the package.
        DiskError: the engine's folder cannot be created.
    """
    remedy = f"repair or uninstall {plugin.package}"
    with foreign_errors(f"{plugin} cannot be imported", remedy):
        factory = plugin.entry_point.load()
    if not callable(factory):
        raise InputError(f"{plugin} must be a function, but is {_shown(factory)}: {remedy}")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(cache) / "vernaclip" / "engines" / plugin.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(
            f"the folder {folder} of the engine {plugin.name!r} cannot be created ({_one_line(error)}): remove "
            "what blocks it"
        ) from error
    request = EngineRequest(
        source=source,
        target=target,
        settings=MappingProxyType(copy.deepcopy(dict(config.settings))),
        folder=folder,
    )
    with foreign_errors(f"{plugin} cannot be opened", f"correct translate.settings or {plugin.package}"):
        return PluginTranslator(factory(request), plugin, from_code=source.code, to_code=target.code)


class PluginTranslator:
    """A `translation.engine.Translator` over the engine of an installed package, whose results are checked.

    A blank caption stays blank, and equal captions are translated once. The package's name is part of the fingerprint,
    so that no package can use the cached translations of another engine.
    """

    def __init__(self, engine: PluginEngine, plugin: Plugin, *, from_code: str, to_code: str) -> None:
        """Check the engine's attributes.

        Raises:
            InputError: an attribute is missing or invalid.
        """
        self.from_code, self.to_code = from_code, to_code
        self._engine, self._plugin = engine, plugin
        said, size = getattr(engine, "fingerprint", None), getattr(engine, "max_chunk_size", None)
        if not isinstance(said, str) or not said.strip():
            raise InputError(f"its fingerprint must be a non-empty string, got {_shown(said)}")
        if size is not None and (type(size) is not int or size < 1):
            raise InputError(f"its max_chunk_size must be a positive number or None, got {_shown(size)}")
        self._fingerprint, self.max_chunk_size = said, size
        if not callable(getattr(engine, "translate", None)):
            raise InputError(f"its factory returned {_shown(engine)}, which has no method `translate`")
        if engine.fingerprint != self._fingerprint:
            raise InputError(f"its fingerprint changed between two reads; it was {_shown(self._fingerprint)}")
        what = {"protocol": PROTOCOL_VERSION, "package": plugin.package, "fingerprint": self._fingerprint}
        self.fingerprint = f"{plugin.name}:{from_code}-{to_code}:{digest(what)[:12]}"

    def translate(self, captions: Sequence[str], on_done: Callable[[int], object] | None = None) -> list[Translation]:
        """Return one translation per caption; see `Translator.translate`.

        Raises:
            InputError: the engine fails, or does not return one translation per caption. The message names the package.
        """
        return translate_distinct(captions, self._translated, on_done, size=self.max_chunk_size or CAPTIONS_PER_CALL)

    def _translated(self, captions: list[str]) -> list[Translation]:
        remedy = f"repair {self._plugin.package}; finished translations are kept"
        with foreign_errors(f"{self._plugin} failed", remedy, may_pass=True):
            answers = self._engine.translate(list(captions))
            if not isinstance(answers, list | tuple):
                raise InputError(f"it returned {_shown(answers)}, not a list")
            if len(answers) != len(captions):
                raise InputError(f"it returned {len(answers):,} translations for {len(captions):,} captions")
            if self._engine.fingerprint != self._fingerprint:
                raise InputError("its fingerprint changed while it translated")
            return [_translation(answer, caption) for answer, caption in zip(answers, captions, strict=True)]


def text_problem(text: str) -> str | None:
    """Return the reason why a text cannot be stored in files and databases, or None if it can."""
    if "\0" in text:
        return "a NUL character"
    return "half of a surrogate pair" if any("\ud800" <= char <= "\udfff" for char in text) else None


def _translation(answer: object, caption: str) -> Translation:
    """Return one answer as a `Translation`, with white space as single spaces.

    Raises:
        InputError: it is not a translation.
    """
    text, score = answer if isinstance(answer, tuple) and len(answer) == 2 else (answer, None)
    if not isinstance(text, str):
        raise InputError(f"it returned {_shown(answer)} for the caption {_shown(caption)}, not a string (and a score)")
    if problem := text_problem(text):
        raise InputError(f"its translation of {_shown(caption)} contains {problem}")
    if score is None:
        return Translation(text=" ".join(text.split()))
    number = math.nan if isinstance(score, bool) or not isinstance(score, Real) else float(score)
    if not -math.inf < number <= 0:  # false for NaN
        raise InputError(f"its score of {_shown(caption)} is {_shown(score)}, not a number of at most 0, or None")
    return Translation(text=" ".join(text.split()), score=number)


@contextmanager
def foreign_errors(what: str, remedy: str, *, may_pass: bool = False) -> Iterator[None]:
    """Turn any error of foreign code in the block into an InputError: `what` (the error's text): `remedy`.

    An error of ours keeps its class and its message, after `what`.

    Args:
        what: what failed, with the name of the code.
        remedy: what the user can do.
        may_pass: turn a failed connection into a TransientError.
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
        if may_pass and isinstance(error, ConnectionError | TimeoutError):
            raise TransientError(f"{what} ({_one_line(error)}). It may work later") from error
        raise InputError(f"{what} ({_one_line(error)}): {remedy}") from error


def _one_line(error: BaseException) -> str:
    """Return an error's class and message in one line of limited length."""
    text = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _shown(value: object) -> str:
    text = repr(value) if isinstance(value, str | bytes | int | float | tuple | None) else f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _identity(distribution: metadata.Distribution) -> tuple[str, str]:
    """Return a package's name and version, with substitutes for missing ones."""
    found: Mapping[str, Any] = {}
    try:
        said = distribution.metadata
        found = {field: said[field] for field in ("Name", "Version") if field in said}
    except Exception as error:  # noqa: BLE001  foreign metadata may raise anything
        logger.debug("metadata that cannot be read: %s", error)
    return str(found.get("Name") or f"at {distribution.locate_file('')}"), str(found.get("Version") or "of no version")


def _of_package(distribution: metadata.Distribution, package: str, version: str) -> list[Plugin]:
    try:
        entry_points = list(distribution.entry_points.select(group=GROUP))
    except Exception as error:  # noqa: BLE001  a malformed line may raise anything
        logger.warning("the engines of the package %s cannot be read, its entry points are damaged: %s", package, error)
        return []
    fit = [each for each in entry_points if re.fullmatch(ENGINE_NAME, each.name)]
    for each in entry_points:
        if each not in fit:
            logger.warning("the package %s has an engine with the invalid name %.60r", package, each.name)
    return [Plugin(name=each.name, package=package, version=version, entry_point=each) for each in fit]
