"""docs/catalog.md says of views and columns what the database says; run as a program, this writes its tables anew."""

from pathlib import Path

from data_catalog.database.views import COLUMNS, VIEWS

PAGE = Path(__file__).parents[2] / "docs" / "catalog.md"
START, END = "<!-- views: written from data_catalog/database/views.py -->", "<!-- end of views -->"
# Every view has these.
_COMMON = ("dataset", "snapshot")


def view_tables() -> str:
    """What stands between `START` and `END`."""
    common = [f"| `{name}` | {COLUMNS['captions'][name]} |" for name in _COMMON]
    lines = ["", "Every view begins with", "", "| column | what it holds |", "|---|---|", *common, ""]
    for view, text in VIEWS.items():
        lines += [f"### `{view}`", "", f"{text[0].upper()}{text[1:]}.", ""]
        if view == "rejects":
            lines += ["Its columns are those of `captions`.", ""]
            continue
        rows = [f"| `{name}` | {meaning} |" for name, meaning in COLUMNS[view].items() if name not in _COMMON]
        lines += ["| column | what it holds |", "|---|---|", *rows, ""]
    return "\n".join(lines)


def rewritten(page: str) -> str:
    before, _, rest = page.partition(START)
    return f"{before}{START}\n{view_tables()}{END}{rest.partition(END)[2]}"


def test_the_page_has_every_view_and_column_as_the_code_has_it() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page.count(START) == page.count(END) == 1
    assert rewritten(page) == page
    assert COLUMNS["rejects"] == COLUMNS["captions"]


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
