"""What is to be said of one file of a catalog: damage, a stray file, or that nothing vouches for it.

None of these raises for what it finds, and none writes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_catalog.checksummed import content_problem, has_checksum, line_problem
from data_catalog.manifest import file_problem
from data_catalog.recorded_files import is_recorded, record_path, record_problem

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
    if problem is not None:
        return [damage(path, f"{path} is damaged ({problem}): {remedy}")]
    if has_checksum(content):
        return []
    return [
        Finding(kind="note", path=path, text=f"{path} was written before there were checksums: nothing vouches for it")
    ]


def recorded(path: Path, remedy: str, *, is_needed: bool = False) -> list[Finding]:
    """Of a file that has a record beside it, or should have one."""
    problem = record_problem(path)
    if problem is None and is_needed and not path.is_file():
        problem = "it is missing"
    if problem is not None:
        return [damage(path, f"{path} is not what was written ({problem}): {remedy}")]
    if is_recorded(path) or not path.is_file():
        return []
    text = f"{path} has no {record_path(path).name}: it is being written, or was when a process died, or is from before"
    return [Finding(kind="note", path=path, text=f"{text} there were records; nothing vouches for it")]


def run_log(path: Path) -> list[Finding]:
    """Of a log whose every line carries its checksum."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        return [damage(path, f"{path} cannot be read: {error.strerror}")]
    lines = content.split(b"\n")
    last = lines.pop()
    problems = [(number, line_problem(line)) for number, line in enumerate(lines, start=1)]
    if last:
        problems.append((len(lines) + 1, "it has no end"))
    remedy = "remove the line, which tells when a build ran and nothing needs"
    found = [
        damage(path, f"line {number} of {path} is damaged, or was cut off by a full disk ({problem}): {remedy}")
        for number, problem in problems
        if problem is not None
    ]
    bare = sum(not has_checksum(line) for line in lines)
    if bare and not found:
        text = (
            f"{bare} of the {len(lines)} lines of {path} are from before there were checksums: nothing vouches for them"
        )
        found.append(Finding(kind="note", path=path, text=text))
    return found
