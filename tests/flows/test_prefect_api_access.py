"""No temporary Prefect server answers without its password, allows a foreign origin or shares its runs."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from flows.jobs import BuildReport
from flows.orchestration.prefect_env import Api, probe

MARK = "VERNACLIP_TEST_PROJECT"


def until(found: Callable[[], Any], seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return value


def processes(folder: Path, word: str) -> list[int]:
    """Those of a project with a word in their command line."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            ours = f"{MARK}={folder}".encode() in (process / "environ").read_bytes().split(b"\0")
            if ours and word.encode() in (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("project")


@pytest.fixture(scope="module")
def environment(folder: Path) -> dict[str, str]:
    """The user's own Prefect setting of a database is there, and none of ours takes it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    database = f"sqlite+aiosqlite:///{folder / 'shared.db'}"
    own = {"PREFECT_HOME": str(folder / "home"), MARK: str(folder), "PREFECT_SERVER_DATABASE_CONNECTION_URL": database}
    return {**kept, **own}


@pytest.fixture(scope="module")
def command(built: tuple[Path, BuildReport], english_overrides: list[str]) -> list[str]:
    """A command but for its name, which is put third."""
    settings = [argument for setting in english_overrides for argument in ("--set", setting)]
    return [sys.executable, "-m", "flows.cli", "scenes", "--root", str(built[0]), *settings]


@pytest.fixture(scope="module")
def temporary(folder: Path, environment: dict[str, str], command: list[str]) -> Callable[[str], Any]:
    """Called with a command's name, gives a context in which that command is halted, and its server's API runs on."""

    @contextmanager
    def halted(name: str) -> Iterator[Api]:
        before = set(processes(folder, "flows.orchestration.temporary_server"))
        arguments = [*command[:3], name, *command[3:]]
        with subprocess.Popen(arguments, cwd=folder, env=environment, stderr=subprocess.PIPE) as process:
            try:
                (pid,) = until(lambda: set(processes(folder, "flows.orchestration.temporary_server")) - before)
                process.send_signal(signal.SIGSTOP)
                api = server_of(pid)
                until(lambda: probe(api) != "silent")
                yield api
            finally:
                process.kill()
                # However a command ends, its server ends with it.
                until(lambda: set(processes(folder, "flows.orchestration.temporary_server")) == before)

    return halted


def server_of(pid: int) -> Api:
    port = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").rpartition(b"\0")[2].decode()
    pairs = (pair.split("=", 1) for pair in Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0") if pair)
    return Api(url=f"http://127.0.0.1:{port}/api", auth_string=dict(pairs).get("PREFECT_SERVER_API_AUTH_STRING"))


def test_two_at_once_are_closed_and_know_nothing_of_each_other(
    folder: Path, temporary: Callable[[str], Any], api_doors: Any
) -> None:
    with temporary("build") as first, temporary("run") as second:
        api_doors.assert_closed(first)
        api_doors.assert_closed(second, sample=12)
        assert first.auth_string != second.auth_string
        planted = api_doors.ask(first, "POST", "/flows/", auth=first.auth_string, json={"name": "planted"})
        assert planted.status_code == 201
        assert "planted" in api_doors.flow_names(first)
        assert "planted" not in api_doors.flow_names(second)
    assert not (folder / "shared.db").exists()


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_the_server_of_a_command_is_closed(name: str, temporary: Callable[[str], Any], api_doors: Any) -> None:
    with temporary(name) as api:
        api_doors.assert_closed(api, sample=12)
