"""Parallel captions: what is used, dropped and held out."""

from pathlib import Path

import pytest

from data_catalog.errors import ConfigError
from translation.train.pairs import DROP_REASONS, read_pairs

GOOD = "".join(f"a dog number {number}\tun cane numero {number}\n" for number in range(40)).encode()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"caff\xe8\tcoffee", "bad_encoding"),
        (b"a\0b\tc", "bad_encoding"),
        (b"no tab at all", "wrong_fields"),
        (b"a\tb\tc", "wrong_fields"),
        (b"", "wrong_fields"),
        (b"a\t  ", "empty"),
        (b"\tb", "empty"),
        (b"x" * 401 + b"\t" + b"y" * 300, "too_long"),
        (b"a dog\t" + b"un cane " * 10, "length_ratio"),
        (b"a dog number 7\tun altro cane", "duplicate_source"),
    ],
)
def test_bad_lines_are_counted_by_reason(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_bytes(GOOD + line + b"\n")
    data = read_pairs(path, num_held_out=2)
    assert data.dropped == {reason: 1}
    assert reason in DROP_REASONS
    assert len(data.training) + len(data.held_out) == 40


def test_windows_line_ends_and_accents_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_bytes(GOOD + "there is a dog\tc'è un cane \r\n".encode())
    data = read_pairs(path, num_held_out=1)
    assert ("there is a dog", "c'è un cane") in data.training + data.held_out
    assert data.dropped == {}


def test_held_out_pairs_do_not_depend_on_order_and_have_no_twins(tmp_path: Path) -> None:
    path, other = tmp_path / "pairs.tsv", tmp_path / "other.tsv"
    twins = "".join(f"A dog number {number}.\tUn cane numero {number}.\n" for number in range(40)).encode()
    path.write_bytes(GOOD + twins)
    other.write_bytes(b"".join(reversed((GOOD + twins).splitlines(keepends=True))))
    data = read_pairs(path, num_held_out=5)
    assert data == read_pairs(other, num_held_out=5)
    held_out = {source.casefold().rstrip(".") for source, _ in data.held_out}
    assert not held_out & {source.casefold().rstrip(".") for source, _ in data.training}


def test_too_few_pairs_and_a_missing_file_are_config_errors(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_bytes(GOOD)
    with pytest.raises(ConfigError, match="has 40 usable pairs, too few to hold 5 out"):
        read_pairs(path, num_held_out=5)
    with pytest.raises(ConfigError, match=r"absent\.tsv is no file"):
        read_pairs(tmp_path / "absent.tsv", num_held_out=5)
