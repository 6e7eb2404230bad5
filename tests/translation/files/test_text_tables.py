"""Lines, CSV and TSV through a stand-in engine: what is kept, and what is added."""

import csv
import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

Translated = Callable[..., Path]  # the fixture of the same name
Shouter = Any  # the stand-in engine of conftest


def test_lines_keep_their_number_whatever_they_hold(tmp_path: Path, translated: Translated) -> None:
    source = tmp_path / "in.txt"
    lines = ["one\rtwo", "", "a\u2028b\x85c\x0bd\x1ce", "tab\there", "  ", "last"]
    source.write_bytes("\n".join(lines).encode())
    out = translated(source).read_bytes().decode()
    assert out.endswith("LAST\n")
    assert out.split("\n")[:-1] == ["ONE TWO", "", "A B C D E", "TAB\tHERE", "  ", "LAST"]


def test_lines_with_scores_crlf_and_byte_order_mark(tmp_path: Path, translated: Translated, shouter: Shouter) -> None:
    source = tmp_path / "in.txt"
    source.write_bytes(b"\xef\xbb\xbfone\r\n\r\ntwo\r\n")
    translator = shouter()
    out = translated(source, scores=True, translator=translator)
    assert out.read_bytes() == b"\xef\xbb\xbf-0.5000\tONE\r\n\t\r\n-0.5000\tTWO\r\n"
    assert translator.asked == [["one", "", "two"]]


def read_csv(path: Path, delimiter: str = ",") -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, delimiter=delimiter, strict=True))


def test_csv_keeps_every_byte_of_what_it_held(tmp_path: Path, translated: Translated) -> None:
    source = tmp_path / "in.csv"
    rows = [
        '7,"a dog, running","quoted ""twice"""',
        "8,plain,  spaces kept  ",
        '9,"two\r\nlines\nor three",x',
        '"10",,"needless quotes"',
        '11,"He said ""hi""",\u2028',
    ]
    source.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(["id,caption,note", *rows]).encode())
    target = translated(source, scores=True)
    expected = [
        "\ufeffid,caption,note,caption_it,caption_it_score,caption_it_truncated,caption_it_repetitive",
        rows[0] + ',"A DOG, RUNNING",-0.5000,false,false',
        rows[1] + ",PLAIN,-0.5000,false,false",
        rows[2] + ',"TWO\r\nLINES\nOR THREE",-0.5000,false,false',
        rows[3] + ",,,false,false",
        rows[4] + ',"HE SAID ""HI""",-0.5000,false,false',
        "",
    ]
    assert target.read_bytes().decode() == "\r\n".join(expected)
    assert [row["caption_it"] for row in read_csv(target)][2] == "TWO\r\nLINES\nOR THREE"


blank_lines = st.lists(st.sampled_from(["\n", "\r\n"]), max_size=3).map("".join)


@given(gaps=st.lists(blank_lines, min_size=2, max_size=5), mark=st.sampled_from(["", "\ufeff"]))
def test_blank_lines_stay_where_they_are(
    gaps: list[str], mark: str, tmp_path_factory: pytest.TempPathFactory, translated: Translated
) -> None:
    first, *others = gaps
    source = tmp_path_factory.mktemp("blank") / "in.csv"
    rows = [f'"a\n\nb",{number}' for number in range(len(others) - 1)]
    parts = [f"{line}\r\n{gap}" for line, gap in zip(["caption,n", *rows], others, strict=True)]
    source.write_bytes((mark + first + "".join(parts)).encode())
    found = translated(source).read_bytes().decode()
    assert found.count("caption_it") == 1
    assert found.replace(",caption_it", "").replace(',"A\n\nB"', "").encode() == source.read_bytes()


def test_tsv_with_quotes_that_are_mere_text(tmp_path: Path, translated: Translated) -> None:
    source = tmp_path / "in.tsv"
    source.write_text('caption\turl\n"Hi" he said\tu1\na 5" nail\tu2\n\n"a\ttab"\tu3\n', encoding="utf-8")
    assert translated(source).read_text(encoding="utf-8") == (
        'caption\turl\tcaption_it\n"Hi" he said\tu1\t"""HI"" HE SAID"\n'
        'a 5" nail\tu2\tA 5" NAIL\n\n"a\ttab"\tu3\t"A\tTAB"\n'
    )


def test_gzip_is_read_by_content_and_written_by_name(tmp_path: Path, translated: Translated) -> None:
    source = tmp_path / "in.csv.gz"
    source.write_bytes(gzip.compress(b"caption\na\n"))
    packed = translated(source).read_bytes()
    assert gzip.decompress(packed) == b"caption,caption_it\na,A\n"
    assert translated(source).read_bytes() == packed
    assert translated(source, name="plain.csv").read_bytes() == b"caption,caption_it\na,A\n"


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12) | st.sampled_from(
    ['"', '""', "\r", "\n", "\r\n", ",", "\t", '",', "\u2028", "\ufeff", " "]
)
tables = st.integers(2, 4).flatmap(lambda width: st.lists(st.lists(cells, min_size=width, max_size=width), max_size=8))


@given(rows=tables, delimiter=st.sampled_from([",", "\t"]), end=st.sampled_from(["\n", "\r\n"]))
def test_any_table_comes_back_with_its_translations(
    rows: list[list[str]], delimiter: str, end: str, tmp_path_factory: pytest.TempPathFactory, translated: Translated
) -> None:
    header = ["caption", *(f"other{number}" for number in range(len(rows[0]) - 1 if rows else 1))]
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([header, *rows])
    folder = tmp_path_factory.mktemp("table")
    source = folder / {",": "in.csv", "\t": "in.tsv"}[delimiter]
    source.write_bytes(text.getvalue().encode())
    found = read_csv(translated(source), delimiter)
    assert [[row[name] for name in header] for row in found] == rows
    assert [row["caption_it"] for row in found] == [row[0].upper() for row in rows]


@given(lines=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\n"), max_size=12)))
def test_any_lines_keep_their_places(
    lines: list[str], tmp_path_factory: pytest.TempPathFactory, translated: Translated
) -> None:
    source = tmp_path_factory.mktemp("lines") / "in.txt"
    source.write_bytes("".join(f"{number} {line}\n" for number, line in enumerate(lines)).encode())
    out = translated(source, window=2).read_bytes().decode().split("\n")
    assert [line.split(" ")[0].split("\t")[0] for line in out[:-1]] == [str(number) for number in range(len(lines))]
