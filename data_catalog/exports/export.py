"""Exports of a snapshot, each a folder that is whole or absent: Hugging Face dataset, WebDataset shards, lists of URLs.

The folder is written beside its place and swapped in; `export.json`, written last, says what it was made from and the
sha256 of every file.
"""

import datetime
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

from data_catalog.ablations import ablations_of
from data_catalog.errors import SettingsError
from data_catalog.exports import FORMATS, HUGGINGFACE, URLS, WEBDATASET
from data_catalog.exports.card import DataConfig, SplitFiles
from data_catalog.exports.counts import COUNTED_COLUMNS, PairCounts
from data_catalog.exports.documents import AttributionWriter, write_folder_documents
from data_catalog.exports.place import (
    exporting_to,
    is_whole,
    place_of,
    record_of,
    replacing,
    require_nothing_of_others,
)
from data_catalog.exports.rights import LICENSED, NONE, POLICIES, policy_of, switch_for
from data_catalog.exports.sinks import (
    CAPTIONS,
    FIRST,
    LINKS,
    JudgedShard,
    LinkWriter,
    NoPixels,
    ParquetSink,
    Sink,
    TarSink,
    judged_shards,
)
from data_catalog.progress import Progress
from data_catalog.storage.integrity import write_checksummed
from data_catalog.storage.manifest import EXPORT_RECORD, MARKED, SPLITS, Snapshot
from data_catalog.storage.shards import sha256_of

VERSION = 5  # raise it when the files for one and the same snapshot and config change


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """What is exported, and how.

    Args:
        format: one of `FORMATS`.
        pixels: which images are exported with their pixels: one of `rights.POLICIES`; none for `URLS`.
        allowed: sources of which the user says that their images may be passed on.
        samples_per_shard: of tar shards.
        captions: of tar shards: one sample an image, with its "first" caption as text, or one for "every" caption.
        published: date of publication for the metadata, as in 2026-01-31.
    """

    format: str
    pixels: str = LICENSED
    allowed: tuple[str, ...] = ()
    samples_per_shard: int = 1000
    captions: str = FIRST
    published: str | None = None

    def __post_init__(self) -> None:
        for name, allowed in (("format", FORMATS), ("pixels", POLICIES), ("captions", CAPTIONS)):
            if getattr(self, name) not in allowed:
                raise SettingsError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if self.samples_per_shard < 1:
            raise SettingsError(f"samples_per_shard must be positive, got {self.samples_per_shard}")
        if self.published is not None and not _is_date(self.published):
            raise SettingsError(f"published must be a date such as 2026-01-31, got {self.published!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What an export came to.

    Args:
        folder: where it lies.
        up_to_date: nothing was done, since it was there already.
        images: with their pixels, by split.
        listed: without pixels, by URL, by split.
        withheld: images whose pixels are not in it, by source and why.
        unlisted: of those the ones that have no URL, so that they are not in it at all, by source.
        marked: pairs that hold something of a test set, and are in no export.
    """

    folder: Path
    up_to_date: bool
    images: Mapping[str, int]
    listed: Mapping[str, int]
    withheld: Mapping[tuple[str, str], int]
    unlisted: Mapping[str, int]
    marked: int


@dataclass(slots=True)
class _Tally:
    """What is counted while pairs come."""

    counts: PairCounts = field(default_factory=PairCounts)
    listed_counts: PairCounts = field(default_factory=PairCounts)
    withheld: Counter[tuple[str, str]] = field(default_factory=Counter)
    unlisted: Counter[str] = field(default_factory=Counter)
    listed: dict[str, SplitFiles] = field(default_factory=dict)

    def add(self, shard: JudgedShard) -> None:
        """Count a shard's rows."""
        counted = shard.rows.select(list(COUNTED_COLUMNS))
        self.counts.add(counted.filter(shard.goes_along))
        self.listed_counts.add(counted.filter(shard.is_listed))
        sources, is_listed = shard.rows.column("source").to_pylist(), shard.is_listed.to_pylist()
        for source, reason, listed in zip(sources, shard.reasons, is_listed, strict=True):
            if reason is not None:
                self.withheld[source, reason] += 1
                self.unlisted[source] += not listed

    def note_list(self, links: LinkWriter) -> None:
        """Note a finished list, if it has rows."""
        if links.rows:
            size = links.path.stat().st_size
            pattern = f"links/{links.split}/*.parquet"
            self.listed[links.split] = SplitFiles(pattern=pattern, rows=links.rows, num_bytes=size)


def export_snapshot(snapshot: Snapshot, config: ExportConfig, folder: Path) -> ExportReport:
    """Write an export of a snapshot to `folder`, or find that it is there; call it with the writer's lock held.

    Raises:
        SettingsError: the folder cannot be one of ours or holds what somebody else put there, a source that is allowed
            is none of the snapshot's, or the export would hold no image.
        BusyError: another process exports to that folder.
        DiskError: the disk is full, or nothing can be written there.
        DamagedError: a shard is not what was written.
    """
    _check_allowed(snapshot, config)
    place = place_of(folder, root=snapshot.folder.parents[2])
    with exporting_to(place):
        wanted, found = _identity(snapshot, config), record_of(place)
        if found is not None:
            if is_whole(place, found) and all(found.get(name) == wanted[name] for name in wanted):
                _refuse_empty(snapshot, config, found["counts"])
                return _report(folder, found["counts"], up_to_date=True)
            require_nothing_of_others(place, found)
        with replacing(place) as temporary:
            filled = _fill(snapshot, config, temporary)
            _refuse_empty(snapshot, config, filled["counts"])
            write_checksummed(temporary / EXPORT_RECORD, {**wanted, **filled})
    return _report(folder, filled["counts"], up_to_date=False)


def _check_allowed(snapshot: Snapshot, config: ExportConfig) -> None:
    unknown = sorted(set(config.allowed) - set(snapshot.manifest["sources"]))
    if unknown:
        names = ", ".join(sorted(snapshot.manifest["sources"]))
        raise SettingsError(f"{snapshot.dataset} has no source {', '.join(unknown)}: its sources are {names}")


def _identity(snapshot: Snapshot, config: ExportConfig) -> dict[str, Any]:
    """What an export is made from; as JSON gives it back."""
    settings = {**asdict(config), "allowed": sorted(config.allowed)}
    return {
        "dataset": snapshot.dataset,
        "snapshot": snapshot.snapshot,
        "format": config.format,
        "tombstones": snapshot.manifest["tombstones"]["digest"],
        "settings": settings,
        "ablations": [found.key for found in ablations_of(snapshot)] or None,
        "version": VERSION,
    }


def _fill(snapshot: Snapshot, config: ExportConfig, folder: Path) -> dict[str, Any]:
    """Write everything but the record into a folder; returns what the record says of it."""
    policy = policy_of(
        snapshot.manifest, NONE if config.format == URLS else config.pixels, allowed=frozenset(config.allowed)
    )
    sink, tally = _sink(config, folder), _Tally()
    total = sum(entry["rows"] for entry in snapshot.manifest["files"]["pairs"] if entry["split"] in SPLITS)
    label = f"export {config.format}"
    with AttributionWriter(folder, policy) as attribution, Progress(label, total=total, unit="images") as progress:
        for split in SPLITS:
            links = LinkWriter(folder / "links", policy, split)
            for shard in judged_shards(snapshot, policy, split):
                sink.add(shard)
                attribution.add(shard)
                links.add(shard)
                tally.add(shard)
                progress.advance(len(shard.reasons))
            links.close()
            tally.note_list(links)
    sink.end()
    listed = DataConfig(name="links", splits=tally.listed, schema=LINKS)
    write_folder_documents(
        snapshot.manifest,
        folder,
        sink=sink,
        links=listed,
        counts=tally.counts,
        listed=tally.listed_counts,
        withheld=tally.withheld,
        published=config.published,
        ablations=ablations_of(snapshot),
    )
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    hashes = {path.relative_to(folder).as_posix(): path for path in files}
    return {
        "files": {name: sink.hashes.get(name) or sha256_of(path) for name, path in hashes.items()},
        "bytes": {name: path.stat().st_size for name, path in hashes.items()},
        "counts": _counts(snapshot, sink.config(), tally),
    }


def _refuse_empty(snapshot: Snapshot, config: ExportConfig, counts: Mapping[str, Any]) -> None:
    """Refuse an export without images, or where pixels are not asked for, without addresses; an earlier one stays."""
    wants_pixels, listed = config.format != URLS and config.pixels != NONE, sum(counts["listed"].values())
    if sum(counts["images"].values()) or (listed and not wants_pixels):
        return
    if not counts["withheld"]:
        marked = f", but {counts['marked']:,} that hold something of a test set" if counts["marked"] else ""
        why = (
            f"the dataset has no pairs{marked}: see `vernaclip report {snapshot.dataset}`, mend the recipe, build again"
        )
    elif not wants_pixels:
        switch = f"--format {HUGGINGFACE}" if config.format == URLS else f"--pixels {LICENSED}"
        sources = " ".join(f"--allow {source}" for source in sorted({source for source, _, _ in counts["withheld"]}))
        why = (
            f"none of its images has an address: {switch} exports those with pixels that may be passed on, and with "
            f"{sources} all, if you have the right to pass them on"
        )
    else:
        source, reason, count = max(counts["withheld"], key=itemgetter(2))
        why = f"{count:,} of {source} stay{'s' * (count == 1)} away, since {reason}: {switch_for(reason, source)}"
        why += f"; --pixels none exports the {listed:,} that have an address as a list" if listed else ""
    raise SettingsError(f"the export of {snapshot.dataset} would hold no image: {why}")


def _sink(config: ExportConfig, folder: Path) -> Sink:
    if config.format == HUGGINGFACE:
        return ParquetSink(folder)
    if config.format == WEBDATASET:
        return TarSink(folder, samples_per_shard=config.samples_per_shard, captions=config.captions)
    return NoPixels()


def _counts(snapshot: Snapshot, written: DataConfig, tally: _Tally) -> dict[str, Any]:
    pairs = snapshot.manifest["files"]["pairs"]
    return {
        "images": tally.counts.splits(),
        "samples": {split: found.rows for split, found in written.splits.items()},
        "listed": {split: found.rows for split, found in tally.listed.items()},
        "withheld": [[source, reason, count] for (source, reason), count in sorted(tally.withheld.items())],
        "unlisted": {source: count for source, count in sorted(tally.unlisted.items()) if count},
        "marked": sum(entry["rows"] for entry in pairs if entry["split"] == MARKED),
    }


def _report(folder: Path, counts: Mapping[str, Any], *, up_to_date: bool) -> ExportReport:
    return ExportReport(
        folder=folder,
        up_to_date=up_to_date,
        images=counts["images"],
        listed=counts["listed"],
        withheld={(source, reason): count for source, reason, count in counts["withheld"]},
        unlisted=counts["unlisted"],
        marked=counts["marked"],
    )


def _is_date(text: str) -> bool:
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
