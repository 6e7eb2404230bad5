"""Exports of a snapshot: Hugging Face datasets, WebDataset shards and lists of URLs, each a complete folder or absent.

The folder is written beside its final path and swapped in. `export.json`, written last, records what the export was
made from and the sha256 of every file.
"""

import datetime
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_catalog.base.errors import SettingsError
from data_catalog.base.progress import Progress
from data_catalog.base.settings import require_values
from data_catalog.catalog.export_formats import FORMATS
from data_catalog.catalog.manifest import EXPORT_RECORD, MARKED, SPLITS, Snapshot
from data_catalog.disk.files import sha256_of
from data_catalog.disk.records import write_checksummed
from data_catalog.exports.card import CARD_FILE, card_text, example_captions
from data_catalog.exports.counts import COUNTED_COLUMNS, PairCounts
from data_catalog.exports.documents import CROISSANT_FILE, TERMS_FILE, croissant_text, terms_text
from data_catalog.exports.export_folder import (
    export_lock,
    is_whole,
    record_of,
    replace_folder,
    require_no_foreign_files,
    resolve_export_folder,
)
from data_catalog.exports.rights import LICENSED, NONE, POLICIES, policy_of
from data_catalog.exports.sinks import CAPTIONS, FIRST, SINKS, LinkWriter, credits_writer, judged_shards
from data_catalog.report.ablations import AblationTable, ablations_of

VERSION = 8  # increase it when the files of the same snapshot and config change


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """Options of an export.

    Args:
        format: name of one of `FORMATS`.
        pixels: images to export with pixels, one of `rights.POLICIES`; a format without pixels ignores it.
        allowed: sources whose images may be passed on, as the user states.
        samples_per_shard: samples of a tar shard.
        captions: for tar shards: one sample an image, with its "first" caption as text, or one for "every" caption.
        published: date of publication for the metadata, as in 2026-01-31.
    """

    format: str
    pixels: str = LICENSED
    allowed: tuple[str, ...] = ()
    samples_per_shard: int = 1000
    captions: str = FIRST
    published: str | None = None

    def __post_init__(self) -> None:
        require_values("", self, "samples_per_shard", format=FORMATS, pixels=POLICIES, captions=CAPTIONS)
        try:
            if self.published is not None:
                datetime.date.fromisoformat(self.published)
        except ValueError as error:
            raise SettingsError(f"published must be a date such as 2026-01-31: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """Result of an export; `up_to_date`: it existed already, so that nothing was done.

    Args:
        images: number of images with pixels, by split.
        samples: number of rows, or of samples in tars, by split.
        listed: number of images without pixels, listed by URL, by split.
        withheld: images without pixels: source, reason and number.
        unlisted: images that are not in the export, since they have neither pixels nor a URL, by source.
        marked: pairs that overlap a test set; no export contains them.
    """

    folder: Path
    up_to_date: bool
    images: Mapping[str, int]
    samples: Mapping[str, int]
    listed: Mapping[str, int]
    withheld: Sequence[Sequence[Any]]
    unlisted: Mapping[str, int]
    marked: int


def export_snapshot(snapshot: Snapshot, config: ExportConfig, folder: Path) -> ExportReport:
    """Write an export of a snapshot to `folder`, unless it is up to date. Call it with the writer's lock held."""
    unknown = sorted(set(config.allowed) - set(snapshot.manifest["sources"]))
    if unknown:
        names = ", ".join(sorted(snapshot.manifest["sources"]))
        raise SettingsError(f"{snapshot.dataset} has no source {', '.join(unknown)}: its sources are {names}")
    place = resolve_export_folder(folder, root=snapshot.folder.parents[2])
    with export_lock(place):
        ablations = ablations_of(snapshot)
        wanted = {
            "dataset": snapshot.dataset,
            "snapshot": snapshot.snapshot,
            "format": config.format,
            "tombstones": snapshot.manifest["tombstones"]["digest"],
            "settings": {**asdict(config), "allowed": sorted(config.allowed)},
            "ablations": [found.key for found in ablations] or None,
            "version": VERSION,
        }
        record = record_of(place)
        is_current = record is not None and record.items() >= wanted.items() and is_whole(place, record)
        if record is None or not is_current:
            if record is not None:
                require_no_foreign_files(place, record)
            with replace_folder(place) as temporary:
                counts = _fill(snapshot, config, temporary, ablations)
                _refuse_empty(snapshot, config, counts)
                files = {
                    path.relative_to(temporary).as_posix(): path for path in temporary.rglob("*") if path.is_file()
                }
                record = {
                    **wanted,
                    "counts": counts,
                    "files": {name: sha256_of(path) for name, path in files.items()},
                    "bytes": {name: path.stat().st_size for name, path in files.items()},
                }
                write_checksummed(temporary / EXPORT_RECORD, record)
    return ExportReport(folder=folder, up_to_date=is_current, **record["counts"])


def _fill(snapshot: Snapshot, config: ExportConfig, folder: Path, ablations: Sequence[AblationTable]) -> dict[str, Any]:
    """Write the files of an export, except its record, into a folder; return what was counted."""
    manifest, format_sink = snapshot.manifest, SINKS[config.format]
    policy = policy_of(manifest, config.pixels if format_sink.PATTERN else NONE, allowed=frozenset(config.allowed))
    sink = format_sink(folder, samples_per_shard=config.samples_per_shard, captions=config.captions)
    links, counts, listed = LinkWriter(folder, policy), PairCounts(), PairCounts()
    withheld: Counter[tuple[str, str]] = Counter()
    unlisted: Counter[str] = Counter()
    shards = manifest["files"]["pairs"]
    total = sum(entry["rows"] for entry in shards if entry["split"] in SPLITS)
    with (
        credits_writer(folder, policy) as add_credits,
        Progress(f"export {config.format}", total=total, unit="images") as progress,
    ):
        for shard in (shard for split in SPLITS for shard in judged_shards(snapshot, policy, split)):
            sink.add(shard)
            links.add(shard)
            add_credits(shard)
            counted = shard.rows.select(list(COUNTED_COLUMNS))
            counts.add(counted.filter(shard.is_exported))
            listed.add(counted.filter(shard.is_listed))
            sources = counted.column("source").to_pylist()
            for source, reason, has_address in zip(sources, shard.reasons, shard.is_listed.to_pylist(), strict=True):
                if reason is not None:
                    withheld[source, reason] += 1
                    unlisted[source] += not has_address
            progress.advance(len(shard.reasons))
    sink.end()
    links.end()
    pairs = sink.files
    loading = [sink.LOADING] * bool(pairs.entries) + [links.LOADING] * bool(links.files.entries)
    card = card_text(
        manifest,
        pairs,
        counts,
        "\n\n".join(loading) or "It has no image that may be passed on, and none with an address.",
        links=links.files,
        listed=listed,
        examples=[] if pairs.is_tars else example_captions(folder / entry["path"] for entry in pairs.entries),
        withheld=withheld,
        ablations=ablations,
    )
    texts = {CARD_FILE: card, TERMS_FILE: terms_text(manifest)}
    if config.format == "huggingface":
        texts[CROISSANT_FILE] = croissant_text(manifest, pairs, published=config.published)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return {
        "images": counts.splits(),
        "samples": {split: pairs.total("rows", split) for split in pairs.splits()},
        "listed": listed.splits(),
        "withheld": [[source, reason, count] for (source, reason), count in sorted(withheld.items())],
        "unlisted": {source: count for source, count in sorted(unlisted.items()) if count},
        "marked": sum(entry["rows"] for entry in shards if entry["split"] == MARKED),
    }


def _refuse_empty(snapshot: Snapshot, config: ExportConfig, counts: Mapping[str, Any]) -> None:
    """Refuse an export without images or, if it has no pixels, without addresses; an earlier export stays."""
    has_pixels, listed = bool(SINKS[config.format].PATTERN), sum(counts["listed"].values())
    wants_pixels = has_pixels and config.pixels != NONE
    if counts["images"] or (listed and not wants_pixels):
        return
    why = [f"{count:,} of {source} are withheld, since {reason}" for source, reason, count in counts["withheld"]]
    if not why:
        why = [f"the dataset has no pairs: see `vernaclip report {snapshot.dataset}`"]
    elif wants_pixels:
        why += ["--allow SOURCE includes those that you have the right to pass on, and --pixels noncommercial those "]
        why[-1] += "that forbid only commercial use"
        why += [f"--pixels none lists the {listed:,} that have an address"] * bool(listed)
    else:
        why += [f"none has an address: {'--pixels licensed' if has_pixels else '--format huggingface'} exports pixels"]
    raise SettingsError(f"the export of {snapshot.dataset} would have no image: {'; '.join(why)}")
