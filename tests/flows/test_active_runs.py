"""Which process does a run: a process id alone may belong to another one by now."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.objects import FlowRun

from flows.orchestration.services import process_of


@contextmanager
def process(run_id: UUID) -> Iterator[int]:
    """A process as Prefect's worker starts one for a run, as far as can be seen from outside."""
    command = [sys.executable, "-c", "print(flush=True); input()", "prefect.engine"]
    environment = {**os.environ, "PREFECT__FLOW_RUN_ID": str(run_id)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, start_new_session=True, **pipes) as started:  # type: ignore[call-overload]
        started.stdout.readline()
        yield started.pid
        started.communicate(b"\n")


def flow_run(pid: object) -> FlowRun:
    return FlowRun(id=uuid4(), flow_id=uuid4(), infrastructure_pid=None if pid is None else str(pid))


def test_the_process_of_a_run_is_found_by_its_id() -> None:
    run = flow_run(None)
    with process(run.id) as pid:
        run.infrastructure_pid = str(pid)
        assert process_of(run) == pid
    assert process_of(run) is None


@pytest.mark.parametrize("pid", [None, "", "machine:17", pytest.param(os.getpid(), id="our own")])
def test_what_is_no_process_of_a_run_is_none(pid: object) -> None:
    assert process_of(flow_run(pid)) is None


def test_a_process_of_another_run_is_not_taken_for_it() -> None:
    with process(uuid4()) as pid:
        assert process_of(flow_run(pid)) is None
