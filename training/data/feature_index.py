"""Features kept on disk with a document that says what they are of: found whole and as written, or made anew."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_catalog.errors import DamagedError
from data_catalog.storage.integrity import read_checksummed, write_checksummed
from data_catalog.storage.shards import sha256_of, sweep_temporary, write_named_atomically
from training.data.features import Features

logger = logging.getLogger(__name__)

INDEX_VERSION = 2
RECORD_FILE = "index.json"
_FEATURES_FILE = re.compile(r"features-([0-9a-f]{64})\.npy")


@dataclass(frozen=True, slots=True)
class KeptFeatures:
    """What an index holds.

    Args:
        features: unit rows, mapped from the file, shape (images, dim).
        facts: what they are of, as it was given.
    """

    features: Features
    facts: dict[str, Any]


def read_features(folder: Path) -> KeptFeatures | None:
    """An index, every byte of it as written; None if there is none, or a damaged one, which is told in the log."""
    record = folder / RECORD_FILE
    if not record.is_file():
        return None
    try:
        found = read_checksummed(record, remedy="it is made anew")
        if found.get("version") != INDEX_VERSION:
            return None
        path = folder / str(found["features"])
        problem = _problem(path)
    except DamagedError as error:
        logger.warning("%s", error)
        return None
    if problem is not None:
        logger.warning("%s is damaged (%s): it is made anew", path, problem)
        return None
    return KeptFeatures(np.load(path, mmap_mode="r", allow_pickle=False), found["facts"])


def _problem(path: Path) -> str | None:
    named = _FEATURES_FILE.fullmatch(path.name)
    try:
        return None if named is not None and sha256_of(path) == named[1] else "its sha256 is not the one of its name"
    except OSError as error:
        return str(error.strerror)


def keep_features(folder: Path, features: Features, facts: Mapping[str, Any]) -> None:
    """Write an index in the place of the one that is there. Call it with the folder's writer lock held.

    Raises:
        DiskError: the disk is full.
        OSError: the folder cannot be written to.
    """
    sweep_temporary([folder], files_only=True)
    path = write_named_atomically(folder, lambda sha256: f"features-{sha256}.npy", lambda new: _save(features, new))
    write_checksummed(folder / RECORD_FILE, {"version": INDEX_VERSION, "features": path.name, "facts": dict(facts)})
    for other in folder.iterdir():
        if _FEATURES_FILE.fullmatch(other.name) and other != path:
            other.unlink(missing_ok=True)
    logger.info("kept the features of %d images in %s", len(features), folder)


def _save(features: Features, path: Path) -> None:

    # As `np.save`, which says nothing where the end of the file meets a full disk.
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(features))
        file.write(np.ascontiguousarray(features).data)
