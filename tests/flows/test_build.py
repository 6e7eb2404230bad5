"""A build conserves every row, does nothing twice, and gives the same bytes whatever the order of its work."""

import importlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from data_catalog.base.errors import BusyError, DiskError, SettingsError
from data_catalog.catalog import sorting
from data_catalog.catalog.duckdb_file import rebuild
from data_catalog.catalog.manifest import current_snapshot
from data_catalog.catalog.query import query
from data_catalog.catalog.views import VIEWS
from data_catalog.disk import failpoints
from data_catalog.disk.files import read_json, sha256_of
from data_catalog.sources import ingest
from flows.build.execution import LocalExecutor
from flows.datasets import BuildReport, build_dataset
from flows.recipe.recipe import Recipe, find_recipe, load_recipe, what_settings

Built = tuple[Path, BuildReport]
EnglishRecipe = Callable[..., Recipe]

# What each injected fault must be called in the catalog.
EXPECTED = {
    "dead_link": {("fetch", "http_404")},
    "missing_file": {("fetch", "missing_file")},
    "html_instead_of_image": {("normalise", "not_an_image")},
    "truncated_image": {("normalise", "truncated")},
    "tiny_image": {("normalise", "too_small")},
    "wrong_language": {("clean", "wrong_language")},
    "bare_name": {("check", "mostly_proper_nouns")},
    "empty_caption": {("ingest", "caption_missing")},
    "missing_caption": {("ingest", "malformed_row"), ("ingest", "caption_missing")},
    "short_caption": {("clean", "caption_too_short"), ("clean", "caption_boilerplate")},
    "file_name_caption": {("clean", "caption_boilerplate")},
    "unterminated_quote": {("ingest", "malformed_row")},
    "unknown_image": {("ingest", "image_missing")},
    "wrong_field_count": {("ingest", "malformed_row")},
}


def tree(root: Path) -> dict[str, str]:
    """sha256 of every published file below a root; run logs, which vary, lie beside them."""
    datasets = root / "datasets"
    names = ("*/*/*/*.parquet", "*/*/manifest.json", "*/current.json", "*/*/README.md")
    return {path.relative_to(root).as_posix(): sha256_of(path) for name in names for path in datasets.glob(name)}


def test_every_step_keeps_or_drops_what_it_reads(built: Any) -> None:
    root, report = built
    names = "source, step_number, step, read, kept, dropped"
    told = query(root, f"SELECT {names} FROM funnel ORDER BY source, step_number").to_pylist()
    assert told == report.snapshot.manifest["funnel"], "what the rows say is what the steps counted"
    assert all(row["read"] == row["kept"] + row["dropped"] for row in told)
    captions = query(root, "SELECT outcome, count(*) AS n FROM captions GROUP BY ALL").to_pylist()
    sources = report.snapshot.manifest["sources"]
    assert sum(row["n"] for row in captions) == sum(source["selected"] for source in sources.values())
    assert {row["outcome"] for row in captions} == {"kept", "rejected"}
    assert str(root) not in json.dumps(report.snapshot.manifest), "it names no place of this machine"


def test_every_injected_fault_ends_as_it_should(built: Any) -> None:
    root, _ = built
    faults = read_json(root / "upstream" / "faults.json")["faults"]
    rows = query(root, "SELECT step, drop_reason, count(*) AS n FROM rejects GROUP BY ALL").to_pylist()
    rejected = {(row["step"], row["drop_reason"]): row["n"] for row in rows}
    for kind, count in Counter(fault["kind"] for fault in faults).items():
        if kind in EXPECTED:
            assert sum(rejected.get(reason, 0) for reason in EXPECTED[kind]) >= count, (kind, rejected)
    images = {
        row.pop("url"): row for row in query(root, "SELECT url, status, step, drop_reason FROM images").to_pylist()
    }
    assert all((row["status"] == "published") is (row["drop_reason"] is None) for row in images.values())
    for fault in faults:
        if fault["kind"] in ("redirect", "flaky"):
            assert images[fault["url"]]["status"] == "published", fault
        if fault["kind"] == "dead_link":
            assert (images[fault["url"]]["step"], images[fault["url"]]["drop_reason"]) == ("fetch", "http_404"), fault
        if fault["kind"] == "mojibake":
            found = query(root, f"SELECT caption FROM captions WHERE url = '{fault['url']}'").to_pylist()
            assert fault["repaired"] in [row["caption"] for row in found], fault


def test_any_duckdb_opens_the_catalog_from_any_folder(
    built: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, report = built
    monkeypatch.chdir(tmp_path)
    with duckdb.connect(str(root / "catalog.duckdb"), read_only=True) as connection:
        found = connection.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall()
        pairs = connection.execute("SELECT count(*) FROM pairs").fetchone()
    assert {name for (name,) in found} == {*VIEWS}
    assert pairs == (sum(file["rows"] for file in report.snapshot.manifest["files"]["pairs"]),)


def test_snapshots_older_than_a_column_are_still_read(built: Any, tmp_path: Path) -> None:
    root, _ = built
    shutil.copytree(root / "datasets", tmp_path / "datasets")
    for path in tmp_path.rglob("captions-*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns(["length_ratio", "numbers_lost"]), path)
    rebuild(tmp_path)
    found = query(tmp_path, "SELECT DISTINCT length_ratio, numbers_lost FROM captions").to_pylist()
    assert found == [{"length_ratio": None, "numbers_lost": None}]
    assert query(tmp_path, "SELECT translator FROM translators").to_pylist() == [{"translator": "native"}]


def test_a_second_build_does_nothing(built: Any, english_recipe: Any, tmp_path: Path) -> None:
    """In a copy: it is a run all the same, and other tests ask what the latest one did."""
    root = Path(shutil.copytree(built[0], tmp_path / "catalog"))
    rebuild(root)  # views name files by where they are
    before = tree(root)
    left_by_kills = [root / "packages" / ".tmp-abc" / "package", root / "memory" / ".tmp-def"]
    for path in left_by_kills:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if path.name == "package" else path.touch()
    with LocalExecutor() as executor:
        again = build_dataset(english_recipe(root), root=root, executor=executor)
    assert (again.up_to_date, again.num_steps) == (True, 0)
    assert tree(root) == before
    assert not any(path.exists() for path in left_by_kills)


AS_IT_COMES = 'duplicates.sources=["wit","mscoco","cc3m","flickr8k"]'


@pytest.fixture
def reordered(tmp_path: Path) -> str:
    """The recipe `scenes` with its sections in the opposite order."""
    scenes = find_recipe("scenes")
    text = scenes.read_text("utf-8").replace("{recipe}", str(scenes.parent))
    head, *sections = re.split(r"^(?=\[)", text, flags=re.MULTILINE)
    path = tmp_path / "scenes.toml"
    path.write_text(head + "\n".join(reversed(sections)), "utf-8")
    return str(path)


def test_an_order_that_is_said_holds_whatever_the_order_of_the_sections(reordered: str, tmp_path: Path) -> None:
    plain, turned = (load_recipe(recipe, root=tmp_path) for recipe in ("scenes", reordered))
    said = (load_recipe(recipe, root=tmp_path, overrides=[AS_IT_COMES]) for recipe in ("scenes", reordered))
    assert turned.source_order == ["flickr8k", "cc3m", "mscoco", "wit"]
    assert all(what_settings(each) == what_settings(plain) for each in said)
    assert what_settings(turned) != what_settings(plain)
    for sources in ('["wit","mscoco","cc3m"]', '["wit","wit","mscoco","cc3m","flickr8k"]', '["wti"]'):
        with pytest.raises(SettingsError, match=r"duplicates.sources .*wit, mscoco, cc3m, flickr8k"):
            load_recipe("scenes", root=tmp_path, overrides=[f"duplicates.sources={sources}"])


@pytest.mark.usefixtures("quick_builds")
def test_neither_order_nor_workers_nor_batch_sizes_nor_a_failing_disk_change_a_byte(
    built: Any, english_overrides: list[str], reordered: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "ROWS_PER_STAGED_BATCH", 7)
    monkeypatch.setattr(sorting, "ROWS_PER_BATCH", 11)
    root = tmp_path / "catalog"
    recipe = load_recipe(reordered, root=root, overrides=[*english_overrides, AS_IT_COMES, "build.workers=3"])
    monkeypatch.setattr(failpoints, "_armed", {"commit.after_rename": (9, "eio")})
    with pytest.raises(DiskError), LocalExecutor() as executor:
        build_dataset(recipe, root=root, executor=executor)
    with LocalExecutor() as executor:
        build_dataset(recipe, root=root, executor=executor)
    assert tree(root) == tree(built[0])


def test_a_busy_port_is_an_error_before_work_starts(english_recipe: Any, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, LocalExecutor() as executor:
        busy = server.getsockname()[1]
        recipe = english_recipe(tmp_path, f"serve.port={busy}")
        with pytest.raises(BusyError, match=str(busy)):
            build_dataset(recipe, root=tmp_path, executor=executor)
    assert current_snapshot(tmp_path, "scenes") is None


PROGRAM = Path(__file__).resolve().parents[1] / "torture" / "torture.py"


@pytest.mark.slow
def test_killed_builds_end_byte_equal(built: Any, english_overrides: list[str], tmp_path: Path) -> None:
    """A short variant of `make torture`, in real processes."""
    settings = (*english_overrides, "build.workers=1", "build.fetch_workers=1")
    words = ["--folder", str(tmp_path), "--reference", str(built[0]), "--build-s", "2.5"]
    words += [part for setting in settings for part in ("--set", setting)]
    words += ["--kills", "1", "--failpoints", "snapshot.after_manifest", "--errors", "none"]
    words += ["--no-small-disks", "--no-variants"]
    # Prefect in this process may have set PYTHONSAFEPATH, with which the program does not find the files beside it.
    own = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    done = subprocess.run([sys.executable, str(PROGRAM), *words], check=False, capture_output=True, text=True, env=own)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 faults, " in done.stdout
    assert "all of them equal, byte for byte" in done.stdout


def test_the_torture_sees_a_difference(built: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, copy = built[0], tmp_path / "copy"
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns("upstream", "work"))
    monkeypatch.syspath_prepend(str(PROGRAM.parent))
    trials = importlib.import_module("trials")
    assert trials.differences(trials.published(copy), trials.published(root)) == []
    assert trials.manifest_is_whole(copy)
    first = sorted(copy.rglob("pairs/*.parquet"))[0]
    first.write_bytes(first.read_bytes() + b"x")
    (first.parent / ".tmp-1").touch()
    name = first.relative_to(copy / "datasets").as_posix()
    assert trials.differences(trials.published(copy), trials.published(root))[-1] == name
    assert trials.debris(copy) == [(first.parent / ".tmp-1").relative_to(copy).as_posix()]
    first.unlink()
    assert not trials.manifest_is_whole(copy)
