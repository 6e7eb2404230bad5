"""Audits and ratings as files, for the tests of what is read and scored."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

AUDIT_ID = "0123456789abcdef"
HEADER = "audit_id,row_id,rating,comment,rater"

Grades = Sequence[int | None]


@pytest.fixture
def write_audit(tmp_path: Path) -> Callable[..., Path]:
    """Write audit.csv with rows r0, r1 ... and these further columns, one value a row."""

    def write(num_rows: int, **columns: Sequence[object]) -> Path:
        defaults: Mapping[str, Sequence[object]] = {
            "audit_id": [AUDIT_ID] * num_rows,
            "row_id": [f"r{number}" for number in range(num_rows)],
            "source_text": [f"text {number}" for number in range(num_rows)],
            "text": [f"testo {number}" for number in range(num_rows)],
            "source": ["mscoco"] * num_rows,
            "stratum": ["mscoco: middle score"] * num_rows,
            "weight": [1.0] * num_rows,
        }
        filled = {**defaults, **columns}
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(filled)
        writer.writerows(zip(*filled.values(), strict=True))
        path = tmp_path / "audit.csv"
        path.write_text(text.getvalue(), encoding="utf-8", newline="")
        return path

    return write


@pytest.fixture
def write_ratings(tmp_path: Path) -> Callable[..., Path]:
    """Write a rater's file as the form saves it: a grade, or None, for each of the rows r0, r1 ..."""

    def write(rater: str, grades: Grades, comments: Mapping[int, str] | None = None) -> Path:
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(HEADER.split(","))
        for number, grade in enumerate(grades):
            writer.writerow([AUDIT_ID, f"r{number}", grade or "", (comments or {}).get(number, ""), rater])
        path = tmp_path / f"ratings-{rater}.csv"
        path.write_text(text.getvalue(), encoding="utf-8", newline="")
        return path

    return write
