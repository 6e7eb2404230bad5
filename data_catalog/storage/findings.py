"""What is to be said of one file of a catalog: damage, a stray file, or that nothing vouches for it.

None of these raises for what it finds, and none writes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_catalog.storage.checksummed import content_problem, line_problem
from data_catalog.storage.lock import holder_of
from data_catalog.storage.manifest import file_problem
from data_catalog.storage.recorded_files import is_recorded, record_path, record_problem

Kind = Literal["damage", "stray", "note"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something to be said of a file.

    Args:
        kind: damage; a stray file, which nobody wrote or needs; or a note: nothing is wrong, but not all can be told.
        path: of the file.
        text: one sentence, which names the file.
    """

    kind: Kind
    path: Path
    text: str


def damage(path: Path, text: str) -> Finding:
    """A finding that something is not as it was written."""
    return Finding(kind="damage", path=path, text=text)


def listed(path: Path, sha256: str, remedy: str) -> list[Finding]:
    """Of a file whose sha256 is noted elsewhere."""
    problem = file_problem(path, sha256)
    return [] if problem is None else [damage(path, f"{problem}: {remedy}")]


def document(path: Path, remedy: str) -> list[Finding]:
    """Of a checksummed document, if it is there."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        return [damage(path, f"{path} cannot be read ({error.strerror}): {remedy}")]
    problem = content_problem(content)
    return [] if problem is None else [damage(path, f"{path} is damaged ({problem}): {remedy}")]


def missing(path: Path, text: str, *, needed: Path, root: Path) -> list[Finding]:
    """Report that a file is not there, as damage unless a process that writes below `root` may be about to put it.

    Args:
        path: the file that this is about.
        text: what is missing, and what to do.
        needed: the file that is missing, such as the record of `path`.
        root: where a writer holds the lock.
    """
    if holder_of(root) is not None:
        return [Finding(kind="note", path=path, text=f"{text}; or wait, since a process writes there")]
    return [] if needed.exists() else [damage(path, text)]  # it may have been put there a moment ago


def recorded(path: Path, remedy: str, *, root: Path, is_needed: bool = False) -> list[Finding]:
    """Report on a file that has a record beside it; it has to be there if it `is_needed`, and its record if it is."""
    problem = record_problem(path)
    if problem is not None:
        return [damage(path, f"{path} is not what was written ({problem}): {remedy}")]
    if not path.is_file():
        return missing(path, f"{path} is missing: {remedy}", needed=path, root=root) if is_needed else []
    if is_recorded(path):
        return []
    record = record_path(path)
    text = f"{path} has no {record.name}, which was removed, or a process died before it wrote it: {remedy}"
    return missing(path, text, needed=record, root=root)


def run_log(path: Path, *, root: Path, is_needed: bool) -> list[Finding]:
    """Report on a log whose every line carries its checksum, and that has a record of all lines."""
    try:
        lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    except OSError as error:
        return [damage(path, f"{path} cannot be read: {error.strerror}")]
    last = lines.pop()
    problems = [(number, line_problem(line)) for number, line in enumerate(lines, start=1)]
    if last:
        problems.append((len(lines) + 1, "it has no end"))
    again = "it tells when builds ran, and nothing needs it: the next build records what there is"
    found = [
        damage(
            path, f"line {number} of {path} is damaged, or was cut off by a full disk ({problem}): remove it; {again}"
        )
        for number, problem in problems
        if problem is not None
    ]
    return found or recorded(path, f"restore it from a copy; {again}", root=root, is_needed=is_needed)
