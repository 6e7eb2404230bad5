"""The command `vernaclip forget`: take-down of images, and what was taken down."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from data_catalog.errors import InputError, SettingsError
from data_catalog.plain_text import command, counted
from flows.cli.options import DEFAULT_ROOT, Number, Root, Words
from flows.cli.output import say, say_table

if TYPE_CHECKING:
    from data_catalog.takedown import Concerned, TakeDown
    from data_catalog.tombstones import Tombstone

# Of a dry run; there may be millions.
_MOST_ROWS = 200


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ForgetOptions:
    """Options that name what to forget; the first four are the kinds of tombstones by name."""

    url: Annotated[Words, Parameter(metavar="URL")] = ()
    """The image at this address, or that it redirects to, or all images of the page; may be given often."""
    domain: Annotated[Words, Parameter(metavar="HOST")] = ()
    """All images of this host and the hosts below it, and of its pages; may be given often."""
    sample: Annotated[Words, Parameter(metavar="SOURCE:ID")] = ()
    """The image of this sample; may be given often."""
    phash: Annotated[Words, Parameter(metavar="HASH")] = ()
    """Images that look so: 16 hexadecimal digits, as the column `phash` has them; may be given often."""
    distance: Annotated[Number, Parameter(metavar="BITS")] = 0
    """By how many bits of 64 the hash of --phash may differ (default: 0)."""
    dataset: Annotated[Words, Parameter(metavar="NAME")] = ()
    """In this dataset alone; may be given often (default: in all, those of later builds included)."""
    reason: Annotated[str | None, Parameter(metavar="TEXT")] = None
    """Kept with the tombstone, for whoever reads the list."""


_NOTHING = ForgetOptions()


def forget(
    *,
    root: Root = DEFAULT_ROOT,
    options: ForgetOptions = _NOTHING,
    dry_run: bool = False,
    lists: Annotated[bool, Parameter(name="--list")] = False,
) -> None:
    """Take images down: in every dataset of a root, now and in later builds.

    Args:
        dry_run: List what is meant, and change nothing.
        lists: List what was forgotten so far.
    """
    from data_catalog.storage.manifest import dataset_names
    from data_catalog.storage.roots import require_root
    from data_catalog.takedown import concerned
    from data_catalog.takedown import forget as take_down
    from data_catalog.tombstones import read_tombstones
    from translation.memory import forget_texts

    if lists:
        _list(root)
        return
    tombstones = _tombstones(root, options)
    require_root(root)
    unknown = sorted(set(options.dataset) - set(dataset_names(root)))
    if unknown:
        raise InputError(
            f"{root} has no dataset {unknown[0]!r}: name one that it has (`vernaclip catalog`), or leave "
            "--dataset out, which holds for later ones as well"
        )
    if dry_run:
        _say_concerned(list(concerned(root, tombstones)))
        return
    done = take_down(root, tombstones, forget_texts=forget_texts)
    _say_done(done, tombstones or read_tombstones(root).tombstones, root)


def _tombstones(root: Path, options: ForgetOptions) -> "list[Tombstone]":
    """Return the tombstones that the options ask for.

    Raises:
        SettingsError: a value is none of its kind; or there is none, and no take-down that waits to be ended.
    """
    from data_catalog.tombstones import KINDS, new_tombstone, read_tombstones

    today = datetime.now(UTC).date().isoformat()
    found = [
        new_tombstone(
            kind, value, distance=options.distance, datasets=options.dataset, reason=options.reason, date=today
        )
        for kind in KINDS
        for value in getattr(options, kind)
    ]
    if not found and not read_tombstones(root).is_unfinished:
        raise SettingsError("say what is to be forgotten: --url, --domain, --sample or --phash; --list lists what was")
    if options.distance and not options.phash:
        raise SettingsError("--distance goes with --phash")
    return found


def _list(root: Path) -> None:
    from data_catalog.tombstones import read_tombstones

    found = read_tombstones(root)
    if not found.tombstones:
        say(f"nothing was ever forgotten in {root}")
        return
    rows = [
        {
            "date": one.date,
            "kind": one.kind,
            "value": one.value if not one.distance else f"{one.value} +-{one.distance}",
            "datasets": ", ".join(one.datasets) or "all",
            "images": len(one.images),
            "reason": one.reason or "",
        }
        for one in found.tombstones
    ]
    say_table(rows)
    if found.is_unfinished:
        say(f"\nThe last take-down was interrupted: `{command('forget', '--root', root)}`, or a build, ends it.")


def _say_concerned(found: "Sequence[Concerned]") -> None:
    rows = [
        {
            "dataset": one.dataset,
            "snapshot": one.snapshot,
            "sample": one.sample_id,
            "captions": one.num_captions,
            "because": f"{one.tombstone.kind} {one.tombstone.value}",
            "url": one.url or "",
        }
        for one in found
    ]
    if rows:
        say_table(rows[:_MOST_ROWS])
    if len(rows) > _MOST_ROWS:
        say(f"and {len(rows) - _MOST_ROWS:,} more")
    say(f"{counted(len(rows), 'image')} would be forgotten; nothing was changed")


def _say_done(done: "TakeDown", tombstones: "Sequence[Tombstone]", root: Path) -> None:
    for one in done.rewritten:
        say(
            f"{one.dataset}: {counted(one.num_samples, 'image')} and {counted(one.num_captions, 'caption')} are "
            f"forgotten; snapshot {one.now} takes the place of {one.before}"
        )
    if not done.rewritten and not done.removed:
        say(f"no snapshot in {root} has any of it")
    if done.removed:
        say(f"removed snapshots: {', '.join(f'{dataset} {name}' for dataset, name in done.removed)}")
    gone = [counted(len(paths), what) for what, paths in done.gone.items() if paths]
    if gone:
        say(f"removed as well: {', '.join(gone)}")
    if done.gone.get("report"):
        say("written anew: the report of each dataset that has one")
    for folder in done.gone.get("export", []):
        say(f"an export that is gone: {folder}")
    if done.gone.get("export"):
        say("`vernaclip export` writes exports anew, from what there is now")
    if done.log_lines:
        say(f"taken out of fetch logs: {counted(done.log_lines, 'line')}")
    if done.num_translations:
        say(f"taken out of translation memories: {counted(done.num_translations, 'translation')}")
    values = ", ".join(f"{one.kind} {one.value}" for one in tombstones)
    say(f"in force from now on, for every build in {root}: {values}")
    say(
        "Not touched: upstream files and image folders, audits (sentences without images), and whatever was copied out "
        "of the root."
    )
    for model in done.models:
        say(f"A model that was trained on it keeps what it learnt: {model}. Train again, then remove that folder.")
