"""What a build depends on: opened, checked and hashed before any work starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cleaning.checks.taggers import Tagger
from data_catalog.errors import SettingsError
from data_catalog.language_pack import LanguagePack
from data_catalog.publish import UPSTREAM
from data_catalog.settings import plain
from data_catalog.sources.ingest import Source
from data_catalog.sources.pairs import PairsConfig
from data_catalog.storage.file_hashes import FileHashes
from data_catalog.storage.shards import digest
from data_catalog.tombstones import Tombstones, read_tombstones
from data_catalog.upstream_hashes import entries_identity, file_entries, images_digest, location_digest, open_hashes
from flows.recipe.engines import open_engine, open_reverse_engine
from flows.recipe.language_packs import language_pack, load_language_packs, named_language_packs, target_language_pack
from flows.recipe.recipe import Recipe, what_settings
from flows.recipe.sources import SourceSettings, source_settings
from translation.engine import Translator


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Everything a build depends on, opened and hashed before work starts.

    Args:
        locations: folder, zip or tar of local images, or a glob of them, by source.
        location_digests: content hashes of those, by location.
        packs: language packs by language, the target's included.
        test_files: name and sha256 of each file of each test set, by set.
        test_images: content hash of each test set's own images, by set, where the recipe says where they are.
        tagger: tells proper nouns, or None: a rule of thumb does.
        translator: the engine, or None where every source speaks the target language.
        reverse: the engine for the way back, or None where the recipe asks for none.
        build_key: equal keys make equal snapshots, from the same downloads, attempt and tombstones; those are not
            in it, since a take-down makes every snapshot obey them.
        tombstones: what must not be in the dataset.
    """

    sources: Sequence[Source]
    locations: Mapping[str, str]
    location_digests: Mapping[str, str]
    pack: LanguagePack
    packs: Mapping[str, LanguagePack]
    test_files: Mapping[str, Sequence[Mapping[str, str]]]
    test_images: Mapping[str, str]
    tagger: Tagger | None
    translator: Translator | None
    reverse: Translator | None
    build_key: str
    tombstones: Tombstones

    @property
    def image_digests(self) -> dict[str, str]:
        """Return the content hashes of local images, by source."""
        return {name: self.location_digests[location] for name, location in self.locations.items()}

    def test_set_identity(self, name: str) -> list[list[str]]:
        """Return the names and contents of a test set's files, in an order that says nothing."""
        return entries_identity(self.test_files[name])


def open_inputs(recipe: Recipe, root: Path, versions: Mapping[str, int]) -> Inputs:
    """Check and hash every input, and open the engine.

    Args:
        recipe: what is built.
        root: of the catalog.
        versions: of the steps, by name.

    Raises:
        SettingsError: what the recipe says does not go together, or is not said.
        InputError: a file is missing, empty or of another kind; no pack; no engine for the languages.
    """
    named = named_language_packs(recipe)
    pack = target_language_pack(recipe, named)
    for source in recipe.sources:
        source.check()
        _require_contact(source, recipe)
    for test_set in recipe.test_sets:
        test_set.check()
    require_split_choice(recipe)
    require_originals_in_use(recipe)
    tagger = recipe.check.find_tagger(pack)
    translator = open_engine(recipe, root)
    reverse = open_reverse_engine(recipe, root) if translator else None
    hashes = open_hashes(root)
    sources = [_source(settings, hashes) for settings in recipe.sources]
    locations = _locations(recipe)
    location_digests = {location: location_digest(location, root, hashes) for location in locations.values()}
    test_files = {test_set.name: file_entries(test_set.upstream_files(), hashes) for test_set in recipe.test_sets}
    test_images = _test_images(recipe, hashes)
    hashes.save()
    packs = packs_of_captions(recipe, named, pack)
    build_key = digest(
        {
            "settings": what_settings(recipe),
            "inputs": {source.name: sorted(source.file_hashes) for source in sources},
            "images": {name: location_digests[location] for name, location in locations.items()},
            "test_sets": {name: entries_identity(files) for name, files in test_files.items()},
            "test_images": test_images,
            "tagger": tagger.name if tagger else None,
            "engine": translator.fingerprint if translator else None,
            "reverse": reverse.fingerprint if reverse else None,
            "packs": plain(packs | _pivot_pack(recipe, named)),
            "versions": dict(versions),
        }
    )
    return Inputs(
        sources=sources,
        locations=locations,
        location_digests=location_digests,
        pack=pack,
        packs=packs,
        test_files=test_files,
        test_images=test_images,
        tagger=tagger,
        translator=translator,
        reverse=reverse,
        build_key=build_key,
        tombstones=read_tombstones(root).of(recipe.name),
    )


def _require_contact(source: SourceSettings, recipe: Recipe) -> None:
    if source.kind.operator is not None and recipe.fetch.contact is None:
        raise SettingsError(
            f"sources.{source.name} asks the servers of {source.kind.operator} for its images, which refuse robots "
            "that do not say whom to write to: give a mail address or a page, --set fetch.contact=you@example.org"
        )


def require_split_choice(recipe: Recipe) -> None:
    """Refuse a recipe that does not say what becomes of the splits that its sources state, or keeps what none states.

    Raises:
        SettingsError: says which sources, and what to say.
    """
    if recipe.split.by not in (None, UPSTREAM):
        return
    stating = [source.name for source in recipe.sources if source.kind.states_splits(source.config)]
    if stating and recipe.split.by is None:
        names = f"sources {', '.join(stating)} state" if len(stating) > 1 else f"source {stating[0]} states"
        raise SettingsError(f'{names} splits: say [split] by = "upstream" to keep them, or "hash" to ignore them')
    if recipe.split.by == UPSTREAM and not stating:
        raise SettingsError(
            'split.by is "upstream" and no source states splits: name their column (split_column), put their lists '
            'beside the captions, or say "hash"'
        )


def require_originals_in_use(recipe: Recipe) -> None:
    """Refuse originals of captions that are themselves to be translated: they would be read and dropped.

    Raises:
        SettingsError: names the source.
    """
    for source in recipe.sources:
        config = source.config
        if isinstance(config, PairsConfig) and config.source_caption_column and config.lang != recipe.target_language:
            raise SettingsError(
                f"sources.{source.name} has its captions in {config.lang}, which a build translates to "
                f"{recipe.target_language}: originals go beside captions in {recipe.target_language} only, so name "
                f"{config.source_caption_column} as caption_column, or leave source_caption_column out"
            )


def packs_of_captions(
    recipe: Recipe, named: Mapping[str, LanguagePack], target: LanguagePack
) -> dict[str, LanguagePack]:
    """Return the packs that judge captions: those the recipe names, and of languages that sources may bring."""
    found = [source.kind.languages(source.config) or frozenset() for source in recipe.sources]
    languages = {recipe.source_language, *named, *(language for languages in found for language in languages)}
    known = {**load_language_packs(), **named}
    return {code: known[code] for code in sorted(languages & known.keys())} | {recipe.target_language: target}


def all_function_words(packs: Mapping[str, LanguagePack]) -> frozenset[str]:
    """Return the function words of all languages, but those that turn a meaning around: near captions share these."""
    words = {word for pack in packs.values() for word in pack.function_words}
    return frozenset(words.difference(*(pack.negations for pack in packs.values())))


def _pivot_pack(recipe: Recipe, named: Mapping[str, LanguagePack]) -> dict[str, LanguagePack]:
    """Return the pack of the language between, which judges no caption but names the engine's models."""
    pivot = recipe.translate.pivot
    return {pivot: language_pack(pivot, named)} if pivot else {}


def _source(settings: SourceSettings, hashes: FileHashes) -> Source:
    files = settings.upstream_files()
    return Source(
        name=settings.name,
        files=files,
        file_hashes=[hashes.sha256(file) for file in files],
        settings=source_settings(settings),
        origin=partial(settings.kind.origin, settings.config),
        read=lambda: settings.kind.read(settings.config),
        limit=settings.limit,
    )


def _test_images(recipe: Recipe, hashes: FileHashes) -> dict[str, str]:
    found = {test_set.name: images_digest(test_set.kind, test_set.config, hashes) for test_set in recipe.test_sets}
    return {name: images for name, images in found.items() if images is not None}


def _locations(recipe: Recipe) -> dict[str, str]:
    """Return where local images are, by source."""
    found = {settings.name: settings.kind.images(settings.config) for settings in recipe.sources}
    return {name: str(location) for name, location in found.items() if location is not None}
