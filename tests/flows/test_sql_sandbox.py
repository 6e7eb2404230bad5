"""Nothing that a statement of `vernaclip sql` can say creates, changes or removes a byte, and questions are answered.

Each of two walls holds by itself, under the oldest DuckDB that we take and the newest: what reads the statement, and
Landlock, by which the kernel keeps DuckDB's threads from files. Whatever lies around the root is compared after every
statement: the folder that commands are run in, that of the user, that of temporary files. Below: how answers are given.
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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_catalog.database import sandbox
from data_catalog.database.catalog import rebuild
from data_catalog.plain_text import spreadsheet_text
from flows.doctor import diagnose

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
    "WITH x AS (COPY (SELECT 1) TO '~/x.csv') SELECT 1",
    "WITH RECURSIVE x AS ({copy}) SELECT 1",
    "SELECT 1 UNION ALL (WITH x AS ({copy}) SELECT EXISTS (FROM x))",
    "EXPLAIN ANALYZE WITH x AS ({copy}) SELECT 1",
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
    "EXPLAIN (FORMAT json) SELECT 1",
    "PIVOT funnel ON step USING sum(dropped)",
    "FROM query('SELECT 1')",
    "CALL enable_logging()",
    "CREATE TEMP TABLE t AS SELECT 1",
    "PREPARE p AS {copy}",
    "INSTALL httpfs",
    "SET temp_directory = '{root}/datasets'",
    "SELECT getenv('HOME')",
    "",
    "-- nothing",
]
# Functions with an effect of some kind, and files that DuckDB writes beside what it reads: answered or not.
ODD = [
    "SELECT write_log('x', level := 'error')",
    "SELECT setseed(0.5), random(), uuid(), txid_current()",
    "FROM '{root}/datasets/other.duckdb'",
    "FROM read_csv('{root}/datasets/own.txt', store_rejects = true)",
    "FROM 'https://127.0.0.1:1/x.parquet'",
    "SELECT " + "1 + " * 900 + "1",
]
ORDINARY = [
    "-- how many\nSELECT count(*) FROM captions",
    "SELECT drop_reason, detail, count(*) FROM rejects WHERE step = 'deduplicate' GROUP BY ALL ORDER BY 3 DESC",
    "SELECT * EXCLUDE (image, original), image.bytes FROM pairs",
    "SELECT list_transform([1, 2], lambda x: x + 1), [x + 1 FOR x IN [1, 2]], {{'a': 1}}, MAP {{'k': 1}}",
    "WITH x AS (SELECT 1 AS a), y AS MATERIALIZED (SELECT 2 AS a) FROM x UNION ALL FROM y",
    "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 5) FROM r",
    "PIVOT funnel ON step IN ('clean') USING sum(dropped) GROUP BY source",
    "SUMMARIZE funnel",
    "EXPLAIN SELECT count(*) FROM captions",
    "FROM read_parquet('{root}/datasets/scenes/*/captions/*.parquet', filename = true)",
    "SELECT content FROM read_text('{root}/datasets/own.txt')",
    "SELECT range FROM range(1_000_000) ORDER BY hash(range) LIMIT 3",
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
        (owned / "own.txt").write_text("own", encoding="utf-8")
    with duckdb.connect(str(datasets / "other.duckdb")) as connection:
        connection.execute("PRAGMA disable_checkpoint_on_shutdown")  # its log stays, which a writer would clear away
        connection.execute("CREATE TABLE t AS SELECT 1")
    rebuild(folder / "root")
    return folder


@pytest.fixture(scope="module", params=["installed", pytest.param("oldest", marks=pytest.mark.slow)])
def library(request: pytest.FixtureRequest) -> list[str]:
    """Where DuckDB is looked for before the packages that are installed."""
    if request.param == "oldest" and not OLDEST.is_dir():
        pytest.skip("DuckDB 1.4 is not installed beside the newest: `make test` does it")
    return [str(OLDEST)] if request.param == "oldest" else []


def ask_behind(place: Path, library: list[str], walls: str, statements: Sequence[str]) -> Results:
    """What came of each statement, asked one after the other where these walls stand."""
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
    return {
        asked: changed
        for asked, result in results.items()
        if (changed := [each for each in result["changed"] if result["code"] != 134 or "vernaclip-sql-" not in each])
    }


def test_what_is_no_question_is_refused_in_a_sentence_by_what_it_says_alone(place: Path, library: list[str]) -> None:
    results = ask_behind(place, library, "statements", WRITING + REFUSED + ODD)
    assert changes(results) == {}
    for asked in WRITING + REFUSED:
        assert results[asked]["error"].startswith("vernaclip: DuckDB refuses "), asked
    assert [asked for asked, result in results.items() if "defect" in result["error"]] == []


@pytest.mark.skipif(sandbox.landlock_version() == 0, reason="the kernel has no Landlock")
def test_landlock_alone_keeps_every_byte(place: Path, library: list[str]) -> None:
    results = ask_behind(place, library, "landlock", WRITING + ODD)
    assert changes(results) == {}
    assert "Permission denied" in results[COPY]["error"]


def test_questions_are_answered(place: Path, library: list[str]) -> None:
    results = ask_behind(place, library, "both", ORDINARY)
    assert changes(results) == {}
    assert {asked: result["error"] for asked, result in results.items() if result["code"]} == {}


@pytest.mark.parametrize("version", [0, 1])
def test_doctor_tells_that_the_kernel_has_no_landlock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    monkeypatch.setattr(sandbox, "landlock_version", lambda: version)
    assert ("Landlock" in str(diagnose(tmp_path, tmp_path))) == (version == 0)


Ask = Callable[..., str]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root without datasets, and with things beside them that are nobody's business; no test changes it."""
    outside = tmp_path_factory.mktemp("outside")
    folder = outside / "a root, it's"
    (folder / "datasets").mkdir(parents=True)
    (folder / "secret.txt").write_text("secret", encoding="utf-8")
    (outside / "outside.txt").write_text("secret", encoding="utf-8")
    (folder / "datasets" / "link.txt").symlink_to(outside / "outside.txt")
    (folder / "datasets" / "folder").symlink_to(outside)
    (folder / "datasets" / "own.txt").write_text("own", encoding="utf-8")
    rebuild(folder)
    return folder


@pytest.fixture
def ask(root: Path, told: Any) -> Ask:
    """Called with a question, gives what the command prints."""
    return lambda sql, *more, code=0: str(told(["sql", sql, "--root", str(root), *more], code=code))


@pytest.mark.parametrize(
    ("function", "place"),
    [
        ("read_text", "{root}/secret.txt"),
        ("read_text", "{root}/datasets/../secret.txt"),
        ("read_text", "{root}/datasets/link.txt"),
        ("read_text", "{root}/datasets/folder/*.txt"),
        ("read_text", "/proc/self/environ"),
        ("read_text", "https://example.org/a.txt"),
        ("sniff_csv", "file:///etc/passwd"),
        ("glob", "{root}/*"),
    ],
)
def test_no_other_file_can_be_read(root: Path, function: str, place: str, ask: Any) -> None:
    place = place.format(root=str(root)).replace("'", "''")
    assert "DuckDB refuses the query: Permission Error" in ask(f"SELECT * FROM {function}('{place}')", code=1)


def test_a_table_ends_after_its_rows_and_says_so(ask: Any) -> None:
    lines = ask("SELECT range AS n FROM range(100_000_000_000)", "--max-rows", "3").splitlines()
    assert lines[2:5] == ["0", "1", "2"]
    assert "the first 3 rows" in lines[5]
    assert "more" not in ask("SELECT 1 AS n", "--max-rows", "1")


def test_no_id_in_a_table_is_cut_and_where_a_text_is_another_format_is_named(ask: Any) -> None:
    identity = f"sbu:https://example.org/{'a' * 60}.jpg#1"
    text = ask(f"SELECT '{identity}' AS caption_id, ['a:1', '{identity}'] AS ids, {'x' * 64!r} AS sha256")
    assert (text.count(identity), text.count("x" * 64)) == (1, 1)
    assert "['a:1', ..." in text
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
def test_a_date_that_python_does_not_know_is_no_defect(form: str, ask: Any, tmp_path: Path) -> None:
    for value in ("'infinity'::DATE", "TIMESTAMP '0044-03-15 (BC)'"):
        error = ask(f"SELECT {value} AS d", "--format", form, code=1)
        assert "a date or time is not between the years 1 and 9999" in error
        ask(f"SELECT {value} AS d", "--format", "parquet", "--out", str(tmp_path / "d.parquet"))


def test_steering_characters_do_nothing_in_any_form(ask: Any) -> None:
    sql = "SELECT 'a' || chr(27) || '[2J' || chr(155) || 'x' AS t"
    for form in ("table", "csv", "json"):
        out = ask(sql, "--format", form)
        assert not {"\x1b", "\x9b"} & set(out)
        assert "1b" in out
    assert "\x1b" not in ask(f"SELECT (t)::INTEGER FROM ({sql})", code=1)


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
        ("SELECT 1", ["--max-rows", "0"], "must be 1 or more"),
        ("SELECT '\udcff'", [], "DuckDB refuses the query: it is not UTF-8"),
    ],
)
def test_what_does_not_fit_is_refused(sql: str, options: list[str], error: str, ask: Any) -> None:
    assert error in ask(sql, *options, code=1)
