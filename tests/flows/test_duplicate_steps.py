"""What images are duplicates is decided again only where a setting changed that decides it."""

from pathlib import Path

import pyarrow as pa
import pytest

from cleaning.duplicates.images import DuplicatesConfig
from cleaning.leaks import LeaksConfig
from data_catalog.publish import SplitConfig
from data_catalog.schema import CAPTIONS, IMAGES
from data_catalog.storage.shards import save_parquet, sha256_of
from data_catalog.storage.work import WorkStore
from flows.build.duplicates import find_duplicates
from flows.build.step_outputs import Shard


def empty_shard(schema: pa.Schema, path: Path) -> Shard:
    save_parquet(schema.empty_table(), path)
    return Shard(shard_id=0, path=path, sha256=sha256_of(path), counts={})


def found_in(folder: Path, config: DuplicatesConfig) -> Path:
    """The folder of what is found, which tells by what it was decided."""
    captions = empty_shard(CAPTIONS, folder / "captions.parquet")
    images = empty_shard(IMAGES, folder / "images.parquet")
    leaks, split = LeaksConfig(), SplitConfig()
    commit = find_duplicates(
        WorkStore(folder), [captions], [images], ["own"], [], config=config, leaks=leaks, split=split
    )
    return commit.folder


@pytest.mark.parametrize("config", [DuplicatesConfig(captions=False), DuplicatesConfig(merge_captions=True)])
def test_what_becomes_of_captions_decides_nothing_about_images(tmp_path: Path, config: DuplicatesConfig) -> None:
    assert found_in(tmp_path, config) == found_in(tmp_path, DuplicatesConfig())


@pytest.mark.parametrize("config", [DuplicatesConfig(images=False), DuplicatesConfig(keep=("captions",))])
def test_other_settings_do(tmp_path: Path, config: DuplicatesConfig) -> None:
    assert found_in(tmp_path, config) != found_in(tmp_path, DuplicatesConfig())
