"""One root, built by real processes that are killed or have failing disks, and what is published below it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from data_catalog.catalog.query import query
from data_catalog.disk.failpoints import VARIABLE
from data_catalog.disk.files import read_json, sha256_of

# All processes of a trial, grandchildren included, are known by this variable in their environment.
TOKEN = "VERNACLIP_TORTURE_TRIAL"
ANSWERS = (
    "SELECT source, step, read, kept, dropped FROM funnel ORDER BY ALL",
    "SELECT source, step, drop_reason, dropped FROM drop_reasons ORDER BY ALL",
    "SELECT sample_id, caption, outcome FROM captions ORDER BY ALL",
    "SELECT sample_id, split, octet_length(image.bytes) FROM pairs ORDER BY ALL",
)
_GRACE_S = 5.0


@dataclass(slots=True)
class Trial:
    """A root, new or as earlier runs of the trial left it, and the settings with which it is built."""

    root: Path
    overrides: Sequence[str]
    executor: Sequence[str] = ("--executor", "local")
    token: str = field(default_factory=lambda: uuid4().hex)

    def start(self, armed: str = "") -> "subprocess.Popen[bytes]":
        """Begin the build, with the failpoints that are armed."""
        settings = [part for override in self.overrides for part in ("--set", override)]
        command = [sys.executable, "-m", "flows.cli", "build", "scenes", "--root", str(self.root), *settings]
        command += self.executor
        environment = {**os.environ, TOKEN: self.token, VARIABLE: armed}
        self.root.parent.mkdir(parents=True, exist_ok=True)
        with self._log().open("wb") as log:
            return subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def run(self, armed: str = "") -> int:
        """Build until the end, or until a failpoint ends it; the exit status, or minus the signal."""
        return self.start(armed).wait()

    def said(self) -> str:
        """What the last run printed."""
        return self._log().read_text(encoding="utf-8", errors="replace")

    def _log(self) -> Path:
        return self.root.with_name(f"{self.root.name}.log")

    def processes(self) -> list[int]:
        """Process ids of whatever of this trial runs now."""
        pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        return [pid for pid in pids if _has(pid, TOKEN, self.token)]

    def left_over(self) -> list[int]:
        """Processes that are there a moment after the trial's main process has ended."""
        end = time.monotonic() + _GRACE_S
        while (found := self.processes()) and time.monotonic() < end:
            time.sleep(0.05)
        return found

    def kill(self, pids: Sequence[int]) -> None:
        """SIGKILL, where they are still there."""
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def _has(pid: int, name: str, value: str) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return f"{name}={value}".encode() in environment.split(b"\0") and state != "Z"


def published(root: Path) -> dict[str, str]:
    """sha256 of all files of the snapshots of a root, and of the pointers to them; logs and reports lie beside."""
    datasets = root / "datasets"
    snapshots = [path.parent for path in datasets.glob("*/*/manifest.json")]
    files = [path for folder in snapshots for path in folder.rglob("*") if path.is_file()]
    files += datasets.glob("*/current.json")
    return {path.relative_to(datasets).as_posix(): sha256_of(path) for path in files}


def answers(root: Path) -> list[object]:
    """What the catalog says, as any reader would ask it."""
    return [query(root, question).to_pylist() for question in ANSWERS]


def differences(found: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """The files that are there in one of two roots only, or differ."""
    return sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))


def debris(root: Path) -> list[str]:
    """Temporary files that a finished build should not have left, and outputs of steps whose snapshot is committed."""
    left = [path for path in root.rglob(".tmp-*") if ".hosts" not in path.parts]
    left += (root / "work").glob("*/*/*/commit.json")
    return sorted(path.relative_to(root).as_posix() for path in left)


def manifest_is_whole(root: Path) -> bool:
    """Whether a reader sees no current snapshot, or one of which every file is there."""
    for pointer in (root / "datasets").glob("*/current.json"):
        folder = pointer.parent / read_json(pointer)["snapshot"]
        if not (folder / "manifest.json").is_file():
            return False
        files = read_json(folder / "manifest.json")["files"]
        if not all((folder / file["path"]).is_file() for kind in files.values() for file in kind):
            return False
    return True
