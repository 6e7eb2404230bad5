"""Dry run of a recipe: run the steps that check captions on a sample of each source, and count what each rule drops.

No image is fetched, the catalog is not changed, and captions are translated only on request. Only translations that
cost money are written into the root: into its translation memory, for the build.
"""

import random
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cleaning.checks import CheckConfig, CleanConfig
from data_catalog.base.errors import Refusals
from data_catalog.base.settings import values_at
from data_catalog.catalog.work import WorkStore
from data_catalog.disk.lock import writer_lock
from data_catalog.fetch.outcomes import RecordedOutcomes, attempt_of
from data_catalog.fetch.urls import fetchable_url
from data_catalog.fetch.workers import ImageWorkers
from data_catalog.publish.tombstones import read_tombstones
from data_catalog.rows.schema import PENDING, REJECTED
from data_catalog.sample.datasets import draw_upstream
from data_catalog.sources.hashes import file_entries
from data_catalog.sources.ingest import Source
from data_catalog.sources.rows import ALL_ROWS, BEYOND_LIMIT, SourceRow, UnselectedRow
from flows.build.captions import NOT_SERVED
from flows.build.engine import Engine
from flows.build.execution import LocalExecutor
from flows.build.fit import judge_identities
from flows.build.inputs import (
    Inputs,
    Tools,
    fetching_of,
    packs_of_captions,
    require_contact,
    require_readable,
    source_of,
)
from flows.build.steps import STEPS, Build
from flows.recipe.engines import open_engine, require_packages
from flows.recipe.language_packs import named_language_packs, target_language_pack
from flows.recipe.recipe import Recipe, require_sources, what_settings
from flows.recipe.sources import SourceSettings
from translation.engine import Translator, is_paid

_POOL_FACTOR = 10  # a sample of N rows is drawn from the first 10 N rows of a source
_MARKED = "marked: "
# The steps up to `check`, which judge captions and fetch no images.
_CAPTION_STEPS = STEPS[: [step.name for step in STEPS].index("check") + 1]
_REASONS = {name: row.reasons for step in STEPS for name, row in step.rows.items()}
_ORDER = list(_REASONS)
# Reasons of checks that consist of several rules; the detail names the rule.
_REASONS_WITH_RULES = {
    reason
    for check in (*CleanConfig.check_types(), *CheckConfig.check_types())
    if check.has_rules
    for reason in check.reasons
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """The rows of a source that one rule would drop or mark.

    Args:
        rule: drop reason, with the name of the rule if the reason has several; after "marked: " if the rows stay.
        decided_by: values of the settings that decide the reason, by path.
        examples: some of their captions, as upstream has them, each with its detail.
    """

    source: str
    step: str
    rule: str
    num_rows: int
    decided_by: Mapping[str, Any]
    examples: Sequence[tuple[str, str]]

    @property
    def is_mark(self) -> bool:
        """Return True if the rows are only marked as leaks of a test set, not dropped."""
        return self.rule.startswith(_MARKED)


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """Result of a dry run.

    Args:
        num_rows: rows checked, by source.
        dropped: rules by source in the recipe's order, then by step, then the most frequent first.
        num_unjudged: rows that need translation before further checks, by source.
        captions: every row, schema `CAPTIONS`.
        num_beyond: rows beyond the limit of their source, by source.
        num_images: images of the remaining captions: how many a build would fetch, and how many the root knows.
        lacking: what a build would refuse the recipe for, though a dry run does not need it.
        not_judged: checks of the recipe that a dry run cannot do, since it fetches no images.
    """

    num_rows: dict[str, int]
    dropped: Sequence[Dropped]
    num_unjudged: dict[str, int]
    captions: pa.Table
    num_beyond: Mapping[str, int] = field(default_factory=dict)
    num_images: tuple[int, int] = (0, 0)
    lacking: Sequence[str] = ()
    not_judged: Sequence[str] = ()

    def rows(self) -> list[dict[str, object]]:
        """Return a table with one row for each source and rule."""
        return [
            {"source": found.source, "step": found.step, "rule": found.rule, "rows": found.num_rows}
            | {"share": f"{found.num_rows / self.num_rows[found.source]:.2%}"}
            for found in self.dropped
        ]


def dry_run(
    recipe: Recipe, *, root: Path, num_rows: int = 1000, num_examples: int = 3, seed: int = 1, translate: bool = False
) -> DryRun:
    """Check a sample of each source with the recipe's rules; refuse what a build would refuse before work starts.

    Args:
        num_rows: rows of each source, drawn from the first rows of its files; 0: all rows.
        num_examples: captions to return for each rule and source.
        translate: translate the remaining captions, and check the translations as well.
    """
    require_sources(recipe)
    if recipe.scenes is not None:
        draw_upstream(recipe.scenes)
    refusals = Refusals()
    for require in (
        lambda: target_language_pack(recipe, named_language_packs(recipe)),
        lambda: require_readable(recipe),
    ):
        with refusals:
            require()
    refusals.raise_all()
    fetching = fetching_of(recipe, attempt_of(root, recipe.name).number)
    with (
        tempfile.TemporaryDirectory(prefix="vernaclip-dry-run-") as name,
        ImageWorkers() as workers,
        LocalExecutor() as executor,
        ExitStack() as lock,
    ):
        folder = Path(name)
        translator = open_engine(recipe, folder) if translate else None
        has_price = translator is not None and is_paid(translator)
        if has_price:
            lock.enter_context(writer_lock(root))
        build = Build(recipe=recipe, inputs=_sampled(recipe, root, num_rows, seed, translator))
        place = root if has_price else folder
        tools = Tools(recipe, place, build.inputs, executor, workers=workers, fetching=fetching, log_folder=folder)
        engine = Engine(_CAPTION_STEPS, build, work=WorkStore(folder / "work"), executor=executor, tools=tools)
        engine.run()
        tools.seal()
        table = pa.concat_tables([pq.read_table(output.only_file) for output in engine.outputs("check")])
        screened = [pq.read_table(output.only_file, columns=["leaks"]) for output in engine.outputs("screen")]
        counted = engine.commits("ingest")[0].facts["sources"]
        marks = [len(found or ()) for each in screened for found in each.column("leaks").to_pylist()]
    # URLs of the images of the remaining captions.
    remains = pc.equal(table.column("outcome"), PENDING)
    if not translate:
        remains = pc.or_(remains, pc.fill_null(pc.equal(table.column("drop_reason"), NOT_SERVED), False))
    remains = pc.and_(remains, pc.is_null(table.column("path")))
    urls = {fetchable_url(url) for url in table.filter(remains).column("url").to_pylist()} - {None}
    known = RecordedOutcomes(root, fetching).has(pa.array(sorted(urls), pa.string()))  # type: ignore[type-var]
    dropped, num_unjudged = _summary(table, marks, recipe, num_examples, translate=translate)
    num_rows_of = Counter(table.column("source").to_pylist())
    thresholds = {name: getattr(recipe.image_text, name) for name in ("min_score", "max_drop")}
    return DryRun(
        num_rows={source.name: num_rows_of[source.name] for source in recipe.sources},
        dropped=dropped,
        num_unjudged=num_unjudged,
        captions=table,
        num_beyond={name: counts["unselected"].get(BEYOND_LIMIT, 0) for name, counts in counted.items()},
        num_images=(len(urls) - sum(known), sum(known)),
        lacking=_lacking(recipe, root),
        not_judged=[f"image_text.{name}" for name, value in thresholds.items() if value is not None],
    )


def _lacking(recipe: Recipe, root: Path) -> list[str]:
    """Return the messages with which a build would refuse the recipe, though a dry run does not need what it lacks."""
    refusals = Refusals()
    for require in (require_contact, require_packages, lambda recipe: judge_identities(recipe, root)):
        with refusals:
            require(recipe)
    return [str(error) for error in refusals.errors]


def _sampled(recipe: Recipe, root: Path, num_rows: int, seed: int, translator: Translator | None) -> Inputs:
    """Return the inputs of a build on a sample, without content hashes and images, since nothing is published."""
    named = named_language_packs(recipe)
    pack = target_language_pack(recipe, named)
    return Inputs(
        sources=[_source(settings, num_rows, seed) for settings in recipe.sources],
        locations={},
        image_digests={},
        pack=pack,
        packs=packs_of_captions(recipe, named, pack),
        test_files={test_set.name: file_entries(test_set.upstream_files(), str) for test_set in recipe.test_sets},
        test_images={},
        tagger=recipe.check.find_tagger(pack),
        translator=translator,
        reverse=None,
        build_key="",
        tombstones=read_tombstones(root).of(recipe.name),
    )


def _source(settings: SourceSettings, num_rows: int, seed: int) -> Source:
    """Return a source that yields a sample of its rows; file names take the place of content hashes."""
    source = source_of(settings, str)

    def sampled() -> Iterator[SourceRow]:
        drawn = source.draw()  # a limit may draw from all rows
        yield from repeat(UnselectedRow(reason=BEYOND_LIMIT), drawn.num_rows - drawn.num_drawn if drawn else 0)
        selected = (row for row in source.rows(drawn) if not isinstance(row, UnselectedRow))
        pool = list(islice(selected, _POOL_FACTOR * num_rows))
        chosen = random.Random(seed).sample(range(len(pool)), min(num_rows, len(pool)))
        yield from (pool[place] for place in sorted(chosen))

    return replace(source, read=sampled, limit=ALL_ROWS) if num_rows else source


def _summary(
    table: pa.Table, num_marks: Sequence[int], recipe: Recipe, num_examples: int, *, translate: bool
) -> tuple[list[Dropped], dict[str, int]]:
    """Return the rows that each rule drops or marks, and how many rows of each source need translation first."""
    order = [source.name for source in recipe.sources]
    unjudged: Counter[str] = Counter()
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    is_listed = pc.or_(pc.equal(table.column("outcome"), REJECTED), pc.is_valid(table.column("leaks")))
    marks = pa.array(num_marks, pa.int64()).filter(is_listed.combine_chunks()).to_pylist()
    for row, num_screened in zip(table.filter(is_listed).to_pylist(), marks, strict=True):
        if not translate and row["step"] == "translate" and row["source_lang"] == recipe.source_language:
            unjudged[row["source"]] += 1
        elif row["outcome"] == REJECTED:
            reason = row["drop_reason"]
            rule = f"{reason}: {row['detail']}" if reason in _REASONS_WITH_RULES else reason
            found.setdefault((row["source"], row["step"], rule), []).append(row)
            continue
        seen = set()
        for place, mark in enumerate(row["leaks"] or ()):  # each step and reason once
            reason, detail = mark.split(" ", 1)
            key = (row["source"], "screen" if place < num_screened else "check", f"{_MARKED}{reason}")
            if key not in seen:
                seen.add(key)
                found.setdefault(key, []).append({**row, "detail": detail})
    settings = what_settings(recipe)
    dropped = [
        Dropped(
            source=source,
            step=step,
            rule=rule,
            num_rows=len(rows),
            decided_by=values_at(_REASONS[step][rule.removeprefix(_MARKED).split(":")[0]].settings, settings),
            examples=_examples(rows, num_examples),
        )
        for (source, step, rule), rows in found.items()
    ]
    dropped.sort(key=lambda rule: (order.index(rule.source), _ORDER.index(rule.step), -rule.num_rows, rule.rule))
    return dropped, dict(unjudged)


def _examples(rows: Sequence[Mapping[str, Any]], count: int) -> list[tuple[str, str]]:
    """Return distinct captions, evenly spread over the rows, each with its translation if checked, and its detail."""
    # A forgotten row has neither.
    distinct = list({row["source_caption"]: row for row in rows if row["source_caption"] or row["detail"]}.values())
    shown = []
    for row in distinct[:: max(1, len(distinct) // max(1, count))][:count]:
        source, caption = row["source_caption"] or "", row["caption"]
        is_judged = caption and row["source_lang"] != row["target_lang"]
        shown.append((f"{source} → {caption}" if is_judged else source, row["detail"] or ""))
    return shown
