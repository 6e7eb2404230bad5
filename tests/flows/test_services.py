"""Prefect servers, temporary and lasting: `up`, the literal `prefect deployment run NAME`, Dask, crashes and `down`.

One lasting server serves all tests that ask for `project`, in the order in which they stand.
"""

import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data_catalog.base.errors import BusyError
from flows.orchestration.prefect_env import Api
from flows.orchestration.services import up

ON_DASK = {
    "first": 7,
    "flaky": True,
    "broken": "InputError: broken",
    "here": True,
    "not remote": True,
    "called": True,
    "hears Ctrl-C": False,
}
EVIL = "<img src=x onerror=alert(1)> [x](javascript:alert(1)) `a|b`"


def drive(project: Any, *arguments: str) -> Any:
    return json.loads(project.run("driver.py", *arguments).stdout)


def toys_in(project: Any) -> Any:
    shutil.copytree(Path(__file__).parent / "toy_project", project.folder, dirs_exist_ok=True)
    project.environment |= {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(project.folder), project.environment.get("PYTHONPATH")])),
        "PYTHONWARNINGS": "error::DeprecationWarning:flows",
        "http_proxy": "http://127.0.0.1:9",  # where nobody listens
        "no_proxy": "",
    }
    return project


def assert_the_toy_run_is_shown(project: Any) -> dict[str, Any]:
    """Each step is a task with its logs; artifacts have the progress and a table, without markup."""
    newest = {"sort": "EXPECTED_START_TIME_DESC", "limit": 1}
    (run,) = project.ask("/flow_runs/filter", {"flows": {"name": {"any_": ["toy"]}}, **newest})
    assert run["state_type"] == "COMPLETED"
    numbered = [f"count {number:05d}" for number in range(3)]
    expected = {**dict.fromkeys([*numbered, "flaky 1", "here"], "COMPLETED"), "broken": "FAILED"}

    def tasks_at_the_end() -> dict[str, Any]:
        """Prefect sends the states of tasks some seconds after the run's."""
        found = project.ask("/task_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
        ended = {task["name"]: task for task in found if task["state_type"] in ("COMPLETED", "FAILED")}
        return ended if {name: task["state_type"] for name, task in ended.items()} == expected else {}

    tasks = project.until(tasks_at_the_end)
    assert (tasks["flaky 1"]["run_count"], tasks["broken"]["run_count"]) == (3, 1)
    about = {"logs": {"flow_run_id": {"any_": [run["id"]]}}}
    told = f"step 2 in {project.folder.name}"  # Prefect sends logs some seconds after the run
    project.until(lambda: told in [log["message"] for log in project.ask("/logs/filter", about)])
    found = project.ask("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run["id"]]}}})
    kinds = {artifact["type"]: artifact for artifact in found}
    assert len(found) == len(kinds) == 2
    progress, table = kinds["progress"], kinds["table"]
    assert (progress["data"], progress["description"]) == (100, "done")
    assert re.fullmatch("[a-z0-9-]+", progress["key"])
    (row,) = json.loads(table["data"])
    assert (table["key"], row["read"]) == ("funnel-toy", 3)
    assert not set("<>[]()|`") & set(row["step"] + table["description"])
    return dict(run)


@pytest.mark.slower
def test_without_an_answering_server_a_run_has_its_own_which_is_closed_and_ends_however_the_run_does(
    project_in: Any, free_port: int, api_doors: Any, tmp_path: Path
) -> None:
    """The user's own settings of a dead server and of a database are there. Steps on a cluster end as in threads."""
    project = toys_in(project_in(tmp_path))
    dead = {"PREFECT_API_URL": f"http://127.0.0.1:{free_port}/api", "PREFECT_API_AUTH_STRING": "old:secret"}
    database = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{tmp_path / 'shared.db'}"}
    flows = ("toy", EVIL, "deleted", "deleted", "on_dask", "orderly")
    with project.start("driver.py", "alone", *flows, **dead, **database) as process:
        try:
            url, auth_string = json.loads(process.stdout.readline())
            assert json.loads(process.stdout.readline()) is None
            assert json.loads(process.stdout.readline()) == [100, "done"]
            assert json.loads(process.stdout.readline()) == ON_DASK
            assert not project.processes("spawn_main")
            project.found_api = Api(url=url, auth_string=auth_string)
            project.until(lambda: project.ask("/logs/filter", {}))  # they come last
            assert_the_toy_run_is_shown(project)
            assert project.processes("flows.orchestration.temporary_server")
            api_doors.assert_closed(project.api, sample=12)
        finally:
            process.kill()
        told = process.stderr.read()
    assert f"no Prefect server answers at {dead['PREFECT_API_URL']}: this run uses a temporary server" in told
    assert told.count("step 7 in ") == 1
    project.until(lambda: not project.processes())
    assert not (tmp_path / "shared.db").exists()


def test_a_busy_port_is_refused(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(BusyError, match=f"port {port} is taken"):
            up(tmp_path, deploy=lambda client, project: (), port=port)
    assert not (tmp_path / ".env").exists()


def test_a_wrong_recipe_is_refused_before_prefect_is_loaded(project_in: Any, tmp_path: Path) -> None:
    code = """if True:
        import sys
        from pathlib import Path
        from data_catalog.base.errors import SettingsError
        from flows.orchestration.temporary_server import run_flow
        try:
            run_flow("build", "scenes", root=Path("c"), overrides=["build.workers=-1"], project=Path.cwd())
        except SettingsError:
            print("prefect" in sys.modules)
        """
    assert project_in(tmp_path).run("-c", code).stdout == "False\n"


@pytest.fixture(scope="module")
def project(project_in: Any, unused_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    project = toys_in(project_in(tmp_path_factory.mktemp("50%41 of a project's runs #1 & ü")))
    (project.folder / ".env").write_text("MINE=1\n", encoding="utf-8")
    try:
        assert drive(project, "up", str(unused_port)) == [["server", "worker"], True]
        yield project
    finally:
        drive(project, "down", "--now")


def test_up_starts_a_server_and_a_worker_that_runs_a_deployment(project: Any) -> None:
    """Started as the pages do."""
    deployment = project.ask("/deployments/name/toy/toy")
    question = {"state": {"type": "SCHEDULED"}}
    run_id = project.ask(f"/deployments/{deployment['id']}/create_flow_run", question)["id"]
    project.until(lambda: project.ask(f"/flow_runs/{run_id}")["state_type"] == "COMPLETED")
    assert assert_the_toy_run_is_shown(project)["work_pool_name"] == "vernaclip"


@pytest.mark.slow
def test_up_again_starts_nothing_and_the_lasting_server_is_closed_without_its_auth_string(
    project: Any, api_doors: Any
) -> None:
    assert drive(project, "up") == [[], True]
    assert "so --port 9 has no effect: leave it out" in drive(project, "up", "9")
    assert (project.folder / ".env").stat().st_mode & 0o777 == 0o600
    assert project.api.url.startswith("http://127.0.0.1:")
    api_doors.assert_closed(project.api)


@pytest.mark.slow
def test_a_bare_deployment_name_runs_and_a_parameter_that_the_flow_has_not_is_refused(project: Any) -> None:
    command = ("-m", "prefect", "deployment", "run", "toy", "--watch", "--param", f"word={json.dumps(EVIL)}")
    assert "Flow run finished successfully in 'Completed'" in project.run(*command).stdout
    run = assert_the_toy_run_is_shown(project)
    question = {"state": {"type": "SCHEDULED"}, "parameters": {"wrod": "tree"}}
    refused = project.ask(f"/deployments/{run['deployment_id']}/create_flow_run", question, code=409)
    assert "'wrod' was unexpected" in json.dumps(refused)


@pytest.mark.slow
def test_a_run_in_the_command_itself_uses_the_server_and_fails_in_one_sentence(project: Any) -> None:
    port = project.api.port  # taken, so the recipe's own server cannot have it
    settings = ("scenes.num_images=40", f'scenes.base_url="http://127.0.0.1:{port}"', f"serve.port={port}")
    arguments = [argument for setting in settings for argument in ("--set", setting)]
    found = project.run("-m", "flows.cli", "build", "scenes", *arguments, code=75)  # it may work later
    assert f"vernaclip: serve.port {port} cannot be used" in found.stderr
    assert "Traceback" not in found.stderr
    (run,) = project.ask("/flow_runs/filter", {"flows": {"name": {"any_": ["build-dataset"]}}})
    assert (run["name"], run["state_type"]) == ("scenes in catalog", "FAILED")
    assert run["state"]["message"] in found.stderr, "the page says the same sentence"
    logs = project.ask("/logs/filter", {"logs": {"flow_run_id": {"any_": [run["id"]]}}})
    assert not any("Traceback" in log["message"] for log in logs)


@pytest.mark.slow
def test_down_stops_all_and_leaves_the_users_lines(project: Any) -> None:
    assert drive(project, "down") == ["worker", "watcher", "server"]
    assert (project.folder / ".env").read_text(encoding="utf-8") == "MINE=1\n"
    assert drive(project, "down") == []
    project.until(lambda: not project.processes())


@pytest.mark.slow
def test_a_step_that_kills_its_workers_is_given_up(project_in: Any, tmp_path: Path) -> None:
    found = toys_in(project_in(tmp_path)).run("driver.py", "alone", "on_dask", "deadly")
    deadly = json.loads(found.stdout.splitlines()[-1])
    assert deadly["deadly"].startswith("InputError: deadly 00007: several Dask workers died during this step")
    assert deadly["after"] == 3
