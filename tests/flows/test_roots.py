"""Roots that are refused before anything is done, that are written by one process, and read by many meanwhile."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_catalog.base.errors import InputError
from data_catalog.catalog.duckdb_file import rebuild
from data_catalog.catalog.manifest import (
    MANIFEST_FORMAT,
    READ_FORMATS,
    commit_snapshot,
    committed_snapshots,
    file_entry,
    require_snapshot,
)
from data_catalog.catalog.query import query
from data_catalog.disk.lock import holder_of, writer_lock
from data_catalog.disk.records import read_checksummed, write_checksummed
from flows.cli import main
from flows.jobs import JOBS
from vernaclip import open_dataset

# Any name that a folder may have, but for four characters.
ODD_NAME = "a'b\"c %20%s#{d} $HOME;~e=f,g&h@i!\n\t\x1b[A|<k> è \U0001f600 ]^`:".replace("[", "")
LINES = ("sql FROM_builds", "verify", "catalog", "report scenes", "snapshots", "export scenes --format webdataset")
LINES += ("forget --domain example.org", "catalog --rebuild", "prune")
COMMANDS = [[word.replace("_", " ") for word in line.split()] for line in LINES]


@pytest.fixture
def root(built: Any, tmp_path: Path) -> Path:
    """A copy of a small catalog, to be tampered with."""
    root = Path(shutil.copytree(built[0], tmp_path / "catalog", symlinks=True))
    rebuild(root)
    return root


@pytest.fixture
def error_of(told: Any, english_overrides: list[str]) -> Callable[..., str]:
    """The one line of error with which a command on a root ends; no words are a build."""

    def call(root: Path, words: list[str]) -> str:
        error: str = told([*(words or build(english_overrides)), "--root", str(root)], code=1)
        assert error.count("\n") == 1, error
        return error

    return call


def build(overrides: list[str]) -> list[str]:
    return ["build", "scenes", "--executor", "local", *(word for each in overrides for word in ("--set", each))]


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of somebody's, with files named so that nothing looks like a catalog's own."""
    folder = tmp_path / "outside"
    for name in ("thesis.tex", "web/mine/notes.txt", ".tmp-mine/notes.txt", "index/notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("years of work", encoding="utf-8")
    return folder


def state(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def first_image(root: Path) -> str:
    """The URL of an image that a dataset holds."""
    return str(query(root, "SELECT url FROM pairs WHERE url IS NOT NULL ORDER BY url LIMIT 1").column("url")[0])


@pytest.mark.parametrize("name", ["a?b", "a[b]", "\udcff", "link"])
def test_a_path_that_duckdb_misreads_is_refused_before_anything_is_done(
    tmp_path: Path, outside: Path, name: str, error_of: Any
) -> None:
    outside.rename(outside.with_name("a?b c"))
    (tmp_path / "link").symlink_to(tmp_path / "a?b c")
    before = sorted(tmp_path.rglob("*"))
    for words in ([], *COMMANDS):
        error = error_of(tmp_path / name, words)
        assert "DuckDB" in error, words
        assert "name another --root" in error, words
    assert sorted(tmp_path.rglob("*")) == before


def test_flows_that_are_deployed_refuse_what_the_command_line_does(tmp_path: Path) -> None:
    from flows.orchestration.prefect_flows import FLOWS

    (tmp_path / "work").symlink_to(tmp_path)
    write_checksummed(tmp_path / "old" / "datasets" / "scenes" / "0123456789ab" / "manifest.json", {"format": 1})
    refusals = {
        tmp_path / "old": "has format 1, and this version",
        tmp_path / "a?b": "DuckDB misreads such paths",
        tmp_path: "nothing is written or removed through a link",
        Path("~/italy"): "~/italy begins with ~, which is a folder of that name here",
    }
    for flow in FLOWS.values():
        for root, sentence in refusals.items():
            assert sentence in flow.fn(root=str(root)).message  # its run ends in a failed state


def test_a_full_disk_is_told_by_every_flow_that_is_deployed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.orchestration import prefect_flows

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name, job in JOBS.items():
        monkeypatch.setitem(JOBS, name, replace(job, require=fail))
        assert (
            f"the disk that holds {tmp_path} is full: free space"
            in prefect_flows.flow_of(name).fn(root=str(tmp_path)).message
        )


@pytest.mark.slower
def test_any_other_path_works_to_the_end(built: Any, tmp_path: Path, english_overrides: list[str], told: Any) -> None:
    root = tmp_path / ODD_NAME / "outcome=kept" / "split=test" / "catalog"
    shutil.copytree(built[0], root)
    for words in (build([*english_overrides, "split.val=0.3"]), *COMMANDS):
        told([*words, "--root", str(root)])
    assert query(root, "SELECT DISTINCT split FROM pairs ORDER BY 1").column(0).to_pylist() == ["test", "train", "val"]
    assert "forgotten; snapshot" in told(["forget", "--url", first_image(root), "--root", str(root)])
    told(["verify", "--root", str(root)])


@pytest.mark.parametrize(("number", "is_one_of_several"), [(READ_FORMATS[0] - 1, True), (MANIFEST_FORMAT + 1, False)])
def test_a_root_of_another_format_is_refused_and_no_byte_of_it_changes(
    root: Path, error_of: Any, number: int, is_one_of_several: bool
) -> None:
    lines = ("diff current current", "train scenes --executor local", "search dog", "scoreboard")
    lines += ("evaluate scenes --executor local", "audit draw scenes", "export-model --format open_clip --out m")
    commands = [[], *COMMANDS, ["why", first_image(root)], *(line.split() for line in lines)]
    current = require_snapshot(root, "scenes").folder / "manifest.json"
    manifest = {**read_checksummed(current, remedy=""), "format": number}
    other = current.parents[1] / "0123456789ab" / "manifest.json"
    write_checksummed(other if is_one_of_several else current, manifest)
    before = state(root)
    told = f"{root} has format {number}, and this version reads formats 3 and 4"
    for words in commands:
        error = error_of(root, words)
        assert told in error, words
        assert "build into a new --root" in error, words
    assert state(root) == before


def test_a_root_of_the_format_before_is_read_and_nothing_is_built_again(
    root: Path, told: Any, english_overrides: list[str]
) -> None:
    """Its snapshots list a look-up file, which has no shard of captions and which nothing reads."""
    snapshot = require_snapshot(root, "scenes")
    path = snapshot.folder / "lookup" / "lookup-0123456789ab.parquet"
    path.parent.mkdir()
    path.write_bytes(b"any")
    files = {**snapshot.manifest["files"], "lookup": [file_entry(path, snapshot.folder, rows=0)]}
    commit_snapshot(root, {**snapshot.manifest, "format": 3, "files": files})
    before = state(root / "datasets")
    lines = ("diff current current", "export scenes --format huggingface")
    for words in (
        build(english_overrides),
        ["why", first_image(root)],
        *COMMANDS[:-3],
        *(line.split() for line in lines),
    ):
        told([*words, "--root", str(root)])
    assert len(open_dataset(root, "scenes", "train")) > 0
    after = state(root / "datasets")
    assert {path for path in before if after[path] != before[path] and path.parent.name == snapshot.snapshot} == set()
    assert snapshot.snapshot == require_snapshot(root, "scenes").snapshot
    told(["forget", "--url", first_image(root), "--root", str(root)])
    manifest = require_snapshot(root, "scenes").manifest
    assert (manifest["format"], "lookup" in manifest["files"]) == (MANIFEST_FORMAT, False)
    assert "sound" in told(["verify", "--root", str(root)])


WRITTEN = (
    *(".writer-lock", "searches/mine", "work/clean", "memory", "models", "models/scenes/0123/index", "scoreboards"),
    *("packages", "datasets", "datasets/scenes", "datasets/scenes/current.json", "datasets/scenes/runs.jsonl"),
    *("datasets/scenes/fetch-log", "SNAPSHOT", "SNAPSHOT/pairs", "catalog.duckdb", "forgotten.json", "audits"),
    *("file-hashes.json", ".tmp-upstream", "kept-features/0a1b2c3d4e5f6071", "folder-indexes"),
)


def test_a_link_where_we_write_or_remove_is_refused_and_nothing_is_touched(
    root: Path, outside: Path, error_of: Any
) -> None:
    forget = ["forget", "--url", first_image(root)]
    snapshot = f"datasets/scenes/{require_snapshot(root, 'scenes').snapshot}"
    for place in WRITTEN:
        link = root / place.replace("SNAPSHOT", snapshot)
        link.parent.mkdir(parents=True, exist_ok=True)
        is_file = link.is_file() or bool(link.suffix)
        with suppress(FileNotFoundError):
            link.rename(root / "upstream" / "put-by")
        link.symlink_to(outside / "thesis.tex" if is_file else outside)
        before = state(outside)
        for words in [forget, *([*COMMANDS[1:], []] if place == ".writer-lock" else [])]:
            error = error_of(root, words)
            assert f"{link} is a link to {link.readlink()}, and nothing is written or removed through" in error, place
        assert state(outside) == before, place
        link.unlink()
        with suppress(FileNotFoundError):
            (root / "upstream" / "put-by").rename(link)
    assert main([*forget, "--root", str(root)]) == 0, "without links all is as it was"


def test_a_root_and_exports_that_are_links_work_and_lose_only_what_is_ours_by_name(
    root: Path, outside: Path, tmp_path: Path
) -> None:
    """As to a larger disk; what no command writes to is nobody's business."""
    (root / "photos").symlink_to(outside)
    (root / "upstream" / "more").symlink_to(outside)
    (root / "exports").symlink_to(outside)
    (outside / "scenes").mkdir()
    for name in ("webdataset", ".tmp-old-webdataset"):
        (outside / "scenes" / name).symlink_to(outside / "web")
    before = state(outside)
    link = tmp_path / "link"
    link.symlink_to(root)
    assert main(["export", "scenes", "--format", "huggingface", "--root", str(link)]) == 0
    assert (outside / "scenes" / "huggingface" / "export.json").is_file()
    assert main(["forget", "--url", first_image(root), "--root", str(link)]) == 0
    assert not (outside / "scenes" / "huggingface").exists()
    assert state(outside) == before
    (root / "exports").unlink()
    assert main(["verify", "--root", str(link)]) == 0


NUM_READERS = 8
COUNTED = ("captions", "pairs")

# Asks the views, then the manifest and its files, until it is told to stop; prints what it saw and exits.
READER = """
import json, os, sys, time
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from data_catalog.catalog.manifest import current_snapshot

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
        for files in (snapshot.files("captions"), snapshot.files("pairs"))
    )
    seen.add((snapshot.snapshot, captions, pairs, captions, pairs, 1, 1))
    if last:
        print(json.dumps(sorted(seen)))
        break
    time.sleep(float(sys.argv[3]))
"""


@pytest.fixture
def build_command(root: Path, english_overrides: list[str]) -> Callable[[str], list[str]]:
    """Called with another override, gives the command that builds."""
    words = [sys.executable, "-m", "flows.cli", *build(english_overrides), "--root", str(root)]
    return lambda override: [*words, "--set", override]


def test_of_two_writers_one_is_refused_in_a_sentence_that_names_the_other(
    root: Path, build_command: Any, told: Any
) -> None:
    command = build_command("split.val=0.3")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while f"process {process.pid} " not in (holder_of(root) or ""):  # until then the file names an earlier one
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGSTOP)
        for words in (
            *(["prune"], ["catalog", "--rebuild"], ["forget", "--domain", "example.org"]),
            ["build", "scenes", "--executor", "local"],
        ):
            error = told([*words, "--root", str(root)], code=75)
            assert f"{root} is being written by process {process.pid} (vernaclip build scenes)" in error, words
        told(["verify", "--root", str(root)])  # readers are never refused
        assert query(root, "FROM captions LIMIT 1").num_rows == 1
        process.kill()
    assert holder_of(root) is None
    told(["prune", "--root", str(root)])


@pytest.mark.parametrize(("error", "code"), [(None, 75), (InputError("its own"), 1)])
def test_a_command_that_fails_removes_no_folder_of_the_one_that_made_the_root_meanwhile(
    error: Exception | None,
    code: int,
    tmp_path: Path,
    english_overrides: list[str],
    monkeypatch: pytest.MonkeyPatch,
    told: Any,
) -> None:
    root = tmp_path / "catalog"
    step = root / "work" / "scenes" / "translate" / ".tmp-1"  # empty until all of a shard is translated
    with ExitStack() as another:

        def another_begins(_: Any) -> None:
            another.enter_context(writer_lock(root))
            step.mkdir(parents=True)
            if error is not None:
                raise error

        monkeypatch.setattr("flows.datasets.require_sources", another_begins)
        assert str(error or "is being written by") in told([*build(english_overrides), "--root", str(root)], code=code)
        assert step.is_dir()


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


@pytest.mark.slow
def test_readers_see_whole_snapshots_while_builds_are_killed(root: Path, tmp_path: Path, build_command: Any) -> None:
    """What they saw is whole, and all that was there to see."""
    draw = random.Random(7)
    stop = tmp_path / "stop"
    # They leave the processor to the builds.
    command = ["nice", sys.executable, "-c", READER, str(root), str(stop), "0.2"]
    with ExitStack() as stack:
        stack.callback(stop.touch)
        started = [
            stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
            for _ in range(NUM_READERS)
        ]
        killed = 0
        for change in ("split.val=0.3", "clean.max_words=9", "normalise.image_size=96", "split.val=0.2"):
            killed += build_through_kills(build_command(change), [draw.uniform(1, 6) for _ in range(4)])
        stop.touch()
        answers = [reader.communicate() for reader in started]
    assert killed > 0
    assert [err for _, err in answers if err] == []
    snapshots = list(committed_snapshots(root, "scenes"))
    assert len(snapshots) > 1
    whole = {
        (each.snapshot, *(sum(file["rows"] for file in each.manifest["files"][kind]) for kind in COUNTED * 2), 1, 1)
        for each in snapshots
    }
    assert {tuple(each) for out, _ in answers for each in json.loads(out)} == whole
    assert main(["verify", "--root", str(root)]) == 0


@pytest.mark.parametrize(
    "command",
    [
        ["sql", "FROM builds", "--root", "GS://bucket/italy"],
        ["export", "scenes", "--format", "webdataset", "--out", "hf://datasets/me/captions"],
        ["search", "un cane", "--images", "abfss://files@account/photos"],
        ["build", "scenes", "--executor", "local", "--root=~/italy"],
        ["sql", "FROM builds", "--format", "csv", "--out=~/builds.csv"],
    ],
)
def test_addresses_of_object_stores_and_homes_are_refused_and_not_taken_for_folders(
    command: list[str], told: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    address = command[-1].partition("=")[2] or command[-1]
    error = told(command, code=1)
    problem = "begins with ~" if address.startswith("~") else "is not a path of this machine"
    assert error.lower().startswith(f"vernaclip: {address.lower()} {problem}")
    assert list(tmp_path.iterdir()) == []
