"""What steps use beside files: engines with their memories, the tagger, processes for images, the root's facts."""

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from cleaning.checks.taggers import Tagger, find_tagger
from data_catalog.fetch.outcomes import Fetching, KnownImages
from data_catalog.images.workers import ImageWorkers
from data_catalog.language_pack import LanguagePack
from data_catalog.sources.ingest import Source
from flows.build.inputs import Inputs
from flows.recipe.recipe import Recipe
from translation.engine import Translator
from translation.memory import TranslationMemory


class Tools:
    """The tools of one build, in the flow's process; sent to another one they are what steps on the processor use."""

    def __init__(
        self,
        *,
        recipe: Recipe,
        root: Path,
        inputs: Inputs,
        workers: ImageWorkers,
        fetching: Fetching,
        log_folder: Path,
    ) -> None:
        """Open the memories of the engines.

        Args:
            recipe: what is built.
            root: of the catalog.
            inputs: of the build.
            workers: child processes for images.
            fetching: decides which outcomes that the root knows hold.
            log_folder: where tries and latencies of fetching go.

        Raises:
            DamagedError: a memory is damaged.
        """
        self.sources: Sequence[Source] = inputs.sources
        self.locations: Mapping[str, str] = inputs.locations
        self.translator, self.reverse = inputs.translator, inputs.reverse
        self.memory = _memory(root, inputs.translator)
        self.reverse_memory = _memory(root, inputs.reverse)
        self.tagger, self.workers, self.log_folder = inputs.tagger, workers, log_folder
        self._tagging = (inputs.pack, recipe.check.proper_noun_tagger) if inputs.tagger else None
        self._root, self._fetching = root, fetching
        self._known: KnownImages | None = None
        self._looking = threading.Lock()

    @property
    def known(self) -> KnownImages:
        """Return what the root knows of images; looked through when the first are to be fetched."""
        with self._looking:  # several shards are fetched at once
            if self._known is None:
                self._known = KnownImages(self._root, self._fetching)
            return self._known

    def seal(self) -> None:
        """Let the memories note what they hold: nothing is translated any more."""
        for memory in (self.memory, self.reverse_memory):
            if memory is not None:
                memory.seal()

    def __reduce__(self) -> tuple[Callable[..., "ToolsElsewhere"], tuple[Any, ...]]:
        return ToolsElsewhere, (self.workers, self._tagging)


class ToolsElsewhere:
    """What steps on the processor use in another process."""

    def __init__(self, workers: ImageWorkers, tagging: tuple[LanguagePack, str] | None) -> None:
        self.workers, self._tagging = workers, tagging

    @cached_property
    def tagger(self) -> Tagger | None:
        """Return what tells proper nouns, found by name as in the flow's process."""
        return find_tagger(*self._tagging) if self._tagging else None


def _memory(root: Path, engine: Translator | None) -> TranslationMemory | None:
    if engine is None:
        return None
    memory = TranslationMemory(root / "memory", engine.fingerprint)
    memory.require_whole()
    return memory
