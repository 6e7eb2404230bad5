"""Inputs of a build, opened, checked and hashed before any work starts, and the tools that its steps use."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from cleaning.checks.definition import Tagger
from cleaning.checks.proper_nouns import find_tagger
from data_catalog.base.errors import Refusals, SettingsError
from data_catalog.base.language_pack import LanguagePack
from data_catalog.base.settings import json_values, what_values
from data_catalog.catalog.manifest import UPSTREAM, NamedHash
from data_catalog.disk.files import digest
from data_catalog.fetch.outcomes import Fetching, RecordedOutcomes
from data_catalog.fetch.workers import ImageWorkers
from data_catalog.publish.tombstones import Tombstones, read_tombstones
from data_catalog.sources.hashes import entries_identity, file_entries, images_digest, location_digest, open_hashes
from data_catalog.sources.ingest import Source
from data_catalog.sources.pairs import PairsConfig
from flows.build.execution import Executor
from flows.build.fit import judge_identities, open_judges
from flows.build.windows import EngineElsewhere, Spread, Windows
from flows.recipe.engines import engine_route, open_engine, open_reverse_engine, require_packages
from flows.recipe.language_packs import (
    available_language_packs,
    language_pack,
    named_language_packs,
    target_language_pack,
)
from flows.recipe.recipe import Recipe, what_settings
from flows.recipe.sources import SourceSettings, source_settings
from translation.config import USED_BY, TranslateConfig
from translation.engine import Translator, is_paid
from translation.engines.registry import reverse
from translation.memory import TranslationMemory


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Everything that a build depends on, opened and hashed before work starts."""

    sources: Sequence[Source]
    locations: Mapping[str, str]
    """Folder, zip or tar of local images, or a glob of them, by source."""
    image_digests: Mapping[str, str]
    """Content hashes of these, by source; of images inside the upstream files, the hash of the files."""
    pack: LanguagePack
    packs: Mapping[str, LanguagePack]
    """By language, including the target language."""
    test_files: Mapping[str, Sequence[NamedHash]]
    """Name and SHA-256 of each file of each test set, by set."""
    test_images: Mapping[str, str]
    """Content hash of each test set's images, by set, if the recipe sets them."""
    tagger: Tagger | None
    translator: Translator | None
    """None if all sources are in the target language."""
    reverse: Translator | None
    """The engine for round trips, if the recipe has some."""
    build_key: str
    """Equal keys give equal snapshots from the same downloads, attempt and tombstones. Tombstones are not part of it,
    since a take-down is applied to every snapshot."""
    tombstones: Tombstones
    image_text: Mapping[str, Any] = field(default_factory=dict)
    """Identities of the models that judge captions, by setting; empty if none does."""

    def test_set_identity(self, name: str) -> list[list[str]]:
        """Return the names and content hashes of a test set's files, in sorted order."""
        return entries_identity(self.test_files[name])


def open_inputs(recipe: Recipe, root: Path, versions: Mapping[str, int]) -> Inputs:
    """Check and hash every input, and open the engine; `versions` are those of the steps."""
    hashes, refusals = open_hashes(root), Refusals()
    with refusals:
        require_buildable(recipe)
    with refusals:
        named = named_language_packs(recipe)
        pack = target_language_pack(recipe, named)
        tagger = recipe.check.find_tagger(pack)
    with refusals:
        translator = open_engine(recipe, root)
        reverse = open_reverse_engine(recipe, root) if translator else None
    with refusals:
        image_text = judge_identities(recipe, root)
    refusals.raise_all()
    sources = [source_of(settings, hashes.sha256) for settings in recipe.sources]
    places = {source.name: source.kind.images(source.config) for source in recipe.sources}
    locations = {name: str(location) for name, location in places.items() if location is not None}
    inside = {source.name: digest(entries_identity(source.file_entries)) for source in sources if source.in_order}
    outside = {location for name, location in locations.items() if name not in inside}
    location_digests = {location: location_digest(location, root, hashes) for location in outside}
    image_digests = {name: inside.get(name) or location_digests[location] for name, location in locations.items()}
    test_files = {each.name: file_entries(each.upstream_files(), hashes.sha256) for each in recipe.test_sets}
    digests = {each.name: images_digest(each.kind, each.config, hashes) for each in recipe.test_sets}
    test_images = {name: found for name, found in digests.items() if found is not None}
    hashes.save()
    packs = packs_of_captions(recipe, named, pack)
    pivot = recipe.translate.pivot  # its pack checks no captions, but selects the engine's models
    pivots = {pivot: replace(language_pack(pivot, named), sides=None)} if pivot else {}
    build_key = digest(
        {
            "settings": what_settings(recipe),
            "inputs": {source.name: entries_identity(source.file_entries) for source in sources},
            "images": image_digests,
            "test_sets": {name: entries_identity(files) for name, files in test_files.items()},
            "test_images": test_images,
            "tagger": tagger.name if tagger else None,
            "engine": translator.fingerprint if translator else None,
            "reverse": reverse.fingerprint if reverse else None,
            "packs": json_values({**packs, **pivots}),
            "versions": dict(versions),
            **({"image_text": image_text} if image_text else {}),  # other recipes keep their key
        }
    )
    return Inputs(
        sources=sources,
        locations=locations,
        image_digests=image_digests,
        pack=pack,
        packs=packs,
        test_files=test_files,
        test_images=test_images,
        tagger=tagger,
        translator=translator,
        reverse=reverse,
        build_key=build_key,
        tombstones=read_tombstones(root).of(recipe.name),
        image_text=image_text,
    )


def require_buildable(recipe: Recipe) -> None:
    """Refuse a recipe that lacks something, as far as can be known without work; the error says all that it lacks."""
    refusals = Refusals()
    with refusals:
        target_language_pack(recipe, named_language_packs(recipe))
    for require in (require_readable, require_contact, require_packages):
        with refusals:
            require(recipe)
    refusals.raise_all()


def require_readable(recipe: Recipe) -> None:
    """Refuse a recipe whose upstream files are missing, or whose sources contradict its other settings.

    If sources state splits, the recipe must say whether to keep them; it cannot keep splits that no source states.
    Originals of captions that are themselves translated are refused, as they would be read and then dropped.
    """
    refusals, readable = Refusals(), []
    for source in recipe.sources:
        with refusals:
            source.check()
            readable.append(source)
    for test_set in recipe.test_sets:
        with refusals:
            test_set.check()
    by = recipe.split.by
    if by is None or (by == UPSTREAM and len(readable) == len(recipe.sources)):  # any source may state the splits
        with refusals:
            recipe.split.require_choice([each.name for each in readable if each.kind.states_splits(each.config)])
    for source in recipe.sources:
        if isinstance(source.config, PairsConfig):
            with refusals:
                source.config.require_use(source.name, recipe.target_language)
    refusals.raise_all()


def require_contact(recipe: Recipe) -> None:
    """Refuse a source whose images are usually on servers that demand contact details, if the recipe has none."""
    for source in recipe.sources:
        if source.kind.operator is not None and recipe.fetch.contact is None:
            raise SettingsError(
                f"sources.{source.name} may fetch images from {source.kind.operator}, which refuses robots without "
                "contact details: set a mail address or a web page, --set fetch.contact=you@example.org"
            )


def packs_of_captions(
    recipe: Recipe, named: Mapping[str, LanguagePack], target: LanguagePack
) -> dict[str, LanguagePack]:
    """Return the packs that check captions: those that the recipe names, and those of the languages of its sources."""
    found = [source.kind.languages(source.config) or frozenset() for source in recipe.sources]
    languages = {recipe.source_language, *named, *(language for languages in found for language in languages)}
    known = sorted(languages & {*available_language_packs(), *named})
    found_packs = {code: language_pack(code, named) for code in known} | {recipe.target_language: target}
    # Sides decide no row, so they must not be in the keys of steps.
    return {code: replace(pack, sides=None) for code, pack in found_packs.items()}


def source_of(settings: SourceSettings, sha256: Callable[[Path], str]) -> Source:
    """Return a source of a recipe in the form that `ingest` reads, with the hashes of its files."""
    files, has_pixels = settings.upstream_files(), settings.kind.has_pixels
    return Source(
        name=settings.name,
        files=files,
        # Names of images contain their files' folders.
        file_entries=file_entries(files, sha256, *([settings.config.name_of] if has_pixels else [])),
        settings=source_settings(settings),
        origin=partial(settings.kind.origin, settings.config),
        read=lambda: settings.kind.read(settings.config),
        limit=settings.limit,
        in_order=has_pixels,
    )


def fetching_of(recipe: Recipe, attempt: int) -> Fetching:
    """Return the settings and the attempt that a recipe's images are fetched with."""
    settings = {"fetch": what_values(recipe.fetch), "normalise": what_values(recipe.normalise)}
    return Fetching(dataset=recipe.name, attempt=attempt, **settings)


class Tools:
    """The tools of a build in the flow's process. Pickled, they become `RemoteTools` for steps in other processes."""

    def __init__(
        self,
        recipe: Recipe,
        root: Path,
        inputs: Inputs,
        executor: Executor,
        *,
        workers: ImageWorkers,
        fetching: Fetching,
        log_folder: Path,
    ) -> None:
        """Open the translation memories of the engines, and the models that judge captions.

        `fetching` decides which known image outcomes are reused; fetch logs go into `log_folder`.
        """
        self.recipe, self.root, self.sources, self.locations = recipe, root, inputs.sources, inputs.locations
        self.judges = open_judges(recipe, root) if inputs.image_text else None
        self.translator, self.reverse = inputs.translator, inputs.reverse
        self.memory, self.reverse_memory = (
            TranslationMemory(root / "memory", engine.fingerprint) if engine else None
            for engine in (inputs.translator, inputs.reverse)
        )
        for memory in filter(None, (self.memory, self.reverse_memory)):
            memory.require_whole()
        self.windows = self._windows(self.translator, self.memory, executor.spread)
        self.reverse_windows = self._windows(self.reverse, self.reverse_memory, executor.spread, is_back=True)
        self.tagger, self.workers, self.log_folder, self.owners = inputs.tagger, workers, log_folder, executor.owners
        self._tagging = (inputs.pack, recipe.check.proper_noun_tagger) if inputs.tagger else None
        self._fetching = fetching
        self._known: RecordedOutcomes | None = None
        self._known_lock = threading.Lock()

    def _windows(
        self, engine: Translator | None, memory: TranslationMemory | None, spread: Spread | None, is_back: bool = False
    ) -> Windows | None:
        """Return the windows of an engine that other processes can open; None if it is paid, or has a GPU here."""
        config = self.recipe.translate
        if engine is None or memory is None or spread is None or is_paid(engine) or _has_gpu(config):
            return None
        route = engine_route(self.recipe)
        elsewhere = EngineElsewhere(
            config=reverse(config) if is_back else config,
            route=route[::-1] if is_back else route,
            cache_dir=self.root.absolute() / "packages",
            fingerprint=engine.fingerprint,
        )
        return Windows(memory, elsewhere, spread)

    @property
    def known(self) -> RecordedOutcomes:
        """Return the known image outcomes of the root; they are read on first use."""
        with self._known_lock:  # several shards are fetched at the same time
            if self._known is None:
                self._known = RecordedOutcomes(self.root, self._fetching)
            return self._known

    def seal(self) -> None:
        """Record the contents of the translation memories, after the last translation."""
        for memory in filter(None, (self.memory, self.reverse_memory)):
            memory.seal()

    def __reduce__(self) -> tuple[Callable[..., "RemoteTools"], tuple[Any, ...]]:
        return RemoteTools, (self.workers, self._tagging)


def _has_gpu(config: TranslateConfig) -> bool:
    """Return whether an engine may compute on a GPU of this machine."""
    import ctranslate2

    is_chosen = config.engine in USED_BY["device"] and config.device != "cpu"
    return is_chosen and bool(ctranslate2.get_cuda_device_count())


class RemoteTools:
    """The tools of steps that run in another process."""

    def __init__(self, workers: ImageWorkers, tagging: tuple[LanguagePack, str] | None) -> None:
        self.workers, self._tagging = workers, tagging

    @cached_property
    def tagger(self) -> Tagger | None:
        """Return the tagger of proper nouns, found by name as in the flow's process."""
        return find_tagger(*self._tagging) if self._tagging else None
