"""The build on one page: every step, what it reads, when a build has it, where it runs, and what it may drop.

Keys, order, overlap, the funnel, the wording of reports, `vernaclip why`, progress and Prefect's task names are derived
from this table. No other list of steps exists: to add one, write its function and add an entry here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cleaning.checks import CHECK_REASONS, CLEAN_REASONS
from data_catalog.fetch import outcomes
from data_catalog.fetch.reasons import FETCH_REASONS, NORMALISE_REASONS
from data_catalog.language_pack import all_function_words
from data_catalog.sources.ingest import ingest
from data_catalog.sources.rows import MALFORMED_REASONS
from data_catalog.storage.work import StepFacts
from data_catalog.tombstones import FORGET_REASONS, ActiveTombstones
from flows.build import captions, images
from flows.build.engine import FLOW, MAKES_SHARDS, MODEL, PER_SHARD, PER_TEST_SET, WHOLE, FunnelRow, Job, Step
from flows.build.inputs import Inputs
from flows.recipe.recipe import Recipe
from flows.recipe.sources import TestSetSettings, source_settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """What the table's functions are given: one build of one recipe.

    Args:
        recipe: what to build.
        inputs: opened and hashed.
        attempt: how often images that failed were asked for once more.
    """

    recipe: Recipe
    inputs: Inputs
    attempt: int = 0

    @property
    def test_sets(self) -> tuple[TestSetSettings, ...]:
        """Return the recipe's test sets, in order."""
        return self.recipe.test_sets

    @property
    def test_set_names(self) -> list[str]:
        """Return their names, in order."""
        return [test_set.name for test_set in self.recipe.test_sets]

    @property
    def workers(self) -> int:
        """Return how many calls run at once on the processor."""
        return self.recipe.build.workers


def _reading(build: Build) -> Mapping[str, Any]:
    recipe = build.recipe
    return {
        "sources": {source.name: source_settings(source) for source in recipe.sources},
        "files": {source.name: sorted(source.file_hashes) for source in build.inputs.sources},
        "target_lang": recipe.target_language,
        "shard_size": recipe.build.shard_size,
        "keep_splits": recipe.keeps_splits,
    }


def _ingest(job: Job, *, sources: object, files: object, **settings: Any) -> StepFacts:
    return ingest(job.folder, job.tools.sources, **settings)


def _test_set(build: Build, test_set: TestSetSettings) -> Mapping[str, Any]:
    return {
        "name": test_set.name,
        "kind": test_set.kind.kind,
        "config": test_set.config,
        "files": build.inputs.test_set_identity(test_set.name),
        "images": build.inputs.test_images.get(test_set.name) if build.recipe.leaks.by_pixels else None,
        "min_words": build.recipe.leaks.min_caption_words,
    }


def _checking(build: Build) -> Mapping[str, Any]:
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


def _forgetting(build: Build) -> Mapping[str, Any]:
    return {"in_force": ActiveTombstones.of(build.inputs.tombstones)}


STEPS = (
    Step(
        name="ingest",
        version=6,
        meaning="Read the upstream files into shards of caption rows.",
        scope=MAKES_SHARDS,
        lane=FLOW,
        settings=_reading,
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
        meaning="Reject the rows that a take-down means, before anything is asked for.",
        scope=PER_SHARD,
        after=("ingest",),
        when=lambda build: bool(build.inputs.tombstones.tombstones),
        settings=_forgetting,
        run=captions.forget_captions,
        rows={"forget": FunnelRow(meaning="applying take-downs", reasons=FORGET_REASONS)},
    ),
    Step(
        name="clean",
        version=6,
        meaning="Clean the captions as upstream has them, and judge them in their own language.",
        scope=PER_SHARD,
        after=("forget",),
        settings=lambda build: {"config": build.recipe.clean, "packs": build.inputs.packs},
        run=captions.clean,
        rows={
            "clean": FunnelRow(
                meaning="cleaning captions and judging them as they are upstream",
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
        version=2,
        meaning="Read a test set and hash its images.",
        scope=PER_TEST_SET,
        settings=_test_set,
        run=captions.read_test_set,
    ),
    Step(
        name="find-repeats",
        version=2,
        meaning="Find captions that are nearly the same, over all shards.",
        scope=WHOLE,
        after=("clean",),
        when=lambda build: build.recipe.repeats.near_captions or build.recipe.repeats.common_captions,
        lane=FLOW,
        settings=lambda build: {
            "config": build.recipe.repeats,
            "function_words": sorted(all_function_words(build.inputs.packs)),
            "threads": captions.Threads(build.recipe.build.workers),
        },
        run=captions.find_repeats,
    ),
    Step(
        name="screen",
        version=2,
        meaning="Drop what test sets hold and captions that others repeat, before they are translated.",
        scope=PER_SHARD,
        after=("clean", "test-set", "find-repeats"),
        settings=lambda build: {
            "config": build.recipe.repeats,
            "function_words": sorted(all_function_words(build.inputs.packs)),
            "leaks": build.recipe.leaks,
            "kinds": {source.name: source.kind.kind for source in build.recipe.sources},
            "test_sets": build.test_set_names,
        },
        run=captions.screen,
        rows={
            "screen": FunnelRow(
                meaning="looking for test sets and for repeated captions",
                reasons=captions.SCREEN_REASONS,
                rules=("leaks", "repeats"),
            )
        },
    ),
    Step(
        name="translate",
        version=4,
        meaning="Give every caption its text in the target language.",
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
        version=3,
        meaning="Translate translations back, and measure what comes back.",
        scope=PER_SHARD,
        after=("translate",),
        when=lambda build: build.inputs.reverse is not None,
        lane=MODEL,
        settings=lambda build: {"engine": build.inputs.reverse.fingerprint},
        run=captions.round_trip,
    ),
    Step(
        name="check",
        version=6,
        meaning="Judge captions in the target language, and translations beside their source.",
        scope=PER_SHARD,
        after=("round-trip", "test-set"),
        settings=_checking,
        run=captions.check,
        rows={
            "check": FunnelRow(
                meaning="judging the captions in the target language",
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
        meaning="Get the images that the root does not know yet.",
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
    ),
    Step(
        name="normalise",
        version=6,
        meaning="Decode images, turn them upright, resize and re-encode them.",
        scope=PER_SHARD,
        after=("fetch",),
        settings=lambda build: {"config": build.recipe.normalise},
        run=images.normalise,
    ),
    Step(
        name="forget-images",
        version=4,
        meaning="Leave out images that a take-down means by what they turned out to be.",
        scope=PER_SHARD,
        after=("normalise",),
        when=lambda build: bool(build.inputs.tombstones.tombstones),
        settings=_forgetting,
        run=images.forget_images,
    ),
    Step(
        name="find-duplicates",
        version=4,
        meaning="Find images that are the same, over all shards, and images of test sets.",
        scope=WHOLE,
        after=("check", "forget-images", "test-set"),
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
        name="merge-captions",
        version=2,
        meaning="Publish captions of dropped duplicates with the images that stay in their stead.",
        scope=WHOLE,
        after=("check", "find-duplicates"),
        when=lambda build: build.recipe.duplicates.merge_captions,
        lane=FLOW,
        run=images.merge_captions,
    ),
    Step(
        name="deduplicate",
        version=6,
        meaning="Drop captions whose images did not come or are there already, and captions that repeat others.",
        scope=PER_SHARD,
        after=("check", "forget-images", "find-duplicates", "merge-captions"),
        settings=lambda build: {
            "leaks": build.recipe.leaks,
            "drop_repeated_captions": build.recipe.duplicates.captions,
        },
        run=images.deduplicate,
        rows={
            "fetch": FunnelRow(
                meaning="getting the images",
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
            ),
            "normalise": FunnelRow(
                meaning="decoding and resizing the images",
                reasons=NORMALISE_REASONS,
                rules=("normalise",),
                image_columns=(*("original_format", "original_width", "original_height", "width", "height", "phash"),),
            ),
            "deduplicate": FunnelRow(
                meaning="looking for images and captions that are there already",
                reasons=images.DEDUPLICATE_REASONS,
                rules=("duplicates", "leaks", "split"),
                columns=("merged_into", "leaks"),
            ),
        },
    ),
    Step(
        name="publish",
        version=7,
        meaning="Write pairs, captions, outcomes of images and spare pictures.",
        scope=PER_SHARD,
        after=("deduplicate", "forget-images", "merge-captions"),
        settings=lambda build: {"split": build.recipe.split, "image_rows": list(_rows_of("deduplicate"))},
        run=images.publish,
    ),
)


def _rows_of(name: str) -> Mapping[str, FunnelRow]:
    return next(step.rows for step in STEPS if step.name == name)
