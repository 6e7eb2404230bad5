"""Captions of test sets in the language that models are scored in, where a recipe has them translated for that."""

import functools
from dataclasses import dataclass, replace
from pathlib import Path

from data_catalog.errors import SettingsError
from data_catalog.sources.origins import MACHINE, MACHINE_TRANSLATION
from data_catalog.storage.lock import writer_lock
from flows.recipe.engines import open_recipes_engine
from flows.recipe.recipe import Recipe
from flows.recipe.sources import TestSetSettings
from training.scores.galleries import Gallery
from translation.engine import Translator
from translation.memory import TranslationMemory, remembered


@dataclass(frozen=True, kw_only=True)
class CaptionTranslator:
    """The recipe's engine, opened when the first captions are to be translated, and the translations of its root.

    Args:
        recipe: None: none is scored, so that there is no engine.
        root: of the catalog.
    """

    recipe: Recipe | None
    root: Path

    def require(self, test_set: TestSetSettings) -> Recipe:
        """Return the recipe.

        Raises:
            SettingsError: there is none, or its engine does not translate the set's captions.
        """
        if self.recipe is None:
            raise SettingsError("translate is true, and no recipe says by which engine: name one, or leave it out")
        test_set.require_translatable(self.recipe.source_language, self.recipe.target_language)
        return self.recipe

    @functools.cached_property
    def engine(self) -> Translator:
        """The engine.

        Raises:
            InputError: it cannot be opened.
        """
        assert self.recipe is not None
        return open_recipes_engine(self.recipe, self.root)

    def translated(self, gallery: Gallery) -> Gallery:
        """Return a set with its captions translated, and what is to be said of that; translations are recorded.

        Raises:
            InputError: the engine cannot be opened, or does not work.
            BusyError: a build of the root may be recording translations, too.
        """
        engine = self.engine
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
