"""Builds that are killed and whose disks fail end byte-equal: a short variant of `make torture`, in real processes."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

from flows.jobs import BuildReport

PROGRAM = Path(__file__).resolve().parents[1] / "torture" / "torture.py"


def torture(*arguments: str) -> str:
    done = subprocess.run([sys.executable, str(PROGRAM), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_killed_builds_and_failing_disks_end_byte_equal(
    built: tuple[Path, BuildReport], english_overrides: list[str], tmp_path: Path
) -> None:
    overrides = [part for override in english_overrides for part in ("--set", override)]
    told = torture(
        *("--folder", str(tmp_path), "--reference", str(built[0]), "--build-s", "2.5", *overrides),
        *("--kills", "3", "--failpoints", "commit.after_rename,snapshot.after_manifest"),
        *("--errors", "fetch.before_body,snapshot.after_files", "--no-small-disks", "--no-variants"),
    )
    assert "7 faults, " in told
    assert "all of them equal, byte for byte" in told


def test_a_difference_is_seen(built: tuple[Path, BuildReport], tmp_path: Path) -> None:
    root, copy = built[0], tmp_path / "copy"
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns("upstream", "work"))
    spec = importlib.util.spec_from_file_location("trials", PROGRAM.with_name("trials.py"))
    assert spec is not None
    assert spec.loader is not None
    sys.modules["trials"] = trials = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(trials)
    assert trials.differences(trials.published(copy), trials.published(root)) == []
    assert trials.manifest_is_whole(copy)
    first = sorted(copy.rglob("pairs/*.parquet"))[0]
    first.write_bytes(first.read_bytes() + b"x")
    (first.parent / ".tmp-1").touch()
    name = first.relative_to(copy / "datasets").as_posix()
    assert trials.differences(trials.published(copy), trials.published(root))[-1] == name
    assert trials.debris(copy) == [(first.parent / ".tmp-1").relative_to(copy).as_posix()]
    first.unlink()
    assert not trials.manifest_is_whole(copy)
