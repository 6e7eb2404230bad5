"""Draws the sample that ships: four datasets in the formats of the real ones, with the faults of the real web.

<folder>/wit/wit.tsv.gz  coco/captions_scenes.json  cc3m/cc3m.tsv  flickr8k/Flickr8k.token.txt  flickr8k/images/
<folder>/www/            what `[serve]` serves
<folder>/faults.json     every fault that was put in;  <folder>/commit.json  what the folder was made from
"""

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_catalog.errors import SettingsError
from data_catalog.progress import Progress
from data_catalog.sample.config import CC3M, COCO, FAULTS, FLICKR8K, SOURCES, WIT, ScenesConfig
from data_catalog.sample.datasets import write_cc3m, write_coco, write_flickr8k, write_wit
from data_catalog.sample.samples import ImageFolder, plan
from data_catalog.sample.server import RULES_FILE
from data_catalog.storage.disk_errors import disk_errors
from data_catalog.storage.failpoints import failpoint
from data_catalog.storage.lock import writer_lock
from data_catalog.storage.shards import digest, read_json, sync, write_json

logger = logging.getLogger(__name__)

GENERATOR_VERSION = 1  # raise it when the output for one and the same config changes
COMMIT_FILE, FAULTS_FILE, WEB_FOLDER = "commit.json", "faults.json", "www"


def draw_upstream(config: ScenesConfig) -> bool:
    """Make `config.folder`, unless it has been made from the same settings already.

    Interrupted at any moment it leaves no half-made folder, and the next call starts anew.

    Returns:
        True if anything was drawn.

    Raises:
        SettingsError: the folder holds something else.
        BusyError: another process is at it.
        DiskError: the disk is full, or nothing can be written there.
    """
    folder, settings = config.folder, _settings(config)
    key = digest(settings)
    # Where the folder is made before it is renamed: beside it, so on the same disk.
    workshop = folder.parent / f".tmp-{folder.name}"
    if _committed_key(folder) == key and not workshop.exists():
        logger.info("scenes: %s is complete, nothing to draw", folder)
        return False
    if folder.is_dir() and any(folder.iterdir()) and not (folder / COMMIT_FILE).is_file():  # not made here
        raise SettingsError(f"scenes.folder {folder} holds something that is not a sample: name another folder")
    with writer_lock(workshop):
        to_draw = _committed_key(folder) != key  # another process may just have ended
        if to_draw:
            with disk_errors(folder), _new_folder(folder, workshop) as fresh:
                _draw(config, fresh)
                write_json(fresh / COMMIT_FILE, {"key": key, "settings": settings})
        shutil.rmtree(workshop)
    return to_draw


def _settings(config: ScenesConfig) -> dict[str, Any]:
    settings = {
        "generator_version": GENERATOR_VERSION,
        "num_images": config.num_images,
        "seed": config.seed,
        "base_url": config.base_url,
        "target_language": config.target_language,
    }
    # A sample with the faults' own rates has the key that it always had.
    return {**settings, "fault_rates": dict(config.fault_rates)} if config.fault_rates else settings


def _committed_key(folder: Path) -> str | None:
    commit = folder / COMMIT_FILE
    try:
        return str(read_json(commit)["key"]) if commit.is_file() else None
    except (ValueError, KeyError, TypeError):
        return None


@contextmanager
def _new_folder(folder: Path, workshop: Path) -> Iterator[Path]:
    """Give a fresh folder to fill; when the block ends well it takes the place of `folder`."""
    fresh, old = workshop / "new", workshop / "old"
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(parents=True)
    yield fresh
    failpoint("scenes.after_draw", folder)
    os.sync()  # thousands of small files: one call for all of them
    failpoint("scenes.after_sync", folder)
    if folder.exists():
        folder.rename(old)
        failpoint("scenes.after_removal", folder)
    fresh.rename(folder)
    failpoint("scenes.after_rename", folder)
    sync(folder.parent)


def _draw(config: ScenesConfig, folder: Path) -> None:
    samples = plan(config.seed, config.num_images, config.fault_rates)
    by_source = {name: [s for s in samples if s.source == name] for name in SOURCES}
    with Progress("draw scenes", total=len(samples), unit="images") as progress:
        images = ImageFolder(
            web=folder / WEB_FOLDER,
            local=folder / FLICKR8K / "images",
            base_url=config.base_url,
            originals={sample.index: sample for sample in samples},
            progress=progress,
        )
        write_wit(by_source[WIT], folder, images, config.target_language)
        write_coco(by_source[COCO], folder, images)
        write_cc3m(by_source[CC3M], folder, images)
        write_flickr8k(by_source[FLICKR8K], folder, images)
    write_json(folder / WEB_FOLDER / RULES_FILE, images.rules)
    kinds = {kind: fault.meaning for kind, fault in FAULTS.items()}
    write_json(folder / FAULTS_FILE, {"kinds": kinds, "faults": images.faults})
