"""Open the engine of a recipe: one for each pair of languages, chained through a pivot if the recipe has one."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import Any

from data_catalog.base.errors import DefectError, SettingsError
from data_catalog.base.language_pack import LanguagePack
from data_catalog.disk.files import digest
from translation.config import TranslateConfig
from translation.engine import Translation, Translator
from translation.engines import argos, command, converted, deepl_engine, openai_engine

Opener = Callable[[TranslateConfig, LanguagePack, LanguagePack, Path], Translator]

# In the order of `config.ENGINES`.
OPENERS: dict[str, Opener] = {
    "argos": argos.open_engine,
    "ctranslate2": converted.open_engine,
    "deepl": deepl_engine.open_engine,
    "openai": openai_engine.open_engine,
    "command": command.open_engine,
}

_ONE_WAY: dict[str, Any] = {"round_trip": False, "reverse_package": (), "reverse_model": ()}


def open_translator(config: TranslateConfig, route: Sequence[LanguagePack], *, cache_dir: Path) -> Translator:
    """Open the engine from the route's first language to its last; models are loaded at the first translation.

    The route includes the pivot if `config.pivot` names one. Packages are unpacked in `cache_dir`, which may be removed
    at any time between runs.
    """
    codes = [pack.code for pack in route]
    between = [config.pivot] if config.pivot else []
    if codes[1:-1] != between or len(codes) < 2:
        shown = " - ".join(codes)
        raise SettingsError(f"the route {shown} does not match translate.pivot, which is {config.pivot!r}")
    legs = [
        OPENERS[config.engine](
            replace(
                config,
                package=config.package[number : number + 1],
                model=config.model[number : number + 1],
                pivot="",
                **_ONE_WAY,
            ),
            source,
            target,
            cache_dir,
        )
        for number, (source, target) in enumerate(pairwise(route))
    ]
    return reduce(PivotTranslator, legs)


def reverse(config: TranslateConfig) -> TranslateConfig:
    """Return the settings of the engine for the opposite direction, which a round trip uses."""
    one_model = config.model if config.engine == "openai" else ()  # which translates both ways
    return replace(
        config,
        package=config.reverse_package,
        model=config.reverse_model or one_model,
        glossary="",
        **_ONE_WAY,
    )


class PivotTranslator:
    """A `translation.engine.Translator` that chains two engines through a pivot language.

    The score of a translation is the lower of the two engines' scores, or None if either has none.
    """

    def __init__(self, first: Translator, second: Translator) -> None:
        if first.to_code != second.from_code:
            raise DefectError(f"engines do not chain: {first.fingerprint}, {second.fingerprint}")
        self.from_code, self.to_code = first.from_code, second.to_code
        engines = digest([first.fingerprint, second.fingerprint])[:12]
        self.fingerprint = f"pivot:{first.from_code}-{first.to_code}-{second.to_code}:{engines}"
        sizes = [leg.max_chunk_size for leg in (first, second) if leg.max_chunk_size is not None]
        self.max_chunk_size = min(sizes, default=None)
        self._first, self._second = first, second

    def translate(self, captions: Sequence[str], on_done: Callable[[int], object] | None = None) -> list[Translation]:
        """Return one translation per caption; see `Translator.translate`.

        A caption counts as done when both engines have translated it.
        """
        halfway = self._first.translate(captions)
        final = self._second.translate([translation.text for translation in halfway], on_done)
        return [
            Translation(
                text=second.text,
                score=None if first.score is None or second.score is None else min(first.score, second.score),
                truncated=first.truncated or second.truncated,
                repetitive=first.repetitive or second.repetitive,
            )
            for first, second in zip(halfway, final, strict=True)
        ]
