"""The steps that judge texts, each a shard of caption rows in and out; and what they look at over all shards.

Where a shard has nothing of what is forgotten it goes on as it is, so that tombstones that do not concern it change no
key of what follows. What costs little drops before what costs much: nothing that `screen` drops is translated, and no
image of it is fetched.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cleaning.checks import CheckConfig, CleanConfig, apply_rules, translation_measure
from cleaning.duplicates.captions import RepeatsConfig, drop_repeats, label_repeats
from cleaning.leaks import LeaksConfig, TestContents, judge_captions, judge_identities, write_test_set
from cleaning.text.mending import clean_text
from data_catalog.language_pack import LanguagePack
from data_catalog.settings import how
from data_catalog.sources.origins import MACHINE_TRANSLATION, has_original
from data_catalog.stages import (
    Drop,
    Reason,
    apply_measure,
    apply_transform,
    count_rows,
    pending_rows,
    reject,
    set_values,
    texts,
)
from data_catalog.storage.shards import save_parquet
from data_catalog.storage.work import StepFacts
from data_catalog.test_sets import TEST_SET_KINDS
from data_catalog.tombstones import FORGET, ActiveTombstones, Matcher, forget_rows, is_of_samples, without_texts
from flows.build.engine import SHARD, UNCHANGED, Job
from translation.engine import STREAM_WINDOW
from translation.evaluate import sentence_chrf
from translation.memory import translate_with_memory

logger = logging.getLogger(__name__)

NOT_SERVED = "language_not_served"
SCREEN_REASONS = {
    "test_image": Reason(
        "the image is, by its identity, one of a test set of the recipe", settings=("leaks.by_identity", "leaks.action")
    ),
    "test_caption": Reason(
        "the caption is, but for punctuation and case, one of a test set of the recipe",
        settings=("leaks.by_caption", "leaks.min_caption_words", "leaks.action"),
    ),
    "near_duplicate_caption": Reason(
        "an earlier caption of the same image says the same in nearly the same letters",
        settings=("repeats.min_similarity",),
    ),
    "common_caption": Reason(
        "more images than the recipe allows have this caption, or nearly this one",
        settings=("repeats.max_images_per_caption",),
    ),
}
TRANSLATE_REASONS = {
    NOT_SERVED: Reason(
        "the caption's language is neither the target language nor the one the engine translates",
        settings=("target_language", "source_language"),
    ),
    "translation_empty": Reason("the engine returned no text"),
}
CHECK_LEAK_REASONS = {
    "test_caption": Reason(
        "the translation is, but for punctuation and case, a caption of a test set of the recipe",
        settings=("leaks.by_caption", "leaks.min_caption_words", "leaks.action"),
    ),
}


def write_captions(job: Job, step: str, before: pa.Table, after: pa.Table) -> StepFacts:
    """Write a step's caption rows, and return how many it dropped."""
    save_parquet(after, job.folder / SHARD)
    return {"counts": {step: count_rows(before, after)}}


def forget_captions(job: Job, *, in_force: ActiveTombstones) -> StepFacts:
    """Reject the rows that tombstones mean by sample, address or page, and empty their texts.

    Lines that ingest could not read stay rejected by it, without their texts where these name what is meant.

    Args:
        job: reads `ingest`.
        in_force: the tombstones of the dataset.
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
    """Clean the source captions, then judge them as captions of their own language.

    Args:
        job: reads `forget`.
        config: section `[clean]`.
        packs: of all languages that the dataset's captions may be in.
    """
    before = pq.read_table(job.shard("forget"))
    clean_up = clean_text(config)
    table = apply_transform(before, clean_up, read="source_caption", write="clean_caption")
    given = pending_rows(table, pc.is_valid(table.column("caption")))
    table = set_values(table, "caption", given, clean_up(texts(table, "caption", given)))
    for lang in sorted(set(table.column("source_lang").drop_null().to_pylist())):
        rules = config.rules(packs.get(lang) or LanguagePack(code=lang), languages=packs)
        table = apply_rules(table, rules, step="clean", where=pc.equal(table.column("source_lang"), lang))
    return write_captions(job, "clean", before, table)


def test_contents(job: Job, names: Sequence[str]) -> list[TestContents]:
    """Return the recipe's test sets, of which a job reads `test-set`."""
    return [TestContents(name=name, commit=commit) for name, commit in zip(names, job.all("test-set"), strict=True)]


def read_test_set(
    job: Job, *, name: str, kind: str, config: Any, files: Sequence[Sequence[str]], images: str | None, min_words: int
) -> StepFacts:
    """Read a test set and hash its images, where they are there.

    Args:
        job: reads no step.
        name: the recipe's name for it.
        kind: of its files.
        config: of that kind.
        files: name and sha256 of each of them.
        images: content hash of its images; None: they are not looked at, or it has none.
        min_words: captions of fewer words are left out.
    """
    reads = TEST_SET_KINDS[kind]
    found = list(reads.read(config))
    location = config.images if images else None
    pixels = (location, job.tools.workers) if location is not None else None
    facts = write_test_set(found, job.folder, min_words=min_words, pixels=pixels)
    if location is not None and facts["num_hashed"] < len(found):
        logger.warning(
            "%s of %s images of test set %s are not in %s, or no pictures: training images are not compared with them",
            f"{len(found) - facts['num_hashed']:,}",
            f"{len(found):,}",
            name,
            location,
        )
    return facts


@dataclass(frozen=True, slots=True)
class Threads:
    """How many threads a step may use: no part of what it makes."""

    count: int = how(1)


def find_repeats(job: Job, *, config: RepeatsConfig, function_words: Collection[str], threads: Threads) -> StepFacts:
    """Find, over all shards, captions that are nearly the same, and those that too many images have.

    Args:
        job: reads `clean`.
        config: section `[repeats]`.
        function_words: of the captions' languages; see `cleaning.duplicates.near_captions.cluster_captions`.
        threads: the result does not depend on them.
    """
    return label_repeats(
        job.shards("clean"), job.folder, config, function_words=function_words or None, threads=threads.count
    )


def screen(
    job: Job,
    *,
    config: RepeatsConfig,
    function_words: Collection[str],
    leaks: LeaksConfig,
    kinds: Mapping[str, str],
    test_sets: Sequence[str],
) -> StepFacts:
    """Drop or mark what test sets hold, by identity and caption; then drop captions that others say already.

    Args:
        job: reads `clean`, `test-set` and, where captions are compared, the shard's own file of `find-repeats`.
        config: section `[repeats]`.
        function_words: those given to `find_repeats`.
        leaks: section `[leaks]`.
        kinds: each source's kind.
        test_sets: names of the recipe's.
    """
    before = pq.read_table(job.shard("clean"))
    table, tests = before, test_contents(job, test_sets)
    if leaks.by_identity:
        table = judge_identities(table, tests, leaks, kinds=kinds, step="screen")
    if leaks.by_caption:
        table = judge_captions(table, tests, leaks, column="clean_caption", step="screen")
    if "find-repeats" in job.inputs:
        labels = pq.read_table(job.shard("find-repeats")).to_pylist()
        by_row = dict(zip(pending_rows(before), labels, strict=True))
        table = drop_repeats(table, by_row, config, function_words or None, step="screen")
    return write_captions(job, "screen", before, table)


def translate(job: Job, *, engine: str | None, from_code: str | None) -> StepFacts:
    """Give every pending row its caption in the target language: upstream's, or what the engine says.

    The shard's missing captions go in windows from the front, each one transaction of the memory: a killed run goes on
    with the windows, and so the batches, that were left.

    Args:
        job: reads `screen`.
        engine: the engine's fingerprint; None: every source speaks the target language.
        from_code: the language that it reads.

    Raises:
        InputError: the engine cannot work.
        DamagedError: the memory lost a caption that was just recorded.
    """
    before = pq.read_table(job.shard("screen"))
    own = pending_rows(before, pc.invert(has_original(before)))
    table = set_values(before, "caption", own, texts(before, "clean_caption", own))
    if engine is not None and from_code is not None:
        table = _translated(table, job, from_code)
    left = pending_rows(table, pc.is_null(table.column("caption")))
    langs = texts(table, "source_lang", left)
    table = reject(table, left, [Drop(NOT_SERVED, lang) for lang in langs], step="translate")
    return write_captions(job, "translate", before, table)


def _translated(table: pa.Table, job: Job, from_code: str) -> pa.Table:
    """Translate the pending rows that the engine can and must translate."""
    foreign = pc.and_(has_original(table), pc.equal(table.column("source_lang"), from_code))
    rows = pending_rows(table, pc.and_(foreign, pc.is_null(table.column("caption"))))
    captions, memory, where = texts(table, "clean_caption", rows), job.tools.memory, f"shard {job.label}"
    found = translate_with_memory(
        captions, job.tools.translator, memory, title="translate", where=where, window=STREAM_WINDOW
    )
    table = set_values(table, "caption", rows, [each.text for each in found])
    table = set_values(table, "origin", rows, [MACHINE_TRANSLATION] * len(rows))
    table = set_values(table, "translator", rows, [memory.fingerprint] * len(rows))
    table = set_values(table, "translation_score", rows, [each.score for each in found])
    table = set_values(table, "translation_truncated", rows, [each.truncated for each in found])
    table = set_values(table, "translation_repetitive", rows, [each.repetitive for each in found])
    empty = [None if each.text else Drop("translation_empty") for each in found]
    return reject(table, rows, empty, step="translate")


def round_trip(job: Job, *, engine: str) -> StepFacts:
    """Fill `round_trip_chrf` of every pending row with an original that the engine can come back to; drop none.

    Args:
        job: reads `translate`.
        engine: fingerprint of the engine from the target language to the source's.
    """
    table = pq.read_table(job.shard("translate"))
    reverse, memory = job.tools.reverse, job.tools.reverse_memory
    from_there = pc.equal(table.column("source_lang"), reverse.to_code)
    rows = pending_rows(table, pc.and_(has_original(table), from_there))
    captions, where = texts(table, "caption", rows), f"shard {job.label}"
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
    """Judge captions in the target language, and translations beside what they translate.

    Args:
        job: reads `round-trip` and `test-set`.
        config: section `[check]`.
        packs: as `clean` takes them; the target's is among them.
        target: the target language.
        tagger: what tells proper nouns, by name; None: a rule of thumb does.
        leaks: what is done with captions that a test set has.
        source_engine: what told the languages of source captions: what is found of native ones holds still.
        test_sets: names of the recipe's.
    """
    before = pq.read_table(job.shard("round-trip"))
    translated = has_original(before)
    measure = translation_measure(packs[target])
    table = apply_measure(before, measure, source="clean_caption", target="caption", where=translated)
    if leaks.by_caption:
        tests = test_contents(job, test_sets)
        table = judge_captions(table, tests, leaks, column="caption", step="check", where=translated)
    rules = config.rules(packs[target], tagger=job.tools.tagger, languages=packs, source_engine=source_engine)
    return write_captions(job, "check", before, apply_rules(table, rules, step="check"))
