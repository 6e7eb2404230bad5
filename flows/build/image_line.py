"""The way of images through a build: fetched in lanes beside everything else, normalised as soon as they are there."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

from data_catalog.fetch.known import KnownShard
from data_catalog.images.workers import ImageWorkers
from data_catalog.settings import what
from data_catalog.storage.work import WorkStore
from flows.build import images as image_steps
from flows.build.earlier_images import EarlierImages
from flows.build.execution import Executor, Future
from flows.build.step_outputs import FETCH, NORMALISE, Shard
from flows.recipe.recipe import Recipe


@dataclass(slots=True)
class ImageLine:
    """Shards on their way from checked captions to normalised images; used by the flow's own thread.

    Args:
        log_folder: where tries and latencies of fetching are told.
        known: what an earlier snapshot has, by shard, where only missing images are to be tried again.
        earlier: what earlier builds fetched, which is not asked for again.
    """

    recipe: Recipe
    work: WorkStore
    executor: Executor
    workers: ImageWorkers
    local: image_steps.LocalImages
    log_folder: Path
    known: Mapping[int, KnownShard] = field(default_factory=dict)
    earlier: EarlierImages | None = None
    _checked: list[Shard] = field(default_factory=list)
    _fetching: list[Future[Shard]] = field(default_factory=list)
    _normalising: dict[int, Future[Shard]] = field(default_factory=dict)
    _images: dict[int, Shard] = field(default_factory=dict)
    _done: "SimpleQueue[tuple[str, int]]" = field(default_factory=SimpleQueue)

    def start(self, checked: Shard) -> None:
        """Begin to fetch the images of one more shard; shards are to be given in order.

        Raises whatever a step has raised until now.
        """
        number = len(self._checked)
        self._checked.append(checked)
        lane = image_steps.fetch_lane(checked, self.recipe.fetch, self.recipe.build.fetch_workers)
        future = self.executor.submit_in_lane(lane, f"fetch {checked.label}", self._fetch, checked)
        self._fetching.append(future)
        future.add_done_callback(lambda _: self._done.put((FETCH, number)))
        while not self._done.empty():
            self._go_on()

    def finish(self) -> list[Shard]:
        """Images of all shards, in order: all of them, or those that were tried again.

        Raises whatever a step has raised, as soon as it has.
        """
        while len(self._images) < len(self._checked):
            self._go_on()
        return [self._images[number] for number in range(len(self._checked))]

    def _go_on(self) -> None:
        """Wait for any step to be done, and go on with its shard."""
        step, number = self._done.get()
        if step == FETCH:
            raw, shard = self._fetching[number].result(), self._checked[number]
            future = self._normalise(raw, shard)
            self._normalising[number] = future
            future.add_done_callback(lambda _: self._done.put((NORMALISE, number)))
            self.executor.progress(FETCH, done=len(self._normalising), total=len(self._checked))
            return
        self._images[number] = self._normalising[number].result()
        self.executor.progress(NORMALISE, done=len(self._images), total=len(self._checked))

    def _fetch(self, shard: Shard) -> Shard:
        return image_steps.fetch(
            self.work,
            shard,
            self.workers,
            self.recipe.fetch,
            what=what(self.recipe.fetch),
            local=self.local,
            log_folder=self.log_folder,
            known=self.known.get(shard.shard_id),
            earlier=self.earlier,
        )

    def _normalise(self, raw: Shard, shard: Shard) -> Future[Shard]:
        return self.executor.submit(
            f"normalise {shard.label}",
            image_steps.normalise,
            self.work,
            raw,
            self.workers,
            self.recipe.normalise,
            what=what(self.recipe.normalise),
        )
