"""The writer's lock, between processes."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_catalog.errors import ConfigError
from data_catalog.lock import LOCK_FILE, holder_of, writer_lock

# Takes the lock as `writer_lock` does, and signs once it is asked for (a line of its input), if ever.
HOLDER = """
import fcntl, json, os, sys, time
with open(sys.argv[1], "a+") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
    file.truncate(0)
    json.dump({"pid": os.getpid(), "command": "vernaclip build slow"}, file)
    file.flush()
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[int]:
    """Another process that has the lock; its id."""
    words = [sys.executable, "-c", HOLDER, str(tmp_path / LOCK_FILE), str(request.param)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process.pid
        process.kill()


def dead_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        return process.pid


@pytest.mark.parametrize("holder", [0.15], indirect=True)
def test_who_has_just_taken_the_lock_is_named_not_who_had_it_before(tmp_path: Path, holder: int) -> None:
    (tmp_path / LOCK_FILE).write_text(json.dumps({"pid": dead_process(), "command": "before"}), encoding="utf-8")
    with (
        pytest.raises(ConfigError, match=rf"written by process {holder} \(vernaclip build slow\)"),
        writer_lock(tmp_path),
    ):
        pass
    assert holder_of(tmp_path) == f"process {holder} (vernaclip build slow)"


@pytest.mark.parametrize("holder", [60], indirect=True)
@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', "\udcff"])
def test_whoever_does_not_sign_is_another_process(tmp_path: Path, holder: int, text: str) -> None:
    (tmp_path / LOCK_FILE).write_text(text, encoding="utf-8", errors="surrogateescape")
    with (
        pytest.raises(ConfigError, match="is being written by another process: wait until it ends"),
        writer_lock(tmp_path),
    ):
        pass


def test_a_lock_dies_with_its_process_and_looking_does_not_take_it(tmp_path: Path) -> None:
    assert holder_of(tmp_path / "nowhere") is None
    with writer_lock(tmp_path):
        assert re.fullmatch(rf"process {os.getpid()} \(.+\)", holder_of(tmp_path) or "")
    assert holder_of(tmp_path) is None
    with writer_lock(tmp_path):
        pass


def test_a_command_of_several_lines_is_told_in_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/vernaclip", "build", "a\n  b"])
    with writer_lock(tmp_path):
        assert holder_of(tmp_path) == f"process {os.getpid()} (vernaclip build a b)"
