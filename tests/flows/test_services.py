"""`up`, the literal `prefect deployment run NAME`, crashes and `down`, with a real server and worker.

Everything runs in processes of its own, as a user would start it: this one's environment stays as it is. One server
serves all tests, in the order in which they stand.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from flows.orchestration.prefect_env import Api, read_env_block

EVIL = "<img src=x onerror=alert(1)> [x](javascript:alert(1)) `a|b`"


# In the environment of all that a project starts: what is left of it can be found.
MARK = "VERNACLIP_TEST_PROJECT"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(ready: Callable[[], Any], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Project:
    """A project's folder, and commands given in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(Path(__file__).parent / "toy_project", folder, dirs_exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        # Of the user's own Prefect nothing is read or written.
        path = os.pathsep.join([str(folder), *filter(None, [kept.get("PYTHONPATH")])])
        proxy = {"http_proxy": "http://127.0.0.1:9", "no_proxy": ""}  # where nobody listens
        own = {"PYTHONPATH": path, "PREFECT_HOME": str(folder / "home"), MARK: str(folder)}
        self.environment = {**kept, **proxy, **own}

    def run(self, *command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-W", "error::DeprecationWarning:flows", *command],
            cwd=self.folder,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def drive(self, *arguments: str) -> Any:
        found = self.run("driver.py", *arguments)
        assert found.returncode == 0, found.stderr
        return json.loads(found.stdout)

    def prefect(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """The command of that name, without a terminal's width."""
        return self.run("-m", "prefect", *arguments, COLUMNS="200")

    def api(self) -> Api:
        api = read_env_block(self.folder)
        assert api is not None
        return api

    def ask(self, path: str, question: dict[str, Any] | None = None) -> Any:
        """A GET of the server's API, or a POST where there is a question, with the auth string from `.env`."""
        api = self.api()
        credentials = b64encode((api.auth_string or "").encode()).decode()
        headers = {"Authorization": f"Basic {credentials}", "Content-Type": "application/json"}
        data = None if question is None else json.dumps(question).encode()
        request = urllib.request.Request(f"{api.url}{path}", data=data, headers=headers)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def start(self, name: str, **parameters: str) -> str:
        """Start a deployment as the pages do; returns the run's id."""
        deployment = self.ask(f"/deployments/name/{name}/{name}")
        question = {"state": {"type": "SCHEDULED"}, "parameters": parameters}
        return str(self.ask(f"/deployments/{deployment['id']}/create_flow_run", question)["id"])

    def wait_for(self, run_id: str, state: str, seconds: float = 60) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while (run := self.ask(f"/flow_runs/{run_id}"))["state_type"] != state:
            assert time.monotonic() < deadline, run["state"]
            time.sleep(0.1)
        found: dict[str, Any] = run
        return found

    def processes(self) -> set[int]:
        """All processes that were started from here, whoever their parent is now."""
        found = set()
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended, or is somebody else's
                if f"{MARK}={self.folder}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found.add(int(folder.name))
        return found


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    project = Project(tmp_path_factory.mktemp("50%41 of a project's runs #1 & ü"))
    (project.folder / ".env").write_text("MINE=1\n", encoding="utf-8")
    try:
        assert project.drive("up", str(free_port())) == [["server", "worker"], True]
        yield project
    finally:
        project.drive("down", "--now")


def test_up_again_starts_nothing(project: Project) -> None:
    (made,) = project.ask("/automations/filter", {})
    assert project.drive("up") == [[], True]
    assert project.ask("/automations/filter", {}) == [made]  # a new one would have forgotten whom it waits for


def test_the_server_asks_for_the_auth_string(project: Project, api_doors: Any) -> None:
    assert (project.folder / ".env").stat().st_mode & 0o777 == 0o600
    assert project.api().url.startswith("http://127.0.0.1:")
    api_doors.assert_closed(project.api())


def test_a_bare_deployment_name_runs(project: Project) -> None:
    found = project.prefect("deployment", "run", "toy", "--watch", "--param", f"word={json.dumps(EVIL)}")
    assert found.returncode == 0, found.stdout + found.stderr
    assert "Flow run finished successfully in 'Completed'" in found.stdout
    (run,) = project.ask("/flow_runs/filter", {"flows": {"name": {"any_": ["toy"]}}})
    assert (run["state_type"], run["work_pool_name"]) == ("COMPLETED", "vernaclip")
    assert_tasks_are_shown(project, run["id"])
    event = {"id": [f"prefect.flow-run.{run['id']}"]}
    question = {"filter": {"event": {"name": ["prefect.flow-run.heartbeat"]}, "resource": event}}
    until(lambda: project.ask("/events/filter", question)["events"])
    assert_artifacts_are_harmless(project, run["id"])


def assert_tasks_are_shown(project: Project, run_id: str) -> None:
    question = {"flow_runs": {"id": {"any_": [run_id]}}}
    tasks = {task["name"]: task for task in project.ask("/task_runs/filter", question)}
    numbered = [f"count {number:05d}" for number in range(3)]
    assert {name: task["state_type"] for name, task in tasks.items()} == {
        **dict.fromkeys([*numbered, "flaky 1", "here"], "COMPLETED"),
        "broken": "FAILED",
    }
    assert (tasks["flaky 1"]["run_count"], tasks["broken"]["run_count"]) == (3, 1)
    logs = project.ask("/logs/filter", {"logs": {"flow_run_id": {"any_": [run_id]}}})
    assert f"step 2 in {project.folder.name}" in [log["message"] for log in logs]


def assert_artifacts_are_harmless(project: Project, run_id: str) -> None:
    found = project.ask("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run_id]}}})
    (progress,) = [artifact for artifact in found if artifact["type"] == "progress"]
    (table,) = [artifact for artifact in found if artifact["type"] == "table"]
    assert (progress["data"], progress["description"]) == (100, "done")
    assert re.fullmatch("[a-z0-9-]+", progress["key"])
    (row,) = json.loads(table["data"])
    assert (table["key"], row["read"]) == ("funnel-toy", 3)
    assert not set("<>[]()|`") & set(row["step"] + table["description"])


def test_a_parameter_that_the_flow_has_not_is_refused_before_a_run_begins(project: Project) -> None:
    with pytest.raises(urllib.error.HTTPError, match="409") as refused:
        project.start("toy", wrod="tree")
    with refused.value as answer:
        assert "'wrod' was unexpected" in answer.read().decode()


def test_names_of_several_or_of_none_are_told_apart(project: Project) -> None:
    several = project.prefect("deployment", "run", "twin")
    assert several.returncode == 1
    assert "name one of other/twin, toy/twin" in several.stdout + several.stderr
    none = project.prefect("deployment", "run", "triplet")
    assert none.returncode == 1
    assert "Deployment 'triplet' not found!" in none.stdout


def test_a_busy_port_is_an_error_that_names_it(tmp_path: Path, project: Project) -> None:
    port = project.api().ui_url.rpartition(":")[2]
    assert project.api().auth_string not in (None, "")
    other = Project(tmp_path)
    assert (
        other.drive("up", port) == f"port {port} is taken by another program: choose another port, or stop that program"
    )
    assert not (tmp_path / ".env").exists()


def test_a_run_in_the_command_itself_uses_the_server_and_fails_in_one_sentence(project: Project) -> None:
    port = project.api().ui_url.rpartition(":")[2]  # taken, so the recipe's own server cannot have it
    settings = ("scenes.num_images=40", f'scenes.base_url="http://127.0.0.1:{port}"', f"serve.port={port}")
    arguments = [argument for setting in settings for argument in ("--set", setting)]
    found = project.run("-m", "flows.cli", "build", "scenes", *arguments)
    assert found.returncode == 75, "it may work later"
    assert f"vernaclip: serve.port {port} on 127.0.0.1 cannot be used" in found.stderr
    assert "Traceback" not in found.stderr
    (run,) = project.ask("/flow_runs/filter", {"flows": {"name": {"any_": ["build-dataset"]}}})
    assert (run["name"], run["state_type"]) == ("scenes in catalog", "FAILED")
    said = run["state"]["message"]
    assert said in found.stderr, "the page says the same sentence"
    logs = project.ask("/logs/filter", {"logs": {"flow_run_id": {"any_": [run["id"]]}}})
    assert not any("Traceback" in log["message"] for log in logs)


def test_a_wrong_recipe_is_refused_before_prefect_is_loaded(tmp_path: Path) -> None:
    code = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from data_catalog.errors import SettingsError
        from flows.orchestration.temporary_server import run_flow
        try:
            run_flow("build-dataset", "scenes", root=Path("c"), overrides=["build.workers=-1"], project=Path.cwd())
        except SettingsError as error:
            print(error, "prefect" in sys.modules)
        """
    )
    assert Project(tmp_path).run("-c", code).stdout == "build.workers must be positive, got -1 False\n"


def test_a_cancelled_run_is_gone_at_once_with_all_its_processes(project: Project) -> None:
    before = project.processes()
    run_id = project.start("stuck")
    project.wait_for(run_id, "RUNNING")
    until(lambda: (project.folder / "stuck").exists() and len(project.processes() - before) == 3)
    project.ask(f"/flow_runs/{run_id}/set_state", {"state": {"type": "CANCELLING"}})
    until(lambda: project.processes() == before, 10)
    project.wait_for(run_id, "CANCELLED")


@pytest.mark.slow
def test_a_run_goes_on_after_everything_was_killed(project: Project) -> None:
    before, run_id, made = project.api(), project.start("waiting"), project.folder / "made.txt"
    until(made.exists)
    for pid in project.processes():
        os.kill(pid, signal.SIGKILL)
    until(lambda: not project.processes())
    made.unlink()  # no result is remembered in its place
    (project.folder / "go").touch()
    assert project.drive("up") == [["server", "worker"], True]
    assert project.api() == before  # so that open pages and other terminals go on working
    assert project.wait_for(run_id, "CRASHED", 1)["state"]["message"] == "its process is gone"
    assert "scheduled" in project.prefect("flow-run", "retry", run_id).stdout
    project.wait_for(run_id, "COMPLETED")
    assert made.exists()


def test_a_dead_server_is_no_reason_to_fail_and_the_lasting_one_hears_nothing_of_the_run(project: Project) -> None:
    before = {run["id"] for run in project.ask("/flow_runs/filter", {})}
    code = textwrap.dedent(
        """
        import logging
        from pathlib import Path
        from flows.orchestration.prefect_env import prepare_process
        from flows.orchestration.temporary_server import use_answering_api
        logging.basicConfig(format="%(message)s")
        prepare_process()
        assert use_answering_api(Path.cwd()) is None
        import toy_flows
        toy_flows.toy()
        print("done")
        """
    )
    url = f"http://127.0.0.1:{free_port()}/api"
    found = project.run("-c", code, PREFECT_API_URL=url, PREFECT_API_AUTH_STRING="old:secret")
    assert found.stdout.strip().endswith("done"), found.stderr
    assert f"no Prefect server answers at {url}: this run uses a temporary server" in found.stderr
    assert {run["id"] for run in project.ask("/flow_runs/filter", {})} == before


def test_down_stops_all_and_leaves_the_users_lines(project: Project) -> None:
    assert project.drive("down") == ["worker", "server"]
    assert (project.folder / ".env").read_text(encoding="utf-8") == "MINE=1\n"
    assert project.drive("down") == []
