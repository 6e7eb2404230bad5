"""The command `translate`: a file, or standard input, into another language, without a catalog."""

import os
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_catalog.errors import ConfigError
from data_catalog.language_pack import LanguagePack
from data_catalog.progress import Progress
from flows.language_packs import language_pack, language_packs_of
from flows.recipe import override_values
from flows.settings import build
from translation.config import TranslateConfig
from translation.engine import Translator
from translation.files.caption_files import CaptionFiles, count_rows, format_of, translate_files
from translation.files.columns import Columns
from translation.memory import TranslationMemory
from translation.registry import open_translator
from translation.remembered import RememberingTranslator


def translate(options: Namespace) -> None:
    """Translate lines or a column, with a bar of progress; nothing but the result goes to standard output.

    Raises:
        ConfigError: files or settings are wrong; see `CaptionFiles`, `TranslateConfig` and `open_translator`.
    """
    files = caption_files(options)
    with tempfile.TemporaryDirectory() as cache:
        translator = _opened(options, Path(cache))
        with _progress(files, count_rows(files)) as advance:
            translate_files(files, translator, advance)


def caption_files(options: Namespace) -> CaptionFiles:
    """Input, output, format and columns as the options name them.

    Raises:
        ConfigError: they cannot be read or written, or columns are named for lines, which have none.
    """
    source, target = (None if name in (None, "-") else Path(name) for name in (options.input, options.out))
    named = options.format or ("lines" if source is None else format_of(source))
    if named == "lines" and (options.column or options.write_column):
        raise ConfigError("lines have no columns: leave --column and --write-column out, or give --format")
    column = options.column or "caption"
    columns = Columns(read=column, write=options.write_column or f"{column}_{options.to_code}", scores=options.scores)
    return CaptionFiles(source=source, target=target, format=named, columns=columns, overwrite=options.force)


def translate_config(options: Namespace) -> TranslateConfig:
    """Settings of the engine, from options and `--set`, whose keys may be a recipe's, such as "translate.beam_size".

    Raises:
        ConfigError: a setting is unknown or wrong, is given twice, or is about the way back, which is not gone here.
    """
    values = override_values([override.removeprefix("translate.") for override in options.overrides])
    for name in ("engine", "package", "model", "pivot"):
        given: Any = getattr(options, name)
        if given and name in values:
            raise ConfigError(f"translate.{name} is given twice, as --{name} and as --set {name}=...")
        if given:
            values[name] = given
    for name in values:
        if name == "round_trip" or name.startswith("reverse_"):
            raise ConfigError(f"translate.{name} is a setting of recipes: this command translates one way only")
    return build(TranslateConfig, values, "translate")


def _opened(options: Namespace, cache_dir: Path) -> Translator:
    config = translate_config(options)
    stops = {"--from": options.from_code, "translate.pivot": config.pivot, "--to": options.to_code}
    codes = [_checked_code(code, setting) for setting, code in stops.items() if code]
    engine = open_translator(config, _route(codes, options.language_packs), cache_dir=cache_dir)
    if options.memory is None and engine.max_chunk_size is not None:
        raise ConfigError(
            f"what {config.engine} translates is paid for, and lost if the run stops: give --memory DIR, which keeps it"
        )
    if options.memory is None:
        return engine
    _make_memory_folder(options.memory)
    return RememberingTranslator(engine, TranslationMemory(options.memory, engine.fingerprint))


def _checked_code(code: str, setting: str) -> str:
    try:
        return LanguagePack.minimal(code).code
    except ConfigError as error:
        raise ConfigError(f"{setting} {code} names no language: {error}") from error


def _make_memory_folder(folder: Path) -> None:
    """What is found out here costs no translation."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--memory {folder} is no folder and cannot be made one: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"--memory {folder} is a folder that may not be written to: name another")


def _route(codes: Sequence[str], files: Sequence[str]) -> list[LanguagePack]:
    named = language_packs_of(files)
    unused = sorted(named.keys() - set(codes))
    if unused:
        raise ConfigError(
            f"--language-pack is given for {', '.join(unused)}, but {' - '.join(codes)} is translated: correct the "
            "pack's code, or leave it out"
        )
    return [language_pack(code, named) for code in codes]


@contextmanager
def _progress(files: CaptionFiles, total: int | None) -> Iterator[Callable[[int], object] | None]:
    if files.target is None and sys.stdout.isatty():  # a bar would stand amid the lines
        yield None
        return
    with Progress("translate", total=total, unit="captions") as progress:
        yield progress.advance
