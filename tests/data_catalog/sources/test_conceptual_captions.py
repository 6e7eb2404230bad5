"""CC3M and CC12M: two columns, no quoting, and which is which."""

import gzip
import hashlib
from pathlib import Path

import pytest

from data_catalog.errors import InputError, SettingsError
from data_catalog.sources.registry import SOURCE_KINDS
from data_catalog.sources.rows import MalformedRow, SourceRow, UpstreamRow

URL = "https://host.example/a.jpg"


def read(folder: Path, kind: str, content: str | bytes, name: str = "cc.tsv") -> list[SourceRow]:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    source = SOURCE_KINDS[kind]
    config = source.config_type(files=(str(path),))
    source.check(config)
    return list(source.read(config))


@pytest.mark.parametrize(
    ("kind", "line", "name", "split"),
    [
        ("cc3m", f"a caption\t{URL}", "Train_GCC-training.tsv", "train"),
        ("cc3m", f"a caption\t{URL}", "Validation_GCC-1.1.0-Validation.tsv", "val"),
        ("cc3m", f"a caption\t{URL}", "cc3m_val.tsv", "val"),
        ("cc12m", f"{URL}\ta caption", "cc12m.tsv.gz", None),
        ("cc12m", f"{URL}\ta caption", "evaluated.tsv", None),
        ("cc12m", f"{URL}\ta caption", "trains.tsv", None),
    ],
)
def test_a_row_has_the_split_of_its_file_name(
    tmp_path: Path, kind: str, line: str, name: str, split: str | None
) -> None:
    (row,) = read(tmp_path, kind, gzip.compress(f"\ufeff{line}\r\n".encode()), name)
    assert isinstance(row, UpstreamRow)
    assert (row.url, row.caption, row.lang, row.split) == (URL, "a caption", "en", split)
    assert row.sample_key == hashlib.sha1(URL.encode()).hexdigest()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"no tab", "malformed_row"),
        (b"a\tb\thttps://host.example/a.jpg", "malformed_row"),
        (b"\thttps://host.example/a.jpg", "caption_missing"),
        (b"a caption\t", "image_missing"),
        (b"a caption\tnot a url", "image_missing"),
        (b"caff\xe8\thttps://host.example/a.jpg", "bad_encoding"),
    ],
)
def test_a_malformed_line_affects_no_other(tmp_path: Path, line: bytes, reason: str) -> None:
    good = f'"quotes are "text\u2028\x85\t {URL} \n'.encode()
    before, bad, after = read(tmp_path, "cc3m", good + line + b"\n" + good)
    assert isinstance(bad, MalformedRow)
    assert (bad.reason, bad.upstream_line) == (reason, 2)
    for row in (before, after):
        assert isinstance(row, UpstreamRow)
        assert (row.caption, row.url) == ('"quotes are "text\u2028\x85', URL)


@pytest.mark.parametrize(
    ("kind", "content", "found"),
    [
        ("cc3m", f"{URL}\ta caption\n", "set kind to cc12m"),
        ("cc12m", f"a caption\t{URL}\n", "set kind to cc3m"),
        ("cc3m", "a\tb\nc\td\n", "no URL in the URL column"),
        ("cc3m", f"{URL}\n", "does not have two columns"),
        ("cc3m", "\n\n", "only blank lines"),
        ("cc12m", gzip.compress(f"{URL}\ta\n".encode() * 999)[:-5], "truncated gzip"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, kind: str, content: str | bytes, found: str) -> None:
    with pytest.raises(InputError, match=found):
        read(tmp_path, kind, content)


def test_files_are_required() -> None:
    with pytest.raises(SettingsError, match="files must name"):
        SOURCE_KINDS["cc3m"].config_type(files=())


@pytest.mark.real_data
def test_real_cc3m(shared_data: Path) -> None:
    source = SOURCE_KINDS["cc3m"]
    config = source.config_type(files=(str(shared_data / "cc3m" / "*.tsv"),))
    source.check(config)
    rows = list(source.read(config))
    found = [row for row in rows if isinstance(row, UpstreamRow)]
    assert len(rows) == len(found) == len({row.sample_key for row in found}) == 8000
    assert ({row.split for row in found}, found[-1].upstream_line) == ({"val"}, 8000)
