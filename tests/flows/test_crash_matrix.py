"""Runs of a real server and worker that are killed, cancelled or starved: each ends well after the documented command.

`docs/operations.md` has the table. What was committed before is left alone, and the snapshot is byte-equal to
that of an undisturbed run. The server, its worker and all commands are processes of their own, as a user has them.
"""

import json
import os
import signal
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from data_catalog.catalog.history import runs
from data_catalog.catalog.manifest import require_snapshot
from flows.build.execution import LocalExecutor
from flows.datasets import build_dataset
from flows.orchestration.run_processes import LOOK_S
from flows.recipe.recipe import load_recipe, override_values

pytestmark = pytest.mark.slow


class Lab:
    """A project with a server and a worker, and one small build that can be started in it."""

    def __init__(self, project: Any, overrides: list[str]) -> None:
        self.project, self.folder, self.ask, self.until = project, project.folder, project.ask, project.until
        self.processes = project.processes
        # Slow, so that a build has a middle.
        self.overrides = [*overrides, "build.shard_size=10", 'fetch.hosts."127.0.0.1".requests_per_s=6']

    def command(self, *command: str) -> None:
        self.project.run("-m", *command)

    def up(self) -> None:
        self.command("flows.cli", "up")

    def start(self, root: str, *, literally: bool = False, **variables: str) -> "Run":
        """Start the build below `root` through the deployment, as the command does, or by itself."""
        values = {"root": root, "settings": override_values(self.overrides)}
        if literally:
            parameters = [part for name in values for part in ("--param", f"{name}={json.dumps(values[name])}")]
            self.command("prefect", "deployment", "run", "build-dataset/scenes", *parameters)
            (made, *_) = self.ask("/flow_runs/filter", {"sort": "EXPECTED_START_TIME_DESC", "limit": 1})
        else:
            deployment = self.ask("/deployments/name/build-dataset/scenes")["id"]
            question = {"state": {"type": "SCHEDULED"}, "parameters": values, "job_variables": {"env": variables}}
            made = self.ask(f"/deployments/{deployment}/create_flow_run", question)
        return Run(self, made["id"], self.folder / root)

    def pid(self, daemon: str) -> int:
        return int((self.folder / ".vernaclip" / f"{daemon}.pid").read_text(encoding="ascii").split()[0])


class Run:
    """One flow run, and the root that it builds."""

    def __init__(self, lab: Lab, run_id: str, root: Path) -> None:
        self.lab, self.run_id, self.root = lab, run_id, root

    def facts(self) -> dict[str, Any]:
        return dict(self.lab.ask(f"/flow_runs/{self.run_id}"))

    def wait_for(self, *states: str, seconds: float = 90) -> str:
        """Wait for one of the states, and say which it is."""
        return str(self.lab.until(lambda: next((s for s in states if s == self.facts()["state_type"]), None), seconds))

    def commits(self) -> set[Path]:
        return set(self.root.glob("work/*/*/[!.]*/commit.json"))

    def in_the_middle(self) -> None:
        """Wait until some images are there, and others are not."""
        self.lab.until(lambda: list(self.root.glob("work/*/fetch/*/commit.json")), 60)
        assert not list(self.root.glob("datasets/*/*/manifest.json"))

    def retry(self, *, literally: bool = False) -> None:
        """As the command does, or by itself; again where the worker, which tells a crash twice, has overwritten it."""
        for _ in range(3):
            if literally:
                self.lab.command("prefect", "flow-run", "retry", self.run_id)
            else:
                self.wait_for("FAILED", "CANCELLED", "CRASHED", seconds=1)
                self.lab.ask(f"/flow_runs/{self.run_id}/set_state", {"state": {"type": "SCHEDULED"}, "force": True})
            if self.wait_for("RUNNING", "COMPLETED", "CRASHED") != "CRASHED":
                return

    def tree(self) -> dict[str, bytes]:
        folder = require_snapshot(self.root, "scenes").folder
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def num_made(self) -> int:
        """How many calls of steps the only run that came to its end made."""
        (run,) = runs(self.root, "scenes")
        return int(run["num_steps"])


def is_alive(pid: int) -> bool:
    """A process that nobody has asked after yet, a zombie, has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def lab(project_in: Any, english_overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(project_in(tmp_path_factory.mktemp("lab")), english_overrides)
    try:
        lab.up()
        yield lab
    finally:
        lab.command("flows.cli", "down", "--now")
        lab.until(lambda: not lab.processes(), 20)


@pytest.fixture(scope="module")
def undisturbed(lab: Lab) -> Run:
    """The run that nothing happens to."""
    root = lab.folder / "undisturbed"
    recipe = load_recipe("scenes", root=root, overrides=lab.overrides)
    with LocalExecutor() as executor:
        build_dataset(recipe, root=root, executor=executor)
    return Run(lab, "", root)


def assert_ends_well(run: Run, undisturbed: Run, committed: Collection[Path] = ()) -> None:
    """The bytes are those of an undisturbed run, and the last process made what was not committed, no more."""
    if run.run_id:
        run.wait_for("COMPLETED", seconds=180)
    assert run.tree() == undisturbed.tree()
    assert run.num_made() == undisturbed.num_made() - len(committed)


@pytest.mark.parametrize(
    ("killed", "state", "within_s", "needs_up"),
    [
        pytest.param(["run"], "CRASHED", 90, False, id="the run"),
        pytest.param(["worker"], "CRASHED", 0, True, id="the worker, with which its run ends"),
        pytest.param(["worker", "run"], "RUNNING", 0, True, id="worker and run"),
        pytest.param(["worker", "run"], "CRASHED", 90, True, id="both, and nobody comes"),
        pytest.param(["server", "worker", "run"], None, 0, True, id="all three"),
    ],
)
def test_a_run_whose_process_is_killed_is_known_to_have_crashed_and_goes_on(
    killed: list[str], state: str | None, within_s: int, needs_up: bool, lab: Lab, undisturbed: Run
) -> None:
    is_literal = killed == ["run"]
    run = lab.start(f"root-{len(list(lab.folder.iterdir()))}", literally=is_literal)
    run.in_the_middle()
    pid, api = int(lab.until(lambda: run.facts()["infrastructure_pid"], 30)), lab.project.api
    for each in killed:
        os.kill(pid if each == "run" else lab.pid(each), signal.SIGKILL)
    lab.until(lambda: not is_alive(pid), 20)
    if state:
        run.wait_for(state, seconds=within_s + 1)
    committed = run.commits()
    if needs_up:
        lab.up()
    assert lab.project.api == api, "open pages and other terminals go on working"
    assert run.facts()["state_type"] == "CRASHED"
    run.retry(literally=is_literal)
    assert_ends_well(run, undisturbed, committed)


def test_a_run_that_stands_still_is_not_given_up(lab: Lab) -> None:
    """Its machine may be busy, or asleep; images that it was fetching may have timed out."""
    run = lab.start("still")
    run.in_the_middle()
    pid = int(lab.until(lambda: run.facts()["infrastructure_pid"], 30))
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(3 * LOOK_S)
        assert run.facts()["state_type"] == "RUNNING"
    finally:
        os.kill(pid, signal.SIGCONT)
    assert run.wait_for("COMPLETED", "CRASHED", "FAILED", seconds=180) == "COMPLETED"


@pytest.mark.parametrize("is_away_to_the_end", [False, True])
def test_a_build_goes_on_without_its_server(is_away_to_the_end: bool, lab: Lab, undisturbed: Run) -> None:
    run = lab.start(f"away-{is_away_to_the_end}")
    run.in_the_middle()
    os.kill(lab.pid("server"), signal.SIGKILL)
    if is_away_to_the_end:
        lab.until(lambda: list(run.root.glob("datasets/scenes/current.json")))
    lab.up()
    assert_ends_well(run, undisturbed)


def test_a_cancelled_run_is_gone_soon_and_goes_on(lab: Lab, undisturbed: Run) -> None:
    run = lab.start("cancelled")
    run.in_the_middle()
    lab.ask(f"/flow_runs/{run.run_id}/set_state", {"state": {"type": "CANCELLING"}})  # as the command and the pages do
    lab.until(lambda: lab.processes() == {lab.pid(each) for each in ("server", "watcher", "worker")}, 10)
    committed = run.commits()
    run.wait_for("CANCELLED", seconds=30)
    run.retry()
    assert_ends_well(run, undisturbed, committed)


def test_a_full_disk_is_told_and_the_run_goes_on(lab: Lab, undisturbed: Run) -> None:
    """Late in the build: what is left for the retry, whose environment is the same, does not come as far."""
    run = lab.start("full", VERNACLIP_FAILPOINTS="commit.after_write:50=enospc")
    run.wait_for("FAILED")
    committed = run.commits()
    assert "is full: free space" in run.facts()["state"]["message"]
    run.retry()
    assert_ends_well(run, undisturbed, committed)


@pytest.mark.parametrize("executor", ["prefect", "local"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_an_interrupted_command_leaves_nothing_behind_and_goes_on(
    number: signal.Signals, executor: str, lab: Lab, undisturbed: Run
) -> None:
    root = f"{executor}-{number.name}"
    settings = [part for setting in lab.overrides for part in ("--set", setting)]
    command = ["flows.cli", "build", "scenes", "--root", root, "--executor", executor, *settings]
    before = lab.processes()
    run = Run(lab, "", lab.folder / root)
    with lab.project.start("-m", *command) as process:
        try:
            run.in_the_middle()
            process.send_signal(number)
            _, told = process.communicate(timeout=10)
        finally:
            process.kill()
    assert process.returncode in (128 + number, -number), told
    assert "Traceback" not in told
    lab.until(lambda: lab.processes() <= before, 10)
    committed = run.commits()
    lab.command(*command)
    assert_ends_well(run, undisturbed, committed)
