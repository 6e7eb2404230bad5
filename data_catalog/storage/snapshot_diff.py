"""What differs between two snapshots: rows that came, went or are judged otherwise, images, settings, files.

Files that both snapshots have are not read.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_catalog.storage.manifest import Snapshot
from data_catalog.storage.row_comparison import Change, Comparison, compare_rows

CAPTION_ROWS = Comparison(
    id="caption_id",
    outcome="CASE WHEN outcome = 'rejected' THEN concat('rejected at ', step, ': ', drop_reason) ELSE outcome END",
    outcome_columns=("outcome", "step", "drop_reason"),
    aspects={
        "upstream": (
            "sample_id",
            "source_caption",
            "source_lang",
            "url",
            "path",
            "license",
            "attribution",
            "page_url",
            "upstream_split",
        ),
        "place": ("upstream_file", "upstream_line"),
        "cleaning": ("clean_caption",),
        "translator": ("origin", "translator", "target_lang"),
        "caption": ("caption",),
        "detail": ("detail",),
        "marks": ("leaks", "merged_into"),
    },
    others="measures",
)
PUBLISHED_IMAGES = Comparison(
    id="sample_id",
    outcome="split",
    outcome_columns=("split",),
    aspects={
        "image": ("sha256", "phash", "original_width", "original_height"),  # of the bytes as they came
        "size": ("width", "height"),
        "captions": ("caption_ids", "captions", "source_captions", "source_langs", "translators", "origins", "scores"),
        "upstream": ("url", "license", "attribution", "page_url"),
    },
    others="marks",
    unread=("image", "original"),
)

# Of a manifest: no settings, but told otherwise, or by other names.
_NO_SETTINGS = {"files", "funnel", "steps", "drop_reasons", "documents", "dataset", "snapshot", "build_key"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A setting, version or hash in the manifests that is not the same; None where one has none of that name."""

    name: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCounts:
    """How many files of a kind both snapshots have, and how many only one of them."""

    kind: str
    same: int
    only_before: int
    only_after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Diff:
    """All that differs between two snapshots.

    Args:
        before: the first.
        after: the second.
        captions: caption rows that came, went or changed.
        num_same: caption rows that are the same in every column.
        images: published images that came, went or changed.
        settings: what differs in the manifests.
        files: counts by kind.
    """

    before: Snapshot
    after: Snapshot
    captions: tuple[Change, ...]
    num_same: int
    images: tuple[Change, ...]
    settings: tuple[Difference, ...]
    files: tuple[FileCounts, ...]


def diff_snapshots(before: Snapshot, after: Snapshot, *, num_examples: int) -> Diff:
    """Compare two snapshots.

    Args:
        before: one.
        after: another.
        num_examples: how many rows of each change are shown.

    Raises:
        ConfigError: a file is missing or damaged.
    """
    captions = compare_rows(*_different(before, after, Snapshot.caption_files), CAPTION_ROWS, num_examples=num_examples)
    images = compare_rows(
        *_different(before, after, Snapshot.all_pair_files), PUBLISHED_IMAGES, num_examples=num_examples
    )
    num_rows = sum(int(file["rows"]) for file in after.manifest["files"]["captions"])
    return Diff(
        before=before,
        after=after,
        captions=captions,
        num_same=num_rows - sum(change.rows for change in captions if change.after is not None),
        images=images,
        settings=tuple(_settings(before.manifest, after.manifest)),
        files=tuple(_file_counts(before.manifest, after.manifest)),
    )


def _different(
    before: Snapshot, after: Snapshot, files: Callable[[Snapshot], tuple[Path, ...]]
) -> tuple[list[Path], list[Path]]:
    """The files of each that the other does not have: the rows of those that both have are the same."""
    hashes = [_hashes(snapshot) for snapshot in (before, after)]
    shared = set(hashes[0].values()) & set(hashes[1].values())
    first, second = (
        [path for path in files(snapshot) if found[path] not in shared]
        for snapshot, found in zip((before, after), hashes, strict=True)
    )
    return first, second


def _hashes(snapshot: Snapshot) -> dict[Path, str]:
    return {snapshot.folder / entry["path"]: str(entry["sha256"]) for entry in snapshot.entries()}


def _settings(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Difference]:
    flat = [_flat({key: value for key, value in each.items() if key not in _NO_SETTINGS}) for each in (before, after)]
    for name in sorted(flat[0].keys() | flat[1].keys()):
        was, now = (each.get(name) for each in flat)
        if was != now:
            yield Difference(name=name, before=was, after=now)


def _flat(value: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested keys joined by dots; lists, and objects without keys, stay whole."""
    found: dict[str, Any] = {}
    for key, inner in value.items():
        name = f"{above}{key}"
        found |= _flat(inner, f"{name}.") if isinstance(inner, Mapping) and inner else {name: inner}
    return found


def _file_counts(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[FileCounts]:
    for kind in sorted(before["files"].keys() | after["files"].keys()):
        was, now = ({entry["sha256"] for entry in each["files"].get(kind, [])} for each in (before, after))
        yield FileCounts(kind=kind, same=len(was & now), only_before=len(was - now), only_after=len(now - was))
