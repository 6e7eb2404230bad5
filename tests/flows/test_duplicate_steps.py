"""What images are duplicates is decided again only where a setting changed that decides it."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cleaning.duplicates.images import FOUND, DuplicatesConfig, merged_captions
from cleaning.leaks import LeaksConfig
from data_catalog.schema import CAPTIONS, IMAGES
from data_catalog.storage.publish import SplitConfig
from data_catalog.storage.shards import save_parquet
from data_catalog.storage.work import Commit
from flows.build.images import decisive_settings


def empty_shard(schema: pa.Schema, path: Path) -> Path:
    save_parquet(schema.empty_table(), path)
    return path


def found_in(folder: Path, call_step: Any, config: DuplicatesConfig) -> Path:
    """The folder of what is found, which tells by what it was decided."""
    captions = empty_shard(CAPTIONS, folder / "captions.parquet")
    images = empty_shard(IMAGES, folder / "images.parquet")
    settings = {"sources": ["own"], "config": decisive_settings(config), "leaks": LeaksConfig()}
    settings |= {"split": SplitConfig(), "test_sets": []}
    commit: Commit = call_step("find-duplicates", folder, {"check": [captions], "forget-images": [images]}, settings)
    return commit.folder


@pytest.mark.parametrize("config", [DuplicatesConfig(captions=False), DuplicatesConfig(merge_captions=True)])
def test_what_becomes_of_captions_decides_nothing_about_images(
    tmp_path: Path, call_step: Any, config: DuplicatesConfig
) -> None:
    assert found_in(tmp_path, call_step, config) == found_in(tmp_path, call_step, DuplicatesConfig())


@pytest.mark.parametrize("config", [DuplicatesConfig(images=False), DuplicatesConfig(keep=("captions",))])
def test_other_settings_do(tmp_path: Path, call_step: Any, config: DuplicatesConfig) -> None:
    assert found_in(tmp_path, call_step, config) != found_in(tmp_path, call_step, DuplicatesConfig())


def test_nothing_to_merge_is_an_empty_table(tmp_path: Path) -> None:
    captions, found = empty_shard(CAPTIONS, tmp_path / "captions.parquet"), empty_shard(FOUND, tmp_path / "found")
    assert merged_captions([captions], found).equals(CAPTIONS.empty_table())
