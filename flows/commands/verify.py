"""`vernaclip verify`: whether every byte of a catalog is what was written."""

from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_catalog.progress import Progress
from data_catalog.storage.manifest import datasets_folder, snapshot_folder, snapshot_names
from data_catalog.storage.verify import Finding, checks, run_checks
from flows.commands.output import say
from flows.tables import cell_text


def verify(options: Namespace) -> int:
    """Check the files of a root, or of one of its datasets or snapshots; 1 if any is damaged."""
    todo = checks(options.root, dataset=options.dataset, snapshot=options.snapshot)
    found: list[Finding] = []
    with Progress("verify", total=len(todo), unit="files") as progress:
        for findings in run_checks(todo):
            found += findings
            progress.advance()
    for finding in found:
        say(f"{finding.kind}: {cell_text(finding.text)}")
    damaged, strays, notes = (_paths(found, kind) for kind in ("damage", "stray", "note"))
    for folder in _snapshots(options):
        is_whole = not any(path.is_relative_to(folder) for path in damaged)
        say(f"{folder.parent.name} {folder.name}: {'sound' if is_whole else 'damaged'}")
    more = f"; {len(strays)} stray files, {len(notes)} notes" if strays or notes else ""
    say(f"{options.root}: {f'{len(damaged)} damaged' if damaged else 'sound'} ({len(todo)} files looked at{more})")
    return int(bool(damaged))


def _paths(found: Sequence[Finding], kind: str) -> list[Path]:
    return [finding.path for finding in found if finding.kind == kind]


def _snapshots(options: Namespace) -> Iterator[Path]:
    """Folders of the committed snapshots that were looked at."""
    for folder in sorted(datasets_folder(options.root).glob("*")):
        if options.dataset in (None, folder.name):
            for name in snapshot_names(options.root, folder.name):
                if options.snapshot in (None, name):
                    yield snapshot_folder(options.root, folder.name, name)
