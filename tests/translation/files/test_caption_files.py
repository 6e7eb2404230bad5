"""Which files are translated, in which windows, and which are refused."""

import gzip
import io
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_catalog.errors import InputError, PipelineError, SettingsError, TransientError
from translation.engine import Translation, translate_stream
from translation.files import (
    CaptionFiles,
    Columns,
    Row,
    TextTable,
    count_rows,
    format_of,
    translate_files,
    translate_rows,
)

Translated = Callable[..., Path]  # the fixture of the same name
Shouter = Any  # the stand-in engine of conftest
COLUMNS = Columns(read="caption", write="caption_it")


@pytest.mark.parametrize("num_rows", [0, 1, 2, 3, 4, 6, 7])
@pytest.mark.parametrize("window", [1, 3, 100])
def test_windows_and_their_edges_change_nothing(
    tmp_path: Path, num_rows: int, window: int, translated: Translated, shouter: Shouter
) -> None:
    rows = [f"caption {number}" for number in range(num_rows)]
    (tmp_path / "in.txt").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    (tmp_path / "in.csv").write_text("caption,id\n" + "".join(f"{row},7\n" for row in rows), encoding="utf-8")
    pq.write_table(pa.table({"caption": pa.array(rows, pa.string())}), tmp_path / "in.parquet", row_group_size=2)
    translator = shouter()
    expected = [row.upper() for row in rows]
    assert translated(tmp_path / "in.txt", window=window, translator=translator).read_text().splitlines() == expected
    assert all(len(asked) <= window for asked in translator.asked)
    lines = translated(tmp_path / "in.csv", window=window).read_text().splitlines()
    assert lines == ["caption,id,caption_it", *(f"{row},7,{row.upper()}" for row in rows)]
    found = pq.read_table(translated(tmp_path / "in.parquet", window=window))
    assert found.column("caption_it").to_pylist() == expected
    assert found.column("caption").to_pylist() == rows


def test_an_engine_that_is_paid_by_chunk_is_never_given_more(
    tmp_path: Path, translated: Translated, shouter: Shouter
) -> None:
    source = tmp_path / "in.txt"
    source.write_text("a\nb\nc\nd\ne\n", encoding="utf-8")
    translator = shouter(max_chunk_size=2)
    translated(source, window=100, translator=translator)
    assert translator.asked == [["a", "b"], ["c", "d"], ["e"]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.txt", b"fine\nfine\ncaf\xe9\n", r"in.txt, line 3: byte 0xe9 at offset 3 of the line is not UTF-8"),
        ("in.txt", "caf\xe9".encode("utf-16"), "line 1: .* not UTF-8"),
        ("in.txt", b"a\0b", "line 1: a NUL"),
        ("in.csv", b"caption,id\na,1\nb,\xff\n", "in.csv, line 3: .* not UTF-8"),
        ("in.csv", b"caption,id\na,1\nb,2,3\n", "in.csv, line 3: 3 fields instead of 2"),
        ("in.csv", b"caption,id\na,1\nb\n", "in.csv, line 3: 1 fields instead of 2"),
        ("in.csv", b'caption,id\n"a,1\nb,2\n', "in.csv, line 2: a quoted field is not closed"),
        ("in.csv", b'caption,id\n"a" b,1,2\n', "in.csv, line 2: a quoted field is closed in mid-text"),
        ("in.csv", b"", "in.csv is empty"),
        ("in.csv", b"text,id\na,1\n", "in.csv has no column 'caption': choose one of text, id"),
        ("in.csv", b"caption,caption\na,b\n", "has the column 'caption' more than once"),
        ("in.csv", b"caption,caption_it\na,b\n", "already has a column 'caption_it'"),
        ("in.tsv.gz", gzip.compress(b"caption\n" + b"a\n" * 9)[:-9], "truncated gzip"),
        ("in.parquet", b"PAR1 no more", "not a complete Parquet file"),
    ],
)
def test_broken_input_is_refused_before_anything_is_translated(
    tmp_path: Path, name: str, content: bytes, message: str, translated: Translated, shouter: Shouter
) -> None:
    source = tmp_path / name
    source.write_bytes(content)
    files = CaptionFiles(source=source, target=tmp_path / "out", format=format_of(source), columns=COLUMNS)
    with pytest.raises(PipelineError, match=message):
        count_rows(files)
    with pytest.raises(PipelineError, match=message):
        translate_files(files, shouter())
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("name", ["in.txt", "in.csv", "in.parquet"])
def test_an_engine_that_fails_leaves_no_file(
    tmp_path: Path, name: str, translated: Translated, shouter: Shouter
) -> None:
    source = tmp_path / name
    rows = ["caption", *(f"caption {number}" for number in range(8))]
    source.write_text("\n".join(rows), encoding="utf-8")
    if name == "in.parquet":
        pq.write_table(pa.table({"caption": rows}), source)
    with pytest.raises(TransientError, match="out of breath"):
        translated(source, translator=shouter(fails_at="caption 7"))
    assert list(tmp_path.iterdir()) == [source]


def test_files_that_must_not_be_written(tmp_path: Path) -> None:
    source, link = tmp_path / "in.txt", tmp_path / "link.txt"
    source.write_text("a\n", encoding="utf-8")
    link.symlink_to(source)

    def files(target: Path, *, overwrite: bool = True) -> CaptionFiles:
        return CaptionFiles(source=source, target=target, format="lines", columns=COLUMNS, overwrite=overwrite)

    for target, message in [
        (source, "is the input"),
        (link, "is the input"),
        (tmp_path / "none" / "out.txt", "must be a writable folder"),
        (source / "out.txt", "must be a writable folder"),
        (tmp_path, "is not a file"),
        (Path("/dev/null"), "is not a file"),
        (tmp_path / "out.csv", "has the suffix of csv"),
        (tmp_path / "out.parquet", "has the suffix of parquet"),
        (tmp_path / "out.json", "JSON cannot be translated"),
    ]:
        with pytest.raises(PipelineError, match=message):
            files(target)
    (tmp_path / "out.txt").write_text("precious", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"out.txt exists: .* --force"):
        files(tmp_path / "out.txt", overwrite=False)


def test_input_that_cannot_be_read(tmp_path: Path) -> None:
    for source, kind, message in [
        (tmp_path / "none.txt", "lines", "is not a file that can be translated"),
        (tmp_path, "lines", "is not a file that can be translated"),
        (None, "parquet", "Parquet cannot be piped"),
    ]:
        with pytest.raises(PipelineError, match=message):
            CaptionFiles(source=source, target=tmp_path / "out", format=kind, columns=COLUMNS)
    with pytest.raises(InputError, match="JSON cannot be translated"):
        format_of(Path("captions.jsonl.gz"))
    assert [format_of(Path(name)) for name in ("a.TSV.gz", "a.parquet", "val.en.gz", "a")] == [
        "tsv",
        "parquet",
        "lines",
        "lines",
    ]


def test_a_named_pipe_is_read_once(tmp_path: Path, shouter: Shouter) -> None:
    pipe, target = tmp_path / "pipe.csv", tmp_path / "out.csv"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=[b"caption,id\na,1\n"])
    writer.start()
    files = CaptionFiles(source=pipe, target=target, format="csv", columns=COLUMNS)
    assert count_rows(files) is None
    translate_files(files, shouter())
    writer.join()
    assert target.read_bytes() == b"caption,id,caption_it\na,1,A\n"


def test_a_stream_holds_no_more_than_its_window(shouter: Shouter) -> None:
    num_read, ahead = 0, []

    def rows() -> Iterator[Row]:
        nonlocal num_read
        for num_read in range(1, 1_001):
            yield Row(str(num_read), "", "")

    def written(row: Row, translation: Translation) -> str:
        ahead.append(num_read - int(row.caption))
        assert translation.text == row.caption
        return f"{row.caption}\n"

    out = io.StringIO()
    translate_rows(TextTable("", rows(), written, []), out, partial(translate_stream, shouter(), window=10))
    assert out.getvalue().split() == [str(number) for number in range(1, 1_001)]
    assert max(ahead) == 9
