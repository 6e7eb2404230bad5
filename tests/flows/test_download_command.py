"""`vernaclip download` as a user meets it, with a registry that points to Python's own file server."""

import gzip
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main

CAPTIONS = b"a dog\thttps://example.org/1.jpg\na cat\thttps://example.org/2.jpg\n"
RESULTS = "image_name| comment_number| comment\n1.jpg| 0| A dog .\n"
LICENSE = "Some License 1.0"


def _table(name: str, kind: str, **more: str) -> str:
    texts = {"kind": kind, "title": f"All of {name}", "license": LICENSE, "terms": "Do as you like."}
    texts |= {"page": "https://example.org/terms", "recorded_in": "a test"} | more
    return f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in texts.items())


@pytest.fixture
def registry(tmp_path: Path, mirror: Any) -> Iterator[Path]:
    """A source of two files, of which one has no published checksum, and one that wants a person."""
    served = tmp_path / "served"
    served.mkdir()
    (served / "train.tsv").write_bytes(CAPTIONS)
    (served / "val.tsv").write_bytes(gzip.compress(CAPTIONS, mtime=0))
    path = tmp_path / "registry.toml"
    with mirror(served) as port:
        url = f"http://127.0.0.1:{port}"
        path.write_text(
            f"{_table('cc', 'cc3m')}\n"
            f'[[cc.files]]\nfile = "cc/train.tsv"\nurl = "{url}/train.tsv"\nnum_bytes = {len(CAPTIONS)}\n'
            f'sha256 = "{hashlib.sha256(CAPTIONS).hexdigest()}"\n'
            f'[[cc.files]]\nfile = "cc/val.tsv"\nurl = "{url}/val.tsv"\n'
            f"{_table('photos', 'flickr30k', images='photos/images')}\n"
            '[[photos.files]]\nfile = "photos/results.csv"\nby_hand = "Fill in the form at https://example.org/form."\n',
            encoding="utf-8",
        )
        yield path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of all data; it is not there yet."""
    return tmp_path / "data"


@pytest.fixture
def arguments(registry: Path, folder: Path) -> list[str]:
    """What every command of a test ends with."""
    return ["--to", str(folder), "--registry", str(registry)]


def test_nothing_comes_before_the_license_is_accepted_by_its_name(
    arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, told in (([], f'add --accept "{LICENSE}"'), (["--accept", "yes"], "is not called 'yes'")):
        assert main(["download", "cc", *words, *arguments]) == 1
        out, error = capsys.readouterr()
        assert told in error
        assert error.count("\n") == 1
        assert words or all(text in out for text in ("Do as you like.", "https://example.org/terms"))
    assert not folder.exists()


def test_files_come_and_the_command_says_what_is_known_of_them(arguments: list[str], folder: Path, told: Any) -> None:
    val = gzip.compress(CAPTIONS, mtime=0)
    hashes = {name: hashlib.sha256(of).hexdigest() for name, of in (("cc/train.tsv", CAPTIONS), ("cc/val.tsv", val))}
    for news in ("downloaded", "present"):
        assert told(["download", "cc", "--accept", LICENSE.lower(), *arguments]).splitlines() == [
            f"{news} {folder / 'cc/train.tsv'}: {len(CAPTIONS)} bytes, matches the published sha256",
            f"  sha256 {hashes['cc/train.tsv']}",
            f"{news} {folder / 'cc/val.tsv'}: {len(val)} bytes, no checksum is published",
            f"  sha256 {hashes['cc/val.tsv']}",
        ]
    record = json.loads((folder / "downloads.json").read_text(encoding="utf-8"))["files"]
    assert {name: entry["sha256"] for name, entry in record.items()} == hashes
    assert {(entry["source"], entry["license"], entry["license_accepted"]) for entry in record.values()} == {
        ("cc", LICENSE, True)
    }
    assert main(["download", "cc", *arguments]) == 0  # nothing is left to accept anything for
    assert told(["download", "cc", "--check", *arguments]).endswith("all 2 files are readable as cc3m\n")
    (folder / "cc" / "train.tsv").write_bytes(CAPTIONS.replace(b"dog", b"god"))
    assert "train.tsv has changed since its download" in told(["download", "cc", "--check", *arguments], code=1)


def test_single_files_come_by_pattern_and_the_list_says_what_is_there(
    arguments: list[str], folder: Path, told: Any
) -> None:
    told(["download", "cc", "--accept", LICENSE, "--only", "val*", *arguments])
    assert [path.name for path in (folder / "cc").glob("[!.]*")] == ["val.tsv"]
    (folder / "photos").mkdir()
    (folder / "photos" / "results.csv").write_text(RESULTS, encoding="utf-8")
    lines = told(["download", *arguments]).splitlines()
    assert [line.split() for line in lines[2:5]] == [
        ["cc", "cc/train.tsv", "0.0", "sha256", "no"],
        ["cc", "cc/val.tsv", "unknown", "none", "yes"],
        ["photos", "photos/results.csv", "by", "hand", "none", "yes,", "not", "recorded"],
    ]
    assert lines.count(f"  license  {LICENSE}") == 2


def test_a_source_with_a_form_says_what_to_fetch_and_then_checks_it(
    arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str], told: Any
) -> None:
    place, images, command = folder / "photos/results.csv", folder / "photos/images", ["download", "photos", *arguments]
    assert main(command) == 1
    out, error = capsys.readouterr()
    assert f"to do    {place}: Fill in the form at https://example.org/form." in out
    assert f"to do    {images}: the images" in out
    assert "photos/results.csv of photos must be fetched by hand" in error
    assert not folder.exists()
    images.mkdir(parents=True)
    place.write_text("<html>", encoding="utf-8")
    assert "results.csv is not Flickr captions" in told(command, code=1)
    place.write_text(RESULTS, encoding="utf-8")
    images.rmdir()
    assert "photos/images, which does not exist" in told(command, code=1)
    images.mkdir()
    assert told(command) == f"present, and readable as flickr30k: {place}\n"
    entry = json.loads((folder / "downloads.json").read_text(encoding="utf-8"))["files"]["photos/results.csv"]
    assert (entry["url"], entry["license_accepted"]) == ("", False)
    assert entry["sha256"] == hashlib.sha256(RESULTS.encode()).hexdigest()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["wot"], "unknown source 'wot': use one of cc, photos"),
        (["cc", "--check"], "has none of these files of cc"),
        (["cc", "--accept", LICENSE, "--only", "test*"], "it has cc/train.tsv, cc/val.tsv"),
        (["--accept", LICENSE], "--accept, --only and --check need a source"),
        (["--registry", "gone.toml"], "gone.toml cannot be read"),
    ],
)
def test_mistakes_are_told(arguments: list[str], words: list[str], message: str, told: Any) -> None:
    rest = arguments[:2] if words[0] == "--registry" else arguments
    assert message in told(["download", *words, *rest], code=1)


@pytest.mark.real_data
def test_real_files_are_what_the_registry_says(
    tmp_path: Path, shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(shared_data / "mscoco_it", tmp_path / "mscoco_it")
    for words in (["--only", "*devset*"], ["--only", "*devset*", "--check"]):
        assert main(["download", "mscoco_it", "--to", str(tmp_path), *words]) == 0
    out = capsys.readouterr().out
    assert out.count("matches the published sha256") == out.count("unchanged: ") == 2
    assert out.endswith("all 2 files are readable as mscoco_it\n")
