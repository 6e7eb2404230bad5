"""The way of images through a build: fetched in lanes beside everything else, normalised as soon as they are there."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

from data_catalog.images.known import KnownShard
from data_catalog.images.workers import ImageWorkers
from data_catalog.work import WorkStore
from flows import image_steps
from flows.execution import Executor, Future
from flows.recipe import Recipe, section_settings
from flows.step_outputs import Shard


@dataclass(slots=True)
class ImageLine:
    """Shards on their way from checked captions to normalised images; used by the flow's own thread.

    Args:
        log_folder: where tries and latencies of fetching are told.
        known: what an earlier snapshot has, by shard, where only missing images are to be tried again.
    """

    recipe: Recipe
    work: WorkStore
    executor: Executor
    workers: ImageWorkers
    local: image_steps.LocalImages
    log_folder: Path
    known: Mapping[int, KnownShard] = field(default_factory=dict)
    _checked: list[Shard] = field(default_factory=list)
    _fetching: list[Future[Shard]] = field(default_factory=list)
    _normalising: dict[int, Future[Shard]] = field(default_factory=dict)
    _fetched: "SimpleQueue[int]" = field(default_factory=SimpleQueue)

    def start(self, checked: Shard) -> None:
        """Begin to fetch the images of one more shard; shards are to be given in order."""
        number = len(self._checked)
        self._checked.append(checked)
        lane = image_steps.fetch_lane(checked, self.recipe.fetch, self.recipe.build.fetch_workers)
        self._fetching.append(
            self.executor.submit_in_lane(lane, f"fetch {checked.label}", self._fetch, number, checked)
        )
        while not self._fetched.empty():
            self._normalise_next()

    def finish(self) -> list[Shard]:
        """Normalised images of all shards, in order. Raises whatever a step has raised."""
        while len(self._normalising) < len(self._fetching):
            self._normalise_next()
            self.executor.progress("fetch", done=len(self._normalising), total=len(self._fetching))
        images: list[Shard] = []
        for number in range(len(self._checked)):
            images.append(self._normalising[number].result())
            self.executor.progress("normalise", done=len(images), total=len(self._checked))
        return images

    def _fetch(self, number: int, shard: Shard) -> Shard:
        try:
            return image_steps.fetch(
                self.work,
                shard,
                self.workers,
                self.recipe.fetch,
                what=section_settings(self.recipe.fetch, "fetch"),
                local=self.local,
                log_folder=self.log_folder,
                known=self.known.get(shard.shard_id),
            )
        finally:
            self._fetched.put(number)

    def _normalise_next(self) -> None:
        """Wait for any shard to be fetched, and go on with it."""
        number = self._fetched.get()
        if number not in self._normalising:  # a step that is tried again comes by more than once
            raw, shard = self._fetching[number].result(), self._checked[number]
            self._normalising[number] = self.executor.submit(f"normalise {shard.label}", self._normalise, raw, shard)

    def _normalise(self, raw: Shard, checked: Shard) -> Shard:
        what = section_settings(self.recipe.normalise, "normalise")
        images = image_steps.normalise(self.work, raw, self.workers, self.recipe.normalise, what=what)
        known = self.known.get(checked.shard_id)
        return images if known is None else image_steps.recall(self.work, checked, images, known)
