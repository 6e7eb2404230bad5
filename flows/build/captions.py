"""The steps that judge texts: shard of caption rows in, shard of caption rows out, committed by content.

Every function here takes references, asks the work store first, and can be run by any executor in any order that
its inputs allow.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cleaning.caption_store import TextDigests
from cleaning.config import CheckConfig, CleanConfig
from cleaning.proper_nouns import Tagger
from cleaning.rules import apply_rules, check_rules, clean_rules, translation_measure
from cleaning.selection_config import LeaksConfig
from cleaning.text import clean_text
from data_catalog.errors import ShardError
from data_catalog.language_pack import LanguagePack
from data_catalog.progress import Progress
from data_catalog.sources.origins import MACHINE_TRANSLATION, has_original
from data_catalog.stages import (
    Drop,
    apply_measure,
    apply_transform,
    pending_rows,
    reject,
    set_values,
    texts,
)
from data_catalog.storage.shards import save_parquet
from data_catalog.storage.work import Commit, WorkStore
from flows.build.screen import judge_captions
from flows.build.step_outputs import CHECK, CLEAN, PLAN, TRANSLATE, Shard, step_key, table_step
from flows.build.test_sets import TestContents
from flows.recipe.settings import plain
from translation.engine import Translator
from translation.memory import TranslationMemory


def clean(work: WorkStore, shard: Shard, config: CleanConfig, packs: Mapping[str, LanguagePack]) -> Shard:
    """Clean the source captions, then judge them as captions of their own language.

    `packs` are those of all languages that the dataset's captions may be in.
    """
    settings = {"clean": plain(config), "packs": plain(packs)}

    def stage(table: pa.Table) -> pa.Table:
        clean_up = clean_text(config)
        table = apply_transform(table, clean_up, read="source_caption", write="clean_caption")
        given = pending_rows(table, pc.is_valid(table.column("caption")))
        table = set_values(table, "caption", given, clean_up(texts(table, "caption", given)))
        for lang in sorted(set(table.column("source_lang").drop_null().to_pylist())):
            rules = clean_rules(config, packs.get(lang) or LanguagePack(code=lang), languages=packs)
            table = apply_rules(table, rules, step=CLEAN, where=pc.equal(table.column("source_lang"), lang))
        return table

    return table_step(work, shard, CLEAN, settings, stage)


def plan_translation(
    work: WorkStore, shards: Sequence[Shard], translator: Translator, memory: TranslationMemory, *, chunk_size: int
) -> Commit:
    """Commit which captions are to be translated and in which chunks; files `00000.parquet`, ... of one text column.

    The plan is read again on resume, so that the chunks, and with them the batches, are those of the first try.
    """
    size = min(chunk_size, translator.max_chunk_size or chunk_size)
    settings = {"engine": translator.fingerprint, "chunk_size": size}
    key = step_key(PLAN, [shard.sha256 for shard in shards], settings)

    def produce(folder: Path) -> Mapping[str, Any]:
        chunks = _ChunkFiles(folder, size)
        ready_after: list[int] = []
        for captions in _distinct_captions(shards, translator.from_code, scratch=folder / "digests"):
            chunks.add(memory.missing(captions))
            ready_after.append(-(-chunks.num_captions // size))
        chunks.flush()
        return {"num_chunks": chunks.num_chunks, "num_captions": chunks.num_captions, "ready_after": ready_after}

    return work.run(key, produce)


class _ChunkFiles:
    """The files of a plan, each written as soon as it is full."""

    def __init__(self, folder: Path, size: int) -> None:
        self.num_captions = self.num_chunks = 0
        self._folder, self._size = folder, size
        self._waiting: list[str] = []

    def add(self, captions: Sequence[str]) -> None:
        """Append captions to the last file, and to new ones."""
        self.num_captions += len(captions)
        self._waiting.extend(captions)
        while len(self._waiting) >= self._size:
            self.flush()

    def flush(self) -> None:
        """Write what waits, a file's worth at most."""
        chunk, self._waiting = self._waiting[: self._size], self._waiting[self._size :]
        if chunk:
            table = pa.table({"clean_caption": pa.array(chunk, pa.string())})
            save_parquet(table, self._folder / f"{self.num_chunks:05d}.parquet")
            self.num_chunks += 1


def _distinct_captions(shards: Sequence[Shard], from_code: str, *, scratch: Path) -> Iterator[list[str]]:
    """Per shard, the captions to be translated that neither an earlier row nor an earlier shard has.

    The shards are read twice, so that one shard's captions are held at a time.
    """
    digests = TextDigests(scratch)
    for shard in shards:
        digests.add(_foreign_captions(shard.path, from_code))
    repeats, start = digests.repeats(), 0
    scratch.unlink(missing_ok=True)
    for shard in shards:
        captions = _foreign_captions(shard.path, from_code)
        yield list(compress(captions, ~repeats[start : start + len(captions)]))
        start += len(captions)


def _foreign_captions(path: Path, from_code: str) -> list[str]:
    table = pq.read_table(path, columns=["clean_caption", "caption", "source_lang", "target_lang", "outcome"])
    return texts(table, "clean_caption", foreign_rows(table, from_code))


def translate_chunks(plan: Commit, numbers: Sequence[int], translator: Translator, memory: TranslationMemory) -> None:
    """Translate some chunks of the plan, each recorded by itself.

    An engine whose chunks are small, since each is paid for, would otherwise make one task of every request.
    """
    paths = [plan.path(f"{number:05d}.parquet") for number in numbers]
    total = sum(pq.read_metadata(path).num_rows for path in paths)
    with Progress("translate", total=total, unit="captions") as progress:
        for path in paths:
            captions = pq.read_table(path).column("clean_caption").to_pylist()
            if not memory.has_all(captions):
                memory.record(captions, translator.translate(captions, progress.advance))


def foreign_rows(table: pa.Table, from_code: str) -> list[int]:
    """Indices of pending rows that the engine can and must translate."""
    foreign = pc.and_(has_original(table), pc.equal(table.column("source_lang"), from_code))
    return pending_rows(table, pc.and_(foreign, pc.is_null(table.column("caption"))))


def join_translations(work: WorkStore, shard: Shard, memory: TranslationMemory | None, from_code: str | None) -> Shard:
    """Give every pending row its caption in the target language: upstream's, or what the memory holds.

    Raises:
        ShardError: the memory lacks a caption that the plan had translated.
    """
    settings = {"engine": memory.fingerprint if memory else None, "from": from_code}

    def stage(table: pa.Table) -> pa.Table:
        table = _fill_own(table)
        if memory is not None and from_code is not None:
            table = _fill_translated(table, shard, memory, from_code)
        left = pending_rows(table, pc.is_null(table.column("caption")))
        langs = texts(table, "source_lang", left)
        return reject(table, left, [Drop("language_not_served", lang) for lang in langs], step=TRANSLATE)

    return table_step(work, shard, TRANSLATE, settings, stage)


def _fill_own(table: pa.Table) -> pa.Table:
    rows = pending_rows(table, pc.invert(has_original(table)))
    return set_values(table, "caption", rows, texts(table, "clean_caption", rows))


def _fill_translated(table: pa.Table, shard: Shard, memory: TranslationMemory, from_code: str) -> pa.Table:
    rows = foreign_rows(table, from_code)
    captions = texts(table, "clean_caption", rows)
    found = memory.columns(captions)
    if None in found.captions:
        lost = captions[found.captions.index(None)]
        raise ShardError(f"shard {shard.label}: the translation memory lost {lost!r}: delete work/plan and run again")
    table = set_values(table, "caption", rows, found.captions)
    table = set_values(table, "origin", rows, [MACHINE_TRANSLATION] * len(rows))
    table = set_values(table, "translator", rows, [memory.fingerprint] * len(rows))
    table = set_values(table, "translation_score", rows, found.scores)
    table = set_values(table, "translation_truncated", rows, found.truncated)
    table = set_values(table, "translation_repetitive", rows, found.repetitive)
    empty = [None if text else Drop("translation_empty") for text in found.captions]
    return reject(table, rows, empty, step=TRANSLATE)


def check(
    work: WorkStore,
    shard: Shard,
    config: CheckConfig,
    packs: Mapping[str, LanguagePack],
    *,
    target: str,
    tagger: Tagger | None = None,
    tests: Sequence[TestContents] = (),
    leaks: LeaksConfig | None = None,
    cleaned: CleanConfig | None = None,
) -> Shard:
    """Judge captions in the target language, and translations beside what they translate.

    Args:
        packs: as `clean` takes them; the target's is among them.
        target: the target language.
        tagger: tells names, or None: a rule of thumb does.
        tests: test sets whose captions no translation may be.
        leaks: what is done with such captions.
        cleaned: how the source captions were judged, of which what is found of native ones holds still.
    """
    leaks = leaks or LeaksConfig()
    source_engine = cleaned.language_engine if cleaned is not None and cleaned.language_check else None
    settings = {
        "check": plain(config),
        "packs": plain(packs),
        "target": target,
        "tagger": tagger.name if tagger else None,
        "leaks": plain(leaks),
        "tests": [test.identity for test in tests],
        "source_engine": source_engine,
    }

    def stage(table: pa.Table) -> pa.Table:
        translated = has_original(table)
        measure = translation_measure(packs[target])
        table = apply_measure(table, measure, source="clean_caption", target="caption", where=translated)
        if leaks.by_caption:
            table = judge_captions(table, tests, leaks, column="caption", step=CHECK, where=translated)
        rules = check_rules(config, packs[target], tagger=tagger, languages=packs, source_engine=source_engine)
        return apply_rules(table, rules, step=CHECK)

    return table_step(work, shard, CHECK, settings, stage)
