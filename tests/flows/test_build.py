"""A build conserves every row, resumes at any moment, and does nothing twice."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from data_catalog.database.catalog import query, rebuild
from data_catalog.errors import BusyError
from data_catalog.storage.manifest import current_snapshot
from data_catalog.storage.shards import read_json, sha256_of
from flows.build.execution import LocalExecutor
from flows.jobs import BuildReport, build_dataset
from flows.recipe.recipe import Recipe

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
    """sha256 of every published file and manifest below a root; run logs, which vary, lie beside them."""
    datasets = root / "datasets"
    files = [*datasets.glob("*/*/*/*.parquet"), *datasets.rglob("manifest.json"), *datasets.rglob("current.json")]
    return {path.relative_to(root).as_posix(): sha256_of(path) for path in files}


def test_every_step_keeps_or_drops_what_it_reads(built: Built) -> None:
    root, report = built
    broken = query(root, "SELECT count(*) AS n FROM funnel WHERE read <> kept + dropped").to_pylist()
    names = "source, step_number, step, read, kept, dropped"
    told = query(root, f"SELECT {names} FROM funnel ORDER BY source, step_number").to_pylist()
    captions = query(root, "SELECT count(*) AS n FROM captions").to_pylist()
    sources = report.snapshot.manifest["sources"]
    assert broken == [{"n": 0}]
    assert told == report.snapshot.manifest["funnel"], "what the rows say is what the steps counted"
    assert captions == [{"n": sum(source["selected"] for source in sources.values())}]
    assert query(root, "SELECT count(*) AS n FROM captions WHERE outcome = 'pending'").to_pylist() == [{"n": 0}]


def test_every_injected_fault_is_rejected_for_the_right_reason(built: Built) -> None:
    root, _ = built
    faults = Counter(fault["kind"] for fault in read_json(root / "upstream" / "faults.json")["faults"])
    rows = query(root, "SELECT step, drop_reason, count(*) AS n FROM rejects GROUP BY ALL").to_pylist()
    rejected = {(row["step"], row["drop_reason"]): row["n"] for row in rows}
    for kind, reasons in EXPECTED.items():
        if faults[kind]:
            assert sum(rejected.get(reason, 0) for reason in reasons) >= faults[kind], (kind, rejected)


def test_faults_that_can_be_mended_lose_nothing(built: Built) -> None:
    root, _ = built
    for fault in read_json(root / "upstream" / "faults.json")["faults"]:
        if fault["kind"] in ("redirect", "flaky"):
            found = query(root, f"SELECT status FROM images WHERE url = '{fault['url']}'").to_pylist()
            assert found == [{"status": "published"}], fault
        if fault["kind"] == "mojibake":
            found = query(root, f"SELECT caption FROM captions WHERE url = '{fault['url']}'").to_pylist()
            assert fault["repaired"] in [row["caption"] for row in found], fault


def test_the_images_view_tells_why_an_image_is_missing(built: Built) -> None:
    root, _ = built
    wrong = "SELECT * FROM images WHERE (status = 'published') <> (drop_reason IS NULL)"
    assert query(root, wrong).to_pylist() == []
    for fault in read_json(root / "upstream" / "faults.json")["faults"]:
        if fault["kind"] == "dead_link":
            found = query(root, f"SELECT step, drop_reason FROM images WHERE url = '{fault['url']}'").to_pylist()
            assert found == [{"step": "fetch", "drop_reason": "http_404"}], fault


def test_any_duckdb_opens_the_catalog_from_any_folder(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, report = built
    monkeypatch.chdir(tmp_path)
    with duckdb.connect(str(root / "catalog.duckdb"), read_only=True) as connection:
        names = {
            row[0] for row in connection.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall()
        }
        pairs = connection.execute("SELECT count(*) FROM pairs").fetchone()
    views = {
        "pairs",
        "captions",
        "rejects",
        "images",
        "image_outcomes",
        "funnel",
        "drop_reasons",
        "leaks",
        "translators",
        "builds",
    }
    assert names == views
    assert pairs == (sum(file["rows"] for file in report.snapshot.manifest["files"]["pairs"]),)


def test_the_translators_view_says_who_made_which_share(built: Built) -> None:
    root, _ = built
    rows = query(root, "SELECT translator, num_captions, share, mean_score FROM translators").to_pylist()
    came = query(root, "SELECT count(*) AS n FROM captions WHERE caption IS NOT NULL").to_pylist()[0]["n"]
    assert rows == [{"translator": "native", "num_captions": came, "share": 1.0, "mean_score": None}]


def test_snapshots_older_than_a_column_are_still_read(built: Built, tmp_path: Path) -> None:
    root, _ = built
    shutil.copytree(root / "datasets", tmp_path / "datasets")
    for path in tmp_path.rglob("captions-*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns(["length_ratio", "numbers_lost"]), path)
    rebuild(tmp_path)
    found = query(tmp_path, "SELECT DISTINCT length_ratio, numbers_lost FROM captions").to_pylist()
    assert found == [{"length_ratio": None, "numbers_lost": None}]
    assert query(tmp_path, "SELECT translator FROM translators").to_pylist() == [{"translator": "native"}]


def test_a_second_build_does_nothing(built: Built, english_recipe: EnglishRecipe, tmp_path: Path) -> None:
    """In a copy: it is a run all the same, and other tests ask what the latest one did."""
    root = Path(shutil.copytree(built[0], tmp_path / "catalog"))
    rebuild(root)  # views name files by where they are
    before = tree(root)
    left_by_a_kill = root / "packages" / ".tmp-abc"
    (left_by_a_kill / "package").mkdir(parents=True)
    record_left_by_a_kill = root / "memory" / ".tmp-def"
    record_left_by_a_kill.parent.mkdir(exist_ok=True)
    record_left_by_a_kill.touch()
    with LocalExecutor() as executor:
        again = build_dataset(english_recipe(root), root=root, executor=executor)
    assert again.up_to_date
    assert again.num_steps == 0
    assert tree(root) == before
    assert not left_by_a_kill.exists()
    assert not record_left_by_a_kill.exists()


def test_worker_count_changes_no_byte_and_a_rule_does(
    built: Built, english_recipe: EnglishRecipe, tmp_path: Path
) -> None:
    root, report = built
    with LocalExecutor() as executor:
        build_dataset(english_recipe(tmp_path, "build.workers=4"), root=tmp_path, executor=executor)
        assert tree(tmp_path) == tree(root)
        stricter = build_dataset(english_recipe(tmp_path, "clean.min_words=5"), root=tmp_path, executor=executor)
    assert stricter.snapshot.snapshot != report.snapshot.snapshot
    assert not stricter.up_to_date


def test_a_damaged_shard_is_found(built: Built) -> None:
    _, report = built
    assert report.snapshot.verify() == []
    path = report.snapshot.all_pair_files()[0]
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
        problems = report.snapshot.verify()
    finally:
        path.write_bytes(whole)
    assert len(problems) == 1
    assert str(path) in problems[0]


def test_a_busy_port_is_an_error_before_work_starts(english_recipe: EnglishRecipe, tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server, LocalExecutor() as executor:
        busy = server.getsockname()[1]
        recipe = english_recipe(tmp_path, f"serve.port={busy}")
        with pytest.raises(BusyError, match=str(busy)):
            build_dataset(recipe, root=tmp_path, executor=executor)
    assert current_snapshot(tmp_path, "scenes") is None


def test_the_manifest_names_no_place_of_this_machine(built: Built) -> None:
    root, report = built
    assert str(root) not in json.dumps(report.snapshot.manifest)
