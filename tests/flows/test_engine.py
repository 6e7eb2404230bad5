"""The engine, with tables of toy steps: what starts when, and where, what is done once and what again; and threads."""

import json
import logging
import pickle
import re
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_catalog.base.errors import (
    KINDS,
    DamagedError,
    DefectError,
    DiskError,
    InputError,
    PipelineError,
    TransientError,
)
from data_catalog.catalog.work import Commit, WorkStore
from flows.build import engine
from flows.build.captions import Threads
from flows.build.engine import (
    CPU,
    FLOW,
    MAKES_SHARDS,
    MODEL,
    PER_SHARD,
    PER_TEST_SET,
    SHARD,
    UNCHANGED,
    WHOLE,
    Engine,
    Job,
    Lane,
    Step,
    call_of,
)
from flows.build.execution import Future, LocalExecutor
from flows.build.steps import STEPS
from flows.orchestration.prefect_executor import RunProgress


@dataclass(frozen=True, kw_only=True)
class Toys:
    """What tables of toy steps are given: the text of each shard, a setting of each step, steps that are absent."""

    shards: tuple[str, ...] = ("A", "B", "C")
    words: Mapping[str, Any] = field(default_factory=dict)
    absent: frozenset[str] = frozenset()
    test_sets: tuple[SimpleNamespace, ...] = ()
    workers: int = 4


class Journal:
    """The tools of toy steps: notes what begins and ends; a call may wait for another's end, or for a meeting."""

    def __init__(
        self,
        waits: Mapping[str, str] | None = None,
        *,
        meetings: Sequence[Sequence[str]] = (),
        hook: Callable[[str], None] = lambda label: None,
    ) -> None:
        self.lines: list[str] = []
        self.most: Counter[str] = Counter()  # calls of a step that ran at once
        self._waits, self._hook = waits or {}, hook
        self._running: Counter[str] = Counter()
        self._ended: defaultdict[str, threading.Event] = defaultdict(threading.Event)
        self._barriers: dict[str, threading.Barrier] = {}
        for meeting in meetings:
            self._barriers |= dict.fromkeys(meeting, threading.Barrier(len(meeting), timeout=60))
        self._lock = threading.Lock()

    def begin(self, label: str) -> None:
        name = label.split()[0]
        with self._lock:
            self.lines.append(f"begin {label}")
            self._running[name] += 1
            self.most[name] = max(self.most[name], self._running[name])
            awaited = self._ended[self._waits.get(label, label)]
        self._hook(label)
        if label in self._barriers:
            self._barriers[label].wait()
        if label in self._waits:
            assert awaited.wait(60), f"{self._waits[label]} did not end beside {label}"

    def end(self, label: str) -> None:
        with self._lock:
            self.lines.append(f"end {label}")
            self._running[label.split()[0]] -= 1
            self._ended[label].set()

    def begun(self, name: str) -> list[str]:
        return [line.split(" ", 1)[1] for line in self.lines if line.startswith(f"begin {name}")]

    def is_in_order(self, first: str, second: str) -> bool:
        """Whether the end of one call is before the beginning of another."""
        return self.lines.index(f"end {first}") < self.lines.index(f"begin {second}")


def make_shards(job: Job, *, shards: Sequence[str]) -> Mapping[str, Any]:
    job.tools.begin("source")
    for number, text in enumerate(shards):
        (job.folder / f"{number:05d}.parquet").write_text(json.dumps([text]))
    job.tools.end("source")
    return {"num_shards": len(shards)}


def read(commit: Commit) -> list[Any]:
    return [json.loads(commit.path(name).read_text()) for name in sorted(commit.files)]


def write(job: Job, *, name: str, word: Any = None) -> Mapping[str, Any]:
    """Write down what a call reads."""
    label = f"{name} {job.label}".strip()
    job.tools.begin(label)
    inputs = {step: [read(commit) for commit in job.all(step)] for step in job.inputs}
    (job.folder / SHARD).write_text(json.dumps([name, word, inputs]))
    job.tools.end(label)
    return {}


def label_shards(job: Job, *, name: str, word: Mapping[str, str]) -> Mapping[str, Any]:
    """Write a file for each shard."""
    job.tools.begin(name)
    for number, commit in enumerate(job.all("first")):
        (job.folder / f"{number:05d}.parquet").write_text(json.dumps(word.get(str(number), len(commit.files))))
    job.tools.end(name)
    return {}


def write_of_some(job: Job, *, name: str, word: str) -> Mapping[str, Any]:
    """Change the shards that have a letter, and no others."""
    return write(job, name=name, word=word) if word in job.shard("first").read_text() else UNCHANGED


def read_test_set(job: Job, *, name: str, word: str) -> Mapping[str, Any]:
    (job.folder / SHARD).write_text(json.dumps(word))
    return {}


def toy(name: str, *after: str, run: Callable[..., Mapping[str, Any]] = write, **changes: Any) -> Step:
    step = Step(
        name=name,
        version=1,
        meaning="A toy.",
        scope=PER_SHARD,
        after=after,
        when=lambda build: name not in build.absent,
        settings=lambda build: {"name": name, "word": build.words.get(name)},
        run=run,
    )
    return replace(step, **changes)


SOURCE = toy("source", scope=MAKES_SHARDS, lane=FLOW, settings=lambda build: {"shards": build.shards}, run=make_shards)


class Run(NamedTuple):
    """A run of a table that ended well."""

    engine: Engine
    journal: Journal

    def texts(self, name: str) -> list[Any]:
        """What a step wrote, by shard."""
        return [read(commit) for commit in self.engine.commits(name)]


def run(
    steps: Sequence[Step],
    folder: Path,
    toys: Toys | None = None,
    *,
    waits: Mapping[str, str] | None = None,
    journal: Journal | None = None,
    executor: LocalExecutor | None = None,
) -> Run:
    journal = journal or Journal(waits)
    with executor or LocalExecutor(retry_delays_s=()) as entered:
        engine = Engine(steps, toys or Toys(), work=WorkStore(folder), executor=entered, tools=journal)
        engine.run()
    return Run(engine=engine, journal=journal)


def test_a_step_starts_as_soon_as_what_it_reads_is_there_and_not_before(tmp_path: Path) -> None:
    table = [SOURCE, toy("first", "source"), toy("second", "first"), toy("all", "first", scope=WHOLE, lane=FLOW)]
    table.append(toy("last", "second", "all"))
    found = run(table, tmp_path, waits={"first 00001": "second 00000"}).journal
    for number in range(3):
        assert found.is_in_order(f"first {number:05d}", f"second {number:05d}")
        assert found.is_in_order(f"first {number:05d}", "all")
        assert found.is_in_order(f"second {number:05d}", f"last {number:05d}")
        assert found.is_in_order("all", f"last {number:05d}")


def write_after_leaving(job: Job, *, name: str, word: Any = None) -> Mapping[str, Any]:
    """Leave the lane, twice as a call that is tried again does."""
    assert job.leave_lane is not None
    job.leave_lane()
    job.leave_lane()
    return write(job, name=name, word=word)


def write_slowly(job: Job, *, name: str, word: Any = None) -> Mapping[str, Any]:
    """Take so long that calls which may overlap do."""
    job.tools.begin(name)
    time.sleep(0.1)
    job.tools.end(name)
    return write(job, name="wrote", word=word)


def test_a_call_that_leaves_its_lane_lets_the_next_shard_begin_and_no_other_call_more(tmp_path: Path) -> None:
    leaving = toy("leaving", "source", run=write_after_leaving, lane=MODEL)
    table = [SOURCE, leaving, toy("staying", "leaving", run=write_slowly, lane=MODEL)]
    found = run(table, tmp_path, waits={"leaving 00000": "leaving 00001"}).journal
    assert found.begun("leaving") == [f"leaving {number:05d}" for number in range(3)]
    assert found.most["staying"] == 1


def leave_and_write_slowly(job: Job, *, name: str, word: Any = None) -> Mapping[str, Any]:
    assert job.leave_lane is not None
    job.leave_lane()
    return write_slowly(job, name=name, word=word)


def test_no_more_calls_leave_a_lane_than_may_wait_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_LEFT", Lane("left", width=2))
    leaving = toy("leaving", "source", run=leave_and_write_slowly, lane=MODEL)
    assert run([SOURCE, leaving], tmp_path, Toys(shards=tuple("ABCDE"))).journal.most["leaving"] <= 2


PIPELINE = (
    SOURCE,
    toy("first", "source"),
    toy("second", "first"),
    toy("all", "second", scope=WHOLE, lane=FLOW),
    toy("third", "second", "all", lane=MODEL),
    toy("fourth", "third", lane=MODEL),
    toy("most", "second", "fourth", scope=WHOLE, lane=FLOW),
    toy("last", "fourth", "all", "most"),
)


def expected(toys: Toys, name: str, number: int | None) -> Any:
    """What a call of the pipeline writes, worked out without an engine."""
    steps = {step.name: step for step in PIPELINE}

    def stand_in(found: str) -> str | None:
        if found not in toys.absent:
            return found
        return stand_in(steps[found].after[0]) if steps[found].scope is PER_SHARD else None

    inputs = {}
    for read_step in steps[name].after:
        found = stand_in(read_step)
        if found is not None:
            items = [None] if steps[found].scope is WHOLE else range(len(toys.shards)) if number is None else [number]
            inputs[read_step] = [
                [[toys.shards[item or 0]] if found == "source" else expected(toys, found, item)] for item in items
            ]
    return [name, None, inputs]


@given(
    absent=st.sets(st.sampled_from([step.name for step in PIPELINE[1:]])),
    shards=st.lists(st.text("xyz", max_size=2), min_size=1, max_size=4),
    workers=st.integers(1, 3),
)
def test_where_steps_are_absent_others_read_what_these_would_have_read(
    absent: set[str], shards: list[str], workers: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    toys = Toys(shards=tuple(shards), absent=frozenset(absent), workers=workers)
    found = run(PIPELINE, tmp_path_factory.mktemp("absent"), toys)
    for step in PIPELINE[1:]:
        numbers = [None] if step.scope is WHOLE else range(len(shards))
        is_there = step.name not in absent
        assert found.texts(step.name) == [[expected(toys, step.name, number)] for number in numbers if is_there]


def test_of_an_output_with_a_file_a_shard_a_shard_reads_its_own_and_depends_on_no_other(tmp_path: Path) -> None:
    labels = toy("labels", "first", run=label_shards, scope=WHOLE, lane=FLOW)
    table = [SOURCE, toy("first", "source"), labels, toy("last", "first", "labels")]
    found = run(table, tmp_path, Toys(words={"labels": {"1": "old"}}))
    assert [text[0][2]["labels"] for text in found.texts("last")] == [[[1]], [["old"]], [[1]]]
    changed = run(table, tmp_path, Toys(words={"labels": {"1": "new"}}))
    assert changed.journal.lines == ["begin labels", "end labels", "begin last 00001", "end last 00001"]
    assert changed.texts("last")[1][0][2]["labels"] == [["new"]]
    assert changed.engine.num_made == 2


def test_where_a_step_changes_nothing_its_readers_get_what_it_has_read(tmp_path: Path) -> None:
    table = [SOURCE, toy("first", "source"), toy("some", "first", run=write_of_some), toy("last", "some")]
    found = run(table, tmp_path, Toys(words={"some": "B"}))
    first = [step for (step,) in found.texts("first")]
    read_by_last = [text[0][2]["some"][0][0] for text in found.texts("last")]
    assert read_by_last == [first[0], ["some", "B", {"first": [[first[1]]]}], first[2]]
    folders = [output.only_file.parent.parent.name for output in found.engine.outputs("some")]
    assert folders == ["first", "some", "first"]
    # Another setting that concerns one shard changes the key of no other one's readers.
    begun = run(table, tmp_path, Toys(words={"some": "C"})).journal.begun("last")
    assert sorted(begun) == ["last 00001", "last 00002"]


def test_every_call_of_a_step_in_a_lane_of_some_width(tmp_path: Path) -> None:
    wide, narrow = Lane("wide", 2), Lane("narrow")
    table = [SOURCE, toy("two", "source", lane=wide), toy("one", "source", lane=narrow), toy("cpu", "source")]
    shards = tuple("abcdef")
    meetings = [["two 00000", "two 00001", "one 00000"], ["cpu 00000", "cpu 00001", "cpu 00002"]]
    journal = Journal({"one 00000": "two 00005"}, meetings=meetings)
    run(table, tmp_path, Toys(shards=shards, workers=3), journal=journal)
    assert journal.most == {"source": 1, "two": 2, "one": 1, "cpu": 3}


def test_a_model_takes_the_shards_in_their_order_whatever_order_they_come_in(tmp_path: Path) -> None:
    table = [SOURCE, toy("first", "source"), toy("third", "first", lane=MODEL), toy("fourth", "third", lane=MODEL)]
    waits = {"first 00000": "first 00002", "first 00001": "first 00000", "first 00002": "first 00003"}
    found = run(table, tmp_path, Toys(shards=tuple("abcd")), waits=waits).journal
    for name in ("third", "fourth"):
        assert found.begun(name) == [f"{name} {number:05d}" for number in range(4)]
    both = [line for line in found.lines if "third" in line or "fourth" in line]
    assert all(end == begin.replace("begin", "end") for begin, end in zip(both[::2], both[1::2], strict=True))


def host_of(build: Toys, path: Path) -> Lane:
    """A lane for the first letter of a shard's text, or for that of another step's output."""
    return Lane(f"host {json.loads(path.read_text())[0][0]}")


def test_a_lane_may_depend_on_what_a_call_reads(tmp_path: Path) -> None:
    table = [SOURCE, toy("fetch", "source", lane=host_of)]
    waits = {"fetch 00000": "fetch 00003", "fetch 00001": "fetch 00003"}
    found = run(table, tmp_path, Toys(shards=("a1", "b1", "a2", "c1", "a3")), waits=waits).journal
    assert found.is_in_order("fetch 00000", "fetch 00002")
    assert found.is_in_order("fetch 00002", "fetch 00004")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InputError("wrong"), InputError),
        (KeyError("wrong"), DefectError),
        (PermissionError(13, "wrong", "x"), DiskError),
    ],
)
def test_an_error_names_its_step_and_ends_the_run_after_what_runs(
    tmp_path: Path, error: Exception, kind: type[PipelineError]
) -> None:
    def fail(label: str) -> None:
        """Fail while another call runs."""
        if label == "first 00001":
            raise error
        if label == "first 00000":
            time.sleep(0.2)

    table = [SOURCE, toy("first", "source"), toy("last", "first")]
    journal, again = Journal(hook=fail), Journal(hook=fail)
    text = {InputError: "^wrong$", DefectError: "^first 00001: 'wrong'$", DiskError: "cannot be used"}[kind]
    with pytest.raises(kind, match=text):
        run(table, tmp_path, Toys(workers=2), journal=journal)
    assert "end first 00000" in journal.lines
    assert journal.begun("last") == []
    assert not list(tmp_path.rglob(".tmp*"))
    # What ran when the other one failed is done, and is not done again.
    with pytest.raises(kind, match=text):
        run(table, tmp_path, Toys(workers=2), journal=again)
    assert "first 00000" not in again.begun("first")


def test_a_second_run_finds_everything_done(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "data_catalog.base.progress")
    first, second = run(PIPELINE, tmp_path), run(PIPELINE, tmp_path)
    num_steps = 1 + 3 * 5 + 2
    builds = re.findall(r"^build: (.+) steps, took", "\n".join(caplog.messages), re.MULTILINE)
    assert builds == [f"{num_steps} of {num_steps}"] * 2
    assert (first.engine.num_made, first.engine.num_shards) == (num_steps, 3)
    assert (second.engine.num_made, second.journal.lines) == (0, [])
    for step in PIPELINE:
        assert second.texts(step.name) == first.texts(step.name)
        assert all(commit.reused for commit in second.engine.commits(step.name))
    assert first.engine.seconds.keys() == {step.name for step in PIPELINE}


def test_the_time_left_says_until_when(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_catalog.base.progress.FIRST_LINE_S", 0.0)
    caplog.set_level(logging.INFO, "data_catalog.base.progress")
    table = [SOURCE, toy("first", "source"), toy("all", "first", scope=WHOLE, lane=FLOW), toy("last", "first", "all")]
    run(table, tmp_path)
    shown = [line.removeprefix("build: ") for line in caplog.messages if line.startswith("build: ")]
    assert shown[2:-2] == [
        *["1 s until all, 2 of 8 steps", "1 s until all, 3 of 8 steps", "4 of 8 steps", "5 of 8 steps"],
        *["1 s left, 6 of 8 steps", "1 s left, 7 of 8 steps"],
    ]


@pytest.mark.parametrize("lane", [CPU, host_of])
def test_what_an_earlier_run_wrote_and_is_damaged_is_noticed_before_it_is_read(tmp_path: Path, lane: Any) -> None:
    table = [SOURCE, toy("first", "source"), toy("last", "first", lane=lane)]
    whole = run(table, tmp_path)
    damaged = whole.engine.commits("first")[1].only_file
    damaged.write_bytes(b"")
    changed, journal = Toys(words={"last": "new"}), Journal()
    with pytest.raises(DamagedError, match=r"was damaged and is removed .*: run the same command again"):
        run(table, tmp_path, changed, journal=journal)
    assert "last 00001" not in journal.begun("last")
    again = run(table, tmp_path, changed)
    assert again.journal.begun("first") == ["first 00001"]
    assert again.texts("first") == whole.texts("first")


class Watched(LocalExecutor):
    """Threads, and a record of what was asked of them."""

    def __init__(self) -> None:
        super().__init__(retry_delays_s=())
        self.submitted: dict[str, bool] = {}
        self.shown: dict[str, list[tuple[int, int]]] = {}

    def submit(self, name: str, call: Callable[[], Any], *, remote: bool = False) -> Future[Any]:
        self.submitted[name] = remote
        return super().submit(name, call, remote=remote)

    def progress(self, key: str, *, done: int, total: int) -> None:
        self.shown.setdefault(key, []).append((done, total))


def test_an_executor_is_told_names_progress_and_what_may_be_done_elsewhere(tmp_path: Path) -> None:
    of_a_set = {"run": read_test_set, "settings": lambda build, held: {"name": "test-set", "word": held.name}}
    tests = toy("test-set", scope=PER_TEST_SET, **of_a_set)
    third = toy("third", "first", "test-set", lane=MODEL)
    table = [SOURCE, tests, toy("first", "source"), toy("second", "first"), third]
    executor = Watched()
    held = (SimpleNamespace(name="z"), SimpleNamespace(name="y"))
    toys = Toys(shards=("a", "b"), absent=frozenset({"second"}), test_sets=held)
    found = run(table, tmp_path, toys, executor=executor)
    remote = ("test-set z", "test-set y", "first 00000", "first 00001")
    local = ("source", "third 00000", "third 00001")
    assert executor.submitted == dict.fromkeys(remote, True) | dict.fromkeys(local, False)
    both = {key: [(1, 2), (2, 2)] for key in ("test-set", "first", "third")}
    assert executor.shown == {"source": [(1, 1)], "second": [(0, 0)], **both}
    assert [text[0][2]["test-set"] for text in found.texts("third")] == [[["z"], ["y"]]] * 2


def test_a_call_of_ours_that_may_be_done_elsewhere_can_be_sent_there(tmp_path: Path) -> None:
    remote = [step for step in STEPS if isinstance(step.lane, Lane) and step.lane.remote]
    assert {"clean", "check", "normalise", "publish"} <= {step.name for step in remote}
    for step in remote:
        commit = Commit(folder=tmp_path, files={"x": "h"}, facts={})
        call = call_of(step, dict.fromkeys(step.after, (commit,)), {"threads": Threads(2)}, work=WorkStore(tmp_path))
        there = pickle.loads(pickle.dumps(call))
        assert (there.run, there.key, there.job, there.work.folder) == (step.run, call.key, call.job, tmp_path)


def test_a_key_has_the_version_the_inputs_and_what_decides_and_nothing_else(tmp_path: Path) -> None:
    def key(version: int = 1, digest: str = "h", **given: Any) -> str:
        read_commit = Commit(folder=tmp_path, files={"x": digest}, facts={})
        step = toy("last", "first", version=version)
        call = call_of(step, {"first": (read_commit,)}, {"word": "a", **given}, work=WorkStore(tmp_path))
        return call.key.key

    assert key(threads=Threads(1)) == key(threads=Threads(2))
    others = [key(), key(2), key(digest="other"), key(word="b"), key(threads=Threads(1))]
    assert len(set(others)) == len(others)


def test_a_key_tells_of_which_step_each_input_is(tmp_path: Path) -> None:
    found = tuple(Commit(folder=tmp_path, files={"x": digest}, facts={}) for digest in "abc")
    step, work = toy("last", "first", "second"), WorkStore(tmp_path)
    calls = [call_of(step, {"first": found[:end], "second": found[end:]}, {}, work=work) for end in (1, 2)]
    assert calls[0].key.key != calls[1].key.key


def test_shards_of_equal_content_leave_what_is_unfinished_in_folders_of_their_own(tmp_path: Path) -> None:
    calls = [call_of(toy("first", "source"), {}, {}, work=WorkStore(tmp_path), number=number) for number in (0, 1)]
    assert calls[0].key == calls[1].key
    assert calls[0].job.unfinished != calls[1].job.unfinished


def failing(times: int, error: Exception) -> Callable[[], int]:
    """A call that fails so often, then returns the number of its calls."""
    calls = [0]

    def call() -> int:
        calls[0] += 1
        if calls[0] <= times:
            raise error
        return calls[0]

    return call


def test_calls_begin_at_once_each_end_is_told_and_transient_errors_alone_are_retried() -> None:
    all_are_there = threading.Barrier(20)
    told: list[str] = []

    def square(number: int) -> int:
        all_are_there.wait(60)
        return number**2

    with LocalExecutor(retry_delays_s=(0, 0)) as executor:
        futures = [executor.submit(f"square {number:05d}", partial(square, number)) for number in range(20)]
        assert [future.result() for future in futures] == [number**2 for number in range(20)]
        executor.submit("fine", lambda: 1).add_done_callback(lambda _: told.append("fine"))
        executor.submit("broken", failing(1, InputError("broken"))).add_done_callback(lambda _: told.append("broken"))
    assert sorted(told) == ["broken", "fine"]
    with LocalExecutor(retry_delays_s=(0, 0)) as executor:
        assert executor.submit("flaky 1", failing(2, TransientError("again"))).result() == 3
        assert executor.run("flaky 2", failing(2, TransientError("again"))) == 3
        with pytest.raises(TransientError, match="again"):
            executor.run("flaky 3", failing(3, TransientError("again")))
        with pytest.raises(InputError, match="broken"):
            executor.submit("broken", failing(1, InputError("broken"))).result()


def test_an_error_of_another_process_keeps_its_class_and_text() -> None:
    found = [pickle.loads(pickle.dumps(kind("a sentence"))) for kind in KINDS]
    assert [(type(error), str(error)) for error in found] == [(kind, "a sentence") for kind in KINDS]


def test_leaving_waits_for_what_runs_also_after_an_error() -> None:
    begun, opened, ended = threading.Event(), threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        assert opened.wait(60)
        ended.set()

    def run() -> None:
        with LocalExecutor() as executor:
            executor.submit("slow", slow)
            assert begun.wait(60)
            threading.Timer(0.1, opened.set).start()
            raise InputError("stop")

    with pytest.raises(InputError, match="stop"):
        run()
    assert ended.is_set()


def test_the_progress_of_a_run_is_one_number_and_one_line() -> None:
    """Each phase is an equal part of the whole; nothing to do is done; a phase that was not foreseen counts nothing."""
    progress = RunProgress(["clean", "fetch", "normalise", "publish"])
    assert (progress.percent, progress.text) == (0, "begun")
    progress.note("clean", done=0, total=0)
    assert (progress.percent, progress.text) == (25, "clean: done")
    progress.note("fetch", done=1, total=2)
    progress.note("normalise", done=0, total=2000)
    assert (progress.percent, progress.text) == (37.5, "fetch: 1 of 2, normalise: 0 of 2,000")
    progress.note("recall", done=1, total=4)
    progress.note("fetch", done=0, total=2)
    assert progress.percent == 37.5, "it never goes back"
