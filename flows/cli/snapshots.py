"""Commands on the snapshots of a catalog: verify, list, compare and remove them."""

import csv
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from data_catalog.errors import SettingsError
from data_catalog.plain_text import cell_text, counted, spreadsheet_text
from flows.cli.options import DEFAULT_ROOT, Number, Root
from flows.cli.output import say, say_json, say_table

if TYPE_CHECKING:
    from data_catalog.storage.diff import Change, Diff
    from data_catalog.storage.verify import Finding

MAX_CELL = 60
MAX_GROUPS = 20

Row = dict[str, Any]
Form = Literal["table", "csv", "json"]


def verify(
    *,
    root: Root = DEFAULT_ROOT,
    dataset: str | None = None,
    snapshot: Annotated[str | None, Parameter(metavar="ID")] = None,
) -> int:
    """Check that every byte of the catalog is what was written; exit code 1 if any is damaged.

    Args:
        dataset: Only the files of this dataset, and its exports.
        snapshot: Only the files of this snapshot.
    """
    from data_catalog.progress import Progress
    from data_catalog.storage.manifest import datasets_folder, snapshot_names
    from data_catalog.storage.verify import checks, run_checks

    todo = checks(root, dataset=dataset, snapshot=snapshot)
    found: list[Finding] = []
    with Progress("verify", total=len(todo), unit="files") as progress:
        for findings in run_checks(todo):
            found += findings
            progress.advance()
    for finding in found:
        say(f"{finding.kind}: {cell_text(finding.text)}")
    damaged = [finding.path for finding in found if finding.kind == "damage"]
    num_strays, num_notes = (sum(finding.kind == kind for finding in found) for kind in ("stray", "note"))
    for folder in sorted(datasets_folder(root).glob("*")):
        names = snapshot_names(root, folder.name) if dataset in (None, folder.name) else []
        for name in (name for name in names if snapshot in (None, name)):
            is_whole = not any(path.is_relative_to(folder / name) for path in damaged)
            say(f"{folder.name} {name}: {'sound' if is_whole else 'damaged'}")
    more = f"; {num_strays} stray files, {num_notes} notes" if num_strays or num_notes else ""
    say(f"{root}: {f'{len(damaged)} damaged' if damaged else 'sound'} ({len(todo)} files looked at{more})")
    return int(bool(damaged))


def snapshots(dataset: str | None = None, /, *, root: Root = DEFAULT_ROOT, format: Form = "table") -> None:
    """List all committed snapshots, oldest first: which is current, when each was published, what it holds.

    Args:
        dataset: Only this one (default: all).
        format: How the list is printed.
    """
    from data_catalog.storage.history import history
    from data_catalog.storage.manifest import require_datasets

    names = require_datasets(root, dataset)
    _print([each.row() for name in names for each in history(root, name)], format)


def diff(
    before: Annotated[str, Parameter(name="A")],
    after: Annotated[str, Parameter(name="B")],
    /,
    *,
    root: Root = DEFAULT_ROOT,
    dataset: str | None = None,
    examples: Number = 3,
    format: Form = "table",
) -> None:
    """Say which rows two snapshots of a dataset have or judge differently, and which settings and files differ.

    Args:
        before: The earlier one: a snapshot's id or its first letters, `current`, or `previous`, the one before it.
        after: The later one, named likewise.
        dataset: Of which dataset, where ids do not tell.
        examples: Rows that are shown of each change.
        format: How the differences are printed.
    """
    from data_catalog.storage.diff import diff_snapshots
    from data_catalog.storage.history import resolve

    if examples < 0:
        raise SettingsError(f"--examples must not be negative, got {examples}")
    found = diff_snapshots(*resolve(root, [before, after], dataset), num_examples=examples)
    if format == "json":
        say_json(found.to_json(), indent=None)
    elif format == "csv":
        rows = [
            {"of": kind, **change.row(), "examples": " ".join(example.id for example in change.examples)}
            for kind, changes in (("captions", found.captions), ("images", found.images))
            for change in changes
        ]
        _print(rows, "csv")
    else:
        _say_diff(found)


def _say_diff(found: "Diff") -> None:
    say(f"{found.before.dataset}: {found.before.snapshot} -> {found.after.snapshot}")
    say(f"\n{found.num_same:,} caption rows are the same; {_counted(found.captions)}")
    _say_changes(found.captions)
    say(f"\nimages that are published: {_counted(found.images)}")
    _say_changes(found.images)
    if found.settings:
        say("\nwhat the manifests say:")
        settings = found.settings.items()
        say_table([{"name": name, "before": _short(was), "after": _short(now)} for name, (was, now) in settings])
    say("\nfiles:")
    say_table([asdict(each) for each in found.files])


def _counted(changes: "Sequence[Change]") -> str:
    added = sum(change.rows for change in changes if change.before is None)
    gone = sum(change.rows for change in changes if change.after is None)
    changed = sum(change.rows for change in changes) - added - gone
    return f"{added:,} added, {gone:,} gone, {changed:,} changed"


def _say_changes(changes: "Sequence[Change]") -> None:
    if not changes:
        return
    say_table([change.row() for change in changes[:MAX_GROUPS]])
    if len(changes) > MAX_GROUPS:
        say(f"... and {len(changes) - MAX_GROUPS} more kinds of change: --format csv or json shows all")
    for change in changes[:MAX_GROUPS]:
        for example in change.examples:
            say(f"  {change.change}: {cell_text(example.id)}")
            # Of rows that came or went, columns that say what they are.
            telling = ("source_caption", "caption", "captions", "detail")
            names = example.columns if change.before == change.after else telling
            for name in (name for name in names if name in example.columns):
                was, now = example.columns[name]
                say(f"    {name}: {_short(was)} -> {_short(now)}")


def _short(value: object) -> str:
    text = "-" if value is None else cell_text(str(value))
    return text if len(text) <= MAX_CELL else f"{text[: MAX_CELL - 3]}..."


def prune(dataset: str | None = None, /, *, root: Root = DEFAULT_ROOT, keep: Number = 1, dry_run: bool = False) -> None:
    """Remove old snapshots that nothing needs, and what killed builds left of theirs.

    What stays besides: the snapshot that the newest model saw, the one that an interrupted --retry-failed goes on with,
    and all of a dataset while a model is trained on it. A program that has catalog.duckdb open still sees the views of
    when it opened it: if their snapshot is removed, its next query says so, and opening the file again helps.

    Args:
        dataset: Only of this one (default: all).
        keep: How many of the newest stay, the current one among them.
        dry_run: Say what would go, and remove nothing.
    """
    from data_catalog.storage.history import prune as prune_snapshots

    found = prune_snapshots(root, dataset=dataset, keep=keep, dry_run=dry_run)
    done = "would be removed" if dry_run else "removed"
    for each in found.removed:
        what = "" if each.is_finished else " (unfinished, of a build that was killed)"
        say(f"{done}: {each.dataset} {each.snapshot}{what}")
    for need in found.kept:
        say(f"kept: {need.dataset} {need.snapshot}: {need.reason}")
    goes = "goes" if dry_run else "is gone"
    for folder in found.exports:
        say(f"note: {folder} was made of a snapshot that {goes}; it is whole in itself")
    if found.num_urls:
        say(f"note: with that {goes} what is known of {found.num_urls:,} image URLs: later builds ask for them again")
    freed = f"{found.freed:,} bytes {'would be freed' if dry_run else 'freed'}"
    say(f"{counted(len(found.removed), 'snapshot')}, {freed}" if found.removed else "nothing to remove")


def _print(rows: Sequence[Row], form: Form) -> None:
    if form == "table":
        say_table(rows)
    elif form == "json":
        for row in rows:
            say_json(row, indent=None)
    elif rows:
        writer = csv.DictWriter(sys.stdout, list(rows[0]))
        writer.writeheader()
        for row in rows:
            cells = (
                (name, spreadsheet_text(value) if isinstance(value, str) else value) for name, value in row.items()
            )
            writer.writerow(dict(cells))
