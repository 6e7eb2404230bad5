"""Sets as `vernaclip scoreboard` names them: test sets of a recipe, others by KEY=VALUE, a protocol's."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cleaning.languages.engines import canonical_code
from cleaning.languages.identification import other_languages
from data_catalog.errors import InputError, SettingsError
from data_catalog.language_pack import LanguagePack
from data_catalog.sources.origins import MACHINE, MACHINE_TRANSLATION
from data_catalog.storage.lock import writer_lock
from data_catalog.test_sets import TEST_SET_KINDS
from flows.recipe.engines import open_recipes_engine
from flows.recipe.recipe import Recipe, override_values
from flows.recipe.sources import TestSetSettings, read_test_sets
from training.scores.galleries import (
    FOLDER_SETTINGS,
    Gallery,
    LabelledImages,
    TextLanguage,
    captioned_gallery,
    named_images,
)
from training.scores.protocols import PROTOCOLS, Protocol, protocol_sets
from translation.engine import Translator
from translation.memory import TranslationMemory, remembered

logger = logging.getLogger(__name__)

FOLDERS = "folders"
_PLACES = {"imagenet", "class_names", "templates", "images"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredSet:
    """A set, and by what its images are known.

    Args:
        identities: of each image of the gallery, in its order; empty where nothing is known but pixels.
        protocol: whose numbers stand beside its scores, if any.
        stated: the language of its captions, where its settings say it.
    """

    test_set: Gallery | LabelledImages
    identities: Sequence[frozenset[str]]
    protocol: Protocol | None = None
    stated: str | None = None


@dataclass(frozen=True, kw_only=True)
class SetReader:
    """Reads sets, and has their captions translated where that is asked for.

    Args:
        recipe: whose engine translates captions; None: there is none.
        root: of the catalog, which has the translations.
        language: of captions that are scored, where files have several.
        pack: has class names and templates.
    """

    recipe: Recipe | None
    root: Path
    language: str
    pack: LanguagePack

    def of_recipe(self) -> Iterator[ScoredSet]:
        """Yield the test sets of the recipe whose images are here, with captions; others are logged.

        Raises:
            InputError: one cannot be read.
        """
        for test_set in self.recipe.test_sets if self.recipe is not None else ():
            if test_set.config.images is None:
                logger.warning("test set %s is not scored: the recipe names no place of its images", test_set.name)
                continue
            test_set.check()
            scored = self._captioned(test_set)
            if scored is None:
                logger.warning(
                    "test set %s is not scored: it has no captions, and guards training alone", test_set.name
                )
            else:
                yield scored

    def named(self, name: str, words: Sequence[str]) -> ScoredSet:
        """Return a set as `--test-set NAME KEY=VALUE ...` names it.

        Raises:
            SettingsError: settings are wrong, or no images are named.
            InputError: files cannot be read, or have no captions.
        """
        values = _plain_values(words)
        if not name.replace("_", "").isalnum():
            raise SettingsError("a name must be letters, digits and _")
        if values.get("kind") == FOLDERS:
            classes = named_images(name, {key: value for key, value in values.items() if key != "kind"}, self.pack)
            return ScoredSet(test_set=classes, identities=[frozenset()] * len(classes.images))
        if values.get("kind", name) not in TEST_SET_KINDS:
            problem = f"kind is {values['kind']!r}" if "kind" in values else "kind=... is missing"
            raise SettingsError(f"{problem}: kinds are {', '.join(sorted([*TEST_SET_KINDS, FOLDERS]))}")
        (test_set,) = read_test_sets({name: values}, self.language) or (None,)
        if test_set is None:
            raise SettingsError("it is switched off by enabled=false: leave it out")
        if test_set.config.images is None:
            raise SettingsError("images=... is missing: without pixels there is nothing to score")
        test_set.kind.check(test_set.config)
        scored = self._captioned(test_set)
        if scored is None:
            raise InputError("it has no captions: it can guard training data, but not be scored on")
        return scored

    def of_protocol(self, name: str, words: Sequence[str]) -> Iterator[ScoredSet]:
        """Yield the sets of `--protocol NAME captions=FILE images=DIR imagenet=DIR class_names=FILE`: one task or both.

        Raises:
            SettingsError: there is no such protocol.
            InputError: files are not those it is about.
        """
        if name not in PROTOCOLS:
            raise SettingsError(f"--protocol {name}: there is {', '.join(sorted(PROTOCOLS))}")
        for test_set, known in protocol_sets(PROTOCOLS[name], _plain_values(words), self.pack):
            yield ScoredSet(test_set=test_set, identities=known, protocol=PROTOCOLS[name])

    def _captioned(self, test_set: TestSetSettings) -> ScoredSet | None:
        """Read a test set of captioned images; of several languages that alone which is scored, or translated."""
        config, notes, stated, language = test_set.config, [], test_set.captions, self.language
        if stated.translate:
            if self.recipe is None:
                raise SettingsError("translate is true, and no recipe says by which engine: name one, or leave it out")
            test_set.require_translatable(self.recipe.source_language, self.recipe.target_language)
            language = self.recipe.source_language
        languages: Sequence[str] = getattr(config, "languages", ())
        same = [code for code in languages if canonical_code(code) == canonical_code(language)]
        if same and len(languages) > 1:
            config = replace(config, languages=tuple(same))
            notes.append(f"of captions in {', '.join(languages)} those in {language} count")
        gallery, identities = captioned_gallery(
            test_set.name, test_set.kind, config, captions_by=stated.captions_by, notes=notes
        )
        if not gallery.captions:
            return None
        if stated.translate:
            return ScoredSet(test_set=self._translated(gallery), identities=identities)
        # Where a set's files have several languages and its settings choose one, that is stated too.
        chosen: Sequence[str] = getattr(config, "languages", ())
        code = chosen[0].partition("-")[0].lower() if len(chosen) == 1 else ""
        told = canonical_code(code) if code.isascii() and code.isalpha() else None
        return ScoredSet(test_set=gallery, identities=identities, stated=stated.captions_in or told)

    @cached_property
    def _engine(self) -> Translator:
        """Return the recipe's engine, opened when the first captions are to be translated."""
        assert self.recipe is not None
        return open_recipes_engine(self.recipe, self.root)

    def _translated(self, gallery: Gallery) -> Gallery:
        """Return a set with its captions translated, and what is to be said of that; translations are recorded.

        Raises:
            InputError: the engine cannot be opened, or does not work.
            BusyError: a build of the root may be recording translations, too.
        """
        engine = self._engine
        memory = TranslationMemory(self.root / "memory", engine.fingerprint)
        memory.require_whole()
        with writer_lock(self.root):
            where = f"test set {gallery.name}"
            found = remembered(gallery.captions, engine, memory, title=f"translate {where}", where=where)
            memory.seal()
        told = [(each.text, owner) for each, owner in zip(found, gallery.owners, strict=True) if each.text]
        num_lost = len(gallery.captions) - len(told)
        lost = f"; {num_lost:,} have no translation and are left out" if num_lost else ""
        by = f"({MACHINE_TRANSLATION}) from {engine.from_code} by {engine.fingerprint}"
        of_originals, *others = gallery.notes
        return replace(
            gallery,
            captions=[text for text, _ in told],
            owners=[owner for _, owner in told],
            made_by=[MACHINE] * len(told),
            notes=(f"all captions are translated by a machine {by}{lost}; of the originals, {of_originals}", *others),
        )


def at_home(place: str, option: str) -> str:
    """Return a path, its "~" put into words, which no shell does behind a "="; any other text as it is.

    Raises:
        SettingsError: it is the home of nobody.
    """
    try:
        return str(Path(place).expanduser()) if place.startswith("~") else place
    except RuntimeError as error:
        raise SettingsError(f"{option}: {place} is in the home of a user who is not known here") from error


def _plain_values(words: Sequence[str]) -> dict[str, Any]:
    """Return KEY=VALUE texts as a table; what may be a list of files is left to those who read it.

    Raises:
        SettingsError: a text is not of that form, or a value is no text, where one is needed.
    """
    values = override_values(words)
    for key in {"kind", "imagenet", *FOLDER_SETTINGS} & values.keys():
        if not isinstance(values[key], str):
            raise SettingsError(f"{key} must be a text, got {values[key]!r}")
    return values | {key: at_home(values[key], key) for key in _PLACES & values.keys()}


def with_language(
    test_set: Gallery | LabelledImages, asked: str, pack: LanguagePack, stated: str | None = None
) -> Gallery | LabelledImages:
    """Return the set with what language its texts are in, and notes where that is not the one models are scored in.

    Args:
        asked: the language that models are scored in.
        pack: of the language that the texts should be in: `stated`, or `asked` where nothing is stated.
        stated: what whoever named the set says, or its files.
    """
    what = "captions" if isinstance(test_set, Gallery) else "class names"
    texts = test_set.captions if isinstance(test_set, Gallery) else test_set.class_names
    others = other_languages(texts, pack)
    notes = list(others.notes(what, pack.code))
    if others.share > 1 / 2:
        logger.warning("%s: %s", test_set.name, notes[-1])
    if stated is not None and canonical_code(stated) != canonical_code(asked):
        notes.insert(0, f"the {what} are in {stated}, as stated, not in {asked}")
    language = TextLanguage(asked=asked, stated=stated, looks_like=others.shares, num_judged=others.num_judged)
    return replace(test_set, language=language, notes=(*test_set.notes, *notes))
