"""A translation memory as a Parquet file, and back."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_catalog.errors import DiskError, InputError, SettingsError
from translation import memory as memory_files
from translation.engine import Translation
from translation.memory import MEMORY_ROWS, Imported, TranslationMemory, export_memory, import_memory, read_export

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SCORE = st.none() | st.floats(max_value=0, allow_nan=False, allow_infinity=False)
TRANSLATION = st.builds(Translation, text=TEXT, score=SCORE, truncated=st.booleans(), repetitive=st.booleans())


def said(text: str, score: float | None = -0.5) -> Translation:
    return Translation(text=text, score=score)


def memory_of(folder: Path, entries: dict[str, Translation], fingerprint: str = "argos:en-it:abc") -> TranslationMemory:
    memory = TranslationMemory(folder, fingerprint)
    memory.record(list(entries), list(entries.values()))
    return memory


@settings(deadline=None, max_examples=25)
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
    assert found == Imported(fingerprint="argos:en-it:abc", new=len(entries), known=0, different=0)
    third = TranslationMemory(folder / "3", "argos:en-it:abc")
    assert dict(third.rows()) == entries
    export_memory(third, folder / "3.parquet")
    assert (folder / "1.parquet").read_bytes() == (folder / "3.parquet").read_bytes()


def test_rows_are_sorted_and_say_whose_they_are(tmp_path: Path) -> None:
    entries = {"b": said("2"), "é": said("3", None), "B": said("1"), "😀": said("5"), "\uffee": said("4")}
    export_memory(memory_of(tmp_path, entries), tmp_path / "out" / "memory.parquet")
    table = pq.read_table(tmp_path / "out" / "memory.parquet")
    assert table.column("source_caption").to_pylist() == sorted(entries) == ["B", "b", "é", "\uffee", "😀"]
    assert table.column("score").to_pylist() == [-0.5, -0.5, None, -0.5, -0.5]
    assert table.schema.metadata == {
        b"vernaclip.translation_memory": b"1",
        b"vernaclip.fingerprint": b"argos:en-it:abc",
    }


def test_merging_keeps_what_is_there_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_files, "ROWS_PER_GROUP", 7)
    theirs = {f"caption {number}": said(f"theirs {number}") for number in range(100)}
    export_memory(memory_of(tmp_path / "theirs", theirs), tmp_path / "theirs.parquet")
    assert pq.ParquetFile(tmp_path / "theirs.parquet").num_row_groups == 15
    mine = {f"caption {number}": said(f"theirs {number}") for number in range(10)}
    mine |= {f"caption {number}": said(f"mine {number}") for number in range(10, 30)}
    mine |= {"caption 30": said("theirs 30", -0.25), "caption 31": Translation(text="theirs 31", truncated=True)}
    memory = memory_of(tmp_path / "mine", mine)
    expected = Imported(fingerprint=memory.fingerprint, new=68, known=10, different=22)
    assert import_memory(tmp_path / "theirs.parquet", tmp_path / "mine") == expected
    assert dict(memory.rows()) == theirs | mine
    again = Imported(fingerprint=memory.fingerprint, new=0, known=78, different=22)
    assert import_memory(tmp_path / "theirs.parquet", tmp_path / "mine") == again


def test_a_file_that_repeats_itself_is_merged_once(tmp_path: Path) -> None:
    export_memory(memory_of(tmp_path, {"a": said("1")}), tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet")
    pq.write_table(pa.concat_tables([table, table]), tmp_path / "twice.parquet")
    expected = Imported(fingerprint="argos:en-it:abc", new=1, known=1, different=0)
    assert import_memory(tmp_path / "twice.parquet", tmp_path / "other") == expected


def wrong_files(folder: Path) -> list[tuple[Path, str]]:
    """Files that are no exported memory, with what is said of them."""
    good = folder / "good.parquet"
    export_memory(memory_of(folder, {"a": said("1" * 1000)}), good)
    table = pq.read_table(good)
    metadata = table.schema.metadata
    newer = metadata | {b"vernaclip.translation_memory": b"2"}
    tables = [
        (table.replace_schema_metadata(None), "not an exported translation memory"),
        (table.drop_columns(["score"]).replace_schema_metadata(metadata), "not an exported translation memory"),
        (pa.table({"a": [1]}).replace_schema_metadata(metadata), "not an exported translation memory"),
        (
            table.replace_schema_metadata(newer),
            "exported memory of version '2', but this version of vernaclip reads only '1'",
        ),
    ]
    files = []
    for number, (wrong, said_of_it) in enumerate(tables):
        files.append((folder / f"wrong-{number}.parquet", said_of_it))
        pq.write_table(wrong, files[-1][0])
    for value in (b"", b"\xff\xfe", b"argos:en-it:\n", b"../a", b"a" * 201, "argos:italià".encode()):
        changed = metadata | {b"vernaclip.fingerprint": value}
        files.append((folder / f"wrong-{len(files)}.parquet", "has the invalid engine fingerprint "))
        pq.write_table(table.replace_schema_metadata(changed), files[-1][0])
    for score in (float("nan"), float("inf"), float("-inf"), 0.5):
        scores = table.set_column(2, table.schema.field("score"), pa.array([score]))
        files.append((folder / f"score{score}.parquet", "which is not a log-probability"))
        pq.write_table(scores, files[-1][0])
    for number, name in enumerate(("source_caption", "caption")):
        column = pa.array([b"\xff\xfe"], pa.binary()).view(pa.string())
        files.append((folder / f"{name}.parquet", "contains text that is not UTF-8"))
        pq.write_table(table.set_column(number, table.schema.field(name), column), files[-1][0])
    (folder / "text.parquet").write_text("source_caption,caption\n")
    rotten = bytearray(good.read_bytes())
    rotten[40] ^= 0xFF
    (folder / "rotten.parquet").write_bytes(rotten)
    unreadable = [folder / f"{name}.parquet" for name in ("nowhere", "text", "rotten")]
    return files + [(file, "missing, damaged or not a Parquet file: ") for file in unreadable]


def test_other_files_are_refused(tmp_path: Path) -> None:
    for file, said_of_it in wrong_files(tmp_path):
        with pytest.raises(InputError, match=rf"{re.escape(file.name)} .*{said_of_it}"):
            read_export(file)


def test_an_export_replaces_nothing_unless_told_to(tmp_path: Path) -> None:
    memory, path = memory_of(tmp_path / "memory", {"a": said("1")}), tmp_path / "thesis.parquet"
    path.write_text("years of work")
    with pytest.raises(SettingsError, match=r"thesis\.parquet already exists.*--force"):
        export_memory(memory, path)
    assert path.read_text() == "years of work"
    assert export_memory(memory, path, overwrite=True) == 1
    assert read_export(path) == memory.fingerprint


def test_an_export_to_an_impossible_place_is_a_config_error(tmp_path: Path) -> None:
    memory = memory_of(tmp_path / "memory", {"a": said("1")})
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="is a folder: give the path of the file"):
        export_memory(memory, tmp_path, overwrite=True)
    with pytest.raises(DiskError, match="file cannot be created"):
        export_memory(memory, tmp_path / "file" / "out.parquet")


def test_the_schema_is_what_people_were_told() -> None:
    assert {field.name: (str(field.type), field.nullable) for field in MEMORY_ROWS} == {
        "source_caption": ("string", False),
        "caption": ("string", False),
        "score": ("double", True),
        "truncated": ("bool", False),
        "repetitive": ("bool", False),
    }
