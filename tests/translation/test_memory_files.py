"""A translation memory as a Parquet file, and back."""

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_catalog.errors import DiskError, InputError, SettingsError
from translation import memory as memory_files
from translation.engine import Translation
from translation.memory import Imported, TranslationMemory, export_memory, import_memory, read_export

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SCORE = st.none() | st.floats(max_value=0, allow_nan=False, allow_infinity=False)
TRANSLATION = st.builds(Translation, text=TEXT, score=SCORE, truncated=st.booleans(), repetitive=st.booleans())
FINGERPRINT = "argos:en-it:abc"


def said(text: str, score: float | None = -0.5) -> Translation:
    return Translation(text=text, score=score)


def memory_of(folder: Path, entries: dict[str, Translation]) -> TranslationMemory:
    memory = TranslationMemory(folder, FINGERPRINT)
    memory.record(list(entries), list(entries.values()))
    return memory


@given(
    entries=st.dictionaries(TEXT | st.sampled_from(["\0", "z\0a", "😀", "é"]), TRANSLATION, max_size=9), data=st.data()
)
def test_a_round_trip_keeps_everything_and_equal_memories_give_equal_bytes(
    entries: dict[str, Translation], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("memory")
    shuffled = dict(data.draw(st.permutations(list(entries.items()))))
    first, second = memory_of(folder / "1", entries), memory_of(folder / "2", shuffled)
    assert export_memory(first, folder / "1.parquet") == export_memory(second, folder / "2.parquet") == len(entries)
    assert (folder / "1.parquet").read_bytes() == (folder / "2.parquet").read_bytes()
    found = import_memory(folder / "1.parquet", folder / "3")
    assert found == Imported(fingerprint=FINGERPRINT, new=len(entries), known=0, different=0)
    assert dict(TranslationMemory(folder / "3", FINGERPRINT).rows()) == entries


def test_rows_are_sorted_and_say_whose_they_are(tmp_path: Path) -> None:
    entries = {"b": said("2"), "é": said("3", None), "B": said("1"), "😀": said("5"), "\uffee": said("4")}
    export_memory(memory_of(tmp_path, entries), tmp_path / "out" / "memory.parquet")
    table = pq.read_table(tmp_path / "out" / "memory.parquet")
    assert table.column_names == ["source_caption", "caption", "score", "truncated", "repetitive"]
    assert table.column("source_caption").to_pylist() == sorted(entries) == ["B", "b", "é", "\uffee", "😀"]
    assert table.column("score").to_pylist() == [-0.5, -0.5, None, -0.5, -0.5]
    metadata = {b"vernaclip.translation_memory": b"1", b"vernaclip.fingerprint": FINGERPRINT.encode()}
    assert table.schema.metadata == metadata


def test_merging_keeps_what_is_there_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_files, "ROWS_PER_GROUP", 7)
    theirs = {f"caption {number}": said(f"theirs {number}") for number in range(100)}
    export_memory(memory_of(tmp_path / "theirs", theirs), tmp_path / "theirs.parquet")
    assert pq.ParquetFile(tmp_path / "theirs.parquet").num_row_groups == 15
    mine = {f"caption {number}": said(f"theirs {number}") for number in range(10)}
    mine |= {f"caption {number}": said(f"mine {number}") for number in range(10, 30)}
    mine |= {"caption 30": said("theirs 30", -0.25), "caption 31": Translation(text="theirs 31", truncated=True)}
    memory = memory_of(tmp_path / "mine", mine)
    for new, known in ((68, 10), (0, 78)):
        expected = Imported(fingerprint=FINGERPRINT, new=new, known=known, different=22)
        assert import_memory(tmp_path / "theirs.parquet", tmp_path / "mine") == expected
    assert dict(memory.rows()) == theirs | mine


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.replace_schema_metadata(None), "not an exported"),
        (lambda table: table.drop_columns(["score"]), "not an exported"),
        ({b"vernaclip.translation_memory": "2"}, "version '2'"),
        *(
            ({b"vernaclip.fingerprint": value}, "fingerprint")
            for value in (b"", b"\xff\xfe", "a:\n", "../a", "a" * 201)
        ),
        *((("score", pa.array([score])), "log-probability") for score in (float("nan"), float("-inf"), 0.5)),
        (("caption", pa.array([b"\xff"]).view(pa.string())), "UTF-8"),
        (b"source_caption,caption\n", "not a Parquet file"),
        (None, "missing"),
    ],
)
def test_other_files_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    good, file = tmp_path / "good.parquet", tmp_path / "file.parquet"
    export_memory(memory_of(tmp_path, {"a": said("1")}), good)
    table = pq.read_table(good)
    if callable(change):
        pq.write_table(change(table), file)
    elif isinstance(change, dict):
        pq.write_table(table.replace_schema_metadata({**table.schema.metadata, **change}), file)
    elif isinstance(change, tuple):
        name, column = change
        pq.write_table(table.set_column(table.column_names.index(name), table.schema.field(name), column), file)
    elif change is not None:
        file.write_bytes(change)
    with pytest.raises(InputError, match=rf"{re.escape(file.name)} .*{message}"):
        read_export(file)


def test_an_export_replaces_nothing_unless_told_to(tmp_path: Path) -> None:
    memory, path = memory_of(tmp_path / "memory", {"a": said("1")}), tmp_path / "thesis.parquet"
    path.write_text("years of work")
    with pytest.raises(SettingsError, match="--force"):
        export_memory(memory, path)
    assert path.read_text() == "years of work"
    with pytest.raises(SettingsError, match="is a folder"):
        export_memory(memory, tmp_path, overwrite=True)
    with pytest.raises(DiskError):
        export_memory(memory, path / "out.parquet")
    assert export_memory(memory, path, overwrite=True) == 1
    assert read_export(path) == memory.fingerprint
