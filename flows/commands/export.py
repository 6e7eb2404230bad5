"""The command `export`: a dataset as a folder that other people's tools read."""

from argparse import Namespace
from pathlib import Path

from data_catalog.errors import ConfigError
from data_catalog.exports.export import ExportConfig, ExportReport, export_snapshot
from data_catalog.storage.lock import writer_lock
from data_catalog.storage.manifest import SPLITS, require_snapshot
from flows.commands.output import say
from flows.tables import plain_table

EXPORTS = "exports"


def export(options: Namespace) -> None:
    """Write an export of a dataset's newest snapshot, and say what is in it and what is not."""
    config = ExportConfig(
        format=options.format,
        pixels=options.pixels,
        allowed=tuple(options.allow),
        samples_per_shard=options.samples_per_shard,
        captions=options.captions,
        published=options.published,
    )
    if not options.root.is_dir():
        raise ConfigError(f"{options.root} does not exist: give the root of a catalog with --root")
    with writer_lock(options.root):
        snapshot = require_snapshot(options.root, options.dataset)
        folder = options.out or default_folder(options.root, options.dataset, options.format)
        report = export_snapshot(snapshot, config, folder)
    _tell(report)


def default_folder(root: Path, dataset: str, kind: str) -> Path:
    """Where an export goes by default; `vernaclip forget` removes what lies there and holds what is forgotten."""
    return root / EXPORTS / dataset / kind


def _tell(report: ExportReport) -> None:
    rows = [
        {"split": split, "with pixels": report.images.get(split, 0), "listed by URL": report.listed.get(split, 0)}
        for split in SPLITS
    ]
    say(plain_table(rows))
    if report.withheld:
        say("\nImages whose pixels are not in it:\n")
        withheld = [
            {"source": source, "images": count, "why": reason} for (source, reason), count in report.withheld.items()
        ]
        say(plain_table(withheld))
    for source, count in report.unlisted.items():
        say(f"{count:,} of {source} are not in it at all: they have no URL")
    if report.marked:
        say(f"{report.marked:,} pairs hold something of a test set, and are in no export")
    say(f"\n{'Up to date' if report.up_to_date else 'Exported'}: {report.folder} (README.md says how it is read)")
