"""Which engine translates: picked by name, one a pair of languages, with a pivot where the settings say so."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial, reduce
from itertools import pairwise
from pathlib import Path

from data_catalog.errors import DefectError, SettingsError
from data_catalog.language_pack import LanguagePack
from data_catalog.storage.shards import digest
from translation.config import TranslateConfig
from translation.engine import Translation, Translator
from translation.engines import apertium, argos, command, converted, deepl_engine, transformers_model
from translation.engines.plugins import find_announcement, open_plugin

Opener = Callable[[TranslateConfig, LanguagePack, LanguagePack, Path], Translator]

# Ours, in the order of `config.ENGINES`; packages add theirs by entry points.
OPENERS: dict[str, Opener] = {
    "argos": argos.open_engine,
    "ctranslate2": converted.open_engine,
    "transformers": transformers_model.open_engine,
    "deepl": deepl_engine.open_engine,
    "apertium": apertium.open_engine,
    "command": command.open_engine,
}


def open_translator(config: TranslateConfig, route: Sequence[LanguagePack], *, cache_dir: Path) -> Translator:
    """The engine from the route's first language to its last; models are loaded at the first translation.

    Args:
        route: packs of the source language, of the pivot's if `config.pivot` names one, and of the target language.
        cache_dir: where packed models are unpacked; it may be removed at any time between runs.

    Raises:
        SettingsError: no such engine; no key; a route that goes elsewhere than by way of the pivot.
        InputError: no model, a damaged one, or one for another pair; no command; a package whose engine does not work.
        DamagedError: a package that is not as it was installed or unpacked.
    """
    codes = [pack.code for pack in route]
    between = [config.pivot] if config.pivot else []
    if codes[1:-1] != between or len(codes) < 2:
        shown = " - ".join(codes)
        raise SettingsError(f"the route {shown} does not fit translate.pivot, which is {config.pivot!r}")
    announcement = find_announcement(config.engine)
    opener = OPENERS[config.engine] if announcement is None else partial(open_plugin, announcement)
    legs = [
        opener(
            replace(
                config,
                package=config.package[number : number + 1],
                model=config.model[number : number + 1],
                pivot="",
                round_trip=False,
                reverse_package=(),
                reverse_model=(),
            ),
            source,
            target,
            cache_dir,
        )
        for number, (source, target) in enumerate(pairwise(route))
    ]
    return reduce(PivotTranslator, legs)


def reverse(config: TranslateConfig) -> TranslateConfig:
    """The settings of the way back."""
    return replace(
        config,
        package=config.reverse_package,
        model=config.reverse_model,
        round_trip=False,
        reverse_package=(),
        reverse_model=(),
    )


class PivotTranslator:
    """A `translation.engine.Translator` from what the first engine reads to what the second one writes.

    A score is the worse of the two engines' scores, None where one of them tells none.
    """

    def __init__(self, first: Translator, second: Translator) -> None:
        """Raises DefectError where the second does not read what the first one writes."""
        if first.to_code != second.from_code:
            raise DefectError(
                f"no pivot: {first.fingerprint} writes {first.to_code}, {second.fingerprint} reads {second.from_code}"
            )
        self.from_code, self.to_code = first.from_code, second.to_code
        engines = digest([first.fingerprint, second.fingerprint])[:12]
        self.fingerprint = f"pivot:{first.from_code}-{first.to_code}-{second.to_code}:{engines}"
        sizes = [leg.max_chunk_size for leg in (first, second) if leg.max_chunk_size is not None]
        self.max_chunk_size = min(sizes, default=None)
        self._first, self._second = first, second

    def translate(self, captions: Sequence[str], on_done: Callable[[int], object] | None = None) -> list[Translation]:
        """See `Translator.translate`; a caption counts as done when both engines have done it."""
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
