"""The build of a dataset: upstream files in, a committed and queryable snapshot out, resumable at any moment."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_catalog.catalog import download_counts, rebuild
from data_catalog.images.diagnosis import Diagnosis, diagnose
from data_catalog.images.known import num_settled
from data_catalog.images.workers import ImageWorkers
from data_catalog.ingest import ingest, shard_names
from data_catalog.lock import writer_lock
from data_catalog.manifest import Snapshot, datasets_folder, find_snapshot, point_to
from data_catalog.shards import sweep_temporary
from data_catalog.sources.scenes.server import serve
from data_catalog.work import Commit, WorkStore
from flows import caption_steps, image_steps
from flows.execution import Executor
from flows.image_line import ImageLine
from flows.inputs import Inputs, open_inputs
from flows.recipe import Recipe
from flows.retry import Retry, open_retry
from flows.round_trip import round_trip
from flows.run_log import append_run
from flows.snapshots import FinishedShard, publish
from flows.step_outputs import Shard, shard_of_commit
from translation.engine import Translator
from translation.memory import TranslationMemory

logger = logging.getLogger(__name__)

# Beside the snapshots: how each image was fetched, a file a shard.
FETCH_LOGS = "fetch-log"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """What a build came to.

    Args:
        snapshot: the committed snapshot, which is the dataset's current one.
        up_to_date: nothing was done, since the snapshot was there already.
        num_steps: steps that were run, not found done.
        seconds: wall-clock time.
        downloads: what became of the images that were asked of the web.
    """

    snapshot: Snapshot
    up_to_date: bool
    num_steps: int
    seconds: float
    downloads: Diagnosis

    @property
    def funnel(self) -> list[dict[str, Any]]:
        """Rows of source, step, read, kept and dropped, in order."""
        names = ("source", "step", "read", "kept", "dropped")
        return [{name: row[name] for name in names} for row in self.snapshot.manifest["funnel"]]


def build_dataset(recipe: Recipe, *, root: Path, executor: Executor, retry_failed: bool = False) -> BuildReport:
    """Build a recipe's dataset below `root`, or find that it is there.

    Args:
        recipe: what to build.
        root: of the catalog.
        executor: runs the steps.
        retry_failed: of a dataset that is there, ask once more for the images that failed for reasons that may pass.

    Raises:
        ConfigError: settings or upstream files are wrong, or another process writes below `root`.
        ShardError: a shard could not be done; run again after mending what it says.
    """
    started = time.monotonic()
    with writer_lock(root):
        work = WorkStore(root / "work")
        work.sweep()
        sweep_temporary([root / "packages"])
        inputs = open_inputs(recipe, root)
        found = find_snapshot(root, recipe.name, inputs.build_key)
        if found is not None:
            point_to(root, recipe.name, found.snapshot)
        retry = open_retry(root, recipe.name, found) if retry_failed else None
        if found is None or (retry is not None and retry.num_retryable()):
            snapshot = _Build(recipe, root, executor, work, inputs, retry=retry).run()
        else:
            snapshot = found
        if retry is not None:
            retry.end(root)
        rebuild(root)
        if not recipe.build.keep_work:
            work.remove_used(snapshot.snapshot)
        report = BuildReport(
            snapshot=snapshot,
            up_to_date=found is not None and snapshot.snapshot == found.snapshot,
            num_steps=work.num_made,
            seconds=time.monotonic() - started,
            downloads=diagnose(download_counts(root, recipe.name)),
        )
        append_run(
            root,
            recipe.name,
            snapshot=snapshot.snapshot,
            num_steps=report.num_steps,
            seconds=report.seconds,
            downloads=report.downloads.shares(),
            num_retryable=report.downloads.num_retryable,
        )
    _show(report, recipe.name, executor)
    return report


def _show(report: BuildReport, name: str, executor: Executor) -> None:
    executor.artifact_table(
        f"funnel-{name}", report.funnel, f"Captions of {name} that each step read, kept and dropped."
    )
    if report.downloads.rows():
        executor.artifact_table(f"downloads-{name}", report.downloads.rows(), f"What became of the images of {name}.")


class _Build:
    """One build in progress: which step runs on which shard, and when."""

    def __init__(
        self,
        recipe: Recipe,
        root: Path,
        executor: Executor,
        work: WorkStore,
        inputs: Inputs,
        *,
        retry: Retry | None,
    ) -> None:
        self.retry = retry
        self.recipe, self.root, self.executor, self.work, self.inputs = recipe, root, executor, work, inputs
        self.translator = inputs.translator
        self.memory = self._memory(self.translator)
        self.reverse_memory = self._memory(inputs.reverse)

    def _memory(self, engine: Translator | None) -> TranslationMemory | None:
        return TranslationMemory(self.root / "memory", engine.fingerprint) if engine else None

    def run(self) -> Snapshot:
        """All steps, in an order in which fetching overlaps translating."""
        with self._served(), ImageWorkers(self.root / "work" / "hosts") as workers:
            ingested = self.executor.run("ingest", self._ingest)
            names = shard_names(ingested)
            shards = [shard_of_commit(ingested, number, name) for number, name in enumerate(names)]
            self._prepare(workers, len(shards))
            cleaned = self._each("clean", shards, self._clean)
            line = self._image_line(workers)
            translated, checked = self._translate_and_check(cleaned, line)
            images = line.finish()
            if self.retry is not None:
                if not any(num_settled(shard.path) for shard in images):
                    return self._nothing_new(self.retry)
                images = self._recalled(checked, images, self.retry)
            sources = [source.name for source in self.recipe.sources]
            duplicates = self.executor.run("find-duplicates", image_steps.find_duplicates, self.work, images, sources)
            finished = self._finish(checked, images, duplicates)
            rows = zip(cleaned, translated, checked, finished, images, strict=True)
            done = [
                FinishedShard(captions=finish, images=image, counted=(clean, translate, check, finish))
                for clean, translate, check, finish, image in rows
            ]
            return publish(
                self.recipe,
                self.inputs,
                self.root,
                self.executor,
                work=self.work,
                ingested=ingested,
                shards=done,
                retry_of=self.retry.snapshot.snapshot if self.retry else None,
            )

    def _prepare(self, workers: ImageWorkers, num_shards: int) -> None:
        """Let the processes for images load their libraries while captions are cleaned and translated."""
        config = self.recipe.build
        all_local = all(source.name in self.inputs.locations for source in self.recipe.sources)
        workers.prepare(
            self.recipe.normalise,
            fetching=0 if all_local else min(config.fetch_workers, num_shards),
            normalising=min(config.workers, num_shards),
        )

    def _image_line(self, workers: ImageWorkers) -> ImageLine:
        return ImageLine(
            recipe=self.recipe,
            work=self.work,
            executor=self.executor,
            workers=workers,
            local=image_steps.LocalImages(locations=self.inputs.locations, digests=self.inputs.location_digests),
            log_folder=datasets_folder(self.root) / self.recipe.name / FETCH_LOGS,
            known=self.retry.shards if self.retry else {},
        )

    def _nothing_new(self, retry: Retry) -> Snapshot:
        self.work.note_used(retry.snapshot.snapshot)
        return retry.snapshot

    def _recalled(self, checked: Sequence[Shard], images: Sequence[Shard], retry: Retry) -> list[Shard]:
        """All images: those that were tried again, and those that are there."""
        again = {shard.shard_id: image for shard, image in zip(checked, images, strict=True)}
        return self._each(
            "recall",
            checked,
            lambda shard: image_steps.recall(self.work, shard, again[shard.shard_id], retry.shards[shard.shard_id]),
        )

    def _served(self) -> AbstractContextManager[object]:
        config = self.recipe.serve
        return serve(config.folder, config.port) if config else nullcontext()

    def _ingest(self) -> Commit:
        recipe = self.recipe
        return ingest(
            self.work,
            self.inputs.sources,
            target_lang=recipe.target_language,
            shard_size=recipe.build.shard_size,
        )

    def _each(self, step: str, shards: Sequence[Shard], run: Callable[[Shard], Shard]) -> list[Shard]:
        """Run a step on every shard, some at a time; results in shard order."""
        futures = [self.executor.submit(f"{step} {shard.label}", run, shard) for shard in shards]
        results: list[Shard] = []
        for future in futures:
            results.append(future.result())
            self.executor.progress(step, done=len(results), total=len(shards))
        return results

    def _clean(self, shard: Shard) -> Shard:
        return caption_steps.clean(self.work, shard, self.recipe.clean, self.inputs.packs)

    def _translate_and_check(self, cleaned: Sequence[Shard], line: ImageLine) -> tuple[list[Shard], list[Shard]]:
        """Translate chunk by chunk; check a shard and begin with its images as soon as its captions are there."""
        translated: list[Shard] = []
        checked: list[Shard] = []
        for ready in self._translated_shards(cleaned):
            for shard in cleaned[len(checked) : ready]:
                translated.append(self.executor.run(f"translate {shard.label}", self._join, shard))
                judged = self._with_round_trip(translated[-1])
                checked.append(self.executor.run(f"check {shard.label}", self._check, judged))
                line.start(checked[-1])
        return translated, checked

    def _translated_shards(self, cleaned: Sequence[Shard]) -> Iterator[int]:
        """Translate; yields how many shards, from the first, have all their translations."""
        if self.translator is not None and self.memory is not None:
            size = self.recipe.build.chunk_size
            plan = caption_steps.plan_translation(self.work, cleaned, self.translator, self.memory, chunk_size=size)
            num_chunks = plan.facts["num_chunks"]
            per_task = max(1, size // (self.translator.max_chunk_size or size))
            for first in range(0, num_chunks, per_task):
                numbers = range(first, min(first + per_task, num_chunks))
                name = f"translate-chunk {first:05d}"
                self.executor.run(name, caption_steps.translate_chunks, plan, numbers, self.translator, self.memory)
                self.executor.progress("translate", done=numbers.stop, total=num_chunks)
                yield sum(after <= numbers.stop for after in plan.facts["ready_after"])
        yield len(cleaned)

    def _join(self, shard: Shard) -> Shard:
        from_code = self.translator.from_code if self.translator else None
        return caption_steps.join_translations(self.work, shard, self.memory, from_code)

    def _with_round_trip(self, shard: Shard) -> Shard:
        engine, memory = self.inputs.reverse, self.reverse_memory
        if engine is None or memory is None:
            return shard
        return self.executor.run(f"round-trip {shard.label}", round_trip, self.work, shard, engine, memory)

    def _check(self, shard: Shard) -> Shard:
        return caption_steps.check(self.work, shard, self.recipe.check, self.inputs.pack)

    def _finish(self, checked: Sequence[Shard], images: Sequence[Shard], duplicates: Commit) -> list[Shard]:
        futures = [
            self.executor.submit(f"deduplicate {shard.label}", image_steps.finish, self.work, shard, image, duplicates)
            for shard, image in zip(checked, images, strict=True)
        ]
        return [future.result() for future in futures]
