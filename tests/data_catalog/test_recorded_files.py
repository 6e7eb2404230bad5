"""Files with a record of their sha256 beside them."""

import subprocess
from pathlib import Path

import pytest

from data_catalog.storage.recorded_files import is_recorded, record_path, record_problem, recorded, write_recorded


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "perché \udcff.bin"
    write_recorded(path, lambda temporary: temporary.write_bytes(b"first") and None)
    return path


def test_a_whole_file_has_no_problem(file: Path) -> None:
    assert is_recorded(file)
    assert record_problem(file) is None
    subprocess.run(["sha256sum", "--check", "--status", record_path(file).name], cwd=file.parent, check=True)


@pytest.mark.parametrize("which", [lambda path: path, record_path], ids=["file", "record"])
def test_every_flipped_bit_shows(file: Path, which: object) -> None:
    path: Path = which(file)  # type: ignore[operator]
    content = path.read_bytes()
    for place in range(len(content)):
        for bit in range(8):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
            assert record_problem(file) is not None, (place, bit)
    path.write_bytes(content)
    assert record_problem(file) is None


def test_a_missing_file_shows(file: Path) -> None:
    file.unlink()
    assert record_problem(file) == "it is missing"
    assert record_problem(file.with_name("other")) is None


def test_a_process_that_dies_meanwhile_leaves_no_record(file: Path) -> None:
    def die() -> None:
        with recorded(file):
            file.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        die()
    assert not is_recorded(file)
    assert record_problem(file) is None
    with recorded(file):
        file.write_bytes(b"second")
    assert is_recorded(file)
    assert record_problem(file) is None
