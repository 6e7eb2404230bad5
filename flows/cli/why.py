"""The command that tells why a sample, a caption or an image is in a dataset, or is not."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from data_catalog.errors import InputError
from data_catalog.plain_text import cell_text
from flows.cli.options import DEFAULT_ROOT, Json, Root
from flows.cli.output import say, say_json

if TYPE_CHECKING:
    from data_catalog.storage.manifest import Snapshot
    from data_catalog.tombstones import Tombstone

# An address may be that of many samples, as that of a picture that stands for missing ones.
MOST_STORIES = 10


def why(
    identity: Annotated[str, Parameter(name="ID")],
    /,
    *,
    root: Root = DEFAULT_ROOT,
    dataset: str | None = None,
    snapshot: Annotated[str | None, Parameter(metavar="ID")] = None,
    rules: bool = False,
    json: Json = False,
) -> None:
    """Tell why a sample, a caption or an image is in a dataset or not: its story, from the upstream line on.

    Examples:
      vernaclip why mscoco:391895 --root italy
      vernaclip why mscoco:391895#770337 --root italy
      vernaclip why https://upload.wikimedia.org/wikipedia/commons/a/a9/Example.jpg --root italy

    An address is found in any spelling, as upstream has it and as it was after redirects. Exit code 1: nothing is
    called so there. JSON has all columns and settings.

    Args:
        identity: A sample_id, a caption_id, an image's URL, or the sha256 of an image's bytes.
        dataset: Look in this dataset only.
        snapshot: Look in the snapshot of this id, or start of an id.
        rules: Tell the settings of every step, not only where it dropped.
    """
    from data_catalog.database.story import find_stories, not_there, story_lines, story_values
    from data_catalog.tombstones import find_tombstone

    snapshots = _snapshots(root, dataset, snapshot)
    stories = [story for found in snapshots for story in find_stories(found, identity)]
    tombstone = find_tombstone(root, identity, [story.sample_id for story in stories])
    if json:
        names = ("kind", "value", "datasets", "reason", "date")
        forgotten = None if tombstone is None else {name: getattr(tombstone, name) for name in names}
        say_json({"id": identity, "forgotten": forgotten, "stories": [story_values(story) for story in stories]})
    if not stories and not tombstone:
        raise InputError(not_there(snapshots, identity))
    if json:
        return
    paragraphs = [] if tombstone is None else [_forgotten(identity, tombstone, is_there=bool(stories))]
    asked = identity.strip()
    paragraphs += ("\n".join(story_lines(story, asked=asked, all_rules=rules)) for story in stories[:MOST_STORIES])
    if len(stories) > MOST_STORIES:
        paragraphs.append(f"and {len(stories) - MOST_STORIES} more samples (--json has them all)")
    say("\n\n".join(paragraphs))


def _snapshots(root: Path, dataset: str | None, snapshot: str | None) -> "list[Snapshot]":
    """Return where to look: the newest snapshot of every dataset, or those that are asked for."""
    from data_catalog.storage.manifest import committed_snapshots, require_datasets, require_snapshot

    names = require_datasets(root, dataset)
    if snapshot is None:
        return [require_snapshot(root, name) for name in names]
    known = [found for name in names for found in committed_snapshots(root, name)]
    chosen = [found for found in known if found.snapshot.startswith(snapshot)]
    if not chosen:
        there = ", ".join(f"{found.snapshot} of {found.dataset}" for found in known)
        raise InputError(f"{root} holds no snapshot {cell_text(snapshot)!r}: there are {there}")
    return chosen


def _forgotten(identity: str, tombstone: "Tombstone", *, is_there: bool) -> str:
    where = f" in {', '.join(tombstone.datasets)}" if tombstone.datasets else ""
    date = f", since {tombstone.date}" if tombstone.date else ""
    reason = f" ({cell_text(tombstone.reason)})" if tombstone.reason else ""
    text = (
        f"{cell_text(identity)} is forgotten{where}{date}: a take-down of the {tombstone.kind} "
        f"{cell_text(tombstone.value)}{reason}. Builds leave it out."
    )
    return text if is_there else f"{text}\nNo row of it is there."
