"""One build in progress: which step runs on which shard, and when, so that fetching overlaps translating."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Concatenate, ParamSpec

from data_catalog.fetch.known import num_settled
from data_catalog.images.workers import ImageWorkers
from data_catalog.publish import UPSTREAM
from data_catalog.sources.ingest import ingest, shard_names
from data_catalog.storage.manifest import Snapshot, datasets_folder
from data_catalog.storage.work import Commit, WorkStore
from flows.build import captions as caption_steps
from flows.build import images as image_steps
from flows.build.caption_line import CaptionLine
from flows.build.duplicates import find_duplicates
from flows.build.earlier_images import earlier_images
from flows.build.execution import Executor, Future
from flows.build.finish_steps import finish
from flows.build.forget_steps import forget_captions, forget_images
from flows.build.image_line import ImageLine
from flows.build.inputs import Inputs, all_function_words
from flows.build.merge_steps import merge_captions
from flows.build.publish import FinishedShard, WriteDocuments, publish
from flows.build.retry import Retry
from flows.build.screen import find_repeats, screen
from flows.build.step_outputs import Shard, shard_of_commit
from flows.build.test_sets import TestContents, read_test_set
from flows.recipe.recipe import Recipe

P = ParamSpec("P")

# Beside the snapshots: how each image was fetched, a file a shard.
FETCH_LOGS = "fetch-log"


class BuildOrder:
    """The steps of one build in their order; `run` does them all."""

    def __init__(
        self,
        recipe: Recipe,
        root: Path,
        executor: Executor,
        work: WorkStore,
        inputs: Inputs,
        *,
        retry: Retry | None,
        write_documents: WriteDocuments,
    ) -> None:
        self.retry, self.write_documents = retry, write_documents
        self.tests: list[TestContents] = []
        self.recipe, self.root, self.executor, self.work, self.inputs = recipe, root, executor, work, inputs
        self.captions = CaptionLine(recipe, root, executor, work, inputs)

    def run(self) -> Snapshot:
        """All steps, in an order in which fetching overlaps translating."""
        with ImageWorkers(self.root / "work" / "hosts") as workers:
            ingested = self.executor.run("ingest", self._ingest)
            names = shard_names(ingested)
            shards = [shard_of_commit(ingested, number, name) for number, name in enumerate(names)]
            self._prepare(workers, len(shards))
            self.tests = self._test_sets(workers)
            obeyed = self._obeying(shards)
            cleaned = self._each(
                "clean", obeyed, caption_steps.clean, config=self.recipe.clean, packs=self.inputs.packs
            )
            screened = self._screened(cleaned)
            line = self._image_line(workers)
            translated, checked = self.captions.run(screened, self.tests, line)
            images = line.finish()
            self.captions.seal()
            if self.retry is not None:
                if not any(num_settled(shard.path) for shard in images):
                    return self._nothing_new(self.retry)
                images = self._recalled(checked, images, self.retry)
            images = self._allowed(images)
            duplicates = self.executor.run("find-duplicates", self._find_duplicates, checked, images)
            merged = None
            if self.recipe.duplicates.merge_captions:
                merged = self.executor.run("merge-captions", merge_captions, self.work, checked, duplicates)
            finished = self._finish(checked, images, duplicates, merged)
            rows = zip(obeyed, cleaned, screened, translated, checked, finished, images, strict=True)
            done = [
                FinishedShard(captions=captions, images=image, counted=(*counted, captions))
                for *counted, captions, image in rows
            ]
            return publish(
                self.recipe,
                self.inputs,
                self.root,
                self.executor,
                work=self.work,
                ingested=ingested,
                shards=done,
                write_documents=self.write_documents,
                merged=merged,
                tests=self.tests,
                retry_of=self.retry.snapshot if self.retry else None,
            )

    def _prepare(self, workers: ImageWorkers, num_shards: int) -> None:
        """Let the processes for images load their libraries while captions are cleaned and translated."""
        config = self.recipe.build
        all_local = all(source.name in self.inputs.locations for source in self.recipe.sources)
        workers.prepare(
            self.recipe.normalise,
            fetching=0 if all_local else min(config.fetch_workers, num_shards),
            normalising=0 if self.executor.submits_elsewhere else min(config.workers, num_shards),
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
            earlier=earlier_images(self.work, self.recipe.fetch) if self.recipe.build.reuse_images else None,
        )

    def _nothing_new(self, retry: Retry) -> Snapshot:
        self.work.note_used(retry.snapshot.snapshot)
        return retry.snapshot

    def _recalled(self, checked: Sequence[Shard], images: Sequence[Shard], retry: Retry) -> list[Shard]:
        """All images: those that were tried again, and those that are there."""
        futures = [
            self.executor.submit(
                f"recall {shard.label}", image_steps.recall, self.work, shard, image, retry.shards[shard.shard_id]
            )
            for shard, image in zip(checked, images, strict=True)
        ]
        return self._in_order("recall", futures)

    def _ingest(self) -> Commit:
        recipe = self.recipe
        return ingest(
            self.work,
            self.inputs.sources,
            target_lang=recipe.target_language,
            shard_size=recipe.build.shard_size,
            keep_splits=recipe.split.by == UPSTREAM,
        )

    def _each(
        self,
        step: str,
        shards: Sequence[Shard],
        run: Callable[Concatenate[WorkStore, Shard, P], Shard],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> list[Shard]:
        """Run a step on every shard, some at a time; results in shard order."""
        futures = [
            self.executor.submit(f"{step} {shard.label}", run, self.work, shard, *args, **kwargs) for shard in shards
        ]
        return self._in_order(step, futures)

    def _in_order(self, step: str, futures: Sequence[Future[Shard]]) -> list[Shard]:
        results: list[Shard] = []
        for future in futures:
            results.append(future.result())
            self.executor.progress(step, done=len(results), total=len(futures))
        return results

    def _obeying(self, shards: list[Shard]) -> list[Shard]:
        """The shards without what was forgotten, of which nothing is cleaned, translated or asked for."""
        found = self.inputs.tombstones
        return self._each("forget", shards, forget_captions, tombstones=found) if found.tombstones else shards

    def _allowed(self, images: list[Shard]) -> list[Shard]:
        """The images without those that turn out to be forgotten, before any other is dropped in favour of them."""
        found = self.inputs.tombstones
        return self._each("forget-images", images, forget_images, tombstones=found) if found.tombstones else images

    def _test_sets(self, workers: ImageWorkers) -> list[TestContents]:
        """Read the recipe's test sets and hash their images."""
        futures = [
            self.executor.submit(
                f"test-set {test_set.name}",
                read_test_set,
                self.work,
                test_set,
                workers,
                min_words=self.recipe.leaks.min_caption_words,
                file_hashes=self.inputs.test_files[test_set.name],
                location_digest=self.inputs.test_images.get(test_set.name),
            )
            for test_set in self.recipe.test_sets
        ]
        return [future.result() for future in futures]

    def _screened(self, cleaned: Sequence[Shard]) -> list[Shard]:
        config, repeats = self.recipe.repeats, None
        function_words = all_function_words(self.inputs.packs)
        if config.near_captions or config.common_captions:
            repeats = self.executor.run(
                "find-repeats",
                find_repeats,
                self.work,
                cleaned,
                config,
                function_words=function_words,
                threads=self.recipe.build.workers,
            )
        kinds = {source.name: source.kind.kind for source in self.recipe.sources}
        return self._each(
            "screen",
            cleaned,
            screen,
            repeats=repeats,
            tests=self.tests,
            config=config,
            function_words=function_words,
            leaks=self.recipe.leaks,
            kinds=kinds,
        )

    def _find_duplicates(self, checked: Sequence[Shard], images: Sequence[Shard]) -> Commit:
        return find_duplicates(
            self.work,
            checked,
            images,
            self.recipe.source_order,
            self.tests,
            config=self.recipe.duplicates,
            leaks=self.recipe.leaks,
            split=self.recipe.split,
        )

    def _finish(
        self, checked: Sequence[Shard], images: Sequence[Shard], duplicates: Commit, merged: Commit | None
    ) -> list[Shard]:
        futures = [
            self.executor.submit(
                f"deduplicate {shard.label}",
                finish,
                self.work,
                shard,
                image,
                duplicates,
                merged,
                self.recipe.leaks,
                drop_repeated_captions=self.recipe.duplicates.captions,
            )
            for shard, image in zip(checked, images, strict=True)
        ]
        return [future.result() for future in futures]
