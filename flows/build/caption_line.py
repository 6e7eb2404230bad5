"""The way of captions through a build: translated in chunks, checked as soon as a shard has all of its translations."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from data_catalog.storage.work import WorkStore
from flows.build import captions as caption_steps
from flows.build.execution import Executor
from flows.build.image_line import ImageLine
from flows.build.inputs import Inputs
from flows.build.round_trip import round_trip
from flows.build.step_outputs import Shard
from flows.build.test_sets import TestContents
from flows.recipe.recipe import Recipe
from translation.engine import Translator
from translation.memory import TranslationMemory


class CaptionLine:
    """Shards on their way from screened captions to checked ones, with the memories of the engines they ask.

    Raises:
        ConfigError: a memory is damaged.
    """

    def __init__(self, recipe: Recipe, root: Path, executor: Executor, work: WorkStore, inputs: Inputs) -> None:
        self.recipe, self.executor, self.work, self.inputs = recipe, executor, work, inputs
        self.translator = inputs.translator
        self.memory = _memory(root, self.translator)
        self.reverse_memory = _memory(root, inputs.reverse)

    def run(
        self, screened: Sequence[Shard], tests: Sequence[TestContents], images: ImageLine
    ) -> tuple[list[Shard], list[Shard]]:
        """Translate chunk by chunk; check a shard and begin with its images as soon as its captions are there.

        Returns:
            The shards as they were translated, and as they were checked; both in order.
        """
        translated: list[Shard] = []
        checked: list[Shard] = []
        for ready in self._translated_shards(screened):
            for shard in screened[len(checked) : ready]:
                translated.append(self.executor.run(f"translate {shard.label}", self._join, shard))
                judged = self._with_round_trip(translated[-1])
                checked.append(self.executor.run(f"check {shard.label}", self._check, judged, tests))
                images.start(checked[-1])
        return translated, checked

    def seal(self) -> None:
        """All that is to be translated is: what the memories hold now is theirs for a while."""
        for memory in (self.memory, self.reverse_memory):
            if memory is not None:
                memory.seal()

    def _translated_shards(self, screened: Sequence[Shard]) -> Iterator[int]:
        """Translate; yields how many shards, from the first, have all their translations."""
        if self.translator is not None and self.memory is not None:
            size = self.recipe.build.chunk_size
            plan = caption_steps.plan_translation(self.work, screened, self.translator, self.memory, chunk_size=size)
            num_chunks = plan.facts["num_chunks"]
            per_task = max(1, size // (self.translator.max_chunk_size or size))
            for first in range(0, num_chunks, per_task):
                numbers = range(first, min(first + per_task, num_chunks))
                name = f"translate-chunk {first:05d}"
                self.executor.run(name, caption_steps.translate_chunks, plan, numbers, self.translator, self.memory)
                self.executor.progress("translate", done=numbers.stop, total=num_chunks)
                yield sum(after <= numbers.stop for after in plan.facts["ready_after"])
        yield len(screened)

    def _join(self, shard: Shard) -> Shard:
        from_code = self.translator.from_code if self.translator else None
        return caption_steps.join_translations(self.work, shard, self.memory, from_code)

    def _with_round_trip(self, shard: Shard) -> Shard:
        engine, memory = self.inputs.reverse, self.reverse_memory
        if engine is None or memory is None:
            return shard
        return self.executor.run(f"round-trip {shard.label}", round_trip, self.work, shard, engine, memory)

    def _check(self, shard: Shard, tests: Sequence[TestContents]) -> Shard:
        return caption_steps.check(
            self.work,
            shard,
            self.recipe.check,
            self.inputs.packs,
            target=self.recipe.target_language,
            tagger=self.inputs.tagger,
            tests=tests,
            leaks=self.recipe.leaks,
            cleaned=self.recipe.clean,
        )


def _memory(root: Path, engine: Translator | None) -> TranslationMemory | None:
    if engine is None:
        return None
    memory = TranslationMemory(root / "memory", engine.fingerprint)
    memory.require_whole()
    return memory
