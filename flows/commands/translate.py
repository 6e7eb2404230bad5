"""The command `translate`: a file, or standard input, into another language, without a catalog."""

import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_catalog.errors import ConfigError
from data_catalog.progress import Progress
from flows.recipe.engines import one_way_config, packs_of, remembering, route_codes, setting_values
from translation.config import TranslateConfig
from translation.engine import Translator
from translation.files.caption_files import CaptionFiles, count_rows, format_of, translate_files
from translation.files.columns import Columns
from translation.registry import open_translator


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
    """Settings of the engine, from options and `--set`.

    Raises:
        ConfigError: a setting is unknown or wrong, is given twice, or is about the way back, which is not gone here.
    """
    values = setting_values(options.overrides)
    for name in ("engine", "package", "model", "pivot"):
        given: Any = getattr(options, name)
        if given and name in values:
            raise ConfigError(f"translate.{name} is given twice, as --{name} and as --set {name}=...")
        if given:
            values[name] = given
    return one_way_config(values)


def _opened(options: Namespace, cache_dir: Path) -> Translator:
    config = translate_config(options)
    codes = route_codes(options.from_code, config, options.to_code)
    packs = packs_of(codes, options.language_packs)
    engine = open_translator(config, [packs[code] for code in codes], cache_dir=cache_dir)
    return remembering(engine, options.memory)


@contextmanager
def _progress(files: CaptionFiles, total: int | None) -> Iterator[Callable[[int], object] | None]:
    if files.target is None and sys.stdout.isatty():  # a bar would stand amid the lines
        yield None
        return
    with Progress("translate", total=total, unit="captions") as progress:
        yield progress.advance
