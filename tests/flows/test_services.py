"""Prefect servers, temporary and lasting: `up`, the literal `prefect deployment run NAME`, Dask, crashes and `down`.

One lasting server serves all tests that ask for `project`, in the order in which they stand.
"""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock
from uuid import uuid4

import httpx
import pytest
from loopback import LoopbackHandler, LoopbackServer
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from data_catalog.base.errors import BusyError, DiskError, InputError, SettingsError
from data_catalog.disk.lock import writer_lock
from flows.orchestration import prefect_plugin, services
from flows.orchestration.daemons import Daemon
from flows.orchestration.prefect_env import (
    Api,
    answers,
    configured_api,
    prefect_environment,
    probe,
    read_env_block,
    state_folder,
    write_env_block,
)
from flows.orchestration.run_processes import give_up_gone_runs, process_labels, process_of
from flows.signals import exit_on_signals

API = Api(url="http://127.0.0.1:4321/api", auth_string="vernaclip:s3cret")
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


def run_is(project: Any, run_id: str, state: str) -> bool:
    """Whether a run is in a state; what it ended in instead is told."""
    found = project.ask(f"/flow_runs/{run_id}")
    assert found["state_type"] in ("SCHEDULED", "PENDING", "RUNNING", state), found["state"]
    return bool(found["state_type"] == state)


def assert_the_toy_run_is_shown(project: Any, *more: str) -> dict[str, Any]:
    """Each step is a task with its logs; artifacts have the progress and a table, without markup."""
    newest = {"sort": "EXPECTED_START_TIME_DESC", "limit": 1}
    (run,) = project.ask("/flow_runs/filter", {"flows": {"name": {"any_": ["toy"]}}, **newest})
    assert run["state_type"] == "COMPLETED"
    completed = [*(f"count {number:05d}" for number in range(3)), "flaky 1", "near", "here", *more]
    expected = {**dict.fromkeys(completed, "COMPLETED"), "broken": "FAILED"}

    def tasks_at_the_end() -> dict[str, Any]:
        """Prefect sends the states of tasks some seconds after the run's."""
        found = project.ask("/task_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
        ended = {task["name"]: task for task in found if task["state_type"] in ("COMPLETED", "FAILED")}
        return ended if {name: task["state_type"] for name, task in ended.items()} == expected else {}

    tasks = project.until(tasks_at_the_end)
    assert (tasks["flaky 1"]["run_count"], tasks["broken"]["run_count"]) == (3, 1)
    about = {"logs": {"flow_run_id": {"any_": [run["id"]]}}}
    told = f"step 7 in {project.folder.name}"  # Prefect sends logs some seconds after the run
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


SOCKETS = (
    "events/in",
    "events/out",
    "logs/out",
    "task_runs/subscriptions/scheduled",
    "work_pools/x/workers/connect",
)
FOREIGN = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "POST"}
PAGES = ("/", "/nothing", "/docs", "/static/prefect-logo-mark-gradient.png")


def assert_closed(api: Api, *, sample: int = 1) -> None:
    """Only its health is told to whoever lacks the password, by every `sample`-th route and socket, and by no page."""
    with httpx.Client(base_url=api.url, trust_env=False, timeout=60) as client:
        paths = client.get(f"{api.ui_url}/openapi.json").json()["paths"]
        methods = {"get", "post", "put", "patch", "delete"}
        found = [(method.upper(), path) for path, of in paths.items() for method in methods & set(of)]
        routes = sorted((method, re.sub(r"{[^}]*}", "0" * 8, path)) for method, path in found)
        assert len(routes) > 150
        for method, path in (*routes[::sample], *(("GET", path) for path in PAGES)):
            is_open = (method, path) in (("GET", "/health"), ("GET", "/ready"))
            assert client.request(method, path).status_code == (200 if is_open else 401), (method, path)
            assert is_open or client.request(method, path, auth=("vernaclip", "guess")).status_code == 401, path
        for method in ("GET", "OPTIONS"):
            answer = client.request(method, "/health", headers=FOREIGN)
            assert "access-control-allow-origin" not in answer.headers, method
        name, word = (api.auth_string or "").split(":")
        assert client.get("/admin/version", auth=(name, word)).status_code == 200
    for path in SOCKETS[::sample]:
        assert not socket_opens(api, path, None), path
        assert not socket_opens(api, path, "vernaclip:guess"), path
    assert socket_opens(api, "events/out", api.auth_string)


def socket_opens(api: Api, path: str, token: str | None) -> bool:
    """Whether a WebSocket is opened to whoever shows a token, or neither a token nor the subprotocol for one."""
    url = f"{api.url.replace('http', 'ws', 1)}/{path}"
    protocols = [Subprotocol("prefect")] if token else None
    try:
        with connect(url, subprotocols=protocols, open_timeout=60, proxy=None) as opened:
            if token:
                opened.send(json.dumps({"type": "auth", "token": token}))
            return "auth_success" in str(opened.recv(timeout=60))
    except (ConnectionClosed, InvalidStatus):
        return False


@pytest.mark.slower
def test_runs_without_an_answering_server_have_one_each_which_is_closed_and_ends_however_they_do(
    project_in: Any, free_port: int, tmp_path: Path
) -> None:
    """The user's own settings of a dead server and of a database are there. A server hangs when its run is killed."""
    project = toys_in(project_in(tmp_path))
    dead = {"PREFECT_API_URL": f"http://127.0.0.1:{free_port}/api", "PREFECT_API_AUTH_STRING": "old:secret"}
    database = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{tmp_path / 'shared.db'}"}
    with (
        project.start("driver.py", "flows") as other,
        project.start("driver.py", "flows", "toy", EVIL, **dead, **database) as process,
    ):
        try:
            is_configured, url, auth_string = json.loads(process.stdout.readline())
            assert not is_configured
            assert json.loads(process.stdout.readline()) is None
            project.found_api = Api(url=url, auth_string=auth_string)
            project.until(lambda: project.ask("/logs/filter", {}))  # they come last
            assert_the_toy_run_is_shown(project)
            assert_closed(project.api, sample=12)
            servers = project.processes("flows.orchestration.server")
            assert json.loads(other.stdout.readline())[1] != url
            other.communicate("")
            assert other.returncode == 0
            project.until(lambda: len(project.processes("flows.orchestration.server")) == 1)
            (server,) = servers & project.processes("flows.orchestration.server")
            os.kill(server, signal.SIGSTOP)
        finally:
            process.kill()
        told = process.stderr.read()
    assert f"no Prefect server answers at {dead['PREFECT_API_URL']}: this run uses a temporary server" in told
    assert told.count("step 2 in ") == 1
    project.until(lambda: not project.processes())
    assert {path.name for path in (tmp_path / ".vernaclip").glob("*.db")} == {"temporary-1.db", "temporary-2.db"}
    assert not (tmp_path / "shared.db").exists()


def test_a_busy_port_is_refused_and_so_is_a_second_up_at_once(tmp_path: Path) -> None:
    with writer_lock(state_folder(tmp_path)), pytest.raises(BusyError, match=r"is being written by .*: wait until"):
        services.up(tmp_path, deploy=lambda client, project: ())
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(BusyError, match=f"port {port} is taken"):
            services.up(tmp_path, deploy=lambda client, project: (), port=port)
    assert not (tmp_path / ".env").exists()


def test_a_new_password_of_the_server_ends_the_worker_and_watcher_that_know_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user has deleted `.env`; later the server is killed."""
    daemons = {name: MagicMock(folder=tmp_path) for name in ("server", "worker", "watcher")}
    monkeypatch.setattr(services, "_daemon", lambda project, name: daemons[name])
    monkeypatch.setattr(services, "_client", lambda api: nullcontext(MagicMock()))
    monkeypatch.setattr(services, "configured_api", lambda: None)
    monkeypatch.setattr(services, "start_server", MagicMock())
    for pid in (7, None):
        daemons["server"].pid.return_value = pid
        services.up(tmp_path, deploy=lambda client, project: ())
        assert [daemons[name].end.call_count for name in ("worker", "watcher")] == [1, 1]


def test_up_says_when_a_port_has_no_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(services, "_ensure_server", lambda project, port: (API, False))
    monkeypatch.setattr(services, "_client", MagicMock(side_effect=KeyboardInterrupt))
    for port in (4321, 9):
        with pytest.raises(KeyboardInterrupt):
            services.up(tmp_path, deploy=MagicMock(), port=port)
    assert [word for word in caplog.text.split() if word.isdigit()] == ["9"]


def test_a_wrong_recipe_is_refused_before_prefect_is_loaded(told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.orchestration.server.run_flow", None)  # which loads it
    assert "build.workers must be at least 1" in told(["build", "scenes", "--set", "build.workers=-1"], code=1)


@pytest.fixture(scope="module")
def project(project_in: Any, unused_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    project = toys_in(project_in(tmp_path_factory.mktemp("50%41 of a project's runs #1 & ü")))
    (project.folder / ".env").write_text("MINE=1\n", encoding="utf-8")
    try:
        assert drive(project, "up", str(unused_port)) == ["server", "worker"]
        yield project
    finally:
        services.down(project.folder, now=True)
        project.until(lambda: not project.processes())


def test_up_starts_a_worker_that_runs_a_deployment_whose_steps_end_on_a_cluster_as_in_threads(project: Any) -> None:
    """Started as the pages do. Log lines of the cluster are printed once, and none of its processes stays."""
    deployment = project.ask("/deployments/name/toy/toy")
    question = {"state": {"type": "SCHEDULED"}, "parameters": {"dask": True}}
    run_id = project.ask(f"/deployments/{deployment['id']}/create_flow_run", question)["id"]
    project.until(lambda: run_is(project, run_id, "COMPLETED"))
    assert assert_the_toy_run_is_shown(project, "signals")["work_pool_name"] == "vernaclip"
    project.until(lambda: not project.processes("spawn_main"))
    printed = (project.folder / ".vernaclip" / "worker.log").read_text(encoding="utf-8")
    assert printed.count("step 2 in ") == 1


@pytest.mark.slow
def test_up_again_starts_nothing_and_the_lasting_server_is_closed_without_its_auth_string(project: Any) -> None:
    assert drive(project, "up") == []
    assert (project.folder / ".env").stat().st_mode & 0o777 == 0o600
    assert project.api.url.startswith("http://127.0.0.1:")
    assert "<html" in httpx.get(project.api.ui_url, trust_env=False).text, "it has pages"
    assert_closed(project.api)


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
    port = project.api.ui_url.rpartition(":")[2]  # taken, so the recipe's own server cannot have it
    settings = ("scenes.num_images=40", f'scenes.base_url="http://127.0.0.1:{port}"', f"serve.port={port}")
    arguments = [argument for setting in settings for argument in ("--set", setting)]
    found = project.run("-m", "flows.cli", "build", "scenes", *arguments, code=75)  # it may work later
    assert f"vernaclip: serve.port {port} (" in found.stderr
    assert "Traceback" not in found.stderr
    (run,) = project.ask("/flow_runs/filter", {"flows": {"name": {"any_": ["build-dataset"]}}})
    assert (run["name"], run["state_type"]) == ("scenes in catalog", "FAILED")
    assert run["state"]["message"] in found.stderr, "the page says the same sentence"
    logs = project.ask("/logs/filter", {"logs": {"flow_run_id": {"any_": [run["id"]]}}})
    assert not any("Traceback" in log["message"] for log in logs)


@pytest.mark.slow
def test_a_step_that_kills_its_workers_is_given_up(project: Any) -> None:
    is_configured, ended = map(json.loads, project.run("driver.py", "flows", "deadly", "x").stdout.splitlines())
    assert is_configured[0]
    assert ended[0].startswith("InputError: deadly 00007: several Dask workers died during this step")
    assert ended[1] == 3


@pytest.mark.slow
def test_down_stops_all_and_leaves_the_users_lines(project: Any) -> None:
    assert drive(project, "down") == ["worker", "watcher", "server"]
    assert (project.folder / ".env").read_text(encoding="utf-8") == "MINE=1\n"
    assert drive(project, "down") == []
    project.until(lambda: not project.processes())


@pytest.mark.parametrize("before", [None, "A=1\n", "# note\n\nB='x y'"])
def test_what_up_writes_is_private_and_the_users_own_lines_stay(tmp_path: Path, before: str | None) -> None:
    path, target = tmp_path / ".env", tmp_path / "shared.env"
    if before:
        target.write_text(before, encoding="utf-8")
        path.symlink_to(target)
    for api in (Api(url="http://127.0.0.1:1/api"), API):
        write_env_block(tmp_path, api)
        assert read_env_block(tmp_path) == api
    assert (path.stat().st_mode & 0o777, state_folder(tmp_path).stat().st_mode & 0o777) == (0o600, 0o700)
    assert "s3cret" not in repr(API)
    assert path.read_text(encoding="utf-8").count("PREFECT_API_URL") == 1
    write_env_block(tmp_path, None)
    assert read_env_block(tmp_path) is None
    assert path.is_symlink() == path.exists() == bool(before)
    assert not before or target.read_text(encoding="utf-8") == before.rstrip("\n") + "\n"
    path.write_text("PREFECT_API_URL=http://elsewhere/api", encoding="utf-8")
    write_env_block(tmp_path, None)
    assert path.read_text(encoding="utf-8") == "PREFECT_API_URL=http://elsewhere/api"


def test_a_place_that_cannot_be_used_is_told_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".vernaclip").touch()  # a folder that cannot be written is none for root
    with pytest.raises(DiskError, match=r"\.vernaclip, in which .* or use --executor local"):
        state_folder(tmp_path)
    (tmp_path / ".env").write_bytes(b"\nNAME=\xe9t\xe9\n")
    for call in (lambda: write_env_block(tmp_path, API), configured_api):
        with pytest.raises(SettingsError, match=r"\.env cannot be read .*: save it as UTF-8"):
            call()
    assert (tmp_path / ".env").read_bytes() == b"\nNAME=\xe9t\xe9\n"


@pytest.mark.parametrize("named", [None, "/data/italy"])
def test_deployments_have_the_root_that_commands_have(
    named: str | None, monkeypatch: pytest.MonkeyPatch, told: Any, tmp_path: Path
) -> None:
    client = MagicMock()

    def start(project: Path, *, deploy: services.Deploy, port: int | None) -> Any:
        return API, [], deploy(client, project)

    monkeypatch.setattr(services, "up", start)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VERNACLIP_ROOT", raising=False)
    if named:
        monkeypatch.setenv("VERNACLIP_ROOT", named)
    assert "prefect flow-run logs ID says why" in told(["up"])
    made = [call.kwargs["parameters"] for call in client.create_deployment.call_args_list]
    assert {"recipe": "italian", "root": named or "catalog"} in made
    assert {parameters["root"] for parameters in made} == {named or "catalog"}
    assert not client.create_automation.called, "a server cannot see whether the process of a silent run lives"


def test_neither_a_file_of_the_project_nor_a_proxy_stands_between_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secrets.py").write_text("raise SystemExit('not for you')", encoding="utf-8")
    environment = {**os.environ, **prefect_environment()}
    subprocess.run([sys.executable, "-m", "secrets"], cwd=tmp_path, env=environment, check=True)
    monkeypatch.setenv("NO_PROXY", "hidden.org")
    for before, after in (("localhost, a.org", "localhost,a.org,127.0.0.1"), ("*", "*")):
        monkeypatch.setenv("no_proxy", before)
        assert prefect_environment()["no_proxy"] == after


@contextmanager
def listening(status_of: Callable[[str, str | None], int]) -> Iterator[str]:
    """An HTTP server that answers each path and Authorization header with a status, and with no items if 200."""

    class Handler(LoopbackHandler):
        def do_GET(self) -> None:
            status = status_of(self.path, self.headers.get("Authorization"))
            self.answer(status, b"[]" if status == 200 else b"")

    with LoopbackServer(Handler) as server:
        yield server.url("/api")


def like_prefect(path: str, authorization: str | None) -> int:
    """A server that shows its health to everybody and its version to who sends one string, or another without colon."""
    return 200 if path == "/api/health" or authorization in ("Basic dXNlcjpwYXNz", "Basic c2VjcmV0") else 401


def test_a_server_answers_or_refuses_by_the_whole_auth_string_and_others_are_silent() -> None:
    with listening(like_prefect) as url:
        for auth_string, expected in {"user:pass": 200, "secret": 200, None: 401}.items():
            assert probe(Api(url=url, auth_string=auth_string)) == expected
        with pytest.raises(SettingsError, match=r"run `vernaclip up` again\. Else correct"):
            answers(Api(url=url, auth_string="user:wrong"), otherwise="")
    with listening(lambda path, authorization: 404) as another_program:
        for silent in (another_program, url, "http://127.0.0.1:notaport/api", "nonsense", "file:///etc/api"):
            assert probe(Api(url=silent)) == 0, silent


def test_up_waits_for_a_server_that_is_not_ready_and_tells_what_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A busy machine's server answers 503 meanwhile, here 6 times to each question: Prefect's client then gave up."""
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    asked: Counter[str] = Counter()

    def status_of(path: str, _: str | None) -> int:
        asked[path] += 1
        return 200 if asked[path] > 6 else 503

    def deploy(client: Any, project: Path) -> tuple[()]:
        assert client.request("GET", "/work_queues/").json() == []
        raise BusyError("deployed")  # the rest needs a real server

    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with listening(status_of) as url:
        retries = int(prefect_environment()["PREFECT_CLIENT_MAX_RETRIES"])  # as in a process that imports Prefect later
        with (
            temporary_settings({PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: retries}),
            caplog.at_level("INFO", "flows"),
            pytest.raises(BusyError, match="deployed"),
        ):
            services.up(tmp_path, deploy=deploy)
    assert min(asked.values()) > 6
    told = ["loading Prefect", f"the Prefect server at {url.removesuffix('/api')} answers", "registering deployments"]
    assert caplog.messages == told


class Client:
    """A client of a server with the deployments `scenes`, of the flow `build-dataset`, and `twin`, of two flows."""

    async def read_deployments(self, deployment_filter: Any) -> list[SimpleNamespace]:
        flows = {"scenes": ["build-dataset"], "twin": ["b", "a"]}
        return [SimpleNamespace(flow_id=flow) for flow in flows.get(deployment_filter.name.any_[0], [])]

    async def read_flow(self, flow_id: str) -> SimpleNamespace:
        return SimpleNamespace(name=flow_id)

    async def read_deployment_by_name(self, name: str) -> str:
        return f"found {name}"


def test_bare_and_full_names_of_deployments_are_understood() -> None:
    for _ in range(2):  # twice is as good as once
        prefect_plugin.wrap_lookup(Client)
    for name, expected in {"scenes": "build-dataset/scenes", "x/scenes": "x/scenes", "none": "none/none"}.items():
        assert asyncio.run(Client().read_deployment_by_name(name)) == f"found {expected}"
    with pytest.raises(SettingsError, match="one of a/twin, b/twin"):
        asyncio.run(Client().read_deployment_by_name("twin"))


def test_prefect_finds_the_plugin_and_one_that_has_moved_its_client_goes_on_with_full_names(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (point,) = [point for point in entry_points(group="prefect.plugins") if point.name == "vernaclip"]
    monkeypatch.setitem(sys.modules, "prefect.client.orchestration._deployments.client", None)
    point.load().setup_environment(ctx=SimpleNamespace(prefect_version="9.9"))
    assert "use full names" in caplog.text


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    (tmp_path / "sleeper.py").write_text(
        """if True:
        import signal, sys, time
        if "stubborn" in sys.argv: signal.signal(15, signal.SIG_IGN)
        print("up", flush=True)
        time.sleep(60)
        """,
        encoding="utf-8",
    )
    folder = tmp_path / ".vernaclip"
    folder.mkdir()
    sleeper = Daemon(name="sleeper", folder=folder)
    yield sleeper
    sleeper.end(timeout_s=0)


def start(daemon: Daemon, *words: str) -> int:
    path = str(daemon.folder.parent)
    daemon.start(["sleeper", *words], api_url=API.url, environment={"PYTHONPATH": path})
    assert daemon.wait_until(lambda: (daemon.folder / "sleeper.log").read_text() == "up\n", timeout_s=60)
    return daemon.pid() or 0


def test_a_daemon_runs_alone_until_it_is_told_to_end(daemon: Daemon) -> None:
    daemon.lock_path.write_text(f"{os.getpid()} {API.url}\n", encoding="ascii")
    assert daemon.pid() is None, "a process id alone means nothing"
    daemon.end(timeout_s=0)  # would end this very test
    pid = start(daemon)
    with pytest.raises(BusyError, match="is running already"):
        start(daemon)
    assert daemon.pid() == pid == os.getsid(pid)
    assert (daemon.is_for(API.url), daemon.is_for("http://127.0.0.1:1/api")) == (True, False)
    daemon.end(timeout_s=10)
    assert daemon.pid() is None
    assert not daemon.is_for(API.url)
    assert start(daemon, "stubborn") != pid
    with pytest.raises(InputError, match=r"Prefect's sleeper did not start\. .*sleeper\.log:\nup$"):
        daemon.require(lambda: bool(os.kill(daemon.pid() or 0, signal.SIGKILL)))
    start(daemon, "stubborn")
    daemon.end(timeout_s=0.2)
    assert daemon.pid() is None


def test_no_earlier_id_goes_with_the_lock_of_a_new_process(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """`up` is killed as soon as the process has begun: its id may be anybody's by now."""
    daemon.lock_path.write_text(f"{os.getpid()} {API.url}\n", encoding="ascii")
    killed = MagicMock(side_effect=lambda *_, **__: sys.exit(daemon.lock_path.read_text(encoding="ascii")))
    monkeypatch.setattr(subprocess, "Popen", killed)
    with pytest.raises(SystemExit, match=r"^$"):
        start(daemon)


def test_down_that_is_interrupted_leaves_a_worker_that_takes_runs(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while it waits for a run."""
    client = MagicMock(**{"read_flow_runs.side_effect": KeyboardInterrupt})
    monkeypatch.setattr(services, "_client", lambda api: nullcontext(client))
    monkeypatch.setattr(services, "_daemon", lambda project, name: daemon)
    monkeypatch.setattr(services, "probe", lambda api: 200)
    write_env_block(daemon.folder.parent, API)
    start(daemon)
    with pytest.raises(KeyboardInterrupt):
        services.down(daemon.folder.parent)
    assert daemon.pid() is not None
    *_, (_, last) = [call.args for call in client.update_work_pool.call_args_list]
    assert last.is_paused is False


def flow_run(name: str = "", labels: Any = None, pid: object = None) -> Any:
    from prefect.client.schemas.objects import FlowRun

    own = None if pid is None else str(pid)
    return FlowRun(
        id=uuid4(), flow_id=uuid4(), name=name, labels=labels or {}, state_id=uuid4(), infrastructure_pid=own
    )


def test_the_process_of_a_run_is_found_by_its_id() -> None:
    """A process id alone may belong to another run by now."""
    run, code = flow_run(), "print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "prefect.engine"],
        env={**os.environ, "PREFECT__FLOW_RUN_ID": str(run.id)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        run.infrastructure_pid = str(process.pid)
        assert process_of(run) == process.pid
        for other in (process.pid, os.getpid(), None, "", "machine:17"):
            assert process_of(flow_run(pid=other)) is None, other
        process.communicate(b"\n")
    assert process_of(run) is None


def test_a_silent_run_is_given_up_only_after_two_looks_at_its_process(daemon: Daemon) -> None:
    """Nobody hears of these runs. A new state, a retry's, starts anew; runs of other machines are theirs to look at."""
    pid = start(daemon)
    mine = process_labels(pid)
    runs = {
        "live": mine,
        "not recorded": {},
        "elsewhere": mine | {"vernaclip.host": "elsewhere", "vernaclip.pid": 2**22 + 1},
        "another has its id": mine | {"vernaclip.started": "an hour ago"},
    }
    found = [flow_run(name, labels) for name, labels in runs.items()]
    client = MagicMock(**{"read_flow_runs.return_value": found})

    def given_up() -> list[str]:
        names = {run.id: run.name for run in found}
        return [names[call.args[0]] for call in client.set_flow_run_state.call_args_list]

    missing = give_up_gone_runs(client, set())
    assert given_up() == []
    missing = give_up_gone_runs(client, missing)
    assert given_up() == ["another has its id"]
    assert client.set_flow_run_state.call_args.args[1].message == "its process is gone"
    assert process_of(found[0]) == pid
    daemon.end(timeout_s=0)
    client.read_flow_runs.return_value = found[:3]
    missing = give_up_gone_runs(client, missing)
    found[0].state_id = uuid4()
    missing = give_up_gone_runs(client, missing)
    assert "live" not in given_up()
    give_up_gone_runs(client, missing)
    assert given_up() == ["another has its id", "live"]


BEGIN = """
import hashlib, sys, threading, time
from flows.signals import exit_on_signals
def say():
    sys.stdout.write("stuck\\n")
    sys.stdout.flush()
def stuck():
    threading.Timer(0.3, say).start()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""
IN_A_CALL_IN_C = """
with exit_on_signals(0.1):
    stuck()
"""
WITH_A_BUSY_THREAD = """
with exit_on_signals(0.1):
    threading.Thread(target=stuck).start()
    time.sleep(1000)
"""
WITH_A_HANDLER_OF_ITS_OWN = """
try:
    with exit_on_signals(20):
        say()
        time.sleep(1000)
except KeyboardInterrupt:
    sys.exit(7)
"""


@pytest.mark.parametrize(
    ("code", "status"), [(IN_A_CALL_IN_C, 130), (WITH_A_BUSY_THREAD, 130), (WITH_A_HANDLER_OF_ITS_OWN, 7)]
)
def test_a_process_ends_after_ctrl_c_whatever_it_is_at(code: str, status: int) -> None:
    command = [sys.executable, "-c", BEGIN + code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "stuck\n"
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == status
        finally:
            process.kill()


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: exit_on_signals(0.1).__enter__()).result(60) is None
