"""The definition of a step, and the engine that runs a table of steps, each as soon as its inputs are ready.

The engine tracks which calls are ready, and submits them from the flow's own thread. A future is never the input of
another call, and no step submits a call, since both would block the same few threads.
"""

import dataclasses
import heapq
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

from data_catalog.base.boundary import about
from data_catalog.base.errors import DefectError
from data_catalog.base.progress import Progress, span_text
from data_catalog.base.settings import json_values, what_values
from data_catalog.catalog.work import UNFINISHED, Commit, StepFacts, StepKey, WorkStore
from data_catalog.disk.disk_errors import access_errors
from data_catalog.rows.drop_reasons import Reason
from flows.build.execution import Executor

# Name of the file that a step writes for a shard.
SHARD = "shard.parquet"
# Facts of a step that changed nothing: its readers get its input instead of its output.
UNCHANGED: StepFacts = {"unchanged": True}


class Scope(Enum):
    """The part of a dataset that one call of a step works on."""

    MAKES_SHARDS = "it makes the shards"
    PER_SHARD = "one shard"
    PER_TEST_SET = "one test set"
    WHOLE = "all shards"


MAKES_SHARDS, PER_SHARD, PER_TEST_SET, WHOLE = Scope


@dataclass(frozen=True, slots=True)
class Lane:
    """A queue of calls with its own limit of concurrent calls; lanes with equal names and values are the same."""

    name: str
    width: int | None = 1
    """Number of calls that run at the same time; None: `build.workers`."""
    in_order: bool = False
    """Run the calls of one step in the order of the shards. A call may leave its place before its end."""
    remote: bool = False
    """An executor may run the calls in another process, also on another machine."""


CPU = Lane("cpu", width=None, remote=True)
FLOW = Lane("flow")  # for steps over all shards, which need much memory and many threads
MODEL = Lane("model", in_order=True)
_LEFT = Lane("left", width=32)  # calls that have left their lane, and wait for what runs elsewhere


@dataclass(frozen=True, slots=True, kw_only=True)
class FunnelRow:
    """A row of the funnel, counted by a step."""

    meaning: str
    """Short description for people."""
    reasons: Mapping[str, Reason] = field(default_factory=dict)
    rules: tuple[str, ...] = ()
    """The sections of a recipe that decide what it drops."""
    columns: tuple[str, ...] = ()
    """Columns of a caption row that it fills, and no row before it; `vernaclip why` shows them."""
    image_columns: tuple[str, ...] = ()
    """Columns of an image's outcome that it fills, likewise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The definition of a step; see the table in `flows.build.steps`."""

    name: str
    """Name of its folder below `work/`, and its label in the report and in `vernaclip why`."""
    version: int
    """Number to raise when its output changes; a golden test detects a change."""
    meaning: str
    scope: Scope
    after: tuple[str, ...] = ()
    """The steps whose outputs it reads."""
    when: Callable[[Any], bool] = lambda build: True
    """Returns whether a build has the step. Without the step, its readers get the input of the step."""
    lane: Lane | Callable[[Any, Path], Lane] = CPU
    """Its lane, or a function of the build and of the file that it reads."""
    settings: Callable[..., Mapping[str, Any]] = lambda build: {}
    """Returns everything that decides its output, by argument name of `run`, for a build and, with scope PER_TEST_SET,
    a test set. Fields marked `how` are not part of the key."""
    run: Callable[..., StepFacts]
    """A module-level function, called with a `Job` and the settings."""
    rows: Mapping[str, FunnelRow] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Arguments for one call of a step: references to its inputs, a folder for its output, and tools."""

    folder: Path
    """An empty folder; the files that the call writes into it are committed."""
    inputs: Mapping[str, tuple[Commit, ...]]
    """By the names in `Step.after`: the only output, or one for each shard or test set if the call reads them all.
    Steps that the build does not have are left out."""
    unfinished: Path | None = None
    """A folder, which may not exist, for what an interrupted call leaves to the next one; removed after the commit."""
    number: int | None = None
    """Number of the shard; None if the call works on all shards."""
    tools: Any = None
    leave_lane: Callable[[], None] | None = None
    """Makes room for the next call of a lane that keeps an order."""

    @property
    def label(self) -> str:
        """Return the shard's number with five digits, or "" for all shards."""
        return "" if self.number is None else f"{self.number:05d}"

    def one(self, name: str) -> Commit:
        """Return the single output of a step that the call reads."""
        (found,) = self.inputs[name]
        return found

    def all(self, name: str) -> tuple[Commit, ...]:
        """Return the outputs of a step for all shards or test sets, in order."""
        return self.inputs.get(name, ())

    def shard(self, name: str) -> Path:
        """Return the only file of an output that the call reads."""
        return self.one(name).only_file

    def shards(self, name: str) -> list[Path]:
        """Return the only file of each output, in the order of the shards."""
        return [commit.only_file for commit in self.all(name)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call of a step, which can be sent to another process. A finished call is not run again."""

    key: StepKey
    work: WorkStore
    run: Callable[..., StepFacts]
    job: Job
    settings: Mapping[str, Any]

    def __call__(self) -> "Done":
        """Return the output of the step; run the step if the output does not exist."""
        started = time.monotonic()
        reads = [commit for found in self.job.inputs.values() for commit in found]

        def produce(folder: Path) -> StepFacts:
            return self.run(dataclasses.replace(self.job, folder=folder), **self.settings)

        with about(f"{self.key.step} {self.job.label}".strip(), kind=DefectError), access_errors():
            commit = self.work.run(self.key, produce, reads=reads)
        if self.job.unfinished is not None:
            shutil.rmtree(self.job.unfinished, ignore_errors=True)
        return Done(commit, time.monotonic() - started)


class Done(NamedTuple):
    """The output of a call, and the seconds that it took to make or to find it."""

    commit: Commit
    seconds: float


def call_of(
    step: Step,
    inputs: Mapping[str, tuple[Commit, ...]],
    settings: Mapping[str, Any],
    *,
    work: WorkStore,
    number: int | None = None,
    tools: Any = None,
) -> Call:
    """Return a call of a step. Its key is the hash of the step's version, inputs and settings."""
    read = [(name, commit) for name, found in inputs.items() for commit in found]
    key = StepKey(
        step=step.name,
        version=step.version,
        inputs=tuple(f"{name}:{commit.files[file]}" for name, commit in read for file in sorted(commit.files)),
        settings={name: _decisive(value) for name, value in settings.items()},
    )
    unfinished = work.folder / UNFINISHED / f"{key.key}-{number}"  # shards of equal content have the same key
    job = Job(folder=Path(), unfinished=unfinished, inputs=inputs, number=number, tools=tools)
    return Call(key=key, work=work, run=step.run, job=job, settings=settings)


class _Node(NamedTuple):
    """A call in the graph: the number of its shard or test set, and the step's number in the table."""

    item: int
    step: int


class Engine:
    """A run of a table of steps, in which each step comes after those that it reads.

    `build` is the argument of the functions in the table; it has `test_sets`, each with a name, and `workers`.
    """

    def __init__(self, steps: Sequence[Step], build: Any, *, work: WorkStore, executor: Executor, tools: Any) -> None:
        self.steps, self.build, self.work, self.executor, self.tools = steps, build, work, executor, tools
        self.num_shards = 0  # until they are made
        self.seconds: defaultdict[str, float] = defaultdict(float)  # sum over the calls of each step
        self._num_made: Counter[str] = Counter()  # by step: the outputs that this run made and did not find
        self._began: dict[str, float] = {}  # by step: the start of its first call
        self._by_name = {step.name: number for number, step in enumerate(steps)}
        self._commits: defaultdict[str, dict[int, Commit]] = defaultdict(dict)  # by step: the outputs that it wrote
        self._outputs: dict[_Node, Commit] = {}  # the outputs that readers get
        self._waiting: dict[_Node, int] = {}  # number of unfinished inputs
        self._readers: defaultdict[_Node, list[_Node]] = defaultdict(list)
        self._ready: defaultdict[Lane, list[_Node]] = defaultdict(list)  # heaps
        self._running: defaultdict[Lane, int] = defaultdict(int)
        self._next: defaultdict[int, int] = defaultdict(int)  # by step: the first shard that has not started
        self._ended: SimpleQueue[tuple[_Node, Lane, Any]] = SimpleQueue()
        self._left: set[_Node] = set()

    def run(self) -> None:
        """Run all steps that the build has. Raise the first exception of a step as soon as running calls have ended."""
        for step in self.steps:
            if not step.when(self.build):
                self.executor.progress(step.name, done=0, total=0)
        self._add(MAKES_SHARDS, PER_TEST_SET)
        with Progress("build", total=None, unit="steps", time_left=self._time_left) as progress:
            while self._waiting:
                self._submit()
                node, future = self._next_event()
                if future is None:
                    continue
                try:
                    self._take(node, future)
                except Exception:
                    while any(self._running.values()):  # other calls write under the lock that the caller releases
                        self._next_event()
                    raise
                if self.num_shards:  # the number of calls is known
                    progress.total = len(self._outputs) + len(self._waiting)
                progress.advance()

    def _next_event(self) -> tuple[_Node, Any]:
        """Wait until a call ends, or leaves its lane: then there is no future."""
        node, lane, future = self._ended.get()
        if future is not None:
            self._running[_LEFT if node in self._left else lane] -= 1
        elif node not in self._left:  # a call that is tried again leaves again
            self._left.add(node)
            self._running[lane] -= 1
            self._running[_LEFT] += 1
        return node, future

    def _time_left(self) -> str:
        """Estimate the time until the next step over all shards, or the end, from the slowest step before it.

        It is unknown, "", before each of those steps has made an output.
        """
        seconds, now, until = 0.0, time.monotonic(), "left"
        for step in (step for step in self.steps if step.when(self.build)):
            left, num_made = self._count(step.scope) - len(self._commits[step.name]), self._num_made[step.name]
            if left and step.scope is not PER_SHARD and seconds:
                until = f"until {step.name}"
                break
            if left and step.scope is PER_SHARD:
                if not num_made:
                    return ""
                seconds = max(seconds, left * (now - self._began[step.name]) / num_made)
        return f"{span_text(seconds)} {until}" if seconds else ""

    @property
    def num_made(self) -> int:
        """Return the number of outputs that this run made and did not find."""
        return self._num_made.total()

    def commits(self, name: str) -> list[Commit]:
        """Return the outputs that a step wrote, in the order of shards or test sets; empty if it did not run."""
        return [commit for _, commit in sorted(self._commits[name].items())]

    def outputs(self, name: str) -> list[Commit]:
        """Return the outputs that readers of a step get, one for each shard, in order."""
        step = self._present(name)
        assert step is not None
        number = self._by_name[step.name]
        made = [self._outputs[_Node(item if step.scope is PER_SHARD else 0, number)] for item in range(self.num_shards)]
        return [_own(commit, item) for item, commit in enumerate(made)]

    def _scope(self, node: _Node) -> Scope:
        return self.steps[node.step].scope

    def _count(self, scope: Scope) -> int:
        """Return the number of calls of a step with this scope."""
        return {PER_SHARD: self.num_shards, PER_TEST_SET: len(self.build.test_sets)}.get(scope, 1)

    def _add(self, *scopes: Scope) -> None:
        """Add the calls of steps of some scopes to the graph; those without unfinished inputs become ready."""
        steps = [(number, step) for number, step in enumerate(self.steps) if step.scope in scopes]
        counts = {number: self._count(step.scope) for number, step in steps if step.when(self.build)}
        nodes = [_Node(item, number) for number, count in counts.items() for item in range(count)]
        there = {*nodes, *self._waiting}
        for node in nodes:
            reads = {found for name in self.steps[node.step].after for found in self._reads(name, node)} & there
            self._waiting[node] = len(reads)
            for found in reads:
                self._readers[found].append(node)
            if not reads:
                self._make_ready(node)

    def _reads(self, name: str, node: _Node) -> list[_Node]:
        """Return the calls of the step `name` whose outputs a call reads."""
        step = self._present(name)
        if step is None:
            return []
        number = self._by_name[step.name]
        if step.scope is PER_SHARD and self._scope(node) is PER_SHARD:
            return [_Node(node.item, number)]
        return [_Node(item, number) for item in range(self._count(step.scope))]

    def _present(self, name: str) -> Step | None:
        """Return the step whose output readers of `name` get in this build: `name`, or else the step before it."""
        step = self.steps[self._by_name[name]]
        if step.when(self.build):
            return step
        return self._present(step.after[0]) if step.scope is PER_SHARD else None

    def _make_ready(self, node: _Node) -> None:
        """Put a call into its lane."""
        lane = self.steps[node.step].lane
        if not isinstance(lane, Lane):
            read = self._first_input(node)
            self.work.require_whole(read)
            lane = lane(self.build, read.only_file)
        heapq.heappush(self._ready[lane], node)

    def _submit(self) -> None:
        """Submit ready calls as far as their lanes have room, earliest shards first."""
        for lane, ready in self._ready.items():
            max_remote = self.executor.max_remote_calls if lane.remote else None
            width = lane.width or max_remote or self.build.workers
            while ready and self._running[lane] < width:
                item, step = ready[0]
                is_full = self._running[_LEFT] >= (_LEFT.width or 0)
                if lane.in_order and (item > self._next[step] or is_full):
                    break
                self._next[step] = max(self._next[step], item + 1)
                self._running[lane] += 1
                self._start(heapq.heappop(ready), lane)

    def _start(self, node: _Node, lane: Lane) -> None:
        step = self.steps[node.step]
        of = [self.build.test_sets[node.item]] if step.scope is PER_TEST_SET else []
        number = node.item if step.scope is PER_SHARD else None
        settings = step.settings(self.build, *of)
        call = call_of(step, self._inputs(node), settings, work=self.work, number=number, tools=self.tools)
        label = f"{step.name} {of[0].name if of else call.job.label}".strip()
        if lane.in_order:
            leave = partial(self._ended.put, (node, lane, None))
            call = dataclasses.replace(call, job=dataclasses.replace(call.job, leave_lane=leave))
        self._began.setdefault(step.name, time.monotonic())
        future = self.executor.submit(label, call, remote=lane.remote)
        future.add_done_callback(lambda found: self._ended.put((node, lane, found)))

    def _inputs(self, node: _Node) -> dict[str, tuple[Commit, ...]]:
        found: dict[str, tuple[Commit, ...]] = {}
        for name in self.steps[node.step].after:
            if (step := self._present(name)) is None:
                continue
            outputs = tuple(self._outputs[read] for read in self._reads(name, node))
            if self._scope(node) is PER_SHARD and step.scope is not PER_TEST_SET:
                outputs = (_own(outputs[0], node.item),)
            elif step.scope is MAKES_SHARDS:
                outputs = tuple(_own(outputs[0], item) for item in range(self.num_shards))
            found[name] = outputs
        return found

    def _first_input(self, node: _Node) -> Commit:
        (found,) = self._inputs(node)[self.steps[node.step].after[0]]
        return found

    def _take(self, node: _Node, future: Any) -> None:
        """Record a call's result, and make calls ready that waited only for it."""
        done: Done = future.result()
        step = self.steps[node.step]
        self.seconds[step.name] += done.seconds
        self._num_made[step.name] += not done.commit.reused
        self._commits[step.name][node.item] = done.commit
        is_unchanged = done.commit.facts.get("unchanged", False)
        self._outputs[node] = self._first_input(node) if is_unchanged else done.commit
        del self._waiting[node]
        if step.scope is MAKES_SHARDS:
            self.num_shards = done.commit.facts["num_shards"]
            self._add(PER_SHARD, WHOLE)
        for reader in self._readers.pop(node, ()):
            self._waiting[reader] -= 1
            if not self._waiting[reader]:
                self._make_ready(reader)
        self.executor.progress(step.name, done=len(self._commits[step.name]), total=self._count(step.scope))


def _own(commit: Commit, item: int) -> Commit:
    """Return an output reduced to the shard's own file, if it has one; only that is in the keys of its readers."""
    own = f"{item:05d}.parquet"
    return dataclasses.replace(commit, files={own: commit.files[own]}) if own in commit.files else commit


def _decisive(value: Any) -> Any:
    """Return a setting as JSON values, without its how-settings."""
    return what_values(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else json_values(value)
