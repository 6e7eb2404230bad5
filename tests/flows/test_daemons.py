"""Background processes, the truth about whether they and runs are alive, and processes that are told to end."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun

from data_catalog.errors import BusyError
from flows.orchestration import daemons
from flows.orchestration.daemons import Daemon
from flows.orchestration.services import process_of
from flows.signals import exit_on_signals


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


def test_one_that_does_not_listen_is_killed(daemon: Daemon) -> None:
    start(daemon, "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(60)")
    assert daemons.wait_until(lambda: daemon.log_path.read_text(encoding="utf-8") != "", daemon, timeout_s=60)
    daemons.end(daemon, timeout_s=0.2)
    assert daemons.running_pid(daemon) is None


def test_its_last_words_can_be_quoted(daemon: Daemon) -> None:
    assert daemon.last_words() == ""
    start(daemon, "print('one'); print('two'); raise SystemExit('no luck')")
    assert daemons.wait_for_end(daemon, timeout_s=60)
    assert sorted(daemon.last_words().splitlines()) == ["no luck", "one", "two"]
    assert len(daemon.last_words(2).splitlines()) == 2


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
        for other in (process.pid, os.getpid(), None, "", "machine:17"):
            assert process_of(flow_run(other)) is None, other
        process.communicate(b"\n")
    assert process_of(run) is None


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
