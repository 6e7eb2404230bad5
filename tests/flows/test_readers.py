"""Two writers, of which one is refused; and readers that see whole snapshots while builds are killed beside them."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from data_catalog.database.catalog import query, rebuild
from data_catalog.storage.lock import holder_of
from data_catalog.storage.manifest import Snapshot, committed_snapshots
from flows.cli import main
from flows.jobs import BuildReport

NUM_READERS = 8

# Asks the views, then the manifest and its files, until it is told to stop; prints what it saw and exits.
READER = """
import json, os, sys, time
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from data_catalog.storage.manifest import current_snapshot

root, stop = Path(sys.argv[1]), Path(sys.argv[2])
seen = set()
while True:
    last = stop.exists()
    with duckdb.connect(str(root / "catalog.duckdb"), read_only=True, config={"threads": 1}) as connection:
        seen.add(connection.execute('''
            SELECT any_value(snapshot), any_value(num_captions), any_value(num_pairs), (SELECT count(*) FROM captions),
                   (SELECT count(*) FROM pairs), (SELECT count(DISTINCT snapshot) FROM captions), count(*) FROM builds
        ''').fetchone())
    snapshot = current_snapshot(root, "scenes")
    problems = snapshot.verify()
    assert not problems, problems
    captions, pairs = (
        sum(pq.read_metadata(path).num_rows for path in files)
        for files in (snapshot.caption_files(), snapshot.all_pair_files())
    )
    seen.add((snapshot.snapshot, captions, pairs, captions, pairs, 1, 1))
    if last:
        print(json.dumps(sorted(seen)))
        break
    time.sleep(float(sys.argv[3]))
"""


@pytest.fixture
def root(built: tuple[Path, BuildReport], tmp_path: Path) -> Path:
    root = tmp_path / "catalog"
    shutil.copytree(built[0], root)
    rebuild(root)
    return root


BuildCommand = Callable[[str], list[str]]


@pytest.fixture
def build_command(root: Path, english_overrides: list[str]) -> BuildCommand:
    """Called with another override, gives the command that builds."""
    words = [sys.executable, "-m", "flows.cli", "build", "scenes", "--root", str(root), "--executor", "local"]
    words += [word for override in english_overrides for word in ("--set", override)]
    return lambda override: [*words, "--set", override]


def test_of_two_writers_one_is_refused_in_a_sentence_that_names_the_other(
    root: Path, build_command: BuildCommand, capsys: pytest.CaptureFixture[str]
) -> None:
    command = build_command("split.val=0.3")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while holder_of(root) is None:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGSTOP)
        for arguments in (
            *(["prune"], ["catalog", "--rebuild"], ["forget", "--domain", "example.org"]),
            ["build", "scenes", "--executor", "local"],
        ):
            assert main([*arguments, "--root", str(root)]) == 75, arguments
            told = capsys.readouterr().err.splitlines()[-1]
            assert f"{root} is being written by process {process.pid} (vernaclip build scenes)" in told, arguments
            assert told.endswith("): wait until it ends, or stop it")
        assert main(["verify", "--root", str(root)]) == 0, "readers are never refused"
        assert query(root, "SELECT count(*) AS n FROM captions").to_pylist()[0]["n"] > 0
        process.kill()
    assert holder_of(root) is None
    assert main(["prune", "--root", str(root)]) == 0


def build_through_kills(command: list[str], moments_s: list[float]) -> int:
    """Build, killed at each of these moments and started again, to the end; how many were killed."""
    killed = 0
    for moment in moments_s:
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                process.wait(moment)
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
                killed += 1
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return killed


MANY = ("split.val=0.3", "clean.max_words=9", "normalise.image_size=96", "split.val=0.2", "check.min_words=3")


@pytest.mark.slow
@pytest.mark.parametrize(("changes", "num_kills", "pause_s"), [(("split.val=0.4",), 2, 1.0), (MANY, 8, 0.2)])
def test_readers_see_whole_snapshots_while_builds_are_killed(
    root: Path, tmp_path: Path, build_command: BuildCommand, changes: Sequence[str], num_kills: int, pause_s: float
) -> None:
    """What they saw is whole, and all that was there to see."""
    draw = random.Random(7)
    stop = tmp_path / "stop"
    # They leave the processor to the builds.
    command = ["nice", sys.executable, "-c", READER, str(root), str(stop), str(pause_s)]
    with ExitStack() as stack:
        stack.callback(stop.touch)
        started = [
            stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
            for _ in range(NUM_READERS)
        ]
        killed = 0
        for change in changes:
            killed += build_through_kills(build_command(change), [draw.uniform(1, 6) for _ in range(num_kills)])
        stop.touch()
        answers = [reader.communicate() for reader in started]
    assert killed > 0
    assert [err for _, err in answers if err] == []
    snapshots = list(committed_snapshots(root, "scenes"))
    assert len(snapshots) > 1
    whole = {
        (snapshot.snapshot, *(num_rows(snapshot, kind) for kind in ("captions", "pairs", "captions", "pairs")), 1, 1)
        for snapshot in snapshots
    }
    assert {tuple(each) for out, _ in answers for each in json.loads(out)} == whole
    assert main(["verify", "--root", str(root)]) == 0


def num_rows(snapshot: Snapshot, kind: str) -> int:
    """What the manifest says."""
    return sum(int(file["rows"]) for file in snapshot.manifest["files"][kind])
