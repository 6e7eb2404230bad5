"""`vernaclip sql`: what it lets through, what it refuses, and texts that would do something elsewhere."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_catalog.database.catalog import query, rebuild
from data_catalog.plain_text import spreadsheet_text
from flows.cli import main

Capture = pytest.CaptureFixture[str]


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


def answer(root: Path, sql: str, capsys: Capture, *more: str) -> str:
    capsys.readouterr()
    assert main(["sql", sql, "--root", str(root), *more]) == 0
    return capsys.readouterr().out


def test_files_of_the_datasets_can_be_read(root: Path) -> None:
    quoted = str(root / "datasets" / "own.txt").replace("'", "''")
    assert query(root, f"SELECT content FROM read_text('{quoted}')").to_pylist() == [{"content": "own"}]


@pytest.mark.parametrize(
    ("function", "place"),
    [
        ("read_text", "{root}/secret.txt"),
        ("read_text", "{root}/datasets/../secret.txt"),
        ("read_text", "{root}/datasets/link.txt"),
        ("read_text", "{root}/datasets/folder/*.txt"),
        ("read_text", "{root}/catalog.duckdb.json"),
        ("read_text", "/proc/self/environ"),
        ("read_text", "https://example.org/a.txt"),
        ("read_csv", "{root}/secret.txt"),
        ("sniff_csv", "file:///etc/passwd"),
        ("glob", "{root}/*"),
    ],
)
def test_no_other_file_can_be_read(root: Path, function: str, place: str, capsys: Capture) -> None:
    place = place.format(root=str(root)).replace("'", "''")
    assert main(["sql", f"SELECT * FROM {function}('{place}')", "--root", str(root)]) == 1
    assert "DuckDB refuses the query: Permission Error" in capsys.readouterr().err


def test_what_does_not_fit_the_memory_is_written_outside_the_root_and_removed(root: Path) -> None:
    place = query(root, "SELECT current_setting('temp_directory') AS place").to_pylist()[0]["place"]
    assert not Path(place).is_relative_to(root)
    assert not Path(place).exists()


def test_a_table_ends_after_its_rows_and_says_so(root: Path, capsys: Capture) -> None:
    endless = "SELECT range AS n FROM range(100_000_000_000)"
    lines = answer(root, endless, capsys, "--max-rows", "3").splitlines()
    assert lines[2:5] == ["0", "1", "2"]
    assert "the first 3 rows" in lines[5]
    assert "more" not in answer(root, "SELECT 1 AS n", capsys, "--max-rows", "1")


FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "＝1"]


def test_formulas_in_csv_are_texts_and_numbers_stay_numbers(root: Path, capsys: Capture) -> None:
    sql = " UNION ALL ".join(f"""SELECT {n} AS n, '{text}' AS "=t", -1 AS m""" for n, text in enumerate(FORMULAS))
    found = list(csv.reader(io.StringIO(answer(root, f"{sql} ORDER BY n", capsys, "--format", "csv"), newline="")))
    assert found[0] == ["n", "'=t", "m"]
    assert [row[1] for row in found[1:]] == [f"'{text}" for text in FORMULAS]
    assert {row[2] for row in found[1:]} == {"-1"}
    raw = answer(root, f"{sql} ORDER BY n", capsys, "--format", "csv", "--raw")
    assert [row[1] for row in csv.reader(io.StringIO(raw, newline=""))] == ["=t", *FORMULAS]


@given(st.text())
def test_no_csv_cell_begins_as_a_formula_or_steers_a_terminal(text: str) -> None:
    cell = spreadsheet_text(text)
    assert not cell.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"))
    assert not {char for char in cell if (char < " " and char not in "\t\r\n") or "\x7f" <= char < "\xa0"}
    if text.isprintable() and text[:1].isalpha():
        assert cell == text


def test_values_of_all_sorts_in_every_form(root: Path, capsys: Capture) -> None:
    sql = "SELECT ['a', NULL, 'b,c'] AS l, {'k': 'ò'} AS s, '\\x00\\xFF'::BLOB AS b, NULL AS n, true AS t"
    sql += ", sum(range) AS i, sum(range)::DECIMAL(20, 2) / 4 AS d, ['nan'::DOUBLE, 1] AS f FROM range(100_000)"
    [row] = list(csv.DictReader(io.StringIO(answer(root, sql, capsys, "--format", "csv"))))
    assert json.loads(row["l"]) == ["a", None, "b,c"]
    assert (json.loads(row["s"]), row["b"], row["n"], row["t"]) == ({"k": "ò"}, "00ff", "", "True")
    found: dict[str, Any] = json.loads(answer(root, sql, capsys, "--format", "json"), parse_constant=pytest.fail)
    assert found == {
        "l": ["a", None, "b,c"],
        "s": {"k": "ò"},
        "b": "00ff",
        "n": None,
        "t": True,
        "i": 4_999_950_000,
        "d": 1_249_987_500.0,
        "f": [None, 1.0],
    }
    assert isinstance(found["i"], int)
    assert "4,999,950,000" in answer(root, sql, capsys)


def test_steering_characters_do_nothing_in_any_form(root: Path, capsys: Capture) -> None:
    sql = "SELECT 'a' || chr(27) || '[2J' || chr(155) || 'x' AS t"
    for form in ("table", "csv", "json"):
        out = answer(root, sql, capsys, "--format", form)
        assert not {"\x1b", "\x9b"} & set(out)
        assert "1b" in out
    assert main(["sql", f"SELECT (t)::INTEGER FROM ({sql})", "--root", str(root)]) == 1
    assert "\x1b" not in capsys.readouterr().err


def test_answers_go_to_files_whole(root: Path, capsys: Capture, tmp_path: Path) -> None:
    sql = "SELECT range AS n, '=' || range AS t FROM range(25_000)"
    for form in ("csv", "json", "parquet"):
        out = tmp_path / f"out.{form}"
        assert answer(root, sql, capsys, "--format", form, "--out", str(out)) == ""
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert (len(rows), rows[-1]["t"]) == (25_000, "'=24999")
    assert len((tmp_path / "out.json").read_text("utf-8").splitlines()) == 25_000
    table = pq.read_table(tmp_path / "out.parquet")
    assert (table.num_rows, table.column("t")[3].as_py()) == (25_000, "=3")


def test_a_failing_query_leaves_the_file_that_was_there(root: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out.csv"
    out.write_text("before", encoding="utf-8")
    failing = "SELECT CASE WHEN range = 20_000 THEN error('no more') END AS n FROM range(30_000)"
    assert main(["sql", failing, "--root", str(root), "--format", "csv", "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert "DuckDB cannot finish the query: " in error
    assert "no more" in error
    assert out.read_text("utf-8") == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_columns_of_one_name_are_told_apart(root: Path, capsys: Capture, tmp_path: Path) -> None:
    sql, names = "SELECT 1 AS a, 2 AS a, 3 AS a_1, 4 AS a", ["a", "a_1", "a_1_1", "a_2"]
    assert answer(root, sql, capsys).split("\n")[0].split() == names
    answer(root, sql, capsys, "--format", "parquet", "--out", str(tmp_path / "x.parquet"))
    assert pq.read_table(tmp_path / "x.parquet").to_pylist() == [dict(zip(names, [1, 2, 3, 4], strict=True))]


def test_what_is_no_text_is_no_question(root: Path, capsys: Capture) -> None:
    assert main(["sql", "SELECT '\udcff'", "--root", str(root)]) == 1
    assert "DuckDB refuses the query: it is not UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["folder", "link", "pipe"])
def test_an_answer_takes_the_place_of_files_only(root: Path, out: str, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "own.csv").write_text("own", encoding="utf-8")
    (tmp_path / "link").symlink_to(tmp_path / "own.csv")
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.iterdir())
    assert main(["sql", "SELECT 1", "--root", str(root), "--format", "csv", "--out", str(tmp_path / out)]) == 1
    assert ("names the folder" if out == "folder" else "is a link, a pipe or a device") in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "link").is_symlink()


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
    ("options", "told"),
    [(["--out", "x"], "--out"), (["--format", "parquet"], "--out"), (["--max-rows", "0"], "must be 1 or more")],
)
def test_options_that_do_not_fit_are_refused(root: Path, options: list[str], told: str, capsys: Capture) -> None:
    assert main(["sql", "SELECT 1", "--root", str(root), *options]) == 1
    assert told in capsys.readouterr().err
