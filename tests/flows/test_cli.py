"""The command line as a user meets it: help, answers, one-sentence errors, exit codes."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from flows.cli import main
from flows.jobs import BuildReport

Built = tuple[Path, BuildReport]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_help_needs_nothing_heavy() -> None:
    code = (
        "import sys; from flows.cli import parser; parser().format_help(); "
        "print([name for name in ('torch', 'duckdb', 'pyarrow', 'prefect', 'numpy') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("arguments", [[], ["fly"], ["build"], ["build", "scenes", "--executor", "magic"]])
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_an_error_is_one_sentence_and_exit_1(tmp_path: Path) -> None:
    found = run("build", "klingon", "--root", str(tmp_path), "--executor", "local")
    assert found.returncode == 1
    assert found.stderr.count("\n") == 1
    assert "there is no recipe 'klingon'" in found.stderr
    assert "Traceback" not in found.stderr
    assert "Traceback" in run("--debug", "build", "klingon", "--root", str(tmp_path), "--executor", "local").stderr


def test_sql_answers_in_three_formats(built: Built, capsys: pytest.CaptureFixture[str]) -> None:
    root = str(built[0])
    query = "SELECT source, count(*) AS captions FROM captions GROUP BY source ORDER BY source"
    assert main(["sql", query, "--root", root, "--format", "json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["source"] for row in rows] == ["cc3m", "flickr8k", "mscoco", "wit"]
    assert main(["sql", query, "--root", root, "--format", "csv"]) == 0
    parsed = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["captions"] for row in parsed] == [str(row["captions"]) for row in rows]
    assert main(["sql", query, "--root", root]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["source", "captions"]
    assert len(table) == 2 + len(rows)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_text('/etc/hostname')",
        "COPY (SELECT 1) TO 'out.csv'",
        "ATTACH 'other.duckdb'",
        "CREATE TABLE t (a INT)",
        "INSTALL httpfs",
        "COPY (SELECT 1) TO '{root}/datasets/scenes/current.json'",
        "SELECT 1; COPY (SELECT 1) TO '{root}/x.csv'",
        "SET enable_external_access = true",
        "SELECT no_such_column FROM captions",
        "SELEC 1",
    ],
)
def test_sql_can_read_the_catalog_and_nothing_else(
    built: Built, query: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["sql", query.format(root=built[0]), "--root", str(built[0])]) == 1
    assert "DuckDB refuses the query" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert built[1].snapshot.snapshot in (built[0] / "datasets" / "scenes" / "current.json").read_text(encoding="utf-8")
    assert not (built[0] / "x.csv").exists()


def test_sql_answers_all_sorts_of_questions(built: Built, capsys: pytest.CaptureFixture[str]) -> None:
    for query in ("FROM builds", "DESCRIBE pairs", "SHOW TABLES", "EXPLAIN SELECT 1", "WITH a AS (SELECT 1) FROM a"):
        assert main(["sql", query, "--root", str(built[0]), "--format", "csv"]) == 0, query
    capsys.readouterr()
    assert main(["sql", "SELECT source FROM rejects WHERE false", "--root", str(built[0]), "--format", "csv"]) == 0
    assert capsys.readouterr().out.strip() == "source"


def test_a_root_that_cannot_be_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = run("build", "scenes", "--root", str(tmp_path / "file"), "--executor", "local")
    assert found.returncode == 1
    assert "defect" not in found.stderr


def test_sql_without_a_catalog_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sql", "SELECT 1", "--root", str(tmp_path)]) == 1
    assert "run `vernaclip build RECIPE" in capsys.readouterr().err


def test_verify_and_catalog_tell_of_every_dataset(built: Built, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--root", str(built[0])]) == 0
    assert "scenes" in capsys.readouterr().out
    assert main(["catalog", "--rebuild", "--root", str(built[0])]) == 0
    assert built[1].snapshot.snapshot in capsys.readouterr().out


def test_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    out = capsys.readouterr().out
    assert "scenes" in out
    assert "italian" in out


@pytest.mark.parametrize(
    "arguments", [["build", "scenes", "--executor", "local"], ["run", "scenes"], ["train", "scenes"]]
)
def test_several_processes_only_train(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As torchrun starts them, which tells them by their environment."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([*arguments, "--root", str(tmp_path)]) == 1
    assert "several processes can only train, without Prefect" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
