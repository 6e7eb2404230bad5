"""The commands verify, snapshots, diff, prune and forget, which work on the snapshots of a catalog."""

import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from data_catalog.base.errors import InputError, SettingsError
from data_catalog.base.plain_text import cell_text, command, counted, spreadsheet_text
from flows.cli.output import output_errors, say, say_json, say_table
from flows.options import DEFAULT_ROOT, Number, Root, WholeNumber, Words

if TYPE_CHECKING:
    from data_catalog.catalog.verify import Finding
    from data_catalog.publish.takedown import TakeDown
    from data_catalog.publish.tombstones import Tombstone, Tombstones

MAX_CELL = 60
MAX_GROUPS = 20
_MOST_ROWS = 200  # of a dry run of forget; there may be millions

Row = dict[str, Any]
Form = Literal["table", "csv", "json"]


def verify(
    *,
    root: Root = DEFAULT_ROOT,
    dataset: str | None = None,
    snapshot: Annotated[str | None, Parameter(metavar="ID")] = None,
) -> int:
    """Check that every file of the catalog is as it was written. The exit code is 1 if any is damaged.

    Args:
        dataset: Check only this dataset and its exports.
        snapshot: Check only this snapshot.
    """
    from data_catalog.base.progress import Progress
    from data_catalog.catalog.manifest import datasets_folder, snapshot_names
    from data_catalog.catalog.verify import checks, run_checks

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
    for folder in sorted(datasets_folder(root).glob(dataset or "*")):
        for name in (name for name in snapshot_names(root, folder.name) if snapshot in (None, name)):
            is_whole = not any(path.is_relative_to(folder / name) for path in damaged)
            say(f"{folder.name} {name}: {'sound' if is_whole else 'damaged'}")
    more = f"; {num_strays} stray files, {num_notes} notes" if num_strays or num_notes else ""
    say(f"{root}: {f'{len(damaged)} damaged' if damaged else 'sound'} ({len(todo)} files checked{more})")
    return int(bool(damaged))


def snapshots(dataset: str | None = None, /, *, root: Root = DEFAULT_ROOT, format: Form = "table") -> None:
    """List all committed snapshots, oldest first, with their date and contents, and mark the current one.

    Args:
        dataset: List only this dataset (default: all).
        format: Format of the list.
    """
    from data_catalog.catalog.history import history
    from data_catalog.catalog.manifest import require_datasets

    names = require_datasets(root, dataset)
    _print([row for name in names for row in history(root, name)], format)


def diff(
    before: Annotated[str, Parameter(name="A")],
    after: Annotated[str, Parameter(name="B")],
    /,
    *,
    root: Root = DEFAULT_ROOT,
    dataset: str | None = None,
    examples: WholeNumber = 3,
    format: Form = "table",
) -> None:
    """Compare two snapshots of a dataset: rows added, gone or judged differently, changed settings and files.

    Args:
        before: The earlier snapshot: its id or the start of its id, `current`, or `previous` (the one before current).
        after: The later snapshot, given in the same way.
        dataset: Dataset of the snapshots, if the ids do not decide it.
        examples: Rows to show for each kind of change.
        format: Format of the differences.
    """
    from data_catalog.catalog.diff import diff_snapshots
    from data_catalog.catalog.history import resolve

    found = diff_snapshots(*resolve(root, [before, after], dataset), num_examples=examples)
    captions, images = (found[kind]["changes"] for kind in ("captions", "images"))
    if format == "json":
        say_json(found, indent=None)
        return
    if format == "csv":
        changes = [("captions", each) for each in captions] + [("images", each) for each in images]
        ids = [" ".join(example["id"] for example in change["examples"]) for _, change in changes]
        _print([{"of": of, **each, "examples": seen} for (of, each), seen in zip(changes, ids, strict=True)], "csv")
        return
    say(f"{found['dataset']}: {found['before']} -> {found['after']}")
    say(f"\n{found['captions']['same']:,} caption rows are the same; {_counted(captions)}")
    _say_changes(captions)
    say(f"\nimages that are published: {_counted(images)}")
    _say_changes(images)
    if found["settings"]:
        say("\nmanifests:")
        say_table([row | {name: _short(row[name]) for name in ("before", "after")} for row in found["settings"]])
    say("\nfiles:")
    say_table(found["files"])


def _counted(changes: Sequence[Row]) -> str:
    added = sum(change["rows"] for change in changes if change["before"] is None)
    gone = sum(change["rows"] for change in changes if change["after"] is None)
    changed = sum(change["rows"] for change in changes) - added - gone
    return f"{added:,} added, {gone:,} gone, {changed:,} changed"


def _say_changes(changes: Sequence[Row]) -> None:
    if not changes:
        return
    names = ("change", "source", "before", "after", "rows")
    say_table([{name: change[name] for name in names} for change in changes[:MAX_GROUPS]])
    if len(changes) > MAX_GROUPS:
        say(f"... and {len(changes) - MAX_GROUPS} more kinds of change: --format csv or json shows all")
    for change in changes[:MAX_GROUPS]:
        for example in change["examples"]:
            say(f"  {change['change']}: {cell_text(example['id'])}")
            # Of added and gone rows, show only the columns that identify them.
            identifying = ("source_caption", "caption", "captions", "detail")
            columns = example["columns"]
            for name in columns if change["before"] == change["after"] else identifying:
                if name in columns:
                    was, now = columns[name]
                    say(f"    {name}: {_short(was)} -> {_short(now)}")


def _short(value: object) -> str:
    text = "-" if value is None else cell_text(str(value))
    return text if len(text) <= MAX_CELL else f"{text[: MAX_CELL - 3]}..."


def prune(dataset: str | None = None, /, *, root: Root = DEFAULT_ROOT, keep: Number = 1, dry_run: bool = False) -> None:
    """Remove old snapshots that nothing needs, and unfinished snapshots of killed builds.

    These snapshots are also kept: those that models were trained on, until `vernaclip models rm`, and all snapshots of
    a dataset while a model is trained on it. A program that has catalog.duckdb open still uses the old views. If their
    snapshot is removed, its next query fails; open the file again.

    Args:
        dataset: Prune only this dataset (default: all).
        keep: Number of newest snapshots to keep, including the current one.
        dry_run: List what would be removed, and remove nothing.
    """
    from data_catalog.catalog.history import prune as prune_snapshots

    found = prune_snapshots(root, dataset=dataset, keep=keep, dry_run=dry_run)
    done, fate = ("would be removed",) * 2 if dry_run else ("removed", "is removed")
    for each in found.removed:
        what = f" ({each.note})" if each.note else ""
        say(f"{done}: {each.dataset} {each.snapshot}{what}")
    for need in found.kept:
        say(f"kept: {need.dataset} {need.snapshot}: {need.note}")
    for folder in found.exports:
        say(f"note: {folder} was exported from a snapshot that {fate}; the export stays usable")
    if found.num_urls:
        lost = "would be lost" if dry_run else "are lost"
        say(f"note: the fetch outcomes of {found.num_urls:,} image URLs {lost}: later builds fetch these images again")
    freed = f"{found.freed:,} bytes {'would be freed' if dry_run else 'freed'}"
    say(f"{counted(len(found.removed), 'snapshot')}, {freed}" if found.removed else "nothing to remove")


def _print(rows: Sequence[Row], form: Form) -> None:
    """Print rows as a table, as CSV, or as one JSON object on each line."""
    if form == "table":
        say_table(rows)
    elif form == "json":
        for row in rows:
            say_json(row, indent=None)
    elif rows:
        with output_errors():
            writer = csv.writer(sys.stdout)
            writer.writerow(rows[0])
            for row in rows:
                writer.writerow(spreadsheet_text(cell) if isinstance(cell, str) else cell for cell in row.values())


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ForgetOptions:
    """Options that select the images to forget; the first four are named like the kinds of tombstones."""

    url: Annotated[Words, Parameter(metavar="URL")] = ()
    """Image at this URL or at its redirect target, or all images of the page at this URL. Repeatable."""
    domain: Annotated[Words, Parameter(metavar="HOST")] = ()
    """All images of this host and its subdomains, and all images of their pages. Repeatable."""
    sample: Annotated[Words, Parameter(metavar="SOURCE:ID")] = ()
    """Image of this sample. Repeatable."""
    phash: Annotated[Words, Parameter(metavar="HASH")] = ()
    """Images with this perceptual hash: 16 hexadecimal digits, as in the column `phash`. Repeatable."""
    distance: Annotated[Number, Parameter(metavar="BITS")] = 0
    """Number of bits, of 64, by which an image's hash may differ from --phash (default: 0)."""
    dataset: Annotated[Words, Parameter(metavar="NAME")] = ()
    """Forget only in this dataset (default: in all, also in datasets built later). Repeatable."""
    reason: Annotated[str | None, Parameter(metavar="TEXT")] = None
    """Reason to store with the tombstone."""


_NOTHING = ForgetOptions()


def forget(
    *,
    root: Root = DEFAULT_ROOT,
    options: ForgetOptions = _NOTHING,
    dry_run: bool = False,
    lists: Annotated[bool, Parameter(name="--list")] = False,
) -> None:
    """Remove images from every dataset of a root (take-down), and keep them out of later builds.

    Args:
        dry_run: List the matching images, and change nothing.
        lists: List all tombstones (records of forgotten images).
    """
    from data_catalog.catalog.manifest import dataset_names
    from data_catalog.catalog.roots import require_root
    from data_catalog.publish.takedown import affected_samples
    from data_catalog.publish.takedown import forget as take_down
    from data_catalog.publish.tombstones import read_tombstones
    from translation.memory import forget_texts

    require_root(root)
    known = read_tombstones(root)
    if lists:
        if options != _NOTHING or dry_run:
            raise SettingsError("--list only lists what was forgotten: leave it out to forget more, or use it alone")
        _say_forgotten(root, known)
        return
    if options == _NOTHING and known.tombstones and not known.is_unfinished:
        say(f"every take-down of {root} is finished: nothing to do (--list shows what was forgotten)")
        return
    tombstones = _tombstones(options)
    if not tombstones and not known.is_unfinished:
        raise SettingsError(
            "no images are selected: use --url, --domain, --sample or --phash (--list shows what was forgotten)"
        )
    unknown = sorted(set(options.dataset) - set(dataset_names(root)))
    if unknown:
        raise InputError(
            f"{root} has no dataset {unknown[0]!r}: name an existing one (see `vernaclip catalog`), or leave --dataset "
            "out to forget in all datasets, also in later ones"
        )
    if dry_run:
        _say_affected(list(affected_samples(root, tombstones)))
        return
    done = take_down(root, tombstones, forget_texts=forget_texts)
    _say_done(done, tombstones or read_tombstones(root).tombstones, root)


def _tombstones(options: ForgetOptions) -> "list[Tombstone]":
    """Return new tombstones for the options."""
    from data_catalog.publish.tombstones import KINDS, new_tombstone

    if options.distance and not options.phash:
        raise SettingsError("--distance can be used only with --phash")
    date = datetime.now(UTC).date().isoformat()
    more: Row = {"distance": options.distance, "datasets": options.dataset, "reason": options.reason, "date": date}
    return [new_tombstone(kind, value, **more) for kind in KINDS for value in getattr(options, kind)]


def _say_forgotten(root: Path, found: "Tombstones") -> None:
    if not found.tombstones:
        say(f"nothing was forgotten in {root}")
        return
    say_table(
        [
            {"date": one.date, "kind": one.kind, "value": one.value + (f" +-{one.distance}" if one.distance else "")}
            | {"datasets": ", ".join(one.datasets) or "all", "images": len(one.images), "reason": one.reason or ""}
            for one in found.tombstones
        ]
    )
    if found.is_unfinished:
        say(f"\nThe last take-down was interrupted: finish it with `{command('forget', '--root', root)}` or a build.")


def _say_affected(rows: Sequence[Row]) -> None:
    if rows:
        say_table(rows[:_MOST_ROWS])
    if len(rows) > _MOST_ROWS:
        say(f"and {len(rows) - _MOST_ROWS:,} more")
    images = {(row["dataset"], row["sample"]) for row in rows}  # a row each for every snapshot that has it
    say(f"{counted(len(images), 'image')} would be forgotten; nothing was changed")


def _say_done(done: "TakeDown", tombstones: "Sequence[Tombstone]", root: Path) -> None:
    for one in done.rewritten:
        say(
            f"{one.dataset}: {counted(one.num_samples, 'image')} and {counted(one.num_captions, 'caption')} are "
            f"forgotten; snapshot {one.now} replaces {one.before}"
        )
    if not done.rewritten and not done.removed:
        say(f"no snapshot in {root} contains a matching image")
    if done.removed:
        say(f"removed snapshots: {', '.join(f'{dataset} {name}' for dataset, name in done.removed)}")
    gone = [counted(len(paths), what) for what, paths in done.removed_files.items() if paths]
    if gone:
        say(f"also removed: {', '.join(gone)}")
    if done.removed_files.get("report"):
        say("rewritten: the existing reports of the datasets")
    exports = done.removed_files.get("export", [])
    for folder in exports:
        say(f"removed export: {folder}")
    if exports:
        say("`vernaclip export` writes exports again, from the new snapshots")
    if done.num_translations:
        say(f"removed from translation memories: {counted(done.num_translations, 'translation')}")
    for model in done.models:
        remove = command("models", "rm", model, "--root", root)
        say(f"The model {model} may have learned a forgotten image: train again, then run `{remove}`.")
    values = ", ".join(f"{one.kind} {one.value}" for one in tombstones)
    say(f"from now on, every build in {root} leaves out: {values}")
    say(
        "Not changed: upstream files and image folders, audits (they contain sentences, no images), and all copies "
        "outside the root."
    )
