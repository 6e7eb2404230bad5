"""The steps that judge texts: forget, clean, translate, round-trip and check, each a shard of caption rows in and out.

Where a shard has nothing of what is forgotten it goes on as it is, so that tombstones that do not concern it change no
key of what follows.
"""

from collections.abc import Mapping, Sequence
from typing import cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cleaning.checks import CheckConfig, CleanConfig, apply_rules, translation_measure
from cleaning.leaks import LeaksConfig, judge_captions
from cleaning.text.mending import clean_text
from data_catalog.language_pack import LanguagePack
from data_catalog.reasons import Reason
from data_catalog.sources.origins import MACHINE_TRANSLATION, has_original
from data_catalog.stages import (
    Drop,
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
from data_catalog.takedown import Matcher, forget_rows, of_samples, without_texts
from data_catalog.tombstones import FORGET, InForce
from flows.build.engine import SHARD, UNCHANGED, Job
from flows.build.screen import test_contents
from translation.engine import STREAM_WINDOW
from translation.remembered import remembered
from translation.scores import sentence_chrf

NOT_SERVED = "language_not_served"
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


def forget_captions(job: Job, *, in_force: InForce) -> StepFacts:
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
    after = without_texts(forget_rows(before, pa.array(is_meant)), of_samples(before, lines))
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
    found = remembered(captions, job.tools.translator, memory, title="translate", where=where, window=STREAM_WINDOW)
    table = set_values(table, "caption", rows, found.captions)
    table = set_values(table, "origin", rows, [MACHINE_TRANSLATION] * len(rows))
    table = set_values(table, "translator", rows, [memory.fingerprint] * len(rows))
    table = set_values(table, "translation_score", rows, found.scores)
    table = set_values(table, "translation_truncated", rows, found.truncated)
    table = set_values(table, "translation_repetitive", rows, found.repetitive)
    empty = [None if text else Drop("translation_empty") for text in found.captions]
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
    back = remembered(captions, reverse, memory, title="translate back", where=where, window=STREAM_WINDOW)
    sources = texts(table, "clean_caption", rows)
    found = zip(cast("list[str]", back.captions), sources, strict=True)
    scores = [sentence_chrf(text, source) for text, source in found]
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
