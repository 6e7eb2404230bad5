"""What the page says of how a snapshot was made, and what it consists of: settings, files, runs."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from data_catalog.storage.manifest import Snapshot

Rows = list[dict[str, Any]]


def settings(manifest: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """What was asked for: by section, names and values as a recipe has them."""
    sections: dict[str, dict[str, str]] = {}
    for section, values in sorted(manifest["settings"].items()):
        if isinstance(values, Mapping):
            sections[section] = dict(_flat(values))
        else:
            sections.setdefault("", {})[section] = _value(values)
    return {name: values for name, values in sorted(sections.items()) if values}


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in sorted(values.items()):
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", _value(value)))
    return found


def _value(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def files(snapshot: Snapshot) -> Rows:
    """Number, rows and bytes of a snapshot's files by what they hold; pairs by split."""
    counts: dict[str, Counter[str]] = {}
    documents = "documents", snapshot.manifest["documents"]
    for kind, entries in [*sorted(snapshot.manifest["files"].items()), documents]:
        for entry in entries:
            name = f"{kind}, {entry['split']}" if "split" in entry else kind
            counts.setdefault(name, Counter()).update(files=1, rows=entry.get("rows", 0), bytes=entry["bytes"])
    return [{"what": name, **count} for name, count in counts.items()]


def runs_of(snapshot: Snapshot, runs: Sequence[Mapping[str, Any]]) -> Rows:
    """Lines of the run log that came to this snapshot and did something, the latest first."""
    mine = [run for run in runs if run.get("snapshot") == snapshot.snapshot and run.get("num_steps")]
    return [dict(run) for run in reversed(mine)]
