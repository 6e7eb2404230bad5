"""Failpoints: all of them are passed somewhere, only they can be armed, and each does what it is armed to do."""

import ast
import errno
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from data_catalog.errors import SettingsError
from data_catalog.storage import failpoints
from data_catalog.storage.failpoints import REGISTRY, VARIABLE, failpoint, parse
from data_catalog.storage.shards import read_json, write_json

HOUSE = Path(__file__).resolve().parents[2]
PASS_TWICE = """
import os
from pathlib import Path
from data_catalog.storage.failpoints import failpoint
for name in ("atomic.after_rename", "atomic.after_fsync", "atomic.after_rename"):
    failpoint(name)
    print("passed", name, flush=True)
"""


@pytest.fixture(autouse=True)
def _environment_not_read_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failpoints, "_armed", None)


def passed_in_the_code() -> Counter[str]:
    """How often each name is passed to `failpoint`, in all packages."""
    names: Counter[str] = Counter()
    for package in ("data_catalog", "translation", "cleaning", "training", "flows"):
        for path in (HOUSE / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "failpoint":
                    assert isinstance(node.args[0], ast.Constant), f"{path}:{node.lineno}: no plain name"
                    names[str(node.args[0].value)] += 1
    return names


def test_the_registry_is_what_the_code_passes() -> None:
    assert passed_in_the_code().keys() == REGISTRY.keys()
    assert all(REGISTRY.values())


@pytest.mark.parametrize("action", ["edquot", "eio"])
def test_the_armed_passage_fails_and_no_other_does(
    action: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(VARIABLE, f"commit.after_fsync:2={action}")
    failpoint("commit.after_fsync")
    failpoint("commit.after_record")
    with pytest.raises(OSError, match=str(tmp_path)) as caught:
        failpoint("commit.after_fsync", tmp_path)
    assert caught.value.errno == getattr(errno, action.upper())
    failpoint("commit.after_fsync")


def test_a_process_is_killed_at_the_passage_that_is_armed() -> None:
    environment = {**os.environ, VARIABLE: "atomic.after_rename:2=kill"}
    done = subprocess.run([sys.executable, "-c", PASS_TWICE], env=environment, capture_output=True, text=True)
    assert done.returncode == -9
    assert done.stdout.splitlines() == ["passed atomic.after_rename", "passed atomic.after_fsync"]


@pytest.mark.parametrize(
    "text",
    [
        "commit.after_fsink=kill",
        "commit.after_fsync=crash",
        "commit.after_fsync",
        "commit.after_fsync:0=kill",
        "commit.after_fsync:²=kill",
    ],
)
def test_a_slip_in_the_variable_is_told(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(SettingsError, match=VARIABLE):
        failpoint("atomic.before_write")


def test_several_failpoints_are_armed_at_once() -> None:
    assert parse(" atomic.before_write=eio, commit.after_rename:3=kill,") == {
        "atomic.before_write": (1, "eio"),
        "commit.after_rename": (3, "kill"),
    }


@pytest.mark.parametrize("action", ["enospc", "eio"])
@pytest.mark.parametrize("place", ["before_write", "after_write", "after_fsync", "after_rename", "after_folder_fsync"])
def test_a_file_is_the_old_one_or_the_new_one_wherever_the_disk_fails(
    place: str, action: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "a.json"
    write_json(path, "old")
    monkeypatch.setattr(failpoints, "_armed", None)
    monkeypatch.setenv(VARIABLE, f"atomic.{place}={action}")
    with pytest.raises(Exception, match=r"is full: free space|the disk failed at .*a\.json"):
        write_json(path, "new")
    assert read_json(path) == ("new" if place in ("after_rename", "after_folder_fsync") else "old")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]
