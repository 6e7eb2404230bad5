"""Nothing that a statement of `vernaclip sql` can say changes a byte or reads another file, and questions are answered.

Under the oldest DuckDB that we take and the newest. Whatever lies around the root is compared after every statement:
the folder that commands are run in, that of the user, that of temporary files. Below: how answers are given.
"""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_catalog.base.plain_text import spreadsheet_text
from data_catalog.catalog.duckdb_file import rebuild
from data_catalog.catalog.query import query
from data_catalog.catalog.views import VIEWS

CHILD = """
import contextlib, io, json, os, resource, sys
from pathlib import Path
import duckdb, pyarrow
import data_catalog.catalog.query, flows.cli.catalog
from flows.cli import main

def contents(place):
    return {str(path): path.read_bytes() if path.is_file() else None for path in place.rglob("*")}

def ask(statement):  # in a process of its own, which DuckDB may abort
    reader, writer = os.pipe()
    if os.fork() == 0:
        output, error = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(error):
            code = main(["sql", statement, "--root", root, "--format", "csv"])
        told = {"code": code, "error": error.getvalue(), "output": output.getvalue()[:10_000]}
        os.write(writer, json.dumps(told).encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as told:
        text = told.read()
    os.wait()
    return json.loads(text or '{"code": 134, "error": "aborted", "output": ""}')

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
root, place, statements = json.load(sys.stdin)
data_catalog.catalog.query.variable = pyarrow.table({"text": ["PRIVATE"]})
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

# {root} is that of the statement, {out} a folder beside it, {copy} a COPY, {serialized} a statement with one as JSON,
# {calls} one as JSON that calls the function at an address, {shard} a file of captions.
COPY = "COPY (SELECT 1) TO '{root}/datasets/x.csv'"
WRITING = [
    COPY,
    "WITH x AS (COPY (SELECT 1) TO '{root}/datasets/scenes' (FORMAT parquet, PER_THREAD_OUTPUT, OVERWRITE)) SELECT 1",
    "WITH x AS (COPY (SELECT 1) TO '~/x.csv' (USE_TMP_FILE false)) SELECT 1",
    "EXPLAIN ANALYZE EXPLAIN ANALYZE {copy}",
    "SELECT 1; {copy}",
    "PREPARE p AS {copy}; EXECUTE p",
    "COPY captions TO '{root}/datasets' (FORMAT parquet, PARTITION_BY (outcome), OVERWRITE_OR_IGNORE)",
    "COPY (SELECT 1) TO '/dev/stdout'",
    "PRAGMA json_execute_serialized_sql('{serialized}')",
    "FROM query('FROM json_exec' || 'ute_serialized_sql(''{serialized}'')')",
    "FROM query('WITH x AS ({quoted}) SELECT 1')",
    "FROM enable_logging('QueryLog', storage = 'file', storage_config = {{'path': '{out}/logs'}})",
    "PRAGMA enable_profiling; PRAGMA profile_output = '{out}/profile.json'; SELECT 1",
    "ATTACH '{root}/datasets/new.duckdb' AS x; CREATE TABLE x.t AS SELECT 1; DETACH x",
    "ATTACH IF NOT EXISTS '{root}/datasets/other.duckdb' AS x; INSERT INTO x.t VALUES (2)",
    "ATTACH '{out}/x.sqlite' (TYPE sqlite)",
    "EXPORT DATABASE '{root}/datasets/exported'",
    "CREATE PERSISTENT SECRET s IN local_file (TYPE s3, KEY_ID 'a', SECRET 'b')",
    "FORCE INSTALL json FROM '{out}'",
    "INSTALL spatial FROM community; LOAD spatial",
    "UPDATE EXTENSIONS",
    "SET temp_directory = '{root}/datasets'",
    "SET home_directory = '{out}'; SET secret_directory = '{out}'; SET extension_directory = '{out}'",
    "SET GLOBAL enable_external_access = true; {copy}",
    "SET SESSION allowed_directories = ['{root}']; RESET allowed_paths; {copy}",
    "RESET lock_configuration; PRAGMA lock_configuration = false; SET enable_external_access = true; {copy}",
    "SET python_enable_replacements = true",
    "CREATE TABLE t AS FROM range(3); CHECKPOINT; FORCE CHECKPOINT; VACUUM t; DROP VIEW captions; SELECT 1",
    "UPDATE pairs SET split = 'test'",
    "DROP VIEW captions; CREATE VIEW captions AS SELECT 1; COMMENT ON VIEW captions IS 'x'; FROM captions",
    "FROM which_secret('s3://x', 's3')",
    "FROM arrow_scan('0x1234'::POINTER, '0x1234'::POINTER, '0x1234'::POINTER)",
    "FROM pandas_scan('0x1234'::POINTER)",
    "PRAGMA json_execute_serialized_sql('{calls}')",
    "FROM query('FROM json_exec' || 'ute_serialized_sql(''{calls}'')')",
]
# Reading what is none of the root's datasets: the text PRIVATE is in every other file, variable and setting of theirs.
READING = [
    "FROM read_text('own.txt')",
    "FROM read_text('~/own.txt')",
    "FROM read_text('file://{out}/own.txt')",
    "FROM read_text(['/dev/fd/0', '/proc/self/environ', '{root}/datasets/own.txt'])",
    "FROM read_csv_auto('{out}/*.txt', header = false, filename = true)",
    "FROM sniff_csv('{out}/own.txt')",
    "FROM read_ndjson('{out}/own.json')",
    "FROM parquet_kv_metadata('{root}/datasets/*/*/captions/*.parquet')",
    "FROM glob('{out}/*')",
    "FROM '{shard}'",
    'FROM "{out}/own.csv"',
    "FROM '{root}/datasets/other.duckdb'",
    "FROM query_table(['captions', '{shard}'], by_name := true)",
    "FROM query('FROM read_text(''{out}/own.txt'')')",
    "CREATE VIEW v AS FROM read_text('{out}/own.txt'); FROM v",
    "CREATE MACRO m(p) AS TABLE FROM read_text(p); FROM m('{out}/own.txt')",
    "CREATE TABLE t (text VARCHAR); COPY t FROM '{out}/own.txt'; FROM t",
    "IMPORT DATABASE '{out}'",
    "ATTACH '{root}/catalog.duckdb' AS other (READ_ONLY); FROM other.funnel",
    "ATTACH ':memory:' AS other; CREATE VIEW other.v AS FROM read_text('{out}/own.txt'); FROM other.v",
    "LOAD '{out}/own.so'",
    "SELECT getenv('PRIVATE')",
    "FROM duckdb_secrets()",
    *(f"FROM {name}" for name in ("variable", "parameters", "snapshots", "connection")),
    "FROM read_csv('http://127.0.0.1:1/x.csv')",
    "FROM read_text('hf://datasets/a/b')",
    "WITH x AS (FROM read_csv('{out}/own.txt', store_rejects = true)) FROM x",
]
# Statements with an effect of some kind within the connection: answered or not.
ODD = [
    *("", "-- nothing", ";", "USE memory", "SHOW ALL TABLES", "FROM duckdb_settings()"),
    "SELECT write_log('x', level := 'error')",
    "SELECT setseed(0.5), random(), uuid(), txid_current()",
    "WITH x AS (INSERT INTO funnel VALUES (1) RETURNING *) FROM x",
    "CREATE SEQUENCE s; CREATE TEMP TABLE t AS SELECT nextval('s')",
    "BEGIN; SET VARIABLE v = 1; ROLLBACK",
    "CALL force_checkpoint()",
    "SELECT " + "1 + " * 300 + "1",
]
ORDINARY = [
    "-- how many\nSELECT count(*) FROM captions",
    "SELECT drop_reason, detail, count(*) FROM rejects WHERE step = 'deduplicate' GROUP BY ALL ORDER BY 3 DESC",
    "SELECT * EXCLUDE (image, original), image.bytes FROM pairs",
    "SELECT list_transform([1, 2], lambda x: x + 1), [x + 1 FOR x IN [1, 2]], {{'a': 1}}, MAP {{'k': 1}}",
    "WITH x AS (SELECT 1 AS a), y AS MATERIALIZED (SELECT 2 AS a) FROM x UNION ALL FROM y",
    "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 5) FROM r",
    "PIVOT funnel ON step IN ('clean') USING sum(dropped) GROUP BY source",
    *("SUMMARIZE funnel", "DESCRIBE captions", "SHOW TABLES", "EXPLAIN SELECT count(*) FROM captions"),
    "SELECT range FROM range(1_000_000) ORDER BY hash(range) LIMIT 3",
    *(f"FROM {view} LIMIT 3" for view in VIEWS),
]
OLDEST = Path(sys.prefix) / "duckdb-1.4"
Results = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def place(built: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a root, and beside it what is nobody's business."""
    folder = tmp_path_factory.mktemp("place")
    ignored = shutil.ignore_patterns("work", "upstream", "packages")
    datasets = Path(shutil.copytree(built[0], folder / "root", ignore=ignored)) / "datasets"
    for owned in (*(folder / name for name in ("out", "cwd", "home", "tmp")), datasets):
        owned.mkdir(exist_ok=True)
        for name, text in {"txt": "PRIVATE\n", "csv": "text\nPRIVATE\n", "json": '{"text": "PRIVATE"}'}.items():
            (owned / f"own.{name}").write_text(text, encoding="utf-8")
    with duckdb.connect(str(datasets / "other.duckdb")) as connection:
        connection.execute("PRAGMA disable_checkpoint_on_shutdown")  # its log stays, which a writer would clear away
        connection.execute("CREATE TABLE t AS SELECT 'PRIVATE' AS text")
    rebuild(folder / "root")
    return folder


@pytest.fixture(scope="module", params=["installed", pytest.param("oldest", marks=pytest.mark.slow)])
def library(request: pytest.FixtureRequest) -> list[str]:
    """Where DuckDB is looked for before the packages that are installed."""
    if request.param == "oldest" and not OLDEST.is_dir():
        pytest.skip("DuckDB 1.4 is not installed beside the newest: `make test` does it")
    return [str(OLDEST)] if request.param == "oldest" else []


def serialized(statement: str) -> str:
    [[text]] = duckdb.sql("SELECT json_serialize_sql($sql)", params={"sql": statement}).fetchall()
    return str(text).replace("'", "''")


@pytest.fixture(scope="module")
def results(place: Path, library: list[str]) -> Results:
    """What came of each statement, asked one after the other."""
    root, statements = str(place / "root"), [*WRITING, *ODD, *READING, *ORDINARY]
    copy = COPY.format(root=root)
    words = {
        "root": root,
        "out": str(place / "out"),
        "copy": copy,
        "quoted": copy.replace("'", "''"),
        "shard": str(next((place / "root" / "datasets").glob("scenes/*/captions/*.parquet"))),
        "serialized": serialized(f"WITH x AS ({copy}) SELECT 1"),
        "calls": serialized("FROM arrow_scan(4660, 4660, 4660)").replace('"id":"INTEGER"', '"id":"POINTER"'),
    }
    paths = {"PYTHONPATH": os.pathsep.join([*library, *filter(None, sys.path)]), "PRIVATE": "PRIVATE"}
    found = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=json.dumps([root, str(place), [statement.format(**words) for statement in statements]]),
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


def test_no_statement_changes_a_byte_or_is_a_defect(results: Results) -> None:
    assert {asked: result["changed"] for asked, result in results.items() if result["changed"]} == {}
    strange = ("defect", "Traceback", "aborted")
    assert [asked for asked, result in results.items() if any(word in result["error"] for word in strange)] == []
    refused = {asked: results[asked]["error"] for asked in (*WRITING, *ODD) if results[asked]["code"]}
    assert [text for text in refused.values() if not text.startswith("vernaclip: DuckDB refuses ")] == []
    assert "Permission Error" in results[COPY]["error"]


def test_no_statement_reads_another_file(results: Results) -> None:
    told = {asked: results[asked]["output"] for asked in READING if results[asked]["code"] == 0}
    assert {asked: text for asked, text in told.items() if len(text.splitlines()) > 1} == {}
    assert [asked for asked in READING if "PRIVATE\n" in results[asked]["error"]] == []


def test_questions_are_answered(results: Results) -> None:
    assert {asked: results[asked]["error"] for asked in ORDINARY if results[asked]["code"]} == {}


def test_the_views_are_those_of_the_file(place: Path) -> None:
    root = place / "root"
    asked = (
        "SELECT table_name, column_name, data_type, comment FROM duckdb_columns() WHERE NOT internal ORDER BY ALL",
        "SELECT view_name, comment FROM duckdb_views() WHERE NOT internal ORDER BY ALL",
        *(f"SELECT count(*), bit_xor(hash(v)) FROM {view} v" for view in VIEWS),
    )
    with duckdb.connect(str(root / "catalog.duckdb"), read_only=True) as connection:
        for sql in asked:
            assert query(root, sql).to_pylist() == connection.sql(sql).to_arrow_table().to_pylist(), sql


def test_a_moved_root_answers_and_a_damaged_file_is_told(place: Path, tmp_path: Path, told: Any) -> None:
    root = tmp_path / "moved, it's"
    shutil.copytree(place / "root", root)
    (root / "catalog.duckdb").unlink()
    ask = ["sql", "SELECT count(*) AS n, max(c::VARCHAR) FROM captions c", "--root", str(root)]
    assert "n" in told(ask)
    path = next((root / "datasets").glob("scenes/*/captions/*.parquet"))
    content = path.read_bytes()
    middle = len(content) // 2
    for damaged in (b"", b"damaged", content[:middle] + bytes(100) + content[middle + 100 :], None):
        path.unlink()
        if damaged is not None:
            path.write_bytes(damaged)
        error = told(ask, code=1)
        assert "`vernaclip verify" in error
        assert error.count("\n") == 1


Ask = Callable[..., str]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root without datasets; no test changes it."""
    folder = tmp_path_factory.mktemp("outside") / "a root, it's"
    folder.mkdir()
    rebuild(folder)
    return folder


@pytest.fixture
def ask(root: Path, told: Any) -> Ask:
    """Called with a question, gives what the command prints."""
    return lambda sql, *more, code=0: str(told(["sql", sql, "--root", str(root), *more], code=code))


def test_a_table_ends_after_its_rows_and_no_id_in_it_is_cut(ask: Any) -> None:
    lines = ask("SELECT range AS n FROM range(100_000_000_000)", "--max-rows", "3").splitlines()
    assert (lines[2:5], "the first 3 rows" in lines[5]) == (["0", "1", "2"], True)
    assert "more" not in ask("SELECT 1 AS n", "--max-rows", "1")
    identity = f"sbu:https://example.org/{'a' * 60}.jpg#1"
    text = ask(f"SELECT '{identity}' AS caption_id, ['a:1', '{identity}'] AS ids, {'x' * 64!r} AS sha256")
    assert (text.count(identity), text.count("x" * 64), "['a:1', ..." in text) == (1, 1, True)
    assert "a text that ends in ... is cut (--format csv has it whole)" in text
    assert "is cut" not in ask(f"SELECT '{identity}' AS i, 'and so on ...' AS t")


FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "＝1"]


def test_formulas_in_csv_are_texts_and_numbers_stay_numbers(ask: Any) -> None:
    sql = " UNION ALL ".join(f"""SELECT {n} AS n, '{text}' AS "=t", -1 AS m""" for n, text in enumerate(FORMULAS))
    for more, mark in (([], "'"), (["--raw"], "")):
        text = ask(f"{sql} ORDER BY n", "--format", "csv", *more)
        expected = [["n", f"{mark}=t", "m"], *([str(n), mark + text, "-1"] for n, text in enumerate(FORMULAS))]
        assert list(csv.reader(io.StringIO(text, newline=""))) == expected


@given(st.text())
def test_no_csv_cell_begins_as_a_formula_or_steers_a_terminal(text: str) -> None:
    cell = spreadsheet_text(text)
    assert not cell.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"))
    assert not {char for char in cell if (char < " " and char not in "\t\r\n") or "\x7f" <= char < "\xa0"}
    if text.isprintable() and text[:1].isalpha():
        assert cell == text


def test_values_of_all_sorts_in_every_form(ask: Any) -> None:
    sql = "SELECT ['a', NULL, 'b,c'] AS l, {'k': 'ò'} AS s, '\\x00\\xFF'::BLOB AS b, NULL AS n, true AS t"
    sql += ", sum(range) AS i, sum(range)::DECIMAL(20, 2) / 4 AS d, ['nan'::DOUBLE, 1] AS f FROM range(100_000)"
    [row] = list(csv.DictReader(io.StringIO(ask(sql, "--format", "csv"))))
    assert json.loads(row["l"]) == ["a", None, "b,c"]
    assert (json.loads(row["s"]), row["b"], row["n"], row["t"]) == ({"k": "ò"}, "00ff", "", "True")
    found: dict[str, Any] = json.loads(ask(sql, "--format", "json"), parse_constant=pytest.fail)
    texts = {"l": ["a", None, "b,c"], "s": {"k": "ò"}, "b": "00ff", "n": None, "t": True}
    assert found == {**texts, "i": 4_999_950_000, "d": 1_249_987_500.0, "f": [None, 1.0]}
    assert isinstance(found["i"], int)
    assert "4,999,950,000" in ask(sql)
    maps = "SELECT MAP {'k': 'nan'::DOUBLE} AS m, MAP {'k': '\\xFF'::BLOB} AS b"
    row = json.loads(ask(maps, "--format", "json"), parse_constant=pytest.fail)
    assert row == {"m": [["k", None]], "b": [["k", "ff"]]}


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_no_value_is_a_defect_or_steers_a_terminal(form: str, ask: Any, tmp_path: Path) -> None:
    for value in ("'infinity'::DATE", "TIMESTAMP '0044-03-15 (BC)'"):
        error = ask(f"SELECT {value} AS d", "--format", form, code=1)
        assert "a date or time is not between the years 1 and 9999" in error
        ask(f"SELECT {value} AS d", "--format", "parquet", "--out", str(tmp_path / "d.parquet"))
    steering = "SELECT 'a' || chr(27) || '[2J' || chr(155) || 'x' AS t"
    for out in (ask(steering, "--format", form), ask(f"SELECT (t)::INTEGER FROM ({steering})", code=1)):
        assert not {"\x1b", "\x9b"} & set(out)
        assert "1b" in out


def test_answers_go_to_files_whole(ask: Any, tmp_path: Path) -> None:
    sql = "SELECT range AS n, '=' || range AS t FROM range(25_000)"
    for form in ("csv", "json", "parquet"):
        assert ask(sql, "--format", form, "--out", str(tmp_path / f"out.{form}")) == ""
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text("utf-8").splitlines()))
    assert (len(rows), rows[-1]["t"]) == (25_000, "'=24999")
    assert len((tmp_path / "out.json").read_text("utf-8").splitlines()) == 25_000
    table = pq.read_table(tmp_path / "out.parquet")
    assert (table.num_rows, table.column("t")[3].as_py()) == (25_000, "=3")


def test_a_failing_query_leaves_the_file_that_was_there(ask: Any, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    out.write_text("before", encoding="utf-8")
    failing = "SELECT CASE WHEN range = 20_000 THEN error('no more') END AS n FROM range(30_000)"
    error = ask(failing, "--format", "csv", "--out", str(out), code=1)
    assert "DuckDB cannot finish the query: " in error
    assert "no more" in error
    assert out.read_text("utf-8") == "before"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("out", ["folder", "link", "pipe"])
def test_an_answer_takes_the_place_of_files_only(out: str, tmp_path: Path, ask: Any) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "own.csv")
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.iterdir())
    error = ask("SELECT 1", "--format", "csv", "--out", str(tmp_path / out), code=1)
    assert ("names the folder" if out == "folder" else "is a link, a pipe or a device") in error
    assert sorted(tmp_path.iterdir()) == before


def test_a_question_without_end_can_be_stopped_and_leaves_nothing(root: Path, tmp_path: Path) -> None:
    endless = "SELECT count(*) FROM range(1_000_000_000_000) WHERE hash(range) = 0"
    # As it is installed: `python -m` may end by the signal itself, of which a shell makes the same 130.
    command = [str(Path(sys.executable).with_name("vernaclip")), "sql", endless, "--root", str(root)]
    places = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, env={**os.environ, **places}, stderr=subprocess.PIPE, text=True) as process:
        while not list(tmp_path.iterdir()):
            assert process.poll() is None
            time.sleep(0.1)
        time.sleep(1)  # the folder is there a moment before the question is asked
        process.send_signal(signal.SIGINT)
        try:
            _, error = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "interrupted" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("sql", "options", "error"),
    [
        ("SELECT 1", ["--out", "x"], "--out"),
        ("SELECT 1", ["--format", "parquet"], "--out"),
        ("SELECT '\udcff'", [], "DuckDB refuses the query: 'utf-8' codec"),
    ],
)
def test_what_does_not_fit_is_refused(sql: str, options: list[str], error: str, ask: Any) -> None:
    assert error in ask(sql, *options, code=1)
