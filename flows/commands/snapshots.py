"""Commands on the snapshots of a catalog: list, compare and remove them."""

import csv
import json
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from data_catalog.errors import ConfigError
from data_catalog.storage.diff import Change, Diff, diff_snapshots
from data_catalog.storage.history import Published, history, resolve
from data_catalog.storage.manifest import dataset_names
from flows.commands.output import say
from flows.pruning import Pruned
from flows.pruning import prune as prune_snapshots
from flows.tables import cell_text, escaped_json, plain_table, spreadsheet_text

MAX_CELL = 60
MAX_GROUPS = 20

Row = dict[str, Any]


def snapshots(options: Namespace) -> None:
    """List the committed snapshots of one dataset, or of all, oldest first."""
    there = dataset_names(options.root)
    if options.dataset is not None and options.dataset not in there:
        raise ConfigError(f"{options.root} holds no dataset {options.dataset!r}: it holds {', '.join(there) or 'none'}")
    if not there:
        raise ConfigError(f"{options.root} holds no dataset: run `vernaclip build RECIPE --root {options.root}` first")
    names = there if options.dataset is None else [options.dataset]
    _print([_snapshot_row(each) for name in names for each in history(options.root, name)], options.format)


def _snapshot_row(published: Published) -> Row:
    snapshot = published.snapshot
    manifest, files = snapshot.manifest, snapshot.manifest["files"]
    return {
        "dataset": snapshot.dataset,
        "snapshot": snapshot.snapshot,
        "current": published.is_current,
        "published": published.time,
        "captions": sum(file["rows"] for file in files["captions"]),
        "pairs": sum(file["rows"] for file in files["pairs"]),
        "bytes": sum(file["bytes"] for file in snapshot.entries()),
        "attempt": manifest["attempt"],
        "forget_of": manifest.get("forget_of"),
    }


def diff(options: Namespace) -> None:
    """Say what differs between two snapshots of a dataset."""
    if options.examples < 0:
        raise ConfigError(f"--examples must not be negative, got {options.examples}")
    before, after = resolve(options.root, [options.a, options.b], options.dataset)
    found = diff_snapshots(before, after, num_examples=options.examples)
    if options.format == "json":
        say(_json(_as_json(found)))
    elif options.format == "csv":
        _print([*_change_rows("captions", found.captions), *_change_rows("images", found.images)], "csv")
    else:
        _say_diff(found)


def _as_json(found: Diff) -> Row:
    return {
        "dataset": found.before.dataset,
        "before": found.before.snapshot,
        "after": found.after.snapshot,
        "captions": {"same": found.num_same, "changes": [_change_json(change) for change in found.captions]},
        "images": {"changes": [_change_json(change) for change in found.images]},
        "settings": [{"name": name, "before": was, "after": now} for name, (was, now) in found.settings.items()],
        "files": [
            {"kind": each.kind, "same": each.same, "only_before": each.only_before, "only_after": each.only_after}
            for each in found.files
        ],
    }


def _change_json(change: Change) -> Row:
    examples = [
        {"id": example.id, "columns": {name: list(pair) for name, pair in example.columns.items()}}
        for example in change.examples
    ]
    return {**_change_row(change), "examples": examples}


def _change_row(change: Change) -> Row:
    return {
        "change": change.change,
        "source": change.source,
        "before": change.before,
        "after": change.after,
        "rows": change.rows,
    }


def _change_rows(kind: str, changes: Sequence[Change]) -> list[Row]:
    return [
        {"of": kind, **_change_row(change), "examples": " ".join(example.id for example in change.examples)}
        for change in changes
    ]


def _say_diff(found: Diff) -> None:
    say(f"{found.before.dataset}: {found.before.snapshot} -> {found.after.snapshot}")
    say(f"\n{found.num_same:,} caption rows are the same; {_counted(found.captions)}")
    _say_changes(found.captions)
    say(f"\nimages that are published: {_counted(found.images)}")
    _say_changes(found.images)
    if found.settings:
        say("\nwhat the manifests say:")
        settings = found.settings.items()
        say(plain_table([{"name": name, "before": _short(was), "after": _short(now)} for name, (was, now) in settings]))
    say("\nfiles:")
    names = ("kind", "same", "only_before", "only_after")
    say(plain_table([{name: getattr(each, name) for name in names} for each in found.files]))


def _counted(changes: Sequence[Change]) -> str:
    added = sum(change.rows for change in changes if change.before is None)
    gone = sum(change.rows for change in changes if change.after is None)
    changed = sum(change.rows for change in changes) - added - gone
    return f"{added:,} added, {gone:,} gone, {changed:,} changed"


def _say_changes(changes: Sequence[Change]) -> None:
    if not changes:
        return
    say(plain_table([_change_row(change) for change in changes[:MAX_GROUPS]]))
    if len(changes) > MAX_GROUPS:
        say(f"... and {len(changes) - MAX_GROUPS} more kinds of change: --format csv or json shows all")
    for change in changes[:MAX_GROUPS]:
        for example in change.examples:
            say(f"  {change.change}: {cell_text(example.id)}")
            for name, (was, now) in _told(change, example.columns).items():
                say(f"    {name}: {_short(was)} -> {_short(now)}")


def _told(change: Change, columns: Mapping[str, tuple[Any, Any]]) -> Mapping[str, tuple[Any, Any]]:
    """Of an example the columns that a reader needs: of rows that came, went or ended otherwise, what they say."""
    if change.before == change.after:
        return columns
    telling = ("source_caption", "caption", "captions", "detail")
    return {name: columns[name] for name in telling if name in columns}


def _short(value: object) -> str:
    text = "-" if value is None else cell_text(str(value))
    return text if len(text) <= MAX_CELL else f"{text[: MAX_CELL - 3]}..."


def prune(options: Namespace) -> None:
    """Remove old snapshots that nothing needs; with --dry-run, say which."""
    found = prune_snapshots(options.root, dataset=options.dataset, keep=options.keep, dry_run=options.dry_run)
    done = "would be removed" if options.dry_run else "removed"
    for each in found.removed:
        what = "" if each.is_finished else " (unfinished, of a build that was killed)"
        say(f"{done}: {each.dataset} {each.snapshot}{what}")
    for need in found.kept:
        say(f"kept: {need.dataset} {need.snapshot}: {need.reason}")
    goes = "goes" if options.dry_run else "is gone"
    for folder in found.exports:
        say(f"note: {folder} was made of a snapshot that {goes}; it is whole in itself")
    if found.num_urls:
        say(f"note: with that {goes} what is known of {found.num_urls:,} image URLs: later builds ask for them again")
    say(_summary(found, options.dry_run))


def _summary(found: Pruned, dry_run: bool) -> str:
    if not found.removed:
        return "nothing to remove"
    count = f"{len(found.removed)} snapshot{'s' if len(found.removed) > 1 else ''}"
    return f"{count}, {found.freed:,} bytes {'would be freed' if dry_run else 'freed'}"


def _print(rows: Sequence[Row], form: str) -> None:
    if form == "table":
        say(plain_table(rows))
    elif form == "json":
        for row in rows:
            say(_json(row))
    elif rows:
        writer = csv.DictWriter(sys.stdout, list(rows[0]))
        writer.writeheader()
        writer.writerows({name: _csv_cell(value) for name, value in row.items()} for row in rows)


def _csv_cell(value: object) -> object:
    return spreadsheet_text(value) if isinstance(value, str) else value


def _json(value: Row) -> str:
    """One line that reads back as it was and does nothing to a terminal."""
    return escaped_json(json.dumps(value, ensure_ascii=False, default=str))
