"""The steps that clean, screen, translate and check captions, with the steps that compare captions over all shards.

A shard without forgotten rows is passed on unchanged, so that tombstones that do not concern it change no later key.
Cheap steps run before expensive ones. What a step reads stands in the table of steps.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cleaning.checks import CheckConfig, CleanConfig, apply_rules, translation_measure
from cleaning.checks.mending import clean_text
from cleaning.duplicates.captions import RepeatsConfig, drop_repeats, label_repeats
from cleaning.leaks import LeaksConfig, TestContents, judge_captions, judge_identities, write_test_set
from data_catalog.base.language_pack import LanguagePack
from data_catalog.base.settings import how
from data_catalog.catalog.work import StepFacts
from data_catalog.disk.files import save_parquet
from data_catalog.publish.tombstones import FORGET, ActiveTombstones, Matcher, forget_rows, is_of_samples, without_texts
from data_catalog.rows.drop_reasons import Reason
from data_catalog.rows.origins import MACHINE_TRANSLATION, has_original
from data_catalog.rows.stages import (
    Drop,
    apply_measure,
    apply_transform,
    count_rows,
    pending_rows,
    reject,
    set_values,
    texts,
)
from data_catalog.sources.test_sets import TEST_SET_KINDS
from flows.build.engine import SHARD, UNCHANGED, Job
from translation.engine import STREAM_WINDOW
from translation.evaluate import sentence_chrf
from translation.memory import translate_with_memory

logger = logging.getLogger(__name__)

NOT_SERVED = "language_not_served"
SCREEN_REASONS = {
    "test_image": Reason(
        "the identity of the image is in a test set of the recipe", settings=("leaks.by_identity", "leaks.action")
    ),
    "test_caption": Reason(
        "the caption is in a test set of the recipe, apart from punctuation and case",
        settings=("leaks.by_caption", "leaks.min_caption_words", "leaks.action"),
    ),
    "near_duplicate_caption": Reason(
        "an earlier caption of the same image is nearly the same text",
        settings=("repeats.min_similarity",),
    ),
    "common_caption": Reason(
        "more images than the recipe allows have this caption, or nearly the same one",
        settings=("repeats.max_images_per_caption",),
    ),
}
TRANSLATE_REASONS = {
    NOT_SERVED: Reason(
        "the caption is neither in the target language nor in the language that the engine translates",
        settings=("target_language", "source_language"),
    ),
    "translation_empty": Reason("the engine returned no text"),
}
CHECK_LEAK_REASONS = {
    "test_caption": Reason(
        "the translation is a caption of a test set of the recipe, apart from punctuation and case",
        settings=("leaks.by_caption", "leaks.min_caption_words", "leaks.action"),
    ),
}


def _written(job: Job, step: str, before: pa.Table, after: pa.Table) -> StepFacts:
    """Write the caption rows of a step, and return its counts of rows read, kept and dropped."""
    save_parquet(after, job.folder / SHARD)
    return {"counts": {step: count_rows(before, after)}}


def forget_captions(job: Job, *, in_force: ActiveTombstones) -> StepFacts:
    """Reject the rows whose sample, URL or page matches a tombstone, and empty their texts.

    Malformed lines stay rejected by `ingest`; if their text names a forgotten image, it is emptied, too.
    """
    matcher = Matcher(in_force.tombstones)
    before = pq.read_table(job.shard("ingest"))
    is_meant = matcher.numbers(before.select(["sample_id", "url", "page_url", "step", "drop_reason"])) >= 0
    lines = matcher.lines(before)
    after = without_texts(forget_rows(before, pa.array(is_meant)), is_of_samples(before, lines))
    counts: StepFacts = {"counts": {FORGET: count_rows(before, after)}}
    if not is_meant.any() and not lines:
        return {**UNCHANGED, **counts}
    save_parquet(after, job.folder / SHARD)
    return counts


def clean(job: Job, *, config: CleanConfig, packs: Mapping[str, LanguagePack]) -> StepFacts:
    """Clean the source captions, then check them in their own language, one of those of the packs or another."""
    before = pq.read_table(job.shard("forget"))
    clean_up = clean_text(config)
    table = apply_transform(before, clean_up, read="source_caption", write="clean_caption")
    given = pending_rows(table, pc.is_valid(table.column("caption")))
    table = set_values(table, "caption", given, clean_up(texts(table, "caption", given)))
    for lang in sorted(set(table.column("source_lang").drop_null().to_pylist())):
        rules = config.rules(packs.get(lang) or LanguagePack(code=lang), languages=packs)
        table = apply_rules(table, rules, step="clean", where=pc.equal(table.column("source_lang"), lang))
    return _written(job, "clean", before, table)


def test_contents(job: Job, names: Sequence[str]) -> list[TestContents]:
    """Return the contents of the recipe's test sets from a job that reads `test-set`."""
    return [TestContents(name=name, commit=commit) for name, commit in zip(names, job.all("test-set"), strict=True)]


def read_test_set(
    job: Job, *, name: str, kind: str, config: Any, files: Sequence[Sequence[str]], images: str | None, min_words: int
) -> StepFacts:
    """Read a test set without short captions, and hash its images if they are available and have a content hash."""
    reader = TEST_SET_KINDS[kind]
    found = list(reader.read(config))
    location = config.images if images else None
    pixels = (location, job.tools.workers) if location is not None else None
    facts = write_test_set(found, job.folder, min_words=min_words, pixels=pixels)
    if location is not None and facts["num_hashed"] < len(found):
        logger.warning(
            "%s of %s images of test set %s are not in %s or not readable: training images are not compared with them",
            f"{len(found) - facts['num_hashed']:,}",
            f"{len(found):,}",
            name,
            location,
        )
    return facts


@dataclass(frozen=True, slots=True)
class Threads:
    """Number of threads that a step may use; it does not change the output."""

    count: int = how(1)


def find_repeats(
    job: Job, *, config: RepeatsConfig, function_words: Mapping[str, Mapping[str, str]], threads: Threads
) -> StepFacts:
    """Find near-duplicate captions and captions that too many images have, over all shards."""
    return label_repeats(job.shards("clean"), job.folder, config, function_words=function_words, threads=threads.count)


def screen(
    job: Job,
    *,
    config: RepeatsConfig,
    function_words: Mapping[str, Mapping[str, str]],
    leaks: LeaksConfig,
    kinds: Mapping[str, str],
    test_sets: Sequence[str],
) -> StepFacts:
    """Drop or mark leaks of test sets by identity and caption; then drop repeated captions."""
    before = pq.read_table(job.shard("clean"))
    table, tests = before, test_contents(job, test_sets)
    if leaks.by_identity:
        table = judge_identities(table, tests, leaks, kinds=kinds, step="screen")
    if leaks.by_caption:
        table = judge_captions(table, tests, leaks, column="clean_caption", step="screen")
    if "find-repeats" in job.inputs:
        labels = pq.read_table(job.shard("find-repeats")).to_pylist()
        by_row = dict(zip(pending_rows(before), labels, strict=True))
        table = drop_repeats(table, by_row, config, function_words, step="screen")
    return _written(job, "screen", before, table)


def translate(job: Job, *, engine: str | None, from_code: str | None) -> StepFacts:
    """Set the caption in the target language of every pending row: the upstream caption, or its translation.

    Missing captions of the shard are translated in windows from the front, each one transaction of the translation
    memory. After an interruption, the run resumes with the same windows, and so with the same batches. Without an
    engine, all sources are in the target language.
    """
    before = pq.read_table(job.shard("screen"))
    own = pending_rows(before, pc.invert(has_original(before)))
    table = set_values(before, "caption", own, texts(before, "clean_caption", own))
    if engine is not None and from_code is not None:
        table = _translated(table, job, from_code)
    left = pending_rows(table, pc.is_null(table.column("caption")))
    langs = texts(table, "source_lang", left)
    table = reject(table, left, [Drop(NOT_SERVED, lang) for lang in langs], step="translate")
    return _written(job, "translate", before, table)


def _translated(table: pa.Table, job: Job, from_code: str) -> pa.Table:
    """Translate the pending rows that are in the engine's language and have no caption in the target language."""
    foreign = pc.and_(has_original(table), pc.equal(table.column("source_lang"), from_code))
    rows = pending_rows(table, pc.and_(foreign, pc.is_null(table.column("caption"))))
    captions, memory, where = texts(table, "clean_caption", rows), job.tools.memory, f"shard {job.label}"
    if job.tools.windows is not None:  # fill the memory elsewhere, before it is read
        job.tools.windows.translate(captions, title="translate", planned=job.leave_lane)
    found = translate_with_memory(
        captions, job.tools.translator, memory, title="translate", where=where, window=STREAM_WINDOW
    )
    columns = {
        "caption": [each.text for each in found],
        "origin": [MACHINE_TRANSLATION] * len(rows),
        "translator": [memory.fingerprint] * len(rows),
        "translation_score": [each.score for each in found],
        "translation_truncated": [each.truncated for each in found],
        "translation_repetitive": [each.repetitive for each in found],
    }
    for name, values in columns.items():
        table = set_values(table, name, rows, values)
    empty = [None if each.text else Drop("translation_empty") for each in found]
    return reject(table, rows, empty, step="translate")


def round_trip(job: Job, *, engine: str) -> StepFacts:
    """Translate captions back and fill `round_trip_chrf`, the chrF of the result with the source caption; drop no rows.

    Only pending rows are translated whose source caption is in the language that the engine translates to. The
    engine's fingerprint is part of the key.
    """
    table = pq.read_table(job.shard("translate"))
    reverse, memory = job.tools.reverse, job.tools.reverse_memory
    from_there = pc.equal(table.column("source_lang"), reverse.to_code)
    rows = pending_rows(table, pc.and_(has_original(table), from_there))
    captions, where = texts(table, "caption", rows), f"shard {job.label}"
    if job.tools.reverse_windows is not None:
        job.tools.reverse_windows.translate(captions, title="translate back", planned=job.leave_lane)
    back = translate_with_memory(captions, reverse, memory, title="translate back", where=where, window=STREAM_WINDOW)
    sources = texts(table, "clean_caption", rows)
    scores = [sentence_chrf(each.text, source) for each, source in zip(back, sources, strict=True)]
    save_parquet(set_values(table, "round_trip_chrf", rows, scores), job.folder / SHARD)
    return {}


def check(
    job: Job,
    *,
    config: CheckConfig,
    packs: Mapping[str, LanguagePack],
    target: str,
    tagger: str | None,
    leaks: LeaksConfig,
    source_engine: str | None,
    test_sets: Sequence[str],
) -> StepFacts:
    """Check captions in the target language, and compare translations with their source captions.

    The tagger's name is part of the key. `source_engine` identified the languages of source captions; its results for
    native captions are reused.
    """
    before = pq.read_table(job.shard("round-trip"))
    translated = has_original(before)
    measure = translation_measure(packs[target])
    table = apply_measure(before, measure, source="clean_caption", target="caption", where=translated)
    if leaks.by_caption:
        tests = test_contents(job, test_sets)
        table = judge_captions(table, tests, leaks, column="caption", step="check", where=translated)
    rules = config.rules(packs[target], tagger=job.tools.tagger, languages=packs, source_engine=source_engine)
    return _written(job, "check", before, apply_rules(table, rules, step="check"))
