"""Steps on a Dask cluster of this machine: the same bytes, whatever dies, and no process that stays behind.

Flows run in processes of their own, as a user starts them, with one Prefect server for all.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import pytest
from PIL import Image

from data_catalog.errors import InputError
from data_catalog.storage.shards import read_json, sha256_of, write_json
from flows.build.execution import LocalExecutor
from flows.cli import main
from flows.jobs import build_dataset
from flows.orchestration.dask_executor import DaskExecutor, FlowEnvironment, enter, versions
from flows.recipe.recipe import load_recipe

# In the environment of everything that is started here: what is left of it can be found.
MARK = "VERNACLIP_TEST_OF_DASK"

STEPS = """
import logging, os, signal
from data_catalog.errors import InputError, TransientError

def square(number):
    logging.getLogger("flows.toy").warning("squaring %d", number)
    return number**2

def flaky(folder):
    tries = len(list(folder.iterdir()))
    (folder / str(tries)).touch()
    if tries < 2:
        raise TransientError("again")
    return os.getpid()

def broken():
    raise InputError("broken")

def deadly():
    os.kill(os.getpid(), signal.SIGKILL)
"""

DRIVER = """
import json, os, sys
from pathlib import Path
import steps
from data_catalog.errors import PipelineError
from functools import partial

def error_of(future):
    try:
        return future.result()
    except PipelineError as error:
        return f"{type(error).__name__}: {error}"

def orderly(executor):
        folder = Path.cwd() / "tries"
        folder.mkdir()
        def there(name, call, *arguments):
            return executor.submit(name, partial(call, *arguments), remote=True)
        squares = [there(f"square {number:05d}", steps.square, number) for number in range(3)]
        done = []
        squares[0].add_done_callback(done.append)
        return {
            "squares": [future.result() for future in squares],
            "flaky": there("flaky", steps.flaky, folder).result() != os.getpid(),
            "broken": error_of(there("broken", steps.broken)),
            "here": executor.run("here", os.getpid) == os.getpid(),
            "not remote": executor.submit("fetch 00000", os.getpid).result() == os.getpid(),
            "called": done == squares[:1],
        }

def deadly(executor):
        return [
            error_of(executor.submit("deadly 00007", steps.deadly, remote=True)),
            executor.submit("square 00003", partial(steps.square, 3), remote=True).result(),
        ]

def main(name):
    from prefect import flow
    from flows.orchestration.dask_executor import DaskExecutor

    @flow(name="toy")
    def toy():
        with DaskExecutor(1, root=Path("root"), retry_delays_s=(0, 0)) as executor:
            return {"orderly": orderly, "deadly": deadly}[name](executor)

    print(json.dumps(toy()))

if __name__ == "__main__":
    main(sys.argv[1])
"""


class Project:
    """A folder in which commands are given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        self.environment = {
            **kept,
            MARK: str(folder),
            "PREFECT_HOME": str(folder / "home"),
            "PREFECT_LOGGING_LEVEL": "WARNING",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        }

    def start(self, *command: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def build(self, *options: str) -> "subprocess.Popen[str]":
        return self.start("-m", "flows.cli", "build", "scenes", "--root", "catalog", "--executor", "dask", *options)

    def processes(self, *words: str) -> list[int]:
        """Those started from here whose command line has all the words, but the server's."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                is_ours = f"{MARK}={self.folder}".encode() in (folder / "environ").read_bytes().split(b"\0")
                command = (folder / "cmdline").read_bytes().decode("utf-8", "replace").replace("\0", " ")
            except OSError:
                continue
            if is_ours and command and "temporary_server" not in command and all(word in command for word in words):
                found.append(int(folder.name))
        return found


def until(ready: Callable[[], Any], what: str, seconds: float = 180) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := ready()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    project = Project(tmp_path_factory.mktemp("dask"))
    server = project.start("-c", SERVER)
    assert server.stdout is not None
    url, auth_string = server.stdout.readline().split()
    project.environment |= {"PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": auth_string}
    yield project
    server.communicate()


SERVER = """
import sys
from pathlib import Path
from flows.orchestration import temporary_server
api = temporary_server.start(Path.cwd())
print(api.url, api.auth_string, flush=True)
sys.stdin.read()
"""


def tree(root: Path) -> dict[str, str]:
    """sha256 of every file of the snapshots below a root, and of the pointers to them."""
    files = [*root.glob("datasets/*/*/manifest.json"), *root.glob("datasets/*/current.json")]
    files += [
        path for manifest in files for path in manifest.parent.rglob("*.parquet") if "fetch-log" not in path.parts
    ]
    return {path.relative_to(root).as_posix(): sha256_of(path) for path in files}


@pytest.fixture(scope="module")
def overrides(project: Project, english_overrides: list[str]) -> list[str]:
    """The small English recipe with all steps that a cluster may be given, and a test set with an image."""
    Image.linear_gradient("L").save(project.folder / "held.png")
    (project.folder / "held.tsv").write_text("image\tcaption\nheld.png\tA grey wall that grows light\n", "utf-8")
    return [
        *english_overrides,
        "duplicates.merge_captions=true",
        'test_sets.held.kind="pairs"',
        'test_sets.held.files=["held.tsv"]',
        'test_sets.held.images="."',
        'test_sets.held.path_column="image"',
        'test_sets.held.caption_column="caption"',
        "build.workers=2",
    ]


@pytest.fixture(scope="module")
def expected(project: Project, overrides: list[str]) -> dict[str, str]:
    """The tree of the same build in threads of this process."""
    root, before = project.folder / "expected", Path.cwd()
    os.chdir(project.folder)
    try:
        with LocalExecutor() as executor:
            build_dataset(load_recipe("scenes", root=root, overrides=overrides), root=root, executor=executor)
    finally:
        os.chdir(before)
    return tree(root)


@pytest.mark.slow
def test_a_killed_flow_leaves_no_process_and_a_killed_worker_no_trace(
    project: Project, overrides: list[str], expected: dict[str, str]
) -> None:
    root = project.folder / "catalog"
    options = [part for override in overrides for part in ("--set", override)]
    killed = project.build(*options)
    until(lambda: list(root.glob("work/*/test-set/*/commit.json")), "a step is committed by a worker")
    assert project.processes("spawn_main")
    killed.kill()
    killed.communicate()
    until(lambda: not project.processes(), "the processes of the cluster have ended")

    again = project.build(*options)
    until(lambda: list(root.glob("work/*/screen/*/commit.json")), "captions are screened")
    os.kill(project.processes("spawn_main")[0], signal.SIGKILL)
    printed, told = again.communicate()
    assert again.returncode == 0, told
    assert "images with captions in" in printed
    assert tree(root) == expected
    assert read_json(root / "datasets" / "scenes" / "current.json")
    # What workers have made is removed with all the rest of the dataset's outputs.
    assert [path.name for path in root.glob("work/*")] == [".hosts"]
    assert not list(root.rglob(".tmp-*"))
    assert not project.processes()


def drive(project: Project, name: str) -> tuple[Any, str]:
    (project.folder / "steps.py").write_text(STEPS, encoding="utf-8")
    (project.folder / "driver.py").write_text(DRIVER, encoding="utf-8")
    printed, told = (driver := project.start("driver.py", name)).communicate()
    assert driver.returncode == 0, told
    assert not project.processes()
    return json.loads(printed.splitlines()[-1]), told


def test_steps_end_on_a_cluster_as_in_threads(project: Project) -> None:
    found, told = drive(project, "orderly")
    assert found == {
        "squares": [0, 1, 4],
        "flaky": True,
        "broken": "InputError: broken",
        "here": True,
        "not remote": True,
        "called": True,
    }
    assert told.count("squaring 2") == 1


@pytest.mark.slow
def test_a_step_that_kills_its_workers_is_given_up_in_a_sentence_and_others_go_on(project: Project) -> None:
    (error, after), _ = drive(project, "deadly")
    assert error.startswith(
        "InputError: deadly 00007: several Dask workers died during this step, perhaps of too little memory"
    )
    assert after == 9


def environment(place: Path, **changes: Any) -> FlowEnvironment:
    write_json(place / "mark", {})
    return FlowEnvironment(**{"folder": place, "mark": place / "mark", "versions": versions(), **changes})


def test_a_worker_of_another_kind_is_refused_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    enter(environment(tmp_path))
    with pytest.raises(InputError, match=r"does not see .*/elsewhere as the flow does"):
        enter(environment(tmp_path, mark=tmp_path / "elsewhere" / "mark"))
    with pytest.raises(InputError, match=r"does not see .*/gone as the flow does"):
        enter(environment(tmp_path, mark=write(tmp_path / "new"), folder=tmp_path / "gone", versions=None))
    other = {**versions(), "pyarrow": "1.0"}
    with pytest.raises(InputError, match=r"has pyarrow [\d.]+, but the flow has 1\.0, so .*: install the same"):
        enter(environment(tmp_path, mark=write(tmp_path / "third"), versions=other))
    lacking = {name: version for name, version in versions().items() if name != "Python"}
    with pytest.raises(InputError, match=r"the flow has \(none\)"):
        enter(environment(tmp_path, mark=write(tmp_path / "fourth"), versions=lacking))


def test_flows_of_several_folders_may_share_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    environments = [environment(folder, versions=None) for folder in folders]
    for each in (*environments, *environments):
        enter(each)
        assert Path.cwd() == each.folder


def write(path: Path) -> Path:
    path.touch()
    return path


def test_an_address_where_no_scheduler_answers_is_refused_soon(tmp_path: Path) -> None:
    with socket.socket() as other, dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        other.bind(("127.0.0.1", 0))
        other.listen()  # and says nothing, or not what a scheduler says
        for address in (f"tcp://127.0.0.1:{other.getsockname()[1]}", "tcp://127.0.0.1:9", "nonsense"):
            with pytest.raises(InputError, match=f"no Dask scheduler answers at {address} "):
                DaskExecutor(1, root=tmp_path, address=address).__enter__()


def test_an_address_is_for_dask_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "scenes", "--executor", "local", "--dask-address", "tcp://127.0.0.1:1"]) == 1
    assert capsys.readouterr().err == "vernaclip: --dask-address can be used only with --executor dask\n"


def test_without_the_extra_a_sentence_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "prefect_dask", None)
    assert main(["build", "scenes", "--executor", "dask"]) == 1
    assert "run `pip install -e '.[dask]'` in the checkout of vernaclip" in capsys.readouterr().err
