"""The conservation laws find rows that are lost, doubled or published against their verdict."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from data_catalog.base.errors import DefectError
from data_catalog.catalog.duckdb_file import CONSERVATION, broken_laws
from data_catalog.catalog.manifest import Manifest, Snapshot, require_snapshot
from data_catalog.rows.schema import PENDING, REJECTED
from data_catalog.rows.stages import count_rows, set_values
from flows.build.execution import LocalExecutor
from flows.datasets import BuildReport, build_dataset
from flows.recipe.recipe import Recipe

Change = Callable[[pa.Table], pa.Table]


def set_first(column: str, value: object, **where: object) -> Change:
    """Set a column of the first row that has the given values."""

    def change(table: pa.Table) -> pa.Table:
        mask = pa.array([True] * table.num_rows)
        for name, wanted in where.items():
            mask = pc.and_(mask, pc.fill_null(pc.equal(table.column(name), wanted), False))
        row = pc.index(mask, True).as_py()
        assert row >= 0
        return set_values(table, column, [row], [value])

    return change


def lose_first(table: pa.Table) -> pa.Table:
    return table.slice(1)


def double_first(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table, table.slice(0, 1)])


CHANGES = [
    ("counted as many rows", "captions", lose_first),
    ("of a source of the build", "captions", set_first("source", "elsewhere")),
    ("kept or rejected", "captions", set_first("step", "check", outcome="kept")),
    ("kept or rejected", "captions", set_first("drop_reason", "", outcome="rejected")),
    ("occurs twice", "captions", double_first),
    ("exactly the kept captions", "pairs", lose_first),
    *(("one item for each caption", "pairs", set_first(name, [])) for name in ("source_langs", "scores")),
    ("marked as a test set's", "pairs", set_first("leaks", ["test_image coco: 1"])),
    ("marked as a test set's", "captions", set_first("leaks", ["test_image coco: 1"], outcome="kept")),
    ("published with another image", "captions", set_first("merged_into", "nowhere", outcome="kept")),
    ("for the reasons that the images have", "images", set_first("drop_reason", "dns", step="fetch")),
    ("for the reasons that the images have", "captions", set_first("drop_reason", "dns", step="normalise")),
    ("has one outcome", "images", double_first),
    ("has one outcome", "images", lose_first),
]


@pytest.fixture(scope="module")
def snapshot(built: tuple[Path, BuildReport], tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    root = tmp_path_factory.mktemp("conservation") / "catalog"
    shutil.copytree(built[0], root, ignore=shutil.ignore_patterns("work", "upstream"))
    return require_snapshot(root, "scenes")


@pytest.mark.parametrize(("law", "kind", "change"), CHANGES, ids=[f"{kind}: {law}" for law, kind, _ in CHANGES])
def test_a_changed_row_breaks_a_law(snapshot: Snapshot, law: str, kind: str, change: Change) -> None:
    assert broken_laws(snapshot) == []
    file = snapshot.folder / snapshot.manifest["files"][kind][0]["path"]
    before = file.read_bytes()
    table = change(pq.read_table(file))
    file.unlink()  # it may be a hard link
    pq.write_table(table, file)
    found = broken_laws(snapshot)
    file.write_bytes(before)
    assert [each for each in found if law in each]


def test_a_count_that_is_left_out_breaks_a_law(snapshot: Snapshot) -> None:
    counts = snapshot.manifest["funnel"]
    for number in range(len(counts)):
        manifest: Manifest = {**snapshot.manifest, "funnel": [*counts[:number], *counts[number + 1 :]]}
        assert broken_laws(replace(snapshot, manifest=manifest)), counts[number]


def test_a_row_that_a_step_loses_is_not_counted_as_dropped() -> None:
    before = pa.table({"source": ["a", "a", "a"], "outcome": [PENDING, PENDING, REJECTED]})
    assert count_rows(before, before.slice(1)) == {"a": {"read": 2, "kept": 1, "dropped": 0}}


def test_every_law_is_broken_by_one_of_the_changes() -> None:
    assert [law for law in CONSERVATION if not any(words in law for words, _, _ in CHANGES)] == []


def test_a_snapshot_that_breaks_a_law_is_not_committed(
    english_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CONSERVATION, "there is no caption", "SELECT caption_id FROM captions")
    with LocalExecutor() as executor, pytest.raises(DefectError, match="there is no caption"):
        build_dataset(english_recipe(tmp_path), root=tmp_path, executor=executor)
    assert not list((tmp_path / "datasets").glob("*/*/manifest.json"))
    assert not list((tmp_path / "datasets").glob("*/current.json"))
