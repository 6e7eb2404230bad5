"""Translation engines of other people's packages, found by entry points; docs/translation.md makes one.

A package announces a factory in the entry point group `vernaclip.engines`. Names are read from the metadata of what is
installed: a package is imported when its engine is asked for, and not before.
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

from data_catalog.errors import KINDS, DiskError, InputError, PipelineError, SettingsError, TransientError
from data_catalog.language_pack import LanguagePack
from data_catalog.storage.shards import digest
from translation.config import ENGINE_NAME, ENGINES, TranslateConfig
from translation.engine import Translation, translate_distinct

logger = logging.getLogger(__name__)

GROUP = "vernaclip.engines"
# Raised whenever the same engine gives another text or score through us.
PROTOCOL_VERSION = 1
CAPTIONS_PER_CALL = 500  # where the engine has no limit of its own: progress is told after each call
_ENTRY_POINTS = "entry_points.txt"
_SHOWN, _LONGEST = 60, 300

# A text, or a text and its score: the mean log-probability of its tokens, at most 0, or None.
Answer = str | tuple[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """What a package's factory gets.

    Args:
        source: the language that the engine reads: `code` ("en"), `iso639_3`, `flores` and more, see `LanguagePack`.
        target: the language that it writes.
        settings: the recipe's table `[translate.settings]`, a copy.
        folder: the engine's own folder, for files that can be had again, such as downloaded models.
    """

    source: LanguagePack
    target: LanguagePack
    settings: Mapping[str, Any]
    folder: Path


class PluginEngine(Protocol):
    """What a package's factory returns; it may leave out `max_chunk_size`."""

    @property
    def fingerprint(self) -> str:
        """Names everything that decides the translations: the package's version, a model's hash, settings.

        What an engine said of a caption is kept under it and never asked again. It never changes while the engine
        lives.
        """

    @property
    def max_chunk_size(self) -> int | None:
        """Most captions of a call, and so most that a crash can lose; None: each costs nothing but time."""

    def translate(self, captions: list[str]) -> Sequence[Answer]:
        """Return one translation a caption, in the same order; captions are distinct and never blank.

        `ConnectionError` and `TimeoutError` are tried again later, anything else ends the run.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """An engine that an installed package announces.

    Args:
        name: what a recipe calls it.
        package: name of the package.
        version: of the package.
        entry_point: where the factory is.
    """

    name: str
    package: str
    version: str
    entry_point: metadata.EntryPoint

    def __str__(self) -> str:
        return f"the engine {self.name!r} of the package {self.package} {self.version}"


def announcements() -> list[Announcement]:
    """Return the engines that installed packages announce, by name; no package is imported."""
    found: dict[str, list[Announcement]] = {}
    for distribution in metadata.distributions():
        try:
            announced = GROUP in (distribution.read_text(_ENTRY_POINTS) or "")
        except (OSError, ValueError):  # no UTF-8
            continue
        if announced:
            package, version = _identity(distribution)
            found.setdefault(package, _of_package(distribution, package, version))  # the first one is imported
    return sorted((each for own in found.values() for each in own), key=lambda each: (each.name, each.package))


def engine_names() -> list[str]:
    """Return the names of all engines, ours first."""
    return [*ENGINES, *dict.fromkeys(each.name for each in announcements() if each.name not in ENGINES)]


def find_announcement(name: str) -> Announcement | None:
    """Return the announcement of an engine, None where it is one of ours.

    Raises:
        SettingsError: nobody announces it.
        InputError: a package does that may not: of several packages no one is chosen.
    """
    found = [each for each in announcements() if each.name == name]
    packages = " and ".join(each.package for each in found)
    if found and name in ENGINES:
        raise InputError(
            f"the package {packages} announces an engine {name!r}, which is one of ours: uninstall it, or let it take "
            "another name"
        )
    if len(found) > 1:
        raise InputError(f"an engine {name!r} is announced by {packages}: uninstall all but one")
    if not found and name not in ENGINES:
        raise SettingsError(
            f"translate.engine must be one of {', '.join(engine_names())}, got {name!r}; a package adds another by the "
            f"entry point group {GROUP} (docs/translation.md)"
        )
    return found[0] if found else None


def open_plugin(
    announcement: Announcement, config: TranslateConfig, source: LanguagePack, target: LanguagePack, cache_dir: Path
) -> "PluginTranslator":
    """Import a package and let it open its engine, which has a folder of its own below the user's cache.

    Raises:
        InputError: the package cannot be imported, refuses, or returns no engine; names the package.
        DiskError: the engine's folder cannot be made.
    """
    mend = f"mend or uninstall {announcement.package}"
    with fenced(f"{announcement} cannot be imported", mend):
        factory = announcement.entry_point.load()
    if not callable(factory):
        raise InputError(f"{announcement} is no function that opens it, but {_shown(factory)}: {mend}")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(cache) / "vernaclip" / "engines" / announcement.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(
            f"the folder {folder} of the engine {announcement.name!r} cannot be made ({_one_line(error)}): "
            "free its place"
        ) from error
    request = EngineRequest(
        source=source,
        target=target,
        settings=MappingProxyType(copy.deepcopy(dict(config.settings))),
        folder=folder,
    )
    with fenced(f"{announcement} cannot be opened", f"mend translate.settings or {announcement.package}"):
        return PluginTranslator(factory(request), announcement, from_code=source.code, to_code=target.code)


class PluginTranslator:
    """A `translation.engine.Translator` over the engine of a package, which is trusted in nothing that can be checked.

    A blank caption stays blank, and equal captions are translated once. The package's name is part of the fingerprint,
    so that no package can answer from what another engine said.
    """

    def __init__(self, engine: PluginEngine, announcement: Announcement, *, from_code: str, to_code: str) -> None:
        """Check what can be checked of an engine. Raises InputError."""
        self.from_code, self.to_code = from_code, to_code
        self._engine, self._announcement = engine, announcement
        said, size = getattr(engine, "fingerprint", None), getattr(engine, "max_chunk_size", None)
        if not isinstance(said, str) or not said.strip():
            raise InputError(f"its fingerprint must be a text that is not empty, got {_shown(said)}")
        if size is not None and (type(size) is not int or size < 1):
            raise InputError(f"its max_chunk_size must be a positive number or None, got {_shown(size)}")
        self._said, self.max_chunk_size = said, size
        if not callable(getattr(engine, "translate", None)):
            raise InputError(f"its factory returned {_shown(engine)}, which has no method `translate`")
        if engine.fingerprint != self._said:
            raise InputError(f"its fingerprint changes from one look to the next, now {_shown(self._said)}")
        what = {"protocol": PROTOCOL_VERSION, "package": announcement.package, "fingerprint": self._said}
        self.fingerprint = f"{announcement.name}:{from_code}-{to_code}:{digest(what)[:12]}"

    def translate(self, captions: Sequence[str], on_done: Callable[[int], object] | None = None) -> list[Translation]:
        """See `Translator.translate`.

        Raises:
            InputError: the engine fails, or its answer is no translation for each caption; names the package.
        """
        return translate_distinct(captions, self._translated, on_done, size=self.max_chunk_size or CAPTIONS_PER_CALL)

    def _translated(self, captions: list[str]) -> list[Translation]:
        remedy = f"mend {self._announcement.package}; what was translated is kept"
        with fenced(f"{self._announcement} failed", remedy, may_pass=True):
            answers = self._engine.translate(list(captions))
            if not isinstance(answers, list | tuple):
                raise InputError(f"it returned {_shown(answers)}, not a list")
            if len(answers) != len(captions):
                raise InputError(f"it returned {len(answers):,} translations of {len(captions):,} captions")
            if self._engine.fingerprint != self._said:
                raise InputError("its fingerprint changed while it translated")
            return [_translation(answer, caption) for answer, caption in zip(answers, captions, strict=True)]


def text_problem(text: str) -> str | None:
    """Return what keeps a text out of files and databases, None if it is fit."""
    if "\0" in text:
        return "a NUL"
    return "half of a surrogate pair" if any("\ud800" <= char <= "\udfff" for char in text) else None


def _translation(answer: object, caption: str) -> Translation:
    """Return one answer as we keep it, its white space as single spaces. Raises InputError where it is none."""
    text, score = answer if isinstance(answer, tuple) and len(answer) == 2 else (answer, None)
    if not isinstance(text, str):
        raise InputError(f"it returned {_shown(answer)} for the caption {_shown(caption)}, not a text (and a score)")
    if problem := text_problem(text):
        raise InputError(f"its translation of {_shown(caption)} holds {problem}")
    if score is None:
        return Translation(text=" ".join(text.split()))
    number = math.nan if isinstance(score, bool) or not isinstance(score, Real) else float(score)
    if not -math.inf < number <= 0:  # nor is a NaN
        raise InputError(f"its score of {_shown(caption)} is {_shown(score)}, not a number of at most 0, or None")
    return Translation(text=" ".join(text.split()), score=number)


@contextmanager
def fenced(what: str, remedy: str, *, may_pass: bool = False) -> Iterator[None]:
    """Turn whatever code of others raises inside into an InputError: `what` (what was said): `remedy`.

    An error of ours keeps its class and its words, behind `what`.

    Args:
        what: happened, with the name of the code.
        remedy: what a user can do.
        may_pass: let a connection that failed be a TransientError.
    """
    try:
        yield
    except PipelineError as error:
        # A package's own subclass may want other arguments than a text.
        kind = next((kind for kind in KINDS if isinstance(error, kind)), InputError)
        raise kind(f"{what}: {error}") from error
    except BaseException as error:
        # `SystemExit` is the code's own, Ctrl-C the user's; Rust code, such as that of tokenizers, ends in a panic.
        if not isinstance(error, Exception | SystemExit) and type(error).__name__ != "PanicException":
            raise
        if may_pass and isinstance(error, ConnectionError | TimeoutError):
            raise TransientError(f"{what} ({_one_line(error)}): it may work at another time") from error
        raise InputError(f"{what} ({_one_line(error)}): {remedy}") from error


def _one_line(error: BaseException) -> str:
    """Return what an error says, behind the name of its class, in one line that is not endless."""
    told = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    return told if len(told) <= _LONGEST else f"{told[:_LONGEST]}..."


def _shown(value: object) -> str:
    text = repr(value) if isinstance(value, str | bytes | int | float | tuple | None) else f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _identity(distribution: metadata.Distribution) -> tuple[str, str]:
    """Return name and version, without which nothing could be said of a package."""
    found: Mapping[str, Any] = {}
    try:
        said = distribution.metadata
        found = {field: said[field] for field in ("Name", "Version") if field in said}
    except Exception as error:  # noqa: BLE001  metadata of others may be anything
        logger.debug("metadata that cannot be read: %s", error)
    return str(found.get("Name") or f"at {distribution.locate_file('')}"), str(found.get("Version") or "of no version")


def _of_package(distribution: metadata.Distribution, package: str, version: str) -> list[Announcement]:
    try:
        entry_points = list(distribution.entry_points.select(group=GROUP))
    except Exception as error:  # noqa: BLE001  a line of any form ends in any error
        logger.warning("the engines of the package %s are unknown, as its entry points are damaged: %s", package, error)
        return []
    fit = [each for each in entry_points if re.fullmatch(ENGINE_NAME, each.name)]
    for each in entry_points:
        if each not in fit:
            logger.warning("the package %s announces an engine %.60r, which is no fit name", package, each.name)
    return [Announcement(name=each.name, package=package, version=version, entry_point=each) for each in fit]
