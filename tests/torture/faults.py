"""Series of faults, each over builds that are run again until they are done, and then compared with the measure."""

import random
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trials import Trial, answers, debris, differences, manifest_is_whole, published

from data_catalog.disk.failpoints import ERRORS, REGISTRY
from data_catalog.sample.config import ScenesConfig
from data_catalog.sample.datasets import draw_upstream

KILLED = -9
# Name of a failpoint, passage, what happens there.
Fault = tuple[str, int, str]
# The order in which a build passes the failpoints: one root serves many of them, each run a little further on its way.
_ORDER = (
    *("scenes.after_draw", "scenes.after_sync", "scenes.after_removal", "scenes.after_rename"),
    *("ingest", "commit", "memory", "fetch", "images", "normalise", "snapshot.before_files", "snapshot.after_files"),
    *("used.before_note", "used.after_note", "snapshot", "catalog", "used", "append"),
)
# Later passages, for failpoints that a build passes often.
_MOST_PASSAGES = {"atomic": 8, "commit": 8, "images": 2, "fetch": 4, "normalise": 4, "memory": 2}
_SENTENCES = {"enospc": " is full: ", "edquot": " is full: ", "eio": "the disk failed at "}
# When a run is killed, as shares of what an undisturbed build takes.
_SOONEST, _LATEST = 0.05, 0.3


@dataclass(slots=True)
class Outcome:
    """How many faults of which kind there were, how many builds were compared, and what was not as it should be."""

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    num_builds: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Series:
    """What makes trials in new roots, the root that each must come to, and the seconds that it took."""

    new_trial: Callable[[], Trial]
    reference: Path
    seconds: float
    tell: Callable[[str], None]

    def finish(self, trial: Trial, outcome: Outcome) -> None:
        """Build until the end, then compare."""
        code = trial.run()
        outcome.num_builds += 1
        if code != 0:
            outcome.problems.append(f"{trial.root.name}: the last run ended with {code}: {trial.said()[-300:]}")
            return
        self.compare(trial, outcome)

    def compare(self, trial: Trial, outcome: Outcome) -> None:
        """What a finished root has that it should not have, or has not."""
        for name in differences(published(trial.root), published(self.reference)):
            outcome.problems.append(f"{trial.root.name}: {name} differs")
        if answers(trial.root) != answers(self.reference):
            outcome.problems.append(f"{trial.root.name}: the catalog answers otherwise")
        outcome.problems.extend(f"{trial.root.name}: {name} is left" for name in debris(trial.root))
        outcome.problems.extend(f"{trial.root.name}: process {pid} is left" for pid in trial.left_over())


def random_kills(series: Series, num_kills: int, rng: random.Random) -> Outcome:
    """Kill the whole tree of processes, or the parent alone, or first a child, at random moments."""
    outcome, trial = Outcome("random moments"), series.new_trial()
    while outcome.counts.total() < num_kills:
        manner = _kill_once(trial, rng, series.seconds)
        if not manifest_is_whole(trial.root):
            outcome.problems.append(f"{trial.root.name}: a reader saw a torn snapshot")
        if manner is None:  # it was done before
            outcome.num_builds += 1
            series.compare(trial, outcome)
            trial = series.new_trial()
            continue
        outcome.counts[manner] += 1
        if outcome.counts.total() % 20 == 0:
            series.tell(f"{outcome.counts.total()} of {num_kills} kills at random moments")
    series.finish(trial, outcome)
    return outcome


def _kill_once(trial: Trial, rng: random.Random, build_s: float) -> str | None:
    """One run, killed at some moment; the manner of it, or None where the run was done before."""
    process = trial.start()
    manner = rng.choice(("tree", "tree", "parent", "parent", "child, then parent"))
    if manner.startswith("child") and not _ends_within(process, build_s * rng.uniform(_SOONEST, _LATEST)):
        children = [pid for pid in trial.processes() if pid != process.pid]
        trial.kill(rng.sample(children, min(1, len(children))))
        manner = manner if children else "parent"
    if _ends_within(process, build_s * rng.uniform(_SOONEST, _LATEST)):
        return None
    trial.kill([process.pid, *trial.processes()] if manner == "tree" else [process.pid])
    process.wait()
    return manner


def _ends_within(process: "subprocess.Popen[bytes]", seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def failpoint_kills(series: Series, names: Sequence[str], rng: random.Random, *, later: bool) -> Outcome:
    """Kill at each failpoint, and with `later` at some later passage of those that are passed often."""
    plan = [(name, passage, "kill") for name, passage in _places(names, rng, later=later)]
    return _at_failpoints(series, Outcome("kill at failpoints"), plan)


def failpoint_errors(series: Series, names: Sequence[str], rng: random.Random, *, later: bool) -> Outcome:
    """Let the disk be full, the quota be used up or the disk fail at each failpoint, and `later` as above."""
    actions = sorted(ERRORS)
    plan = [(name, passage, rng.choice(actions)) for name, passage in _places(names, rng, later=later)]
    return _at_failpoints(series, Outcome("disk errors at failpoints"), plan)


def _places(names: Sequence[str], rng: random.Random, *, later: bool) -> list[tuple[str, int]]:
    often = [(name, _MOST_PASSAGES[group]) for name in names if (group := name.split(".")[0]) in _MOST_PASSAGES]
    return [(name, 1) for name in names] + [(name, rng.randint(2, most)) for name, most in often if later]


def _at_failpoints(series: Series, outcome: Outcome, plan: Sequence[Fault]) -> Outcome:
    waiting = sorted(plan, key=lambda fault: (_position(fault[0]), fault[1]))
    while waiting:
        trial, missed = series.new_trial(), list[Fault]()
        _draw_another_sample(trial, waiting)
        for number, (name, passage, action) in enumerate(waiting):
            code = trial.run(f"{name}:{passage}={action}")
            if not manifest_is_whole(trial.root):
                outcome.problems.append(f"{name}: a reader saw a torn snapshot")
            if code == 0:  # not passed, or not so often: from here on there is nothing to do for this root
                missed = list(waiting[number:])
                break
            outcome.counts[f"{name.split('.')[0]}, {action}"] += 1
            outcome.problems.extend(_unclean(trial, code, f"{name}:{passage}={action}"))
        series.finish(trial, outcome)
        series.tell(f"{outcome.name}: {len(waiting) - len(missed)} more, {len(missed)} left")
        waiting = list(_once_more(waiting, missed, outcome))
    return outcome


def _once_more(waiting: Sequence[Fault], missed: Sequence[Fault], outcome: Outcome) -> Iterator[Fault]:
    """What is to be tried in a new root; what even a new root does not pass is told."""
    if len(missed) < len(waiting):
        yield from missed
        return
    name, passage, action = missed[0]
    if passage == 1:
        outcome.problems.append(f"{name}: no build passes it")
    else:
        yield name, max(1, passage // 2), action
    yield from missed[1:]


def _unclean(trial: Trial, code: int, armed: str) -> Iterator[str]:
    """What a run that met a fault did wrong."""
    action = armed.rpartition("=")[2]
    if action == "kill":
        if code != KILLED:
            yield f"{armed}: ended with {code}: {trial.said()[-300:]}"
        return
    last = trial.said().strip().rpartition("\n")[2]
    if code != 1 or not last.startswith("vernaclip: ") or _SENTENCES[action] not in last:
        yield f"{armed}: ended with {code}: {trial.said()[-500:]}"
    yield from (f"{armed}: process {pid} is left" for pid in trial.left_over())


def _position(name: str) -> int:
    """Where in a build a failpoint lies; what lies everywhere comes first."""
    return next((number for number, start in enumerate(_ORDER) if name.startswith(start)), -1)


def _draw_another_sample(trial: Trial, waiting: Sequence[Fault]) -> None:
    """One failpoint lies where an earlier sample is replaced."""
    if any(name == "scenes.after_removal" for name, *_ in waiting):
        draw_upstream(ScenesConfig(folder=trial.root / "upstream", base_url="http://127.0.0.1:1", num_images=40))


def all_failpoints() -> list[str]:
    """Return the names of the failpoints that a build passes; others are --retry-failed's and forget's."""
    return [name for name in REGISTRY if not name.startswith(("attempt.", "forget."))]
