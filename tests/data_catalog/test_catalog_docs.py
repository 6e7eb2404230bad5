"""docs/catalog.md lists the views and columns that the database has; run as a program, this writes its table."""

from pathlib import Path

from data_catalog.database.views import COLUMNS, VIEWS

PAGE = Path(__file__).parents[2] / "docs" / "catalog.md"
START, END = "<!-- views: written from data_catalog/database/views.py -->", "<!-- end of views -->"
# Every view has these.
_COMMON = ("dataset", "snapshot")


def view_table() -> str:
    """Return the table of views; DuckDB itself explains each column, by comments."""
    lines = ["|view|rows|columns|", "|---|---|---|"]
    for view, text in VIEWS.items():
        names = ", ".join(f"`{name}`" for name in COLUMNS[view] if name not in _COMMON)
        lines.append(f"|`{view}`|{text}|{'those of `captions`' if view == 'rejects' else names}|")
    return "\n".join(["", *lines, "", ""])


def rewritten(page: str) -> str:
    before, _, rest = page.partition(START)
    return f"{before}{START}\n{view_table()}{END}{rest.partition(END)[2]}"


def test_the_page_has_every_view_and_column_as_the_code_has_it() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page.count(START) == page.count(END) == 1
    assert rewritten(page) == page
    assert COLUMNS["rejects"] == COLUMNS["captions"]


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
