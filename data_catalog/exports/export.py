"""Exports of a snapshot: Hugging Face datasets and WebDataset shards, each a complete folder or absent.

The folder is written beside its final path and swapped in. `export.json`, written last, records what the export was
made from and the sha256 of every file.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_catalog.base.errors import SettingsError
from data_catalog.base.progress import Progress
from data_catalog.catalog.export_formats import ExportConfig
from data_catalog.catalog.manifest import MARKED, SPLITS, Snapshot
from data_catalog.exports import sinks
from data_catalog.exports.card import CARD_FILE, DataFiles, card_text, example_captions
from data_catalog.exports.counts import COUNTED_COLUMNS, PairCounts
from data_catalog.exports.documents import TERMS_FILE, terms_text
from data_catalog.exports.export_folder import current_record, export_lock, resolve_export_folder
from data_catalog.exports.rights import NONE, policy_of

VERSION = 9  # increase it when the files of the same snapshot and config change


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """Result of an export; `up_to_date`: it existed already, so that nothing was done."""

    folder: Path
    up_to_date: bool
    images: Mapping[str, int]  # with pixels, by split
    samples: Mapping[str, int]  # rows, or samples in tars, by split
    listed: Mapping[str, int]  # images without pixels, listed by URL, by split
    withheld: Sequence[Sequence[Any]]  # images without pixels: source, reason and number
    unlisted: Mapping[str, int]  # images with neither pixels nor a URL, by source
    marked: int  # pairs that overlap a test set; no export contains them


def export_snapshot(snapshot: Snapshot, config: ExportConfig, folder: Path) -> ExportReport:
    """Write an export of a snapshot to `folder`, unless it is up to date. Call it with the writer's lock held."""
    require_sources(snapshot, config.allowed)
    place = resolve_export_folder(folder, root=snapshot.folder.parents[2])
    with export_lock(place):
        wanted = {
            "dataset": snapshot.dataset,
            "snapshot": snapshot.snapshot,
            "format": config.format,
            "tombstones": snapshot.manifest["tombstones"]["digest"],
            "settings": {**asdict(config), "allowed": sorted(config.allowed)},
            "version": VERSION,
        }
        record, is_current = current_record(
            place, wanted, lambda temporary: {"counts": _fill(snapshot, config, temporary)}
        )
    return ExportReport(folder=folder, up_to_date=is_current, **record["counts"])


def require_sources(snapshot: Snapshot, allowed: Sequence[str]) -> None:
    """Refuse names of `--allow` that are no sources of a snapshot."""
    if unknown := sorted(set(allowed) - set(sources := snapshot.manifest["sources"])):
        raise SettingsError(f"--allow {unknown[0]}: {snapshot.dataset} has no such source, but {', '.join(sources)}")


def _fill(snapshot: Snapshot, config: ExportConfig, folder: Path) -> dict[str, Any]:
    """Write the files of an export, except its record, into a folder; return what was counted."""
    manifest, shards = snapshot.manifest, snapshot.manifest["files"]["pairs"]
    pattern, write_pairs = sinks.SINKS[config.format]
    pairs = DataFiles(pattern=pattern)
    links = DataFiles(name="links", pattern="links/{}/*.parquet", schema=sinks.LINKS)
    policy = policy_of(manifest, config.pixels, allowed=frozenset(config.allowed))
    counts, listed = PairCounts(), PairCounts()
    withheld: Counter[tuple[str, str]] = Counter()
    unlisted: Counter[str] = Counter()
    total = sum(entry["rows"] for entry in shards if entry["split"] in SPLITS)
    with ExitStack() as stack, Progress(f"export {config.format}", total=total, unit="images") as progress:
        adds = [
            stack.enter_context(sinks.link_writer(folder, links, policy)),
            stack.enter_context(sinks.credits_writer(folder, policy)),
            stack.enter_context(write_pairs(folder, pairs, config.samples_per_shard, config.captions)),
        ]
        for shard in (shard for split in SPLITS for shard in sinks.judged_shards(snapshot, policy, split)):
            for add in adds:
                add(shard)
            counted = shard.rows.select(list(COUNTED_COLUMNS))
            counts.add(counted.filter(shard.is_exported))
            listed.add(counted.filter(shard.is_listed))
            sources = counted.column("source").to_pylist()
            for source, reason, has_address in zip(sources, shard.reasons, shard.is_listed.to_pylist(), strict=True):
                if reason is not None:
                    withheld[source, reason] += 1
                    unlisted[source] += not has_address
            progress.advance(len(shard.reasons))
    held = [[source, reason, count] for (source, reason), count in sorted(withheld.items())]
    if not counts.images and (config.pixels != NONE or not listed.images):  # an earlier export stays
        why = [f"{count:,} of {source} are withheld, since {reason}" for source, reason, count in held]
        raise SettingsError(
            f"the export of {snapshot.dataset} would have no image: {'; '.join(why) or 'the dataset has no pairs'}. "
            "--allow SOURCE includes images that you have the right to pass on, --pixels noncommercial those whose "
            "license forbids only commercial use; --pixels none lists those that have an address"
        )
    card = card_text(
        manifest,
        pairs,
        counts,
        links=links,
        listed=listed,
        examples=[] if pairs.is_tars else example_captions(folder / entry["path"] for entry in pairs.entries),
        withheld=withheld,
    )
    texts = {CARD_FILE: card, TERMS_FILE: terms_text(manifest)}
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return {
        "images": counts.splits(),
        "samples": {split: pairs.total("rows", split) for split in pairs.splits()},
        "listed": listed.splits(),
        "withheld": held,
        "unlisted": {source: count for source, count in sorted(unlisted.items()) if count},
        "marked": sum(entry["rows"] for entry in shards if entry["split"] == MARKED),
    }
