"""What the rules of a recipe would drop: the steps that judge captions, on a sample of each source.

No image is asked for, nothing of the catalog is touched, and translations are judged only where that is asked for.
"""

import random
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cleaning.checks import CheckConfig, CleanConfig
from data_catalog.images.workers import ImageWorkers
from data_catalog.publish import UPSTREAM
from data_catalog.sample.upstream import draw_upstream
from data_catalog.schema import REJECTED
from data_catalog.sources.ingest import Source, ingest, shard_names
from data_catalog.sources.rows import SourceRow, UnselectedRow
from data_catalog.storage.work import WorkStore
from flows.build import captions as caption_steps
from flows.build.inputs import all_function_words, packs_of_captions, require_originals_in_use, require_split_choice
from flows.build.screen import find_repeats, screen
from flows.build.step_outputs import CHECK, FUNNEL_STEPS, SCREEN, TRANSLATE, Shard, shard_of_commit
from flows.build.test_sets import TestContents, read_test_set
from flows.recipe.engines import open_engine
from flows.recipe.language_packs import named_language_packs, target_language_pack
from flows.recipe.recipe import Recipe
from flows.recipe.sources import SourceSettings, TestSetSettings
from flows.recipe.what_settings import source_settings
from translation.engine import Translator
from translation.memory import TranslationMemory

# A sample is drawn from so many times as many rows, the first of the files.
_POOL_FACTOR = 10
_MARKED = "marked: "
# Reasons whose detail names one of several rules within a check.
_NAMED = {
    reason
    for check in (*CleanConfig.check_types(), *CheckConfig.check_types())
    if check.has_rules
    for reason in check.reasons
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """One rule's share of a source.

    Args:
        rule: the reason, and the name of the rule within it where it has several; after "marked: " where the rows stay.
        num_rows: how many rows it would drop, or mark.
        examples: some of their captions, as upstream has them, each with what the rule says of it.
    """

    source: str
    step: str
    rule: str
    num_rows: int
    examples: Sequence[tuple[str, str]]

    @property
    def is_mark(self) -> bool:
        """Whether the rows stay, as what a test set has."""
        return self.rule.startswith(_MARKED)

    @property
    def reason(self) -> str:
        """Which of `cleaning.reasons.REASONS`."""
        return self.rule.removeprefix(_MARKED).split(":")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """What became of a sample.

    Args:
        num_rows: rows looked at, by source.
        dropped: by source in the recipe's order, then by step, then the most frequent first.
        num_unjudged: rows that would be translated first, and of which nobody knows, by source.
        captions: every row, schema `CAPTIONS`.
    """

    num_rows: dict[str, int]
    dropped: Sequence[Dropped]
    num_unjudged: dict[str, int]
    captions: pa.Table

    def rows(self) -> list[dict[str, object]]:
        """One row a source and rule, for a table."""
        return [
            {
                "source": found.source,
                "step": found.step,
                "rule": found.rule,
                "rows": found.num_rows,
                "share": f"{found.num_rows / self.num_rows[found.source]:.2%}",
            }
            for found in self.dropped
        ]


def dry_run(
    recipe: Recipe, *, root: Path, num_rows: int = 1000, num_examples: int = 3, seed: int = 1, translate: bool = False
) -> DryRun:
    """Judge a sample of each source by the recipe's rules.

    Args:
        num_rows: rows of each source, drawn from the first of its files; 0: all rows.
        num_examples: how many captions to show of each rule and source.
        seed: another one draws others.
        translate: translate what the rules leave, and judge the translations as well.

    Raises:
        ConfigError: as a build does, before work starts.
    """
    if recipe.scenes is not None:
        draw_upstream(recipe.scenes)
    for source in recipe.sources:
        source.check()
    for test_set in recipe.test_sets:
        test_set.check()
    require_split_choice(recipe)
    require_originals_in_use(recipe)
    with tempfile.TemporaryDirectory(prefix="vernaclip-dry-run-") as folder, ImageWorkers() as workers:
        sample = _Sample(recipe, WorkStore(Path(folder)), workers, open_engine(recipe, root) if translate else None)
        table = sample.judged([_source(settings, num_rows, seed) for settings in recipe.sources])
    return _summary(table, sample.num_marks, recipe, num_examples, translate=translate)


def _source(settings: SourceSettings, num_rows: int, seed: int) -> Source:
    """A source that yields some of its rows; content hashes are for what is kept, and nothing is."""
    files = settings.upstream_files()

    def read() -> Iterator[SourceRow]:
        selected = (row for row in settings.kind.read(settings.config) if not isinstance(row, UnselectedRow))
        return _drawn(selected, num_rows, seed) if num_rows else selected

    return Source(
        name=settings.name,
        files=files,
        file_hashes=[str(file) for file in files],
        settings=source_settings(settings),
        origin=partial(settings.kind.origin, settings.config),
        read=read,
    )


def _drawn(rows: Iterator[SourceRow], num_rows: int, seed: int) -> Iterator[SourceRow]:
    pool = list(islice(rows, _POOL_FACTOR * num_rows))
    chosen = random.Random(seed).sample(range(len(pool)), min(num_rows, len(pool)))
    yield from (pool[place] for place in sorted(chosen))


class _Sample:
    """The steps that judge captions, in the order of a build.

    `num_marks` says, of each row, how many of its `leaks` are of the screen step; the others are of the check.
    """

    def __init__(self, recipe: Recipe, work: WorkStore, workers: ImageWorkers, translator: Translator | None) -> None:
        self.recipe, self.work, self.workers, self.translator = recipe, work, workers, translator
        named = named_language_packs(recipe)
        pack = target_language_pack(recipe, named)
        self.packs = packs_of_captions(recipe, named, pack)
        self.tagger = recipe.check.find_tagger(pack)
        self.num_marks: list[int] = []

    def judged(self, sources: Sequence[Source]) -> pa.Table:
        """The caption rows of the sources after the last step that can judge them."""
        recipe, work = self.recipe, self.work
        ingested = ingest(
            work,
            sources,
            target_lang=recipe.target_language,
            shard_size=recipe.build.shard_size,
            keep_splits=recipe.split.by == UPSTREAM,
        )
        shards = [shard_of_commit(ingested, number, name) for number, name in enumerate(shard_names(ingested))]
        tests = [self._test_contents(test_set) for test_set in recipe.test_sets]
        cleaned = [caption_steps.clean(work, shard, recipe.clean, self.packs) for shard in shards]
        screened = self._screened(cleaned, tests)
        marks = [pq.read_table(shard.path, columns=["leaks"]).column("leaks") for shard in screened]
        self.num_marks = [len(found or ()) for column in marks for found in column.to_pylist()]
        translated = self._translated(screened)
        checked = [self._checked(shard, tests) for shard in translated]
        return pa.concat_tables([pq.read_table(shard.path) for shard in checked])

    def _test_contents(self, test_set: TestSetSettings) -> TestContents:
        """What captions are compared with; of images there are none to compare."""
        files = test_set.upstream_files()
        return read_test_set(
            self.work,
            test_set,
            self.workers,
            min_words=self.recipe.leaks.min_caption_words,
            file_hashes=[{"name": file.name, "sha256": str(file)} for file in files],
            location_digest=None,
        )

    def _screened(self, cleaned: Sequence[Shard], tests: Sequence[TestContents]) -> list[Shard]:
        config = self.recipe.repeats
        repeats, function_words = None, all_function_words(self.packs)
        if config.near_captions or config.common_captions:
            repeats = find_repeats(self.work, cleaned, config, function_words=function_words)
        options: dict[str, Any] = {
            "config": config,
            "function_words": function_words,
            "leaks": self.recipe.leaks,
            "kinds": {source.name: source.kind.kind for source in self.recipe.sources},
        }
        return [screen(self.work, shard, repeats, tests, **options) for shard in cleaned]

    def _translated(self, screened: Sequence[Shard]) -> list[Shard]:
        engine, work = self.translator, self.work
        if engine is None:
            return [caption_steps.join_translations(work, shard, None, None) for shard in screened]
        memory = TranslationMemory(work.folder / "memory", engine.fingerprint)
        size = self.recipe.build.chunk_size
        plan = caption_steps.plan_translation(work, screened, engine, memory, chunk_size=size)
        caption_steps.translate_chunks(plan, range(plan.facts["num_chunks"]), engine, memory)
        return [caption_steps.join_translations(work, shard, memory, engine.from_code) for shard in screened]

    def _checked(self, shard: Shard, tests: Sequence[TestContents]) -> Shard:
        return caption_steps.check(
            self.work,
            shard,
            self.recipe.check,
            self.packs,
            target=self.recipe.target_language,
            tagger=self.tagger,
            tests=tests,
            leaks=self.recipe.leaks,
            cleaned=self.recipe.clean,
        )


def _summary(
    table: pa.Table, num_marks: Sequence[int], recipe: Recipe, num_examples: int, *, translate: bool
) -> DryRun:
    order = [source.name for source in recipe.sources]
    counts = Counter(table.column("source").to_pylist())
    unjudged: Counter[str] = Counter()
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    is_told = pc.or_(pc.equal(table.column("outcome"), REJECTED), pc.is_valid(table.column("leaks")))
    marks = pa.array(num_marks, pa.int64()).filter(is_told.combine_chunks()).to_pylist()
    for row, num_screened in zip(table.filter(is_told).to_pylist(), marks, strict=True):
        waits = not translate and row["step"] == TRANSLATE and row["source_lang"] == recipe.source_language
        unjudged.update([row["source"]] if waits else [])
        if row["outcome"] == REJECTED and not waits:
            found.setdefault((row["source"], row["step"], _rule(row)), []).append(row)
        else:
            for step, rule, detail in _marks(row, num_screened):
                found.setdefault((row["source"], step, rule), []).append({**row, "detail": detail})
    dropped = [
        Dropped(source=source, step=step, rule=rule, num_rows=len(rows), examples=_examples(rows, num_examples))
        for (source, step, rule), rows in found.items()
    ]
    dropped.sort(key=lambda rule: (order.index(rule.source), FUNNEL_STEPS.index(rule.step), -rule.num_rows, rule.rule))
    return DryRun(
        num_rows={name: counts[name] for name in order},
        dropped=dropped,
        num_unjudged=dict(unjudged),
        captions=table,
    )


def _marks(row: Mapping[str, Any], num_screened: int) -> Iterator[tuple[str, str, str]]:
    """Step, rule and detail of what a row is marked for, each step and reason once."""
    told: dict[tuple[str, str], str] = {}
    for place, mark in enumerate(row["leaks"] or ()):
        reason, detail = mark.split(" ", 1)
        told.setdefault((SCREEN if place < num_screened else CHECK, f"{_MARKED}{reason}"), detail)
    yield from ((step, rule, detail) for (step, rule), detail in told.items())


def _rule(row: Mapping[str, Any]) -> str:
    reason = str(row["drop_reason"])
    return f"{reason}: {row['detail']}" if reason in _NAMED else reason


def _examples(rows: Sequence[Mapping[str, Any]], count: int) -> list[tuple[str, str]]:
    """Captions from all over the rows, each once: upstream's, the translation where that was judged, and the detail."""
    distinct = list({row["source_caption"]: row for row in rows}.values())
    chosen = distinct[:: max(1, len(distinct) // max(1, count))][:count]
    return [(_shown(row), row["detail"] or "") for row in chosen]


def _shown(row: Mapping[str, Any]) -> str:
    source, caption = row["source_caption"] or "", row["caption"]
    return f"{source} → {caption}" if caption and row["source_lang"] != row["target_lang"] else source
