"""Builds on a Dask cluster of this machine: the same bytes, whatever dies, and no process that stays behind.

What steps on a cluster come to, `test_services.py` shows.
"""

import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import dask
import pytest
from PIL import Image

from data_catalog.base.errors import InputError
from data_catalog.disk.files import sha256_of, write_json
from flows.build.execution import LocalExecutor
from flows.datasets import build_dataset
from flows.orchestration.dask_executor import DaskExecutor
from flows.orchestration.dask_workers import FlowEnvironment, enter, run_remotely, versions
from flows.orchestration.prefect_flows import FLOWS
from flows.recipe.recipe import load_recipe


def tree(root: Path) -> dict[str, str]:
    """sha256 of every file of the snapshots below a root, and of the pointers to them."""
    files = [*root.glob("datasets/*/*/manifest.json"), *root.glob("datasets/*/current.json")]
    files += [
        path for manifest in files for path in manifest.parent.rglob("*.parquet") if "fetch-log" not in path.parts
    ]
    return {path.relative_to(root).as_posix(): sha256_of(path) for path in files}


@pytest.mark.slow
def test_a_killed_flow_leaves_no_process_and_a_killed_worker_no_trace(
    project_in: Any, english_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The small recipe, translated, with a test set of an image, has all that a cluster may be given."""
    project, root, expected = project_in(tmp_path), tmp_path / "catalog", tmp_path / "expected"
    monkeypatch.chdir(tmp_path)
    Image.linear_gradient("L").save("held.png")
    Path("held.tsv").write_text("image\tcaption\nheld.png\tA grey wall that grows light\n", "utf-8")
    held = ['kind="pairs"', 'files=["held.tsv"]', 'images="."', 'path_column="image"', 'caption_column="caption"']
    translated = [override for override in english_overrides if "target_language" not in override]
    overrides = [*translated, *(f"test_sets.held.{each}" for each in held)]
    overrides.append("build.workers=2")
    with LocalExecutor() as executor:
        build_dataset(load_recipe("scenes", root=expected, overrides=overrides), root=expected, executor=executor)
    options = [part for override in overrides for part in ("--set", override)]
    command = ("-m", "flows.cli", "build", "scenes", "--root", "catalog", "--executor", "dask", *options)
    with project.start(*command) as killed:
        project.until(lambda: list(root.glob("work/*/test-set/*/commit.json")))
        assert project.processes("spawn_main")
        killed.kill()
    project.until(lambda: not project.processes())

    with project.start(*command) as again:
        project.until(lambda: list(root.glob("work/*/screen/*/commit.json")))
        os.kill(min(project.processes("spawn_main")), signal.SIGKILL)
        printed, told = again.communicate()
    assert again.returncode == 0, told
    assert "images with captions in" in printed
    assert tree(root) == tree(expected)
    # What workers have made is removed with all the rest of the dataset's outputs.
    assert [path.name for path in root.glob("work/*")] == [".hosts"]
    assert not list(root.rglob(".tmp-*"))
    assert not project.processes()


def environment(place: Path, **changes: Any) -> FlowEnvironment:
    write_json(place / "mark", {})
    return FlowEnvironment(**{"folder": place, "mark": place / "mark", "versions": versions(), **changes})


def test_a_worker_of_another_kind_is_refused_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, (changes, refused) in enumerate(
        (
            ({"mark": tmp_path / "elsewhere" / "mark"}, r"does not see .*/elsewhere as the flow does"),
            ({"folder": tmp_path / "gone", "versions": None}, r"does not see .*/gone as the flow does"),
            ({"versions": {**versions(), "Python": "3.1"}}, r"has Python [\d.]+, but the flow has 3\.1"),
            ({"versions": {**versions(), "vernaclip code": "0a1b"}}, r"has vernaclip code .*, but the flow has 0a1b"),
        )
    ):
        mark = tmp_path / f"mark-{number}"
        mark.touch()
        with pytest.raises(InputError, match=refused):
            run_remotely(environment(tmp_path, **{"mark": mark, **changes}), b"a call of code that it does not have")


def test_flows_of_several_folders_may_share_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    environments = [environment(folder) for folder in folders]
    for each in (*environments, *environments):
        enter(each)
        assert Path.cwd() == each.folder


def test_an_address_where_no_scheduler_answers_is_refused_soon(tmp_path: Path) -> None:
    with socket.socket() as other, dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        other.bind(("127.0.0.1", 0))
        other.listen()  # and says nothing, or not what a scheduler says
        for address in (f"tcp://127.0.0.1:{other.getsockname()[1]}", "tcp://127.0.0.1:9", "nonsense"):
            with pytest.raises(InputError, match=f"no Dask scheduler answers at {address} "):
                DaskExecutor(1, root=tmp_path, address=address).__enter__()


def test_an_address_or_the_cluster_is_refused_where_it_cannot_be_had(
    told: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "--dask-address can be used only with --executor dask" in told(
        ["build", "scenes", "--executor", "local", "--dask-address", "tcp://127.0.0.1:1"], code=1
    )
    monkeypatch.setitem(sys.modules, "prefect_dask", None)  # the extra is not installed
    monkeypatch.delitem(sys.modules, "flows.orchestration.dask_executor")
    assert "run `pip install 'prefect-dask<1,>=0.3.6'`" in told(["build", "scenes", "--executor", "dask"], code=1)
    deployed = FLOWS["build-dataset"].fn(root=str(tmp_path / "catalog"), dask=True)
    assert "run `pip install 'prefect-dask<1,>=0.3.6'`" in deployed.message
