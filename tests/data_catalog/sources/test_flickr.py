"""Flickr8k, Flickr30k and SBU: each format, its known broken rows, and files that are something else."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from data_catalog.errors import InputError, SettingsError
from data_catalog.sources.registry import SOURCE_KINDS
from data_catalog.sources.rows import MalformedRow, SourceRow, UpstreamRow


def read(folder: Path, kind: str, *contents: str | bytes, **options: Any) -> list[SourceRow]:
    source = SOURCE_KINDS[kind]
    paths = [folder / f"file{number}" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    if kind != "sbu":
        options.setdefault("images", str(folder))
    config = source.config_type(files=tuple(map(str, paths)), **options)
    source.check(config)
    return list(source.read(config))


def brief(rows: list[SourceRow]) -> list[Any]:
    return [
        (row.path, row.caption_key, row.caption) if isinstance(row, UpstreamRow) else getattr(row, "reason", None)
        for row in rows
    ]


def test_tokens(tmp_path: Path) -> None:
    content = (
        "1000268201_693b08cb0e.jpg#0\tA child in a pink dress .\r\n"
        "1000268201_693b08cb0e.jpg#1\tA tab\there is text, \u2028 too\r\n"
        "2258277193_586949ec62.jpg.1#0\tpeople waiting for the subway\r\n"
        "no image#0\ttext\r\n"
        "a.jpg#x\ttext\r\n"
        "a.jpg#0 text\r\n"
        "a.jpg#0\t \r\n"
        "a\0.jpg#0\ttext\r\n"
        "b.jpg#4\tlast"
    )
    found = read(tmp_path, "flickr8k", content)
    assert brief(found) == [
        ("1000268201_693b08cb0e.jpg", "0", "A child in a pink dress ."),
        ("1000268201_693b08cb0e.jpg", "1", "A tab\there is text, \u2028 too"),
        ("2258277193_586949ec62.jpg", "0", "people waiting for the subway"),
        *["malformed_row"] * 3,
        "caption_missing",
        "bad_encoding",
        ("b.jpg", "4", "last"),
    ]
    first = found[0]
    assert isinstance(first, UpstreamRow)
    assert (first.sample_key, first.lang, first.url) == ("1000268201_693b08cb0e", "en", None)
    assert [row.upstream_line for row in found if isinstance(row, MalformedRow)] == [4, 5, 6, 7, 8]


def test_results_of_flickr30k(tmp_path: Path) -> None:
    content = (
        "\ufeffimage_name| comment_number| comment\n"
        "1000092795.jpg| 0| Two young guys | with shaggy hair .\n"
        "2199200615.jpg| 4   A dog runs across the grass .\n"
        "1000092795.jpg| 1| \n"
        "1000092795.jpg| one| text\n"
        "1000092795.jpg\n"
        "1000092795.jpg| 2| two\x85lines\n"
    )
    found = read(tmp_path, "flickr30k", content)
    assert brief(found) == [
        ("1000092795.jpg", "0", "Two young guys | with shaggy hair ."),
        ("2199200615.jpg", "4", "A dog runs across the grass ."),
        "caption_missing",
        *["malformed_row"] * 2,
        ("1000092795.jpg", "2", "two\x85lines"),
    ]
    assert [getattr(row, "upstream_line", None) for row in found] == [2, 3, 4, 5, 6, 7]


def test_captions_txt(tmp_path: Path) -> None:
    content = (
        "image,caption\n"
        "a.jpg,A child .\n"
        'a.jpg,"A child, in pink ""tulle"" ."\n'
        "a.jpg,A child, without quotes .\n"
        'b.jpg,"never closed\n'
        "b.jpg,A dog .\n"
        "nothing\n"
    )
    assert brief(read(tmp_path, "flickr8k", content)) == [
        ("a.jpg", "0", "A child ."),
        ("a.jpg", "1", 'A child, in pink "tulle" .'),
        ("a.jpg", "2", "A child, without quotes ."),
        "malformed_row",
        ("b.jpg", "0", "A dog ."),
        "malformed_row",
    ]


def test_karpathy(tmp_path: Path) -> None:
    sentences = [{"raw": "One .", "sentid": 0}, {"raw": None, "sentid": 1}, {"raw": "Two .", "sentid": "2"}]
    images = [
        {"filename": "1.jpg", "split": "restval", "sentences": sentences},
        {"filename": "2.jpg", "split": "test", "sentences": []},
        {"split": "test", "sentences": [{"raw": "Three .", "sentid": 3}]},
    ]
    found = read(tmp_path, "flickr30k", gzip.compress(json.dumps({"images": images}).encode()))
    assert brief(found) == [
        ("1.jpg", "0", "One ."),
        "caption_missing",
        ("1.jpg", "2", "Two ."),
        "caption_missing",
        "image_missing",
    ]
    assert [row.split for row in found if isinstance(row, UpstreamRow)] == ["train", "train"]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("", "is empty"),
        ("\n \n", "is not Flickr captions"),
        ("caption\turl\n", "first line is 'caption"),
        ("image,caption\n", "no rows"),
        ('{"images": []}', "lists no images"),
        ('{"images": [{"id": 1}]}', "keys: id"),
        (gzip.compress(b"a.jpg#0\ttext\n" * 999)[:-5], "truncated gzip"),
    ],
)
def test_wrong_flickr_files_are_refused(tmp_path: Path, content: str | bytes, found: str) -> None:
    with pytest.raises(InputError, match=found):
        read(tmp_path, "flickr30k", content)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ("{}/none", InputError, "images names"),
        ("{}/file0", InputError, "not a folder, a tar or a complete zip"),
        ("", SettingsError, "images must name"),
    ],
)
def test_images_must_be_there(tmp_path: Path, images: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read(tmp_path, "flickr8k", "a.jpg#0\ttext\n", images=images.format(tmp_path))


PHOTO = "http://static.flickr.com/2723/4385058960_b0f291553e.jpg"


def test_the_two_lists_of_sbu_come_in_any_order(tmp_path: Path) -> None:
    urls = f"{PHOTO}\nnot a url\n{PHOTO}\n\n{PHOTO}\n"
    captions = "In the sky.\r\nno image\r\n\r\nno URL\r\nlast\x85line\r\n\r\n"
    for contents in ((urls, captions), (captions, urls)):
        found = read(tmp_path, "sbu", *contents)
        reasons = [getattr(row, "reason", "row") for row in found]
        assert reasons == ["row", "image_missing", "caption_missing", "image_missing", "row"]
        last = found[-1]
        assert isinstance(last, UpstreamRow)
        assert (last.caption, last.url, last.upstream_line) == ("last\x85line", PHOTO, 5)
        assert last.page_url == "https://www.flickr.com/photo.gne?id=4385058960"


def test_sbu_json(tmp_path: Path) -> None:
    content = {
        "image_urls": [PHOTO, None, PHOTO, 7, f" {PHOTO} "],
        "user_ids": ["47889917@N08", None, "", "x", "y"],
        "captions": ["In the sky.", "x", None, "x", "cut \ud83d"],
    }
    found = read(tmp_path, "sbu", json.dumps(content))
    reasons = [getattr(row, "reason", "row") for row in found]
    assert reasons == ["row", "image_missing", "caption_missing", "malformed_row", "bad_encoding"]
    assert isinstance(found[0], UpstreamRow)
    assert found[0].attribution == "Flickr user 47889917@N08"


@pytest.mark.parametrize(
    ("contents", "found"),
    [
        ([f"{PHOTO}\n{PHOTO}\n", "one\n"], "has 2 lines and .* has 1"),
        ([f"{PHOTO}\n"], r"1 list\(s\) of URLs and 0 other"),
        (["a\n", "b\n"], r"0 list\(s\) of URLs and 2 other"),
        (['{"image_urls": [], "captions": []}'], "0 URLs"),
        (['{"image_urls": ["x"], "captions": []}'], "1 URLs, 0 captions"),
        (['{"images": []}'], "keys images"),
        (["{}", "a\n"], "mixes JSON"),
    ],
)
def test_wrong_sbu_files_are_refused(tmp_path: Path, contents: list[str], found: str) -> None:
    with pytest.raises(InputError, match=found):
        read(tmp_path, "sbu", *contents)


@pytest.mark.real_data
def test_real_flickr8k(shared_data: Path, tmp_path: Path) -> None:
    source = SOURCE_KINDS["flickr8k"]
    config = source.config_type(files=(str(shared_data / "flickr8k" / "*.txt"),), images=str(tmp_path))
    source.check(config)
    rows = list(source.read(config))
    found = [row for row in rows if isinstance(row, UpstreamRow)]
    assert len(rows) == len(found) == len({(row.sample_key, row.caption_key) for row in found}) == 5000
    assert len({row.sample_key for row in found}) == 1000
    assert not any(row.caption.endswith("\r") for row in found)
