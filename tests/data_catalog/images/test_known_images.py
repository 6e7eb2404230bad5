"""What an earlier snapshot knows of its images is of use only if it says all that a build needs."""

from pathlib import Path

import pytest

from data_catalog.errors import ConfigError
from data_catalog.fetch.known import known_shards
from data_catalog.schema import OUTCOMES_VERSION
from data_catalog.storage.manifest import Snapshot


def snapshot(folder: Path, version: int) -> Snapshot:
    files = {
        "pairs": [{"shard": 0, "path": "pairs/train.parquet", "sha256": "1"}],
        "images": [{"shard": 0, "path": "images/0.parquet", "sha256": "2"}],
    }
    manifest = {"schemas": {"images": version}, "files": files}
    return Snapshot(dataset="x", snapshot="one", folder=folder, manifest=manifest)


def test_snapshots_without_thumbnails_are_built_anew(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no thumbnails"):
        known_shards(snapshot(tmp_path, OUTCOMES_VERSION - 1), attempt=1)


def test_shards_of_snapshots_of_this_version_are_known(tmp_path: Path) -> None:
    (known,) = known_shards(snapshot(tmp_path, OUTCOMES_VERSION), attempt=1).values()
    assert known.outcomes == tmp_path / "images/0.parquet"
    assert known.pairs == (tmp_path / "pairs/train.parquet",)
