"""The command that tells why a sample, a caption or an image is in a dataset, or is not."""

import json
from argparse import Namespace
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from data_catalog.database.story import Story, find_stories
from data_catalog.errors import ConfigError
from data_catalog.near_misses import example_id, near_misses
from data_catalog.sources.urls import is_web_url
from data_catalog.storage.manifest import (
    Snapshot,
    committed_snapshots,
    current_snapshots,
    datasets_folder,
    require_snapshot,
)
from data_catalog.tombstones import Tombstone, read_tombstones
from flows.commands.output import say
from flows.story_text import story_lines, story_values
from flows.tables import cell_text, escaped_json

# An address may be that of many samples, as that of a picture that stands for missing ones.
MOST_STORIES = 10
# Of an id that is not there, so much is said again.
MOST_CHARACTERS = 200


def why(options: Namespace) -> None:
    """Tell the stories of all samples that an id means, and whether a take-down means it."""
    snapshots = _snapshots(options.root, options.dataset, options.snapshot)
    stories = [story for snapshot in snapshots for story in find_stories(snapshot, options.id)]
    tombstone = _tombstone(options.root, options.id, stories)
    if options.json:
        _say_json(options.id, stories, tombstone)
    elif stories or tombstone:
        say("\n".join(_lines(options, stories, tombstone)))
    if not stories and not tombstone:
        raise ConfigError(_not_there(snapshots, options.id))


def _snapshots(root: Path, dataset: str | None, snapshot: str | None) -> list[Snapshot]:
    """Where to look: the newest snapshot of every dataset, or those that are asked for."""
    if snapshot is not None:
        names = [dataset] if dataset else [path.name for path in sorted(datasets_folder(root).glob("*"))]
        known = [found for name in names for found in committed_snapshots(root, name)]
        chosen = [found for found in known if found.snapshot.startswith(snapshot)]
        if not chosen:
            there = ", ".join(f"{found.snapshot} of {found.dataset}" for found in known) or "none"
            raise ConfigError(f"{root} holds no snapshot {cell_text(snapshot)!r}: there are {there}")
        return chosen
    found = [require_snapshot(root, dataset)] if dataset else list(current_snapshots(root))
    if not found:
        raise ConfigError(f"{root} holds no dataset: run `vernaclip build RECIPE --root {root}` first")
    return found


def _tombstone(root: Path, identity: str, stories: Sequence[Story]) -> Tombstone | None:
    """The take-down that means an id, or a sample that it leads to."""
    tombstones = read_tombstones(root)
    identity = identity.strip()
    named = {"url": identity} if is_web_url(identity) else {"sample_id": identity}
    hashed = (one for one in tombstones.tombstones if identity.lower() in one.images)
    found = tombstones.match(**named) or next(hashed, None)
    of_samples = (tombstones.match(sample_id=story.sample_id) for story in stories)
    return found or next((one for one in of_samples if one is not None), None)


def _lines(options: Namespace, stories: Sequence[Story], tombstone: Tombstone | None) -> Iterator[str]:
    if tombstone is not None:
        yield _forgotten(options.id, tombstone)
        if not stories:
            yield "No row of it is there."
    for number, story in enumerate(stories[:MOST_STORIES]):
        if number or tombstone is not None:
            yield ""
        yield from story_lines(story, asked=options.id.strip(), all_rules=options.rules)
    if len(stories) > MOST_STORIES:
        yield f"\nand {len(stories) - MOST_STORIES} more samples (--json has them all)"


def _forgotten(identity: str, tombstone: Tombstone) -> str:
    where = f" in {', '.join(tombstone.datasets)}" if tombstone.datasets else ""
    date = f", since {tombstone.date}" if tombstone.date else ""
    reason = f" ({cell_text(tombstone.reason)})" if tombstone.reason else ""
    return (
        f"{cell_text(identity)} is forgotten{where}{date}: a take-down of the {tombstone.kind} "
        f"{cell_text(tombstone.value)}{reason}. Builds leave it out."
    )


def _say_json(identity: str, stories: Sequence[Story], tombstone: Tombstone | None) -> None:
    forgotten: dict[str, Any] | None = None
    if tombstone is not None:
        forgotten = {name: getattr(tombstone, name) for name in ("kind", "value", "datasets", "reason", "date")}
    answer = {"id": identity, "forgotten": forgotten, "stories": [story_values(story) for story in stories]}
    text = json.dumps(answer, ensure_ascii=False, indent=1, default=_json_value)
    say("\n".join(escaped_json(line) for line in text.split("\n")))


def _json_value(value: Any) -> str:
    """Return what JSON has no type for as a text."""
    return value.isoformat() if isinstance(value, datetime) else bytes.hex(value)


def _not_there(snapshots: Sequence[Snapshot], identity: str) -> str:
    """One sentence for an id that is nowhere, with what may have been meant."""
    places = ", ".join(f"{found.dataset} {found.snapshot}" for found in snapshots)
    shown = identity if len(identity) <= MOST_CHARACTERS else f"{identity[:MOST_CHARACTERS]}..."
    text = f"nothing in {places} is called '{cell_text(shown)}'"
    near = near_misses(snapshots, identity)
    if near:
        return f"{text}: did you mean {' or '.join(cell_text(name) for name in near)}?"
    examples = [name for name in map(example_id, snapshots) if name is not None]
    looks = f" (a sample_id looks like {cell_text(examples[0])})" if examples else ""
    unselected = sum(sum(one["unselected"].values()) for one in _sources(snapshots))
    counted = f"; {unselected:,} upstream rows were not selected, and are counted only" if unselected else ""
    return f"{text}: give a sample_id, a caption_id, an image's URL or the sha256 of its bytes{looks}{counted}"


def _sources(snapshots: Sequence[Snapshot]) -> Iterator[Any]:
    for snapshot in snapshots:
        yield from snapshot.manifest["sources"].values()
