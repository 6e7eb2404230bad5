"""Runs of a real server and worker that are killed, cancelled or starved: each ends well after the documented command.

`docs/operations.md` has the table. What was committed before is left alone, and the snapshot is byte-equal to
that of an undisturbed run. The server, its worker and all commands are processes of their own, as a user has them.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from data_catalog.plain_text import plain_table
from data_catalog.storage.manifest import require_snapshot
from flows.build.execution import LocalExecutor
from flows.jobs import build_dataset
from flows.orchestration.prefect_env import HEARTBEAT_S, Api, read_env_block
from flows.orchestration.services import SILENCE_S
from flows.recipe.recipe import load_recipe, override_values

Commits = dict[str, tuple[int, int]]

# In the environment of everything that a laboratory starts: what is left of it can be found.
MARK = "VERNACLIP_CRASH_MATRIX"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(ready: Callable[[], Any], seconds: float, what: Callable[[], str]) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := ready()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what()}"
        time.sleep(0.05)
    return found


class Lab:
    """A project's folder with a server and a worker, and one small build that can be started in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        home = {"PREFECT_HOME": str(folder / "home"), "COLUMNS": "200"}
        self.environment = {**kept, **home, MARK: str(folder)}
        port = free_port()
        self.overrides = [
            'target_language="en"',
            'scenes.target_language="en"',
            "scenes.num_images=96",
            f'scenes.base_url="http://127.0.0.1:{port}"',
            f"serve.port={port}",
            "build.shard_size=12",
            "split.val=0.2",
            'fetch.hosts."127.0.0.1".requests_per_s=6',  # so that a build has a middle
        ]

    def command(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """A command in the project's folder; it must succeed."""
        found = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert found.returncode == 0, found.stdout + found.stderr
        return found

    def up(self) -> str:
        return self.command("flows.cli", "up").stdout

    def prefect(self, *arguments: str) -> str:
        return self.command("prefect", *arguments).stdout

    @property
    def api(self) -> Api:
        api = read_env_block(self.folder)
        assert api is not None
        return api

    def ask(self, path: str, question: dict[str, Any] | None = None) -> Any:
        """A GET of the server's API, or a POST where there is a question."""
        api = self.api
        credentials = b64encode((api.auth_string or "").encode()).decode()
        headers = {"Authorization": f"Basic {credentials}", "Content-Type": "application/json"}
        data = None if question is None else json.dumps(question).encode()
        request = urllib.request.Request(f"{api.url}{path}", data=data, headers=headers)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def start(self, root: str, **variables: str) -> "Run":
        """Start the build below `root` through the deployment, as a user does."""
        settings = json.dumps(override_values(self.overrides))
        more = [part for name, value in variables.items() for part in ("--job-variable", f"env.{name}={value}")]
        parameters = ["--param", f'root="{root}"', "--param", f"settings={settings}"]
        self.prefect("deployment", "run", "build-dataset/scenes", *parameters, *more)
        (newest, *_) = self.ask("/flow_runs/filter", {"sort": "EXPECTED_START_TIME_DESC", "limit": 1})
        return Run(self, newest["id"], self.folder / root)

    def pid(self, daemon: str) -> int:
        return int((self.folder / ".vernaclip" / f"{daemon}.pid").read_text(encoding="ascii"))

    def processes(self) -> dict[int, str]:
        """Command lines of all processes that were started from here, by process id."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if f"{MARK}={self.folder}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue  # it has ended, or is somebody else's
        return {pid: command for pid, command in found.items() if command}


class Run:
    """One flow run, and the root that it builds."""

    def __init__(self, lab: Lab, run_id: str, root: Path) -> None:
        self.lab, self.run_id, self.root = lab, run_id, root

    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = self.lab.ask(f"/flow_runs/{self.run_id}")
        return found

    @property
    def state(self) -> str:
        return str(self.facts()["state_type"])

    def pid(self) -> int:
        return int(until(lambda: self.facts()["infrastructure_pid"], 30, lambda: "a process"))

    def wait_for(self, state: str, seconds: float = 90) -> None:
        until(lambda: self.state == state, seconds, lambda: f"{state}; it is {self.facts()['state']}")

    def commits(self) -> Commits:
        """Committed step outputs, each with what tells that it was written anew."""
        records = self.root.glob("work/*/*/[!.]*/commit.json")
        return {
            str(path.parent.relative_to(self.root)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in records
        }

    def in_the_middle(self) -> None:
        """Wait until some images are there, and others are not."""
        until(lambda: list(self.root.glob("work/*/fetch/*/commit.json")), 60, lambda: "an image shard")
        assert not list(self.root.glob("datasets/*/*/manifest.json"))

    def retry(self) -> None:
        """The command; once more where the worker, which reports a crash twice, has overwritten it."""
        for _ in range(3):
            self.lab.prefect("flow-run", "retry", self.run_id)
            until(lambda: self.state in ("RUNNING", "COMPLETED", "CRASHED"), 60, lambda: self.state)
            if self.state != "CRASHED":
                return

    def tree(self) -> dict[str, bytes]:
        folder = require_snapshot(self.root, "scenes").folder
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def kill(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def is_alive(pid: int) -> bool:
    """Whether a process has not ended; one that nobody has asked after yet, a zombie, has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("lab"))
    try:
        lab.command("flows.cli", "up", "--port", str(free_port()))
        yield lab
    finally:
        lab.command("flows.cli", "down", "--now")
        assert until(lambda: not lab.processes(), 20, lambda: f"the end of {lab.processes()}")


@pytest.fixture(scope="module")
def undisturbed(lab: Lab) -> dict[str, bytes]:
    """The files of the snapshot that nothing happens to; its number of steps is the count of commits."""
    root = lab.folder / "undisturbed"
    recipe = load_recipe("scenes", root=root, overrides=lab.overrides)
    with LocalExecutor() as executor:
        build_dataset(recipe, root=root, executor=executor)
    return Run(lab, "", root).tree()


def num_made(root: Path) -> int:
    """How many calls of steps the only run that came to its end made."""
    lines = (root / "datasets" / "scenes" / "runs.jsonl").read_text(encoding="utf-8").splitlines()
    (made,) = [json.loads(line)["num_steps"] for line in lines]
    return int(made)


def assert_nothing_was_done_twice(run: Run, committed: Commits) -> int:
    """The last process made what was not committed, no more; returns how much that was."""
    made = num_made(run.root)
    assert made == num_made(run.lab.folder / "undisturbed") - len(committed)
    return made


# What happens to a run; returns what was committed before, what is seen of it, and what a person types then.
Event = Callable[[Lab, Run], tuple[Commits, str, str]]


def the_run_is_killed(lab: Lab, run: Run) -> tuple[Commits, str, str]:
    kill(run.pid())
    run.wait_for("CRASHED")
    committed = run.commits()
    run.retry()
    return committed, "CRASHED at once", "prefect flow-run retry ID"


def the_worker_is_killed(lab: Lab, run: Run) -> tuple[Commits, str, str]:
    pid = run.pid()
    kill(lab.pid("worker"))
    until(lambda: not is_alive(pid), 20, lambda: "the run's own end, without its worker")
    committed = run.commits()
    assert run.state == "CRASHED"
    lab.up()
    run.retry()
    return committed, "CRASHED at once: the run ends with its worker", "vernaclip up; prefect flow-run retry ID"


def worker_and_run_are_killed(lab: Lab, run: Run) -> tuple[Commits, str, str]:
    kill(lab.pid("worker"), run.pid())
    committed = run.commits()
    assert run.state == "RUNNING"
    lab.up()
    assert run.state == "CRASHED"
    run.retry()
    return committed, "RUNNING, CRASHED after up", "vernaclip up; prefect flow-run retry ID"


def worker_and_run_are_killed_and_nobody_comes(lab: Lab, run: Run) -> tuple[Commits, str, str]:
    kill(lab.pid("worker"), run.pid())
    committed = run.commits()
    run.wait_for("CRASHED", SILENCE_S + HEARTBEAT_S)
    assert "no heartbeat" in run.facts()["state"]["message"]
    lab.up()
    run.retry()
    return committed, f"RUNNING, CRASHED after {SILENCE_S} s", "vernaclip up; prefect flow-run retry ID"


def the_server_is_killed(lab: Lab, run: Run) -> tuple[Commits, str, str]:
    kill(lab.pid("server"))
    lab.up()
    return {}, "the run goes on", "vernaclip up"


def the_server_is_away_when_the_build_ends(lab: Lab, run: Run) -> tuple[Commits, str, str]:
    kill(lab.pid("server"))
    until(lambda: list(run.root.glob("datasets/scenes/current.json")), 60, lambda: "a snapshot, without a server")
    lab.up()
    return {}, "COMPLETED soon after up", "vernaclip up"


def all_three_are_killed(lab: Lab, run: Run) -> tuple[Commits, str, str]:
    kill(lab.pid("server"), lab.pid("worker"), run.pid())
    committed = run.commits()
    lab.up()
    assert run.state == "CRASHED"
    run.retry()
    return committed, "CRASHED after up", "vernaclip up; prefect flow-run retry ID"


def the_run_is_cancelled(lab: Lab, run: Run) -> tuple[Commits, str, str]:
    lab.ask(f"/flow_runs/{run.run_id}/set_state", {"state": {"type": "CANCELLING"}})  # as the command and the pages do
    daemons = {lab.pid("server"), lab.pid("worker")}
    until(lambda: set(lab.processes()) == daemons, 10, lambda: f"the end of {lab.processes()}")
    committed = run.commits()
    run.wait_for("CANCELLED", 30)
    run.retry()
    return committed, "CANCELLED, no process left after 10 s", "prefect flow-run retry ID"


def the_disk_is_full(lab: Lab, run: Run) -> tuple[Commits, str, str]:
    run.wait_for("FAILED")
    committed = run.commits()
    assert "is full: free space" in run.facts()["state"]["message"]
    run.retry()
    return committed, "FAILED, and says so", "make room; prefect flow-run retry ID"


EVENTS = (
    the_run_is_killed,
    the_worker_is_killed,
    worker_and_run_are_killed,
    worker_and_run_are_killed_and_nobody_comes,
    the_server_is_killed,
    the_server_is_away_when_the_build_ends,
    all_three_are_killed,
    the_run_is_cancelled,
    the_disk_is_full,
)
# Late in the build: what is left for the retry, whose environment is the same, does not come as far.
ENVIRONMENT = {the_disk_is_full: {"VERNACLIP_FAILPOINTS": "commit.after_write:50=enospc"}}


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[list[dict[str, object]]]:
    """Rows about what was tried; shown at the end."""
    rows: list[dict[str, object]] = []
    yield rows
    writer = request.config.get_terminal_writer()
    writer.line("\n" + plain_table(rows))


@pytest.mark.slow
@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
def test_a_run_ends_well_though(
    event: Event, lab: Lab, undisturbed: dict[str, bytes], table: list[dict[str, object]]
) -> None:
    run = lab.start(event.__name__, **ENVIRONMENT.get(event, {}))
    if event not in ENVIRONMENT:
        run.in_the_middle()
    committed, seen, typed = event(lab, run)
    run.wait_for("COMPLETED", 180)
    assert run.tree() == undisturbed
    made = assert_nothing_was_done_twice(run, committed)
    table.append({"event": event.__name__, "seen": seen, "typed": typed, "kept": len(committed), "made": made})


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["prefect", "local"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_an_interrupted_command_leaves_nothing_behind_and_goes_on(
    number: signal.Signals, executor: str, lab: Lab, undisturbed: dict[str, bytes]
) -> None:
    root = f"{executor}-{number.name}"
    settings = [part for setting in lab.overrides for part in ("--set", setting)]
    command = ["flows.cli", "build", "scenes", "--root", root, "--executor", executor, *settings]
    before = set(lab.processes())
    run = Run(lab, "", lab.folder / root)
    with subprocess.Popen(
        [sys.executable, "-m", *command], cwd=lab.folder, env=lab.environment, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            run.in_the_middle()
            process.send_signal(number)
            _, told = process.communicate(timeout=10)
        finally:
            process.kill()
    assert process.returncode in (128 + number, -number), told
    assert "Traceback" not in told
    until(lambda: set(lab.processes()) <= before, 10, lambda: f"the end of {lab.processes()}")
    committed = run.commits()
    lab.command(*command)
    assert run.tree() == undisturbed
    assert_nothing_was_done_twice(run, committed)
