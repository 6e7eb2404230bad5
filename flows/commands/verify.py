"""`vernaclip verify`: whether every byte of a catalog is what was written."""

from argparse import Namespace
from collections.abc import Sequence

from data_catalog.findings import Finding
from data_catalog.progress import Progress
from data_catalog.verification import checks, run_checks
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
    damaged = _of_kind(found, "damage")
    what = " ".join(filter(None, (options.dataset, options.snapshot))) or str(options.root)
    strays, notes = len(_of_kind(found, "stray")), len(_of_kind(found, "note"))
    more = f"; {strays} stray files, {notes} notes" if strays or notes else ""
    say(f"{what}: {f'{len(damaged)} damaged' if damaged else 'sound'} ({len(todo)} files looked at{more})")
    return int(bool(damaged))


def _of_kind(found: Sequence[Finding], kind: str) -> list[Finding]:
    return [finding for finding in found if finding.kind == kind]
