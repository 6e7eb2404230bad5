"""Registry: invalid entries are refused, and the shipped registry matches the recipes."""

import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from data_catalog.downloads import registry
from data_catalog.downloads.registry import parse_registry
from data_catalog.errors import SettingsError

SHA256 = "0" * 64
FILE = {"file": "a/b.tsv", "url": "https://example.org/b.tsv"}
ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (FILE | {"by_hand": "ask"}, "either url or by_hand"),
        (FILE | {"members": ["a"]}, "either file or members"),
        (FILE | {"file": "../b.tsv"}, "is not a path inside"),
        (FILE | {"file": "a\\b.tsv"}, "is not a path inside"),
        (FILE | {"file": "a/.hidden"}, "is not a path inside"),
        (FILE | {"file": 3}, "needs file, one line of text"),
        (FILE | {"size": 3}, "unknown key size"),
        (FILE | {"num_bytes": 0}, "num_bytes must be a whole number"),
        (FILE | {"num_bytes": True}, "num_bytes must be a whole number"),
        (FILE | {"sha256": SHA256[1:]}, "is not a valid sha256: give 64 hexadecimal digits"),
        (FILE | {"md5": "g" * 32}, "is not a valid md5: give 32 hexadecimal digits"),
        (FILE | {"sha256": SHA256, "md5": "0" * 32}, "has both sha256 and md5"),
        (FILE | {"url": "ftp://example.org/b"}, "is not requested: only https"),
        (FILE | {"url": "https://me:secret@example.org/b"}, "contains a user name or a password"),
        ({"members": ["a/x.json", "b/x.json"], "url": FILE["url"]}, "two members have the same file name"),
        ({"members": [], "url": FILE["url"]}, "members must be a list of paths"),
        ("b.tsv", "must be a table"),
    ],
)
def test_invalid_files_are_refused(site: Any, entry: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        site.source(entry)


@pytest.mark.parametrize(
    ("files", "changes", "message"),
    [
        ((FILE, FILE), {}, r"two files at a/b\.tsv"),
        ((), {}, "some has no files"),
        ((FILE,), {"kind": "laion"}, "kind must be one of wit, mscoco, "),
        ((FILE,), {"license": ""}, "needs license, one line of text"),
    ],
)
def test_invalid_sources_are_refused(site: Any, files: Any, changes: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        site.source(*files, **changes)
    with pytest.raises(SettingsError, match="registry lists no sources"):
        parse_registry({}, named="registry")


@pytest.mark.parametrize("recipe", ["italian", "german"])
def test_the_shipped_registry_has_the_sources_and_the_paths_of_the_recipes(recipe: str) -> None:
    text = Path(registry.__file__).with_suffix(".toml").read_text(encoding="utf-8")
    shipped = parse_registry(tomllib.loads(text), named="the registry")
    assert [name for name, source in shipped.items() if not all(file.url for file in source.files)] == ["flickr30k"]
    document = tomllib.loads((ROOT / "flows" / "recipes" / f"{recipe}.toml").read_text(encoding="utf-8"))
    for name, settings in document["sources"].items():
        assert shipped[name].kind == settings.get("kind", name)
        paths = {path for file in shipped[name].files for path in file.paths}
        wanted = [pattern.removeprefix("{data}/") for pattern in settings["files"]]
        assert all(any(fnmatch(path, pattern) for path in paths) for pattern in wanted)
        if "images" in settings:
            assert settings["images"] == f"{{data}}/{shipped[name].images}"
    wit = [path for file in shipped["wit"].files for path in file.paths]
    assert sum(fnmatch(path, "wit/wit_v1.train.all-*.tsv.gz") for path in wit) == 10
