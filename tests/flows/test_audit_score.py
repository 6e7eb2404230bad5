"""`vernaclip audit score`: from the files of raters to numbers and the worst rows."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from browser import open_browser

from data_catalog.report.forms import sheet_text
from translation.audit.draw import AUDIT_COLUMNS, Audit
from translation.audit.form import RATING_COLUMNS, render_audit

SCORE = ["audit", "score"]
ID = "a0123456789abcdef"


def write_audit(folder: Path, scores: Sequence[float | None]) -> None:
    """A sheet as `audit draw` writes it: every column, lists and booleans among them."""
    row = {**dict.fromkeys(AUDIT_COLUMNS), "audit_id": ID, "stratum": "all", "translation_truncated": False}
    rows = [
        {
            **row,
            "row_id": f"r{place}",
            "source_text": f"a dog {place}",
            "text": f"un cane {place}",
            "source": ("cc3m", "mscoco")[place % 2],
            "weight": 3.0 if place < 10 else 1.0,
            "translation_score": score,
            "numbers_lost": ["30", "40"],
        }
        for place, score in enumerate(scores)
    ]
    (folder / "audit.csv").write_bytes(sheet_text(AUDIT_COLUMNS, rows).encode())


def write_ratings(folder: Path, rater: str, grades: Sequence[int | None], comment: str = "") -> str:
    """The ratings of a person, with a comment on the first."""
    rows = [
        dict(zip(RATING_COLUMNS, (ID, f"r{place}", grade, "" if place else comment, rater), strict=True))
        for place, grade in enumerate(grades)
    ]
    (folder / f"{rater}.csv").write_bytes(sheet_text(RATING_COLUMNS, rows).encode())
    return str(folder / f"{rater}.csv")


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """50 rows by three raters: the first ten are bad; Bo missed the last, and doubts row 20."""
    write_audit(tmp_path, [-2.0 if place < 10 else None for place in range(50)])
    grades = [1] * 10 + [4] * 40
    bo = write_ratings(tmp_path, "Bo", [*grades[:20], 2, *grades[21:-1], None], "=a <b>cat\x1b[31m\nnot a dog")
    return [write_ratings(tmp_path, "Ann", grades), bo, write_ratings(tmp_path, "Cy", grades)]


def test_numbers_and_the_worst_rows_are_told(files: list[str], told: Any) -> None:
    out = told([*SCORE, *files, "--worst", "2"])
    assert f"audit {ID}: 50 rows, 50 of them rated by 3 raters; missing ratings: 1" in out
    for line in (
        # (10 * 1 + 39 * 4 + 10/3) / 50 and, the first ten weighing three each, (30 * 1 + 39 * 4 + 10/3) / 70.
        r"mean rating, 1 to 4 +3\.39 \(3\.\d\d to 3\.\d\d\) +3\.78\n",
        r"estimate for the dataset +2\.70 \(2\.\d\d to 3\.\d\d\)\n",
        r"Gwet's AC1, ordinal weights +0\.99\d \(0\.9\d\d to 1\.000\) +0\.858\n",
        r"Bo +49 +1 +3\.35 +20% +2% +0% +78%\n",
        r"\(all\) +149 +1 +3\.38 +20% +1% +0% +79%\n",
        r"cc3m +25 +3\.\d\d \(",
    ):
        assert re.search(line, out), line
    assert (
        "lowest ratings\n"
        "  r0  cc3m  mean 1.00  (Ann 1, Bo 1, Cy 1)\n    a dog 0\n    un cane 0\n"
        "    Bo: =a <b>cat\\x1b[31m\\nnot a dog\n"
        "  r1  mscoco  mean 1.00  (Ann 1, Bo 1, Cy 1)\n    a dog 1\n    un cane 1\n"
        "\nratings furthest apart\n"
        "  r20  cc3m  mean 3.33  (Ann 4, Bo 2, Cy 4)\n    a dog 20\n    un cane 20\n"
    ) in out
    out = told([*SCORE, *files, "--worst", "0"])
    assert "lowest ratings" not in out


def test_the_audit_is_looked_for_beside_the_first_ratings(files: list[str], tmp_path: Path, told: Any) -> None:
    moved = (tmp_path / "audit.csv").rename(tmp_path / "kept.csv")
    for words, name in (([], "audit.csv"), (["--audit", str(tmp_path / "gone.csv")], "gone.csv")):
        assert f"{tmp_path / name} is not a file" in told([*SCORE, *files, *words], code=1)
    assert "3 raters" in told([*SCORE, *files, "--audit", str(moved)])


def test_ratings_by_keys_are_kept_saved_and_scored(tmp_path: Path, told: Any) -> None:
    write_audit(tmp_path, [-0.5, None, -1.0])
    texts = {"source_text": "a dog", "text": "un <b>cane</b>", "source_lang": "en", "target_lang": "it"}
    rows = [{"row_id": f"r{place}", **texts} for place in range(3)]
    form = tmp_path / "audit.html"
    form.write_text(render_audit(Audit(audit_id=ID, dataset="d", rows=rows, strata=[])), "utf-8")
    with open_browser(tmp_path / "profile") as page:
        page.open_on_telephone(form)
        for key in "42":
            page.press(key, text=key)
        page.type("comment", "=1+1; no\nnoun")
    with open_browser(tmp_path / "profile") as page:
        page.open_on_telephone(form)
        assert page.ask("at('translation').textContent") == "un <b>cane</b>"
        assert page.ask("at('count').textContent") == "2 of 3 rated"
        assert page.ask("at('comment').value") == "=1+1; no\nnoun"
        page.press("1", text="1")
        page.ask("at('clear').click()")
        assert page.ask("at('count').textContent + at('clear').textContent") == "2 of 3 ratedClear rating"
        page.press("1", text="1")
        page.type("person", "Åsa")
        saved = page.save(tmp_path / "downloads")
    assert saved.name == "ratings-Åsa.csv"
    out = told([*SCORE, str(saved), "--audit", str(tmp_path / "audit.csv")])
    assert re.search(r"Åsa +3 +0 +2\.33", out)
    assert "Åsa: =1+1; no\\nnoun" in out
