"""Background processes and the truth about whether they run."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_catalog.errors import BusyError
from flows.orchestration import daemons
from flows.orchestration.daemons import Daemon

SLEEP = [sys.executable, "-c", "import os, time; print('hello', os.environ['WHO'], flush=True); time.sleep(60)"]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    sleeper = Daemon(name="sleeper", folder=tmp_path)
    yield sleeper
    daemons.kill(sleeper)


def start(daemon: Daemon) -> int:
    return daemons.start(daemon, SLEEP, environment={"WHO": "world"}, working_dir=daemon.folder)


def test_a_daemon_runs_until_it_is_told_to_end(daemon: Daemon) -> None:
    assert daemons.running_pid(daemon) is None
    pid = start(daemon)
    assert daemons.running_pid(daemon) == pid
    assert os.getsid(pid) == pid
    daemons.end(daemon, timeout_s=10)
    assert daemons.running_pid(daemon) is None


def test_one_that_does_not_listen_is_killed(daemon: Daemon) -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    daemons.start(daemon, [sys.executable, "-c", deaf], environment={}, working_dir=daemon.folder)
    assert daemons.wait_until(lambda: daemon.log_path.read_text(encoding="utf-8") != "", daemon, timeout_s=20)
    daemons.end(daemon, timeout_s=0.2)
    assert daemons.running_pid(daemon) is None


def test_there_is_one_at_a_time(daemon: Daemon) -> None:
    pid = start(daemon)
    with pytest.raises(BusyError, match="is running already"):
        start(daemon)
    assert daemons.running_pid(daemon) == pid


def test_a_killed_one_leaves_no_trace(daemon: Daemon) -> None:
    os.kill(start(daemon), signal.SIGKILL)
    assert daemons.wait_for_end(daemon, timeout_s=10)
    assert daemons.running_pid(daemon) != start(daemon)


def test_a_process_id_alone_means_nothing(daemon: Daemon) -> None:
    daemon.lock_path.write_text(f"{os.getpid()}\n", encoding="ascii")
    assert daemons.running_pid(daemon) is None
    daemons.kill(daemon)  # would end this very test


def test_its_last_words_can_be_quoted(daemon: Daemon) -> None:
    assert daemon.last_words() == ""
    command = [sys.executable, "-c", "print('one'); print('two'); raise SystemExit('no luck')"]
    daemons.start(daemon, command, environment={}, working_dir=daemon.folder)
    assert daemons.wait_for_end(daemon, timeout_s=20)
    assert sorted(daemon.last_words().splitlines()) == ["no luck", "one", "two"]
    assert len(daemon.last_words(2).splitlines()) == 2


def test_waiting_has_an_end(daemon: Daemon) -> None:
    start(daemon)
    assert not daemons.wait_for_end(daemon, timeout_s=0.2)
