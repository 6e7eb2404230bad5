"""Background processes, the truth about whether they and runs are alive, and processes that are told to end."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from datetime import timedelta
from itertools import permutations
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.events.schemas.automations import Automation, AutomationCore

from data_catalog.errors import BusyError
from flows.orchestration import daemons
from flows.orchestration.daemons import Daemon
from flows.orchestration.services import ensure_automation, process_of


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    sleeper = Daemon(name="sleeper", folder=tmp_path)
    yield sleeper
    daemons.kill(sleeper)


def start(daemon: Daemon, code: str = "import time; time.sleep(60)") -> int:
    return daemons.start(daemon, [sys.executable, "-c", code], environment={}, working_dir=daemon.folder)


def test_a_daemon_runs_alone_until_it_is_told_to_end(daemon: Daemon) -> None:
    assert daemons.running_pid(daemon) is None
    pid = start(daemon)
    assert daemons.running_pid(daemon) == pid == os.getsid(pid)
    with pytest.raises(BusyError, match="is running already"):
        start(daemon)
    assert daemons.running_pid(daemon) == pid
    assert not daemons.wait_for_end(daemon, timeout_s=0)
    daemons.end(daemon, timeout_s=10)
    assert daemons.running_pid(daemon) is None


def test_one_that_does_not_listen_is_killed(daemon: Daemon) -> None:
    start(daemon, "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(60)")
    assert daemons.wait_until(lambda: daemon.log_path.read_text(encoding="utf-8") != "", daemon, timeout_s=60)
    daemons.end(daemon, timeout_s=0.2)
    assert daemons.running_pid(daemon) is None


def test_a_process_id_alone_means_nothing(daemon: Daemon) -> None:
    daemon.lock_path.write_text(f"{os.getpid()}\n", encoding="ascii")
    assert daemons.running_pid(daemon) is None
    daemons.kill(daemon)  # would end this very test


def test_its_last_words_can_be_quoted_and_its_end_leaves_no_trace(daemon: Daemon) -> None:
    assert daemon.last_words() == ""
    pid = start(daemon, "print('one'); print('two'); raise SystemExit('no luck')")
    assert daemons.wait_for_end(daemon, timeout_s=60)
    assert sorted(daemon.last_words().splitlines()) == ["no luck", "one", "two"]
    assert len(daemon.last_words(2).splitlines()) == 2
    assert start(daemon) != pid


def flow_run(pid: object) -> FlowRun:
    return FlowRun(id=uuid4(), flow_id=uuid4(), infrastructure_pid=None if pid is None else str(pid))


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
        assert process_of(flow_run(process.pid)) is None
        process.communicate(b"\n")
    assert process_of(run) is None


@pytest.mark.parametrize("pid", [None, "", "machine:17", pytest.param(os.getpid(), id="our own")])
def test_what_is_no_process_of_a_run_is_none(pid: object) -> None:
    assert process_of(flow_run(pid)) is None


class Server:
    """Keeps automations as a Prefect server does: as JSON, in which sets are lists."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []
        self.num_updates = 0

    def read_automations_by_name(self, name: str) -> list[Automation]:
        return [Automation.model_validate(each) for each in self.kept if each["name"] == name]

    def create_automation(self, automation: AutomationCore) -> None:
        self.kept.append({**automation.model_dump(mode="json"), "id": str(uuid4())})

    def update_automation(self, automation_id: Any, automation: AutomationCore) -> None:
        self.num_updates += 1
        self.kept = [{**automation.model_dump(mode="json"), "id": str(automation_id)}]

    def delete_automation(self, automation_id: Any) -> None:
        self.kept = [each for each in self.kept if each["id"] != str(automation_id)]


def test_the_automation_for_runs_without_a_heartbeat_is_made_once_and_renewed_only_where_it_differs() -> None:
    server: Any = Server()
    ensure_automation(server, ["build-dataset", "train-clip"])
    (kept,) = server.kept
    for order in permutations(kept["trigger"]["expect"]):
        kept["trigger"]["expect"] = list(order)
        ensure_automation(server, ["build-dataset", "train-clip"])
    assert server.num_updates == 0
    kept |= {"enabled": False, "trigger": {**kept["trigger"], "within": 20.0}}
    server.kept.append({**kept, "id": str(uuid4())})
    ensure_automation(server, ["build-dataset", "train-clip"])
    (left,) = server.read_automations_by_name(kept["name"])
    assert (server.num_updates, left.enabled, left.trigger.within) == (1, False, timedelta(seconds=120))


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
OUTSIDE_THE_MAIN_THREAD = """
def inside():
    with exit_on_signals(0.1):
        say()
        time.sleep(1)
thread = threading.Thread(target=inside)
try:
    thread.start()
    thread.join()
except KeyboardInterrupt:
    thread.join()
    sys.exit(7)
"""


@pytest.mark.parametrize(
    ("code", "status"),
    [
        pytest.param(IN_A_CALL_IN_C, 128 + signal.SIGINT, id="in a call in C"),
        pytest.param(WITH_A_BUSY_THREAD, 128 + signal.SIGINT, id="with a busy thread"),
        pytest.param(WITH_A_HANDLER_OF_ITS_OWN, 7, id="with a handler of its own"),
        pytest.param(OUTSIDE_THE_MAIN_THREAD, 7, id="outside the main thread"),
    ],
)
def test_a_process_ends_after_ctrl_c_whatever_it_is_at(code: str, status: int) -> None:
    command = [sys.executable, "-c", BEGIN + textwrap.dedent(code)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "stuck\n"
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == status
        finally:
            process.kill()
