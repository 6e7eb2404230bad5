"""Nothing that a statement of `vernaclip sql` can say creates, changes or removes a byte, and questions are answered.

Each of two walls holds by itself, under the oldest DuckDB that we take and the newest: what reads the statement, and
Landlock, by which the kernel keeps DuckDB's threads from files. Whatever lies around the root is compared after every
statement: the folder that commands are run in, that of the user, that of temporary files.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from data_catalog.database import sandbox
from data_catalog.database.catalog import rebuild
from flows.doctor import diagnose
from flows.jobs import BuildReport

CHILD = """
import contextlib, io, json, os, resource, sys
from pathlib import Path
import duckdb
import data_catalog.database.catalog, data_catalog.database.sandbox, flows.cli.catalog
from flows.cli import main

def contents(place):
    return {str(path): path.read_bytes() if path.is_file() else None for path in place.rglob("*")}

def ask(statement):  # in a process of its own, which DuckDB may abort
    reader, writer = os.pipe()
    if os.fork() == 0:
        error = io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(error):
            code = main(["sql", statement, "--root", root])
        os.write(writer, json.dumps({"code": code, "error": error.getvalue()}).encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as told:
        text = told.read()
    os.wait()
    return json.loads(text or '{"code": 134, "error": "aborted"}')

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
root, place, walls, statements = json.load(sys.stdin)
if walls == "statements":
    data_catalog.database.sandbox.landlock_version = lambda: 0
if walls == "landlock":
    data_catalog.database.catalog.require_read_only_query = lambda connection, sql: None
main(["sql", "FROM funnel", "--root", root, "--format", "csv", "--out", "warm.csv"])  # loads what all need
Path("warm.csv").unlink()
print(duckdb.__version__)
before = contents(Path(place))
for statement in statements:
    result = ask(statement)
    after = contents(Path(place))
    changed = sorted(path for path in before.keys() | after.keys() if before.get(path, 0) != after.get(path, 0))
    print(json.dumps({**result, "changed": changed}))
    before = after
"""

# {root} is that of the statement, {out} a folder beside it, {serialized} such a statement as JSON, {copy} a COPY.
COPY = "COPY (SELECT 1) TO '{root}/datasets/x.csv'"
WRITING = [
    "WITH x AS (COPY (SELECT 1) TO '{root}/datasets/scenes' (FORMAT parquet, PER_THREAD_OUTPUT, OVERWRITE)) SELECT 1",
    "WITH x AS (COPY (SELECT 1) TO '{root}/datasets/own.txt' (FORMAT csv, USE_TMP_FILE false)) SELECT 1",
    "WITH x AS (COPY (SELECT 1) TO '{out}/x.csv') SELECT 1",
    "WITH x AS (COPY (SELECT 1) TO '~/x.csv') SELECT 1",
    "WITH x AS MATERIALIZED ({copy}) FROM x",
    "WITH RECURSIVE x AS ({copy}) SELECT 1",
    "SELECT * FROM (WITH x AS ({copy}) FROM x)",
    "SELECT 1 UNION ALL (WITH x AS ({copy}) SELECT EXISTS (FROM x))",
    "SUMMARIZE WITH x AS ({copy}) FROM x",
    "EXPLAIN ANALYZE WITH x AS ({copy}) SELECT 1",
    "EXPLAIN /* */ ANALYZE WITH x AS ({copy}) SELECT 1",
    "EXPLAIN\u00a0ANALYZE\u2003WITH x AS ({copy}) SELECT 1",
    "EXPLAIN ANALYZE EXPLAIN ANALYZE {copy}",
    "SELECT 1; {copy}",
    COPY,
    "FROM JSON_EXECUTE_SERIALIZED_SQL('{serialized}')",
    "EXPLAIN ANALYZE FROM system.main.json_execute_serialized_sql('{serialized}')",
    "FROM enable_logging('QueryLog', storage = 'file', storage_config = {{'path': '{out}/logs'}})",
    "PRAGMA profiling_output = '{root}/datasets/profile.json'",
    "ATTACH '{root}/datasets/new.duckdb' AS x; CREATE TABLE x.t AS SELECT 1; DETACH x",
    "EXPORT DATABASE '{root}/datasets/exported'",
    "CREATE PERSISTENT SECRET s (TYPE http)",
]
REFUSED = [
    "WITH x AS (INSERT INTO funnel VALUES (1) RETURNING *) FROM x",
    "WITH x AS (DELETE FROM funnel RETURNING *) FROM x",
    "EXPLAIN (FORMAT json) SELECT 1",
    "SELECT 1; SELECT 2",
    "PIVOT funnel ON step USING sum(dropped)",
    "INSERT INTO funnel VALUES (1)",
    "FROM query('SELECT 1')",
    "FROM checkpoint()",
    "FROM duckdb_secrets()",
    "FROM no_such_function()",
    "CALL enable_logging()",
    "VACUUM",
    "CREATE TEMP TABLE t AS SELECT 1",
    "DROP VIEW captions",
    "PREPARE p AS {copy}",
    "INSTALL httpfs",
    "SET temp_directory = '{root}/datasets'",
    "BEGIN",
    "PRAGMA table_info('captions')",
    "SELECT getenv('HOME')",
    "SELECT no_such_column FROM captions",
    "selekt 1",
    "",
    "-- nothing",
]
# Functions with an effect of some kind, and files that DuckDB writes beside what it reads: answered or not.
ODD = [
    "SELECT write_log('x', level := 'error')",
    "SELECT setseed(0.5), random(), uuid(), txid_current()",
    "SELECT current_setting('secret_directory')",
    "FROM '{root}/datasets/other.duckdb'",
    "FROM read_csv('{root}/datasets/own.txt', store_rejects = true)",
    "FROM 'https://127.0.0.1:1/x.parquet'",
    "SELECT " + "1 + " * 900 + "1",
]
ORDINARY = [
    "TABLE funnel",
    "-- how many\nSELECT count(*) FROM captions",
    "SELECT drop_reason, detail, count(*) FROM rejects WHERE step = 'deduplicate' GROUP BY ALL ORDER BY 3 DESC",
    "SELECT * EXCLUDE (image, original), image.bytes FROM pairs",
    "SELECT list_transform([1, 2], lambda x: x + 1), [x + 1 FOR x IN [1, 2]], {{'a': 1}}, MAP {{'k': 1}}",
    "WITH x AS (SELECT 1 AS a), y AS MATERIALIZED (SELECT 2 AS a) FROM x UNION ALL FROM y",
    "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 5) FROM r",
    "SELECT source FROM captions EXCEPT SELECT source FROM rejects INTERSECT SELECT 'x'",
    "SELECT (SELECT max(read) FROM funnel), EXISTS (FROM leaks), 1 IN (SELECT read FROM funnel)",
    "PIVOT funnel ON step IN ('clean') USING sum(dropped) GROUP BY source",
    "FROM (DESCRIBE pairs) WHERE column_name LIKE 'c%'",
    "SUMMARIZE funnel",
    "EXPLAIN SELECT count(*) FROM captions",
    "explain analyze from funnel",
    "FROM read_parquet('{root}/datasets/scenes/*/captions/*.parquet', filename = true)",
    "SELECT content FROM read_text('{root}/datasets/own.txt')",
    "FROM histogram(funnel, read)",
    "SELECT range FROM range(1_000_000) ORDER BY hash(range) LIMIT 3",
]
OLDEST = Path(sys.prefix) / "duckdb-1.4"
Results = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def place(built: tuple[Path, BuildReport], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a root, and beside it what is nobody's business."""
    import duckdb

    folder = tmp_path_factory.mktemp("place")
    for name in ("out", "cwd", "home", "tmp"):
        (folder / name).mkdir()
        (folder / name / "own.txt").write_text("own", encoding="utf-8")
    ignored = shutil.ignore_patterns("work", "upstream", "packages")
    root = Path(shutil.copytree(built[0], folder / "root", ignore=ignored))
    (root / "datasets" / "own.txt").write_text("own", encoding="utf-8")
    with duckdb.connect(str(root / "datasets" / "other.duckdb")) as connection:
        connection.execute("PRAGMA disable_checkpoint_on_shutdown")  # its log stays, which a writer would clear away
        connection.execute("CREATE TABLE t AS SELECT 1")
    rebuild(root)
    return folder


@pytest.fixture(scope="module", params=["installed", pytest.param("oldest", marks=pytest.mark.slow)])
def library(request: pytest.FixtureRequest) -> list[str]:
    """Where DuckDB is looked for before the packages that are installed."""
    if request.param == "oldest" and not OLDEST.is_dir():
        pytest.skip("DuckDB 1.4 is not installed beside the newest: `make test` does it")
    return [str(OLDEST)] if request.param == "oldest" else []


def ask(place: Path, library: list[str], walls: str, statements: Sequence[str]) -> Results:
    """What came of each statement, asked one after the other where these walls stand."""
    import duckdb

    root = str(place / "root")
    copy = COPY.format(root=root)
    writing = f"WITH x AS ({copy}) SELECT 1"
    [[serialized]] = duckdb.sql("SELECT json_serialize_sql($sql)", params={"sql": writing}).fetchall()
    words = {"root": root, "out": str(place / "out"), "copy": copy, "serialized": serialized.replace("'", "''")}
    paths = {"PYTHONPATH": os.pathsep.join([*library, *filter(None, sys.path)])}
    found = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=json.dumps([root, str(place), walls, [statement.format(**words) for statement in statements]]),
        env={**os.environ, **paths, "HOME": str(place / "home"), "TMPDIR": str(place / "tmp")},
        cwd=place / "cwd",
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    version, *lines = found.stdout.splitlines()
    assert version.startswith("1.4.") == bool(library)
    return {asked: json.loads(line) for asked, line in zip(statements, lines, strict=True)}


def changes(results: Results) -> dict[str, list[str]]:
    """What each statement changed; an aborted process leaves the one folder that was its own."""
    changed = {
        asked: [path for path in result["changed"] if result["code"] != 134 or "vernaclip-sql-" not in path]
        for asked, result in results.items()
    }
    return {asked: paths for asked, paths in changed.items() if paths}


def test_what_is_no_question_is_refused_in_a_sentence_by_what_it_says_alone(place: Path, library: list[str]) -> None:
    results = ask(place, library, "statements", WRITING + REFUSED + ODD)
    assert changes(results) == {}
    errors = {asked: results[asked]["error"] for asked in WRITING + REFUSED}
    assert {asked: text for asked, text in errors.items() if not text.startswith("vernaclip: DuckDB refuses ")} == {}
    assert [asked for asked, result in results.items() if "defect" in result["error"]] == []


@pytest.mark.skipif(sandbox.landlock_version() == 0, reason="the kernel has no Landlock")
def test_landlock_alone_keeps_every_byte(place: Path, library: list[str]) -> None:
    results = ask(place, library, "landlock", WRITING + ODD)
    assert changes(results) == {}
    assert "Permission denied" in results[COPY]["error"]


def test_questions_are_answered(place: Path, library: list[str]) -> None:
    results = ask(place, library, "both", ORDINARY)
    assert changes(results) == {}
    assert {asked: result["error"] for asked, result in results.items() if result["code"]} == {}


@pytest.mark.parametrize(("version", "told"), [(0, 1), (1, 0)])
def test_doctor_tells_that_the_kernel_has_no_landlock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int, told: int
) -> None:
    monkeypatch.setattr(sandbox, "landlock_version", lambda: version)
    assert len([finding for finding in diagnose(tmp_path, tmp_path) if "Landlock" in finding.text]) == told
