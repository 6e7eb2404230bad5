"""Which Prefect API a project talks to: lines in `.env`, what answers there, bare names; and background processes."""

import asyncio
import os
import signal
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

import pytest
from loopback import LoopbackHandler, LoopbackServer
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from data_catalog.base.errors import BusyError, DiskError, SettingsError
from flows.orchestration import daemons, prefect_plugin, services
from flows.orchestration.daemons import Daemon
from flows.orchestration.doctor import diagnose
from flows.orchestration.prefect_env import (
    Api,
    answers,
    configured_api,
    prefect_environment,
    probe,
    read_env_block,
    remove_env_block,
    server_environment,
    state_folder,
    write_env_block,
)
from flows.orchestration.run_processes import give_up_gone_runs, process_labels, process_of
from flows.signals import exit_on_signals

API = Api(url="http://127.0.0.1:4321/api", auth_string="vernaclip:s3cret")


@pytest.mark.parametrize("before", [None, "A=1\n", "A=1", "# note\n\nB='x y'\n"])
def test_what_up_writes_is_private_and_the_users_own_lines_stay(tmp_path: Path, before: str | None) -> None:
    path = tmp_path / ".env"
    if before:
        path.write_text(before, encoding="utf-8")
    for api in (Api(url="http://127.0.0.1:1/api"), API):
        write_env_block(tmp_path, api)
        assert read_env_block(tmp_path) == api
    assert (path.stat().st_mode & 0o777, state_folder(tmp_path).stat().st_mode & 0o777) == (0o600, 0o700)
    assert "s3cret" not in repr(API)
    assert path.read_text(encoding="utf-8").count("PREFECT_API_URL") == 1
    remove_env_block(tmp_path)
    assert read_env_block(tmp_path) is None
    assert path.exists() == bool(before)
    assert not before or path.read_text(encoding="utf-8") == before.rstrip("\n") + "\n"
    path.write_text("PREFECT_API_URL=http://elsewhere/api", encoding="utf-8")
    remove_env_block(tmp_path)
    assert read_env_block(tmp_path) is None
    assert path.read_text(encoding="utf-8") == "PREFECT_API_URL=http://elsewhere/api"


def test_an_env_file_that_is_a_link_stays_one(tmp_path: Path) -> None:
    shared, project = tmp_path / "shared.env", tmp_path / "project"
    shared.write_text("A=1\n", encoding="utf-8")
    project.mkdir()
    (project / ".env").symlink_to(shared)
    write_env_block(project, API)
    assert read_env_block(project) == API
    remove_env_block(project)
    assert ((project / ".env").readlink(), shared.read_text(encoding="utf-8")) == (shared, "A=1\n")


def test_a_folder_where_prefect_can_keep_no_state_is_told_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / ".vernaclip").touch()  # a folder that cannot be written is none for root
    with pytest.raises(DiskError, match=r"\.vernaclip, in which .* or use --executor local"):
        state_folder(tmp_path)


def test_an_env_file_that_is_not_utf8_is_named_and_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / ".env"
    path.write_bytes(b"\nNAME=\xe9t\xe9\n")
    for call in (lambda: write_env_block(Path(), API), lambda: remove_env_block(Path()), configured_api):
        with pytest.raises(SettingsError, match=r"\.env is not UTF-8 \(line 2\): save it as UTF-8"):
            call()
    assert path.read_bytes() == b"\nNAME=\xe9t\xe9\n"
    told = [(each.severity, each.topic) for each in diagnose(tmp_path, tmp_path) if ".env is not UTF-8" in each.text]
    assert told == [("broken", "Prefect")], "the doctor goes on"


@pytest.mark.parametrize("named", [None, "/data/italy"])
def test_deployments_have_the_root_that_commands_have(
    named: str | None, monkeypatch: pytest.MonkeyPatch, told: Any, tmp_path: Path
) -> None:
    client = MagicMock(**{"read_automations_by_name.return_value": [MagicMock(id="of an earlier version")]})

    def start(project: Path, *, deploy: services.Deploy, port: int | None) -> services.Services:
        return services.Services(api=API, started=(), ours=True, deployments=tuple(deploy(client, project)))

    monkeypatch.setattr(services, "up", start)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VERNACLIP_ROOT", raising=False)
    if named:
        monkeypatch.setenv("VERNACLIP_ROOT", named)
    assert "prefect flow-run logs ID says why" in told(["up"])
    made = [call.kwargs["parameters"] for call in client.create_deployment.call_args_list]
    assert {"recipe": "italian", "root": named or "catalog"} in made
    assert {parameters["root"] for parameters in made} == {named or "catalog"}
    client.delete_automation.assert_called_once_with("of an earlier version")
    assert not client.create_automation.called, "a server cannot see whether the process of a silent run lives"


def test_no_server_of_ours_starts_without_an_auth_string(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no auth string"):
        server_environment(Api(url=API.url), tmp_path / "prefect.db")


def test_a_file_of_the_project_stands_in_for_no_module_of_the_server(tmp_path: Path) -> None:
    (tmp_path / "secrets.py").write_text("raise SystemExit('not for you')", encoding="utf-8")
    environment = {**os.environ, **prefect_environment()}
    subprocess.run([sys.executable, "-m", "secrets"], cwd=tmp_path, env=environment, check=True)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, "127.0.0.1,localhost"),
        ({"NO_PROXY": "example.org"}, "example.org,127.0.0.1,localhost"),
        ({"NO_PROXY": "hidden.org", "no_proxy": "localhost, example.org"}, "localhost,example.org,127.0.0.1"),
        ({"no_proxy": "*"}, "*"),
    ],
)
def test_no_proxy_stands_between_us_and_our_own_machine(
    before: dict[str, str], after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        if name in before:
            monkeypatch.setenv(name, before[name])
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


@pytest.mark.parametrize(
    ("auth_string", "expected"),
    [("user:pass", "answers"), ("secret", "answers"), ("user:wrong", "refuses"), (None, "refuses")],
)
def test_a_server_answers_or_refuses_by_the_whole_auth_string(auth_string: str | None, expected: str) -> None:
    with listening(like_prefect) as url:
        assert probe(Api(url=url, auth_string=auth_string)) == expected
        if expected == "refuses":
            with pytest.raises(SettingsError, match=r"run `vernaclip up` again\. Else correct"):
                answers(Api(url=url, auth_string=auth_string), otherwise="")
    assert probe(Api(url=url, auth_string=auth_string)) == "silent"
    with listening(lambda path, authorization: 404) as url:
        assert probe(Api(url=url)) == "silent", "another program"


def test_up_waits_for_a_server_that_is_not_ready_and_tells_what_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A busy machine's server answers 503 meanwhile, here 6 times to each question: Prefect's client then gave up."""
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


@pytest.mark.parametrize(
    ("url", "variables"),
    [
        ("http://127.0.0.1:notaport/api", {}),
        ("nonsense", {}),
        ("file:///etc/api", {}),
        ("https://prefect.invalid/api", {"SSL_CERT_FILE": "/nowhere/certificates.pem"}),
        ("https://prefect.invalid/api", {"ALL_PROXY": "socks5://127.0.0.1:9"}),
    ],
)
def test_what_reaches_no_server_is_silent(url: str, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert probe(Api(url=url)) == "silent"


class Client:
    """A client of a server with the deployments `scenes`, of the flow `build-dataset`, and `twin`, of two flows."""

    def read_deployments(self, deployment_filter: Any) -> list[SimpleNamespace]:
        flows = {"scenes": ["build-dataset"], "twin": ["b", "a"]}
        return [SimpleNamespace(flow_id=flow) for flow in flows.get(deployment_filter.name.any_[0], [])]

    def read_flow(self, flow_id: str) -> SimpleNamespace:
        return SimpleNamespace(name=flow_id)

    def read_deployment_by_name(self, name: str) -> str:
        return f"found {name}"


class AsyncClient:
    """The same, to be awaited."""

    async def read_deployments(self, deployment_filter: Any) -> list[SimpleNamespace]:
        return Client().read_deployments(deployment_filter)

    async def read_flow(self, flow_id: str) -> SimpleNamespace:
        return Client().read_flow(flow_id)

    async def read_deployment_by_name(self, name: str) -> str:
        return f"found {name}"


def test_bare_and_full_names_of_deployments_are_understood_by_both_clients() -> None:
    for _ in range(2):  # twice is as good as once
        prefect_plugin.wrap_lookup(AsyncClient, Client)
    names = {"scenes": "build-dataset/scenes", "x/scenes": "x/scenes", "none": "none/none"}
    for name, expected in names.items():
        assert Client().read_deployment_by_name(name) == f"found {expected}"
        assert asyncio.run(AsyncClient().read_deployment_by_name(name)) == f"found {expected}"
    with pytest.raises(SettingsError, match="one of a/twin, b/twin"):
        Client().read_deployment_by_name("twin")


def test_prefect_finds_the_plugin_and_one_that_has_moved_its_client_goes_on_with_full_names(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (point,) = [point for point in entry_points(group="prefect.plugins") if point.name == "vernaclip"]
    monkeypatch.setitem(sys.modules, "prefect.client.orchestration._deployments.client", None)
    point.load().setup_environment(ctx=SimpleNamespace(prefect_version="9.9"))
    assert "use full names" in caplog.text


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    sleeper = Daemon(name="sleeper", folder=tmp_path)
    yield sleeper
    daemons.kill(sleeper)


def start(daemon: Daemon, code: str = "import time; time.sleep(60)") -> int:
    return daemons.start(daemon, [sys.executable, "-c", code], environment={}, working_dir=daemon.folder)


def test_a_daemon_runs_alone_until_it_is_told_to_end(daemon: Daemon) -> None:
    daemon.lock_path.write_text(f"{os.getpid()}\n", encoding="ascii")
    assert daemons.running_pid(daemon) is None, "a process id alone means nothing"
    daemons.kill(daemon)  # would end this very test
    pid = start(daemon)
    with pytest.raises(BusyError, match="is running already"):
        start(daemon)
    assert daemons.running_pid(daemon) == pid == os.getsid(pid)
    assert not daemons.wait_for_end(daemon, timeout_s=0)
    daemons.end(daemon, timeout_s=10)
    assert daemons.running_pid(daemon) is None
    assert start(daemon) != pid


def test_no_earlier_id_goes_with_the_lock_of_a_new_process(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """`up` is killed as soon as the process has begun: its id may be anybody's by now."""
    daemon.lock_path.write_text(f"{os.getpid()}\n", encoding="ascii")
    there: list[str] = []

    def killed(*_: Any, **__: Any) -> None:
        there.append(daemon.lock_path.read_text(encoding="ascii"))
        raise SystemExit(137)

    monkeypatch.setattr(subprocess, "Popen", killed)
    with pytest.raises(SystemExit):
        start(daemon)
    assert there == [""]


def test_one_that_does_not_listen_is_killed(daemon: Daemon) -> None:
    start(daemon, "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(60)")
    assert daemons.wait_until(lambda: daemon.log_path.read_text(encoding="utf-8") != "", daemon, timeout_s=60)
    daemons.end(daemon, timeout_s=0.2)
    assert daemons.running_pid(daemon) is None


def test_down_that_is_interrupted_leaves_a_worker_that_takes_runs(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while it waits for a run."""
    client = MagicMock(**{"read_flow_runs.side_effect": KeyboardInterrupt})
    monkeypatch.setattr(services, "_client", lambda api: nullcontext(client))
    monkeypatch.setattr(services, "_daemon", lambda project, name: daemon)
    monkeypatch.setattr(Api, "is_up", lambda api: True)
    write_env_block(daemon.folder, API)
    start(daemon)
    with pytest.raises(KeyboardInterrupt):
        services.down(daemon.folder)
    assert daemons.running_pid(daemon) is not None
    *_, (_, last) = [call.args for call in client.update_work_pool.call_args_list]
    assert last.is_paused is False


def flow_run(pid: object, **more: Any) -> FlowRun:
    return FlowRun(id=uuid4(), flow_id=uuid4(), infrastructure_pid=None if pid is None else str(pid), **more)


def test_the_process_of_a_run_is_found_by_its_id() -> None:
    """A process id alone may belong to another run by now."""
    run, code = flow_run(None), "print(flush=True); input()"
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
            assert process_of(flow_run(other)) is None, other
        process.communicate(b"\n")
    assert process_of(run) is None


def test_a_silent_run_is_given_up_only_after_two_looks_at_its_process(tmp_path: Path) -> None:
    """Nobody hears of these runs. A new state, a retry's, starts anew; runs of other machines are theirs to look at."""
    daemon = Daemon(name="run", folder=tmp_path)
    pid = start(daemon)
    mine = process_labels(pid)
    runs = {
        "live": mine,
        "not recorded": {},
        "elsewhere": mine | {"vernaclip.host": "elsewhere", "vernaclip.pid": 2**22 + 1},
        "another has its id": mine | {"vernaclip.started": "an hour ago"},
    }
    found = [
        FlowRun(id=uuid4(), flow_id=uuid4(), name=name, labels=labels, state_id=uuid4())
        for name, labels in runs.items()
    ]
    client = MagicMock(**{"read_flow_runs.return_value": found})

    def given_up() -> list[str]:
        names = {run.id: run.name for run in found}
        return [names[call.args[0]] for call in client.set_flow_run_state.call_args_list]

    try:
        missing = give_up_gone_runs(client, set())
        assert given_up() == []
        missing = give_up_gone_runs(client, missing)
        assert given_up() == ["another has its id"]
        assert client.set_flow_run_state.call_args.args[1].message == "its process is gone"
        assert process_of(found[0]) == pid
    finally:
        daemons.kill(daemon)
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
