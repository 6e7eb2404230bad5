"""Files through a stand-in engine: what is kept and added, in which windows, and what is refused."""

import csv
import gzip
import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_catalog.base.errors import InputError, PipelineError, SettingsError, TransientError
from data_catalog.sources.files import Line
from translation import files
from translation.engine import Translation
from translation.files import CaptionFiles, count_rows, format_of, translate_files

ADDED = ["caption_it", "caption_it_score", "caption_it_truncated", "caption_it_repetitive"]


@pytest.fixture
def translated(shouter: Any) -> Any:
    """Translates a file into another one beside it, and checks that the progress told adds up."""

    def run(
        source: Path, *, scores: bool = False, window: int = 3, translator: Any | None = None, name: str = ""
    ) -> Path:
        target = source.with_name(name or f"out-{source.name}")
        files = CaptionFiles(
            source=source,
            target=target,
            format=format_of(source),
            write_column="caption_it",
            scores=scores,
            overwrite=True,
        )
        done: list[int] = []
        translate_files(files, translator or shouter(), done.append, window=window)
        assert sum(done) == count_rows(files)
        return target

    return run


WRITTEN = {
    "lines keep their number": (
        "in.txt",
        "one\rtwo\n\na\u2028b\x85c\x0bd\x1ce\ntab\there\n  \nlast",
        "ONE TWO\n\nA B C D E\nTAB\tHERE\n  \nLAST\n",
    ),
    "lines with a byte order mark and scores": (
        "in.txt",
        "\ufeffone\r\n\r\ntwo\r\n",
        "-0.5000\tONE\n\t\n-0.5000\tTWO\n",
    ),
    "a table with scores": (
        "in.csv",
        '\ufeffcaption,note\n"a dog, running","quoted ""twice"""\r\n\r\nplain,  spaces kept  \r\n"",\u2028',
        "caption,note,caption_it,caption_it_score,caption_it_truncated,caption_it_repetitive\r\n"
        '"a dog, running","quoted ""twice""","A DOG, RUNNING",-0.5000,false,false\r\n'
        "plain,  spaces kept  ,PLAIN,-0.5000,false,false\r\n,\u2028,,,false,false\r\n",
    ),
    "a table with tabs": ("in.tsv", "caption\turl\na 5'\tu2\n", "caption\turl\tcaption_it\r\na 5'\tu2\tA 5'\r\n"),
}


@pytest.mark.parametrize("case", WRITTEN)
def test_what_is_written(case: str, tmp_path: Path, translated: Any) -> None:
    name, given, written = WRITTEN[case]
    (tmp_path / name).write_bytes(given.encode())
    assert translated(tmp_path / name, scores="-0.5" in written).read_bytes().decode() == written


def test_gzip_is_read_by_content_and_written_by_name(tmp_path: Path, translated: Any) -> None:
    source = tmp_path / "in.csv.gz"
    source.write_bytes(gzip.compress(b"caption\na\n"))
    packed, plain = (translated(source, name=name).read_bytes() for name in ("out.csv.gz", "out.csv"))
    assert gzip.decompress(packed) == plain == b"caption,caption_it\r\na,A\r\n"
    assert translated(source).read_bytes() == packed


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12) | st.sampled_from(
    ['"', '""', "\r", "\n", "\r\n", ",", "\t", '",', "\u2028", "\ufeff", " "]
)
tables = st.integers(2, 4).flatmap(lambda width: st.lists(st.lists(cells, min_size=width, max_size=width), max_size=8))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=tables, delimiter=st.sampled_from([",", "\t"]), end=st.sampled_from(["\n", "\r\n"]))
def test_any_table_comes_back_with_its_translations(
    rows: list[list[str]], delimiter: str, end: str, tmp_path_factory: pytest.TempPathFactory, translated: Any
) -> None:
    header = ["caption", *(f"other{number}" for number in range(len(rows[0]) - 1 if rows else 1))]
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([header, *rows])
    folder = tmp_path_factory.mktemp("table")
    source = folder / {",": "in.csv", "\t": "in.tsv"}[delimiter]
    source.write_bytes(text.getvalue().encode())
    with translated(source).open(encoding="utf-8-sig", newline="") as file:
        found = list(csv.DictReader(file, delimiter=delimiter, strict=True))
    assert [[row[name] for name in header] for row in found] == rows
    assert [row["caption_it"] for row in found] == [row[0].upper() for row in rows]


def test_parquet_keeps_types_metadata_nulls_and_row_groups(tmp_path: Path, translated: Any) -> None:
    number = pa.field("id", pa.uint16(), nullable=False, metadata={"unit": "none"})
    image = pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    others = {"caption": pa.large_string(), "kind": pa.dictionary(pa.int8(), pa.string()), "taken": pa.timestamp("ms")}
    schema = pa.schema([number, image, *others.items()], metadata={"huggingface": '{"info": {}}', "mine": "kept"})
    same = {"image": {"bytes": b"\x00\xff", "path": None}, "kind": "k", "taken": 7}
    captions = ["a dog", None, "", "two\nlines", None]
    rows = [{"id": place, "caption": text, **same} for place, text in enumerate(captions)]
    source = tmp_path / "in.parquet"
    pq.write_table(pa.Table.from_pylist([*rows, {"id": 5}], schema), source, row_group_size=2)
    target = translated(source, scores=True, window=2)
    before, after = pq.read_table(source), pq.read_table(target)
    assert after.select(before.column_names).equals(before, check_metadata=True)
    assert after.schema.metadata == before.schema.metadata
    assert after.column_names == before.column_names + ADDED
    assert [after.schema.field(name).type for name in ADDED] == [pa.string(), pa.float32(), pa.bool_(), pa.bool_()]
    nothing = (None, None, None, None)
    assert [tuple(row.values()) for row in after.select(ADDED).to_pylist()] == [
        *[("A DOG", -0.5, False, False), nothing, ("", None, False, False), ("TWO\nLINES", -0.5, False, False)],
        *[nothing, nothing],
    ]
    assert pq.ParquetFile(target).num_row_groups == pq.ParquetFile(source).num_row_groups == 3


@pytest.mark.parametrize(("num_rows", "window"), [(0, 3), (1, 1), (3, 3), (4, 3), (7, 3), (7, 100)])
def test_windows_and_their_edges_change_nothing(
    tmp_path: Path, num_rows: int, window: int, translated: Any, shouter: Any
) -> None:
    rows = [f"caption {number}" for number in range(num_rows)]
    expected = [row.upper() for row in rows]
    (tmp_path / "in.txt").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    pq.write_table(pa.table({"caption": pa.array(rows, pa.string())}), tmp_path / "in.parquet", row_group_size=2)
    most = 2 if window == 100 else window
    translator = shouter(max_chunk_size=2 if window == 100 else None)  # one that is paid by chunk is never given more
    assert translated(tmp_path / "in.txt", window=window, translator=translator).read_text().splitlines() == expected
    assert [len(asked) for asked in translator.asked] == [min(most, num_rows - at) for at in range(0, num_rows, most)]
    found = pq.read_table(translated(tmp_path / "in.parquet", window=window))
    assert found.to_pydict() == {"caption": rows, "caption_it": expected}


def parquet(**columns: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.txt", b"fine\nfine\ncaf\xe9\n", "line 3: byte 0xe9 at offset 3"),
        ("in.txt", b"a\0b", "line 1: a NUL"),
        ("in.csv", b"caption,id\na,1\nb,2,3\n", "line 3: 3 fields"),
        ("in.csv", b'caption,id\n"a,1\nb,2\n', "line 3: unexpected end of data"),
        ("in.csv", b"", "empty"),
        ("in.csv", b"text,id\na,1\n", "choose one of text, id"),
        ("in.csv", b"caption,caption\na,b\n", "more than one column"),
        ("in.tsv.gz", gzip.compress(b"caption\n" + b"a\n" * 9)[:-9], "in.tsv.gz cannot be read"),
        ("in.parquet", b"PAR1 no more", "Parquet"),
        ("in.parquet", parquet(text=["a"]), "no column 'caption'"),
        ("in.parquet", parquet(caption=[1]), "int64"),
        ("in.parquet", parquet(caption=["a"], caption_it=["b"]), "caption_it"),
        ("in.parquet", parquet(caption=pa.array([b"fine", b"caf\xe9"]).view(pa.string())), "text in UTF-8"),
    ],
)
def test_broken_input_is_refused_before_anything_is_translated(
    tmp_path: Path, name: str, content: bytes, message: str, shouter: Any
) -> None:
    source = tmp_path / name
    source.write_bytes(content)
    files = CaptionFiles(source=source, target=tmp_path / "out", format=format_of(source), write_column="caption_it")
    if not content.endswith(b"PAR1"):  # whose rows are not read when they are counted
        with pytest.raises(PipelineError, match=message):
            count_rows(files)
    with pytest.raises(PipelineError, match=message):
        translate_files(files, shouter())
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("name", ["in.txt", "in.csv", "in.parquet"])
def test_an_engine_that_fails_leaves_no_file(tmp_path: Path, name: str, translated: Any, shouter: Any) -> None:
    source = tmp_path / name
    rows = ["caption", *(f"caption {number}" for number in range(8))]
    source.write_text("\n".join(rows), encoding="utf-8")
    if name == "in.parquet":
        pq.write_table(pa.table({"caption": rows}), source)
    with pytest.raises(TransientError, match="out of breath"):
        translated(source, translator=shouter(fails_at="caption 7"))
    assert list(tmp_path.iterdir()) == [source]


def test_files_that_must_not_be_written_or_cannot_be_read(tmp_path: Path, shouter: Any) -> None:
    source, link = tmp_path / "in.txt", tmp_path / "link.txt"
    source.touch()
    link.symlink_to(source)
    files = partial(CaptionFiles, format="lines", overwrite=True)
    for target, message in (
        (link, "is the input"),
        (source / "out.txt", "cannot be written"),
        (tmp_path / "out.parquet", "has the suffix of parquet"),
        (tmp_path / "out.json", "JSON"),
    ):
        with pytest.raises(PipelineError, match=message):
            files(source=source, target=target)
    with pytest.raises(SettingsError, match="exists: name another file"):
        CaptionFiles(source=None, target=source, format="lines")
    for read, target, message in (
        (source, Path("/dev/null"), "is not a regular file"),
        (tmp_path / "none.txt", tmp_path / "out", "none.txt cannot be read"),
        (tmp_path, tmp_path / "out", "cannot be read"),
    ):
        with pytest.raises(PipelineError, match=message):
            translate_files(files(source=read, target=target), shouter())
    with pytest.raises(SettingsError, match="not read from pipes"):
        CaptionFiles(source=None, target=tmp_path / "out", format="parquet")
    with pytest.raises(InputError, match="JSON"):
        format_of(Path("captions.jsonl.gz"))
    found = [format_of(Path(name)) for name in ("a.TSV.gz", "a.parquet", "val.en.gz", "a")]
    assert found == ["tsv", "parquet", "lines", "lines"]
    assert sorted(tmp_path.iterdir()) == [source, link]


def test_a_stream_holds_no_more_than_its_window(tmp_path: Path, shouter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    num_read, ahead, translator = 0, [], shouter()

    def lines(_: CaptionFiles) -> Iterator[Line]:
        nonlocal num_read
        for num_read in range(1, 1_001):
            yield Line(num_read, str(num_read), "\n", None)

    def values(self: CaptionFiles, translation: Translation) -> tuple[str]:
        ahead.append(num_read - int(translation.text))
        return (translation.text,)

    monkeypatch.setattr(files, "_lines", lines)
    monkeypatch.setattr(CaptionFiles, "values", values)
    translate_files(CaptionFiles(source=None, target=tmp_path / "out", format="lines"), translator, window=10)
    assert (tmp_path / "out").read_text().split() == [str(number) for number in range(1, 1_001)]
    assert max(ahead) == 9
