"""Every view and every column of a catalog says in the database what it means."""

import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from data_catalog.database.catalog import rebuild
from data_catalog.database.views import COLUMNS, VIEWS, view_texts


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    """The catalog of a root that holds nothing yet: its views have all their columns all the same."""
    return rebuild(tmp_path)


def test_no_view_and_no_column_is_without_a_text(catalog: Path) -> None:
    with duckdb.connect(str(catalog), read_only=True) as connection:
        views = connection.execute("SELECT view_name, comment FROM duckdb_views() WHERE NOT internal").fetchall()
        columns = connection.execute(
            "SELECT table_name, column_name, comment FROM duckdb_columns() WHERE NOT internal"
        ).fetchall()
    assert {name for name, _ in views} == set(view_texts([])) == set(VIEWS) == set(COLUMNS)
    assert [name for name, text in views if not text] == []
    assert len(columns) > 150
    assert [(view, name) for view, name, text in columns if not text] == []


def test_no_text_is_of_a_column_that_is_not_there(catalog: Path) -> None:
    with duckdb.connect(str(catalog), read_only=True) as connection:
        for view, columns in COLUMNS.items():
            assert set(connection.table(view).columns) == set(columns)


def test_texts_are_one_short_line() -> None:
    texts = [*VIEWS.values(), *(text for columns in COLUMNS.values() for text in columns.values())]
    assert [text for text in texts if "\n" in text or len(text) > 120 or text != text.strip()] == []


def test_duckdbs_own_command_line_opens_the_catalog_and_shows_the_texts(catalog: Path) -> None:
    program = shutil.which("duckdb", path=str(Path(sys.executable).parent))
    assert program is not None, "duckdb-cli is among the dev dependencies"
    sql = (
        "SELECT count(*) FROM captions; SELECT comment FROM duckdb_views() WHERE view_name = 'captions'; "
        "SELECT comment FROM duckdb_columns() WHERE table_name = 'pairs' AND column_name = 'split'"
    )
    command = [program, "-readonly", "-csv", "-noheader", str(catalog), sql]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = found.stdout.splitlines()
    assert lines[0] == "0"
    assert [line.strip('"') for line in lines[1:]] == [VIEWS["captions"], COLUMNS["pairs"]["split"]]
