"""Files are whole or absent; hashes and orders are stable."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_catalog.errors import SettingsError
from data_catalog.storage.shards import (
    digest,
    link_file,
    order_key,
    read_json,
    save_parquet,
    sha256_of,
    shard_of,
    sweep_temporary,
    unit_interval,
    write_atomically,
    write_json,
)


def test_a_failed_write_leaves_the_old_file_and_no_debris(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        write_atomically(path, fail)
    assert read_json(path) == {"old": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("name", ["folder", "pipe"])
def test_what_is_no_file_is_not_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SettingsError, match=name):
        write_json(tmp_path / name, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "pipe"]


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o002, 0o664)])
def test_a_file_has_the_permissions_of_any_new_file(tmp_path: Path, umask: int, mode: int) -> None:
    def write_as_a_new_file(temporary: Path) -> None:
        other = temporary.with_suffix(".other")
        other.touch(0o600)
        other.replace(temporary)

    before = os.umask(umask)
    try:
        write_json(tmp_path / "a.json", {"a": 1})
        write_atomically(tmp_path / "b", write_as_a_new_file)
        (tmp_path / "plain").touch()
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {mode}


def test_equal_tables_make_equal_files(tmp_path: Path) -> None:
    table = pa.table({"source": ["wit", "wit", "mscoco"], "caption": ["perché", "due stelle 🌟", None]})
    first, second = (
        write_atomically(tmp_path / name, lambda path: save_parquet(table, path)) for name in ("a.parquet", "b.parquet")
    )
    assert first == second == sha256_of(tmp_path / "a.parquet")
    assert pq.read_table(tmp_path / "a.parquet").equals(table)


def test_digest_ignores_the_order_of_keys_and_sees_every_value() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": "1"})


def test_shards_are_contiguous_in_key_order() -> None:
    keys = sorted(order_key(str(number)) for number in range(1000))
    shards = [shard_of(key, 7) for key in keys]
    assert shards == sorted(shards)
    assert set(shards) == set(range(7))


def test_a_sample_keeps_its_place_for_ever() -> None:
    # Golden: these decide splits of published datasets.
    assert order_key("mscoco:391895") == "98b4ee538698d792"
    assert unit_interval("mscoco:391895", "vernaclip") == pytest.approx(0.5005702270729122)
    assert all(0 <= unit_interval(str(number), "salt") < 1 for number in range(100))


def test_sweeping_removes_what_killed_processes_left_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".tmp-folder").mkdir()
    (tmp_path / ".tmp-folder" / "x").touch()
    (tmp_path / ".tmp-file").touch()
    (tmp_path / "kept").touch()
    sweep_temporary([tmp_path])
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize("can_link", [True, False])
def test_a_file_gets_a_second_name_or_a_copy(can_link: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no second names on this disk")

    source, target = tmp_path / "a.parquet", tmp_path / "new" / "b.parquet"
    source.write_bytes(b"bytes")
    if not can_link:
        monkeypatch.setattr("os.link", refuse)
    link_file(source, target)
    assert target.read_bytes() == b"bytes"
    assert target.samefile(source) == can_link
    assert [path.name for path in target.parent.iterdir()] == ["b.parquet"]
