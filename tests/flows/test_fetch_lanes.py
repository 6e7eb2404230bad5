"""Which shards are fetched one after the other, because they wait for the same slow host."""

from pathlib import Path

import pyarrow as pa
import pytest

from data_catalog.fetch.config import FetchConfig, HostLimits
from data_catalog.schema import CAPTIONS, PENDING, REJECTED
from data_catalog.storage.shards import save_parquet
from flows.build.engine import Lane
from flows.build.images import fetch_lane


def shard(path: Path, urls: list[str | None], *, rejected: int = 0) -> Path:
    """Caption rows with these URLs, the first ones rejected already."""
    rows = [
        {
            **dict.fromkeys(CAPTIONS.names),
            "sample_id": f"web:{number}",
            "caption_id": f"web:{number}#0",
            "source": "web",
            "url": url,
            "upstream_file": "a.tsv",
            "upstream_line": number,
            "outcome": REJECTED if number < rejected else PENDING,
        }
        for number, url in enumerate(urls)
    ]
    save_parquet(pa.Table.from_pylist(rows, schema=CAPTIONS), path)
    return path


WIDE = Lane("fetch", 3)
WIKIMEDIA = [f"https://upload.wikimedia.org/wikipedia/commons/a/ab/{number}.jpg" for number in range(10)]
MANY_HOSTS: list[str | None] = [f"http://host{number}.example/a.jpg" for number in range(10)]


@pytest.mark.parametrize(
    ("urls", "rejected", "lane"),
    [
        (WIKIMEDIA, 0, Lane("fetch-upload.wikimedia.org")),
        ([*WIKIMEDIA, *MANY_HOSTS[:9]], 0, Lane("fetch-upload.wikimedia.org")),
        ([*WIKIMEDIA[:5], *MANY_HOSTS], 0, WIDE),
        ([*WIKIMEDIA, *MANY_HOSTS], 10, WIDE),
        ([f"http://farm{number}.staticflickr.com/a.jpg" for number in range(9)], 0, Lane("fetch-staticflickr.com")),
        ([f"http://one.example/{number}.jpg" for number in range(9)], 0, Lane("fetch-one.example")),
        ([f"http://fast.example/{number}.jpg" for number in range(9)], 0, WIDE),
        ([None] * 5, 0, WIDE),
        ([], 0, WIDE),
        (["http://[broken/a.jpg", "no url"], 0, WIDE),
    ],
)
def test_a_shard_on_one_slow_host_has_a_lane_of_its_own(
    urls: list[str | None], rejected: int, lane: Lane, tmp_path: Path
) -> None:
    config = FetchConfig(hosts={"fast.example": HostLimits(concurrency=64, requests_per_s=0)})
    assert fetch_lane(config, 3, shard(tmp_path / "shard.parquet", urls, rejected=rejected)) == lane
