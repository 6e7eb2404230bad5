"""`build.reuse_images`: what an earlier build fetched and kept is not asked for again, and the result is the same."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_catalog.fetch.fetch import FetchConfig
from data_catalog.images.tables import write_rows
from data_catalog.schema import CAPTIONS, PENDING, RAW_IMAGES
from data_catalog.settings import what
from data_catalog.storage.manifest import Snapshot
from data_catalog.storage.work import WorkStore
from flows.build import images as image_steps
from flows.build.earlier_images import EarlierImages, earlier_images
from flows.build.execution import LocalExecutor
from flows.build.step_outputs import FETCH, Shard, step_key
from flows.jobs import build_dataset
from flows.recipe.recipe import Recipe

EnglishRecipe = Callable[..., Recipe]

# Names and captions in other languages bring images that the first build does not ask for.
ALL_CAPTIONS = ("clean.language_check=false", "check.language_check=false", "check.proper_noun_check=false")


def build(recipe: Recipe, root: Path) -> Snapshot:
    with LocalExecutor(2) as executor:
        return build_dataset(recipe, root=root, executor=executor).snapshot


def asked(root: Path, dataset: str) -> list[str]:
    """URLs that a dataset's builds asked the web for."""
    logs = sorted((root / "datasets" / dataset / "fetch-log").glob("*.parquet"))
    return [url for path in logs for url in pq.read_table(path, columns=["url"]).column("url").to_pylist()]


def raw_row(sample_id: str, content: bytes | None) -> dict[str, object]:
    """An image as it came, or failed."""
    row = dict.fromkeys(RAW_IMAGES.names)
    return {**row, "sample_id": sample_id, "bytes": content, "drop_reason": None if content else "http_404"}


class Web:
    """Stands for the processes that fetch: every image comes, and what was asked for is noted."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def fetch(self, requests: pa.Table, _config: FetchConfig, out: Path, *, log: Path) -> None:
        ids = requests.column("sample_id").to_pylist()
        self.asked += ids
        log.parent.mkdir(exist_ok=True)
        write_rows((raw_row(sample_id, b"new") for sample_id in ids), RAW_IMAGES, out)


@dataclass(frozen=True)
class Kept:
    """A work folder in which one build fetched a, b and c, of which b was gone, and a local image d; another e."""

    work: WorkStore
    config: FetchConfig

    def add(self, *rows: dict[str, object]) -> Path:
        """A committed step output."""

        def produce(folder: Path) -> dict[str, object]:
            write_rows(iter(rows), RAW_IMAGES, folder / "shard.parquet")
            return {}

        key = step_key(FETCH, [str(row["sample_id"]) for row in rows], what(self.config))
        return self.work.run(key, produce).path("shard.parquet")

    def fetch(self, shard: Path, web: Web, earlier: EarlierImages | None) -> list[dict[str, object]]:
        """Rows of a new build's step output."""
        found = image_steps.fetch(
            self.work,
            Shard(shard_id=0, path=shard, sha256="0", counts={}),
            web,  # type: ignore[arg-type]
            self.config,
            what=what(self.config),
            local=image_steps.LocalImages(locations={"local": "/images"}, digests={"/images": "1"}),
            log_folder=self.work.folder / "log",
            earlier=earlier,
        )
        return pq.read_table(found.path).to_pylist()


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    found = Kept(work=WorkStore(tmp_path / "work"), config=FetchConfig())
    found.add(*(raw_row(name, content) for name, content in (("a", b"A"), ("b", None), ("c", b"C"), ("d", b"D"))))
    found.add(raw_row("e", b"E"))
    return found


def shard_of(folder: Path, *names: str) -> Path:
    """A shard of one caption an image, of which d is local."""
    rows = [
        dict.fromkeys(CAPTIONS.names)
        | {"sample_id": name, "source": "local" if name == "d" else "web", "outcome": PENDING}
        | ({"path": "d.jpg"} if name == "d" else {"url": f"http://host/{name}"})
        for name in names
    ]
    columns = ["sample_id", "source", "url", "path", "outcome"]
    path = folder / "captions.parquet"
    pq.write_table(pa.table({name: pa.array([row[name] for row in rows], pa.string()) for name in columns}), path)
    return path


def test_only_what_is_missing_is_asked_for_and_all_comes_in_order(kept: Kept, tmp_path: Path) -> None:
    web, shard = Web(), shard_of(tmp_path, "x", "e", "c", "b", "d", "y", "a")
    rows = kept.fetch(shard, web, earlier_images(kept.work, kept.config))
    assert web.asked == ["x", "d", "y"]  # a local image is read again
    assert [(row["sample_id"], row["bytes"]) for row in rows] == [
        *(("x", b"new"), ("e", b"E"), ("c", b"C"), ("b", None), ("d", b"new"), ("y", b"new"), ("a", b"A"))
    ]
    assert rows[3]["drop_reason"] == "http_404"


def test_without_it_all_is_asked_for(kept: Kept, tmp_path: Path) -> None:
    web = Web()
    kept.fetch(shard_of(tmp_path, "a", "x"), web, None)
    assert web.asked == ["a", "x"]


def test_what_is_damaged_or_was_fetched_otherwise_is_not_taken(kept: Kept) -> None:
    whole = earlier_images(kept.work, kept.config)
    assert set(whole.places) == set("abcde")
    assert earlier_images(kept.work, FetchConfig(max_bytes=100)).files == ()
    damaged = kept.add(raw_row("f", b"F"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    (whole.files[whole.places["e"]].parent / "commit.json").unlink()
    (kept.work.folder / "fetch" / ".tmp-left").mkdir()
    assert set(earlier_images(kept.work, kept.config).places) == set("abcd")


@pytest.mark.slow
def test_a_build_with_it_is_the_build_without_it(english_recipe: EnglishRecipe, tmp_path: Path) -> None:
    """And the two together ask the web for no image twice."""
    root, other = tmp_path / "one", tmp_path / "other"
    build(english_recipe(root, "build.keep_work=true"), root)
    more = (*ALL_CAPTIONS, 'name="more"', "build.keep_work=true")
    found = build(english_recipe(root, *more, "build.reuse_images=true"), root)
    before, new = asked(root, "scenes"), asked(root, "more")
    assert len(before) > 40
    assert new
    assert not set(before) & set(new)
    alone = build(english_recipe(other, *more), other)
    assert sorted(asked(other, "more")) == sorted([*before, *new])
    assert found.snapshot == alone.snapshot
    hashes = [[entry["sha256"] for entry in snapshot.entries()] for snapshot in (found, alone)]
    assert hashes[0] == hashes[1]


def test_nothing_is_there_before_the_first_build(tmp_path: Path) -> None:
    assert earlier_images(WorkStore(tmp_path), FetchConfig()).files == ()
