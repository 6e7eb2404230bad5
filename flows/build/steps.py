"""The table of all steps of a build: their inputs, conditions, lanes, settings and drop reasons.

Keys, order, overlap, the funnel, the texts of reports, `vernaclip why`, progress and Prefect's task names are derived
from this table. No other list of steps exists: to add a step, write its function and add an entry here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cleaning.checks import CHECK_REASONS, CLEAN_REASONS
from data_catalog.base.language_pack import function_word_meanings
from data_catalog.catalog.work import StepFacts
from data_catalog.fetch import outcomes
from data_catalog.publish.tombstones import FORGET_REASONS, ActiveTombstones
from data_catalog.rows.fetch_reasons import FETCH_REASONS, NORMALISE_REASONS
from data_catalog.rows.image_formats import reads_heif
from data_catalog.rows.schema import IMAGE_TEXT
from data_catalog.sources.hashes import entries_identity
from data_catalog.sources.ingest import ingest
from data_catalog.sources.rows import MALFORMED_REASONS
from flows.build import captions, fit, images
from flows.build.engine import FLOW, MAKES_SHARDS, MODEL, PER_SHARD, PER_TEST_SET, WHOLE, FunnelRow, Job, Step
from flows.build.inputs import Inputs
from flows.recipe.recipe import Recipe
from flows.recipe.sources import TestSetSettings, source_settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """A build of a recipe, the argument of the functions in the table."""

    recipe: Recipe
    inputs: Inputs
    attempt: int = 0
    """How many times failed images have been fetched again."""

    @property
    def test_sets(self) -> tuple[TestSetSettings, ...]:
        """Return the recipe's test sets, in order."""
        return self.recipe.test_sets

    @property
    def test_set_names(self) -> list[str]:
        """Return the names of the test sets, in order."""
        return [test_set.name for test_set in self.recipe.test_sets]

    @property
    def workers(self) -> int:
        """Return how many calls run at the same time on the processor."""
        return self.recipe.build.workers


def _judges_fit(build: Build) -> bool:
    return bool(build.recipe.image_text.model)


def _ingest_settings(build: Build) -> Mapping[str, Any]:
    recipe = build.recipe
    return {
        "sources": {source.name: source_settings(source) for source in recipe.sources},
        "files": {source.name: entries_identity(source.file_entries) for source in build.inputs.sources},
        "target_lang": recipe.target_language,
        "shard_size": recipe.build.shard_size,
        "keep_splits": recipe.keeps_splits,
    }


def _ingest(job: Job, *, sources: object, files: object, **settings: Any) -> StepFacts:
    """Ingest the sources of the build; `sources` and `files` are only part of the key."""
    return ingest(job.folder, job.tools.sources, **settings)


def _test_set_settings(build: Build, test_set: TestSetSettings) -> Mapping[str, Any]:
    return {
        "name": test_set.name,
        "kind": test_set.kind.kind,
        "config": test_set.config,
        "files": build.inputs.test_set_identity(test_set.name),
        "images": build.inputs.test_images.get(test_set.name) if build.recipe.leaks.by_pixels else None,
        "min_words": build.recipe.leaks.min_caption_words,
    }


def _check_settings(build: Build) -> Mapping[str, Any]:
    recipe, tagger = build.recipe, build.inputs.tagger
    return {
        "config": recipe.check,
        "packs": build.inputs.packs,
        "target": recipe.target_language,
        "tagger": tagger.name if tagger else None,
        "leaks": recipe.leaks,
        "source_engine": recipe.clean.language_engine if recipe.clean.language_check else None,
        "test_sets": build.test_set_names,
    }


def _forget_settings(build: Build) -> Mapping[str, Any]:
    return {"in_force": ActiveTombstones.of(build.inputs.tombstones)}


STEPS = (
    Step(
        name="ingest",
        version=8,
        meaning="Read the upstream files into shards of caption rows.",
        scope=MAKES_SHARDS,
        lane=FLOW,
        settings=_ingest_settings,
        run=_ingest,
        rows={
            "ingest": FunnelRow(
                meaning="reading the upstream files",
                reasons=MALFORMED_REASONS,
                rules=("sources",),
                columns=(
                    *("upstream_file", "upstream_line", "upstream_split", "url", "path", "source_lang"),
                    *("source_caption", "license", "attribution", "page_url"),
                ),
            )
        },
    ),
    Step(
        name="forget",
        version=2,
        meaning="Reject the rows that a take-down removed, before any image is fetched.",
        scope=PER_SHARD,
        after=("ingest",),
        when=lambda build: bool(build.inputs.tombstones.tombstones),
        settings=_forget_settings,
        run=captions.forget_captions,
        rows={"forget": FunnelRow(meaning="applying take-downs", reasons=FORGET_REASONS)},
    ),
    Step(
        name="clean",
        version=7,
        meaning="Clean the source captions, and check them in their own language.",
        scope=PER_SHARD,
        after=("forget",),
        settings=lambda build: {"config": build.recipe.clean, "packs": build.inputs.packs},
        run=captions.clean,
        rows={
            "clean": FunnelRow(
                meaning="cleaning and checking source captions",
                reasons=CLEAN_REASONS,
                rules=("clean",),
                columns=(
                    *("clean_caption", "detected_source_lang", "detected_source_probability"),
                    "source_language_margin",
                ),
            )
        },
    ),
    Step(
        name="test-set",
        version=3,
        meaning="Read a test set and hash its images.",
        scope=PER_TEST_SET,
        settings=_test_set_settings,
        run=captions.read_test_set,
    ),
    Step(
        name="find-repeats",
        version=4,
        meaning="Find near-duplicate captions over all shards.",
        scope=WHOLE,
        after=("clean",),
        when=lambda build: build.recipe.repeats.near_captions or build.recipe.repeats.common_captions,
        lane=FLOW,
        settings=lambda build: {
            "config": build.recipe.repeats,
            "function_words": function_word_meanings(build.inputs.packs),
            "threads": captions.Threads(build.recipe.build.workers),
        },
        run=captions.find_repeats,
    ),
    Step(
        name="screen",
        version=4,
        meaning="Drop leaks of test sets and repeated captions before translation.",
        scope=PER_SHARD,
        after=("clean", "test-set", "find-repeats"),
        settings=lambda build: {
            "config": build.recipe.repeats,
            "function_words": function_word_meanings(build.inputs.packs),
            "leaks": build.recipe.leaks,
            "kinds": {source.name: source.kind.kind for source in build.recipe.sources},
            "test_sets": build.test_set_names,
        },
        run=captions.screen,
        rows={
            "screen": FunnelRow(
                meaning="looking for leaks of test sets and for repeated captions",
                reasons=captions.SCREEN_REASONS,
                rules=("leaks", "repeats"),
            )
        },
    ),
    Step(
        name="translate",
        version=5,
        meaning="Translate captions into the target language.",
        scope=PER_SHARD,
        after=("screen",),
        lane=MODEL,
        settings=lambda build: {
            "engine": build.inputs.translator.fingerprint if build.inputs.translator else None,
            "from_code": build.inputs.translator.from_code if build.inputs.translator else None,
        },
        run=captions.translate,
        rows={
            "translate": FunnelRow(
                meaning="translating",
                reasons=captions.TRANSLATE_REASONS,
                rules=("translate",),
                columns=(
                    *("target_lang", "origin", "translator", "caption", "translation_score"),
                    *("translation_truncated", "translation_repetitive"),
                ),
            )
        },
    ),
    Step(
        name="round-trip",
        version=4,
        meaning="Translate translations back, and compare the result with the source captions.",
        scope=PER_SHARD,
        after=("translate",),
        when=lambda build: build.inputs.reverse is not None,
        lane=MODEL,
        settings=lambda build: {"engine": build.inputs.reverse.fingerprint},
        run=captions.round_trip,
    ),
    Step(
        name="check",
        version=7,
        meaning="Check captions in the target language, and compare translations with their source captions.",
        scope=PER_SHARD,
        after=("round-trip", "test-set"),
        settings=_check_settings,
        run=captions.check,
        rows={
            "check": FunnelRow(
                meaning="checking captions in the target language",
                reasons=CHECK_REASONS | captions.CHECK_LEAK_REASONS,
                rules=("check",),
                columns=(
                    *("detected_lang", "detected_probability", "language_margin", "length_ratio", "copied_share"),
                    *("repeated_ngrams", "numbers_lost", "numbers_invented", "round_trip_chrf"),
                ),
            )
        },
    ),
    Step(
        name="fetch",
        version=outcomes.VERSION,
        meaning="Fetch the images whose outcome the root does not know yet.",
        scope=PER_SHARD,
        after=("check",),
        lane=lambda build, captions: images.fetch_lane(build.recipe.fetch, build.recipe.build.fetch_workers, captions),
        settings=lambda build: {
            "config": build.recipe.fetch,
            "normalise": build.recipe.normalise,
            "attempt": build.attempt,
            "locations": build.inputs.image_digests,
        },
        run=images.fetch,
        rows={
            "fetch": FunnelRow(
                meaning="fetching the images",
                reasons=FETCH_REASONS,
                rules=("fetch",),
                image_columns=(
                    "http_status",
                    "final_url",
                    "robots_tag",
                    "content_usage",
                    "num_bytes",
                    "sha256",
                    "attempt",
                ),
            )
        },
    ),
    Step(
        name="normalise",
        version=6,
        meaning="Decode images, turn them upright, resize and re-encode them.",
        scope=PER_SHARD,
        after=("fetch",),
        settings=lambda build: {"config": build.recipe.normalise, **({"heif": True} if reads_heif() else {})},
        run=images.normalise,
        rows={
            "normalise": FunnelRow(
                meaning="decoding and resizing the images",
                reasons=NORMALISE_REASONS,
                rules=("normalise",),
                image_columns=(*("original_format", "original_width", "original_height", "width", "height", "phash"),),
            )
        },
    ),
    Step(
        name="forget-images",
        version=4,
        meaning="Drop images that match a take-down by final URL, bytes or perceptual hash.",
        scope=PER_SHARD,
        after=("normalise",),
        when=lambda build: bool(build.inputs.tombstones.tombstones),
        settings=_forget_settings,
        run=images.forget_images,
    ),
    Step(
        name="measure-fit",
        version=1,
        meaning="Score how well captions and their source captions fit the images.",
        scope=WHOLE,
        after=("check", "forget-images"),
        when=_judges_fit,
        lane=FLOW,
        settings=lambda build: {"identities": build.inputs.image_text},
        run=fit.measure_fit,
    ),
    Step(
        name="fit",
        version=1,
        meaning="Drop captions whose images failed, or that do not fit them.",
        scope=PER_SHARD,
        after=("check", "forget-images", "measure-fit"),
        when=_judges_fit,
        settings=lambda build: {"config": build.recipe.image_text},
        run=fit.fit,
        rows={
            "fit": FunnelRow(
                meaning="comparing captions with their images",
                reasons=fit.FIT_REASONS,
                rules=("image_text",),
                columns=IMAGE_TEXT,
            )
        },
    ),
    Step(
        name="find-duplicates",
        version=4,
        meaning="Find duplicate images over all shards, and images of test sets.",
        scope=WHOLE,
        after=("fit", "forget-images", "test-set"),
        lane=FLOW,
        settings=lambda build: {
            "sources": build.recipe.source_order,
            "config": images.decisive_settings(build.recipe.duplicates),
            "leaks": build.recipe.leaks,
            "split": build.recipe.split,
            "test_sets": build.test_set_names,
        },
        run=images.find_duplicates,
    ),
    Step(
        name="deduplicate",
        version=6,
        meaning="Drop captions whose images failed or are duplicates, and repeated captions.",
        scope=PER_SHARD,
        after=("fit", "forget-images", "find-duplicates"),
        settings=lambda build: {
            "leaks": build.recipe.leaks,
            "drop_repeated_captions": build.recipe.duplicates.captions,
        },
        run=images.deduplicate,
        rows={
            "deduplicate": FunnelRow(
                meaning="looking for duplicate images and captions",
                reasons=images.DEDUPLICATE_REASONS,
                rules=("duplicates", "leaks", "split"),
                columns=("merged_into", "leaks"),
            ),
        },
    ),
    Step(
        name="publish",
        version=7,
        meaning="Write pairs, captions, image outcomes and spare images (those that no pair contains).",
        scope=PER_SHARD,
        after=("deduplicate", "forget-images"),
        settings=lambda build: {"split": build.recipe.split, "image_rows": _image_rows(build)},
        run=images.publish,
    ),
)


def _image_rows(build: Build) -> list[str]:
    """Return the rows of the funnel that drop captions after their images were requested."""
    rows = [row for step in STEPS if step.when(build) for row in step.rows]
    return rows[rows.index("fetch") :]


def step_versions(recipe: Recipe) -> dict[str, int]:
    """Return the versions of the steps, by name, for the key of a build.

    The steps of `[image_text]` are left out if the recipe does not have it, so that they do not change its key.
    """
    return {step.name: step.version for step in STEPS if recipe.image_text.model or step.when is not _judges_fit}
