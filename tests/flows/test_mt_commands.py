"""`vernaclip mt packages`, `mt install`, `mt memory` and `scenes-pairs` as a user meets them."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data_catalog.downloads import download
from data_catalog.sample.grammar import parallel_pairs
from data_catalog.storage.lock import writer_lock
from flows.cli import main
from flows.doctor import diagnose
from translation.engine import Translation
from translation.memory import TranslationMemory
from translation.packages.package import read_package

SCENES = Path(__file__).resolve().parents[2] / "flows" / "packages" / "scenes-en_it.argosmodel"


@pytest.fixture
def packages_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where packages go: empty, and not the user's."""
    monkeypatch.setenv("ARGOS_PACKAGES_DIR", str(tmp_path / "argos" / "packages"))
    return tmp_path / "argos" / "packages"


REFUSED = "https://10.1.2.3/x.argosmodel"  # at an address that is never asked: the next link is taken


@pytest.fixture
def index(tmp_path: Path, mirror: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of an index that offers en-it, which is there, and ca-en and en-de, which are not."""
    folder = tmp_path / "served"
    folder.mkdir()
    shutil.copy(SCENES, folder / "translate-en_it-1_0.argosmodel")
    with mirror(folder) as port:
        url = f"http://127.0.0.1:{port}"
        entries = [
            {"from_code": source, "to_code": target, "package_version": "1.0", "argos_version": argos_version}
            | {"links": ["ipfs://Qm", REFUSED, f"{url}/translate-{source}_{target}-1_0.argosmodel"]}
            for source, target, argos_version in (("en", "it", "1.0"), ("ca", "en", "1.9"), ("en", "de", "3.0"))
        ]
        (folder / "index.json").write_text(json.dumps(entries), encoding="utf-8")
        monkeypatch.setenv("ARGOS_PACKAGE_INDEX", url)
        yield url


def test_packages_are_installed_by_pair_or_from_a_file_and_listed_with_what_the_index_offers(
    index: str, packages_dir: Path, tmp_path: Path, told: Any
) -> None:
    folder = packages_dir / "translate-en_it-1_0"
    sha256 = hashlib.sha256(SCENES.read_bytes()).hexdigest()
    for news in ("installed en-it 1.0 in", "already installed: en-it 1.0 in"):
        assert told(["mt", "install", "--from", "en", "--to", "it", "--sha256", sha256]).splitlines() == [
            f"{news} {folder}",
            f"sha256 of the file     {sha256}",
            f"sha256 of the package  {read_package(folder).sha256}",
            f"downloaded from        {index}/translate-en_it-1_0.argosmodel",
        ]
    assert not [finding for finding in diagnose(tmp_path, tmp_path / "catalog") if str(packages_dir) in finding.text]
    shutil.rmtree(folder)
    assert "downloaded" not in told(["mt", "install", str(SCENES)])
    header, _, row = told(["mt", "packages", "--installed"]).splitlines()
    assert header.split() == ["pair", "version", "MB", "sha256", "folder", "from"]
    assert row.split() == ["en-it", "1.0", "1.5", read_package(folder).sha256[:12], str(folder)]
    assert [line.split() for line in told(["mt", "packages"]).splitlines()[2:]] == [
        ["ca-en", "1.0", REFUSED],
        ["en-it", "1.0", "1.0", REFUSED],  # de has a format from the future
    ]
    for options, first in ((["--from", "ca"], "ca-en"), (["--to", "it"], "en-it"), (["--from", "xx"], "(no")):
        assert told(["mt", "packages", *options]).splitlines()[-1].split()[0] == first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--from", "en"], "give either FILE, or both --from and --to"),
        (["p", "--from", "en", "--to", "it"], "give either FILE, or both --from and --to"),
        (["--from", "ca", "--to", "it"], "only ca-en and en-it"),  # a third language is not taken in silence
    ],
)
def test_install_takes_a_file_or_a_pair(
    options: list[str], message: str, index: str, packages_dir: Path, told: Any
) -> None:
    assert message in told(["mt", "install", *options], code=1)
    assert not packages_dir.exists()


@pytest.mark.parametrize("command", [["mt", "install", "--from", "en", "--to", "it"], ["mt", "packages"]])
def test_a_private_index_is_asked_only_where_the_user_allows_it(
    command: list[str], packages_dir: Path, told: Any, tmp_path: Path, mirror: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    with mirror(tmp_path) as port:  # it speaks no TLS: it is met, and no more
        monkeypatch.setenv("ARGOS_PACKAGE_INDEX", f"https://mirror.example:{port}")
        assert "allow it with --private-host mirror.example" in told(command, code=1)
        assert "SSL" in told([*command, "--private-host", "mirror.example"], code=1)


ENGINE = "argos:en-it:0123456789ab"


@pytest.fixture
def remembering(tmp_path: Path) -> Path:
    captions = [f"caption {number}" for number in range(1_234)]
    folder = tmp_path / "catalog"
    TranslationMemory(folder / "memory", ENGINE).record(captions, [Translation(text=name.upper()) for name in captions])
    TranslationMemory(folder / "memory", "deepl:en-it").record(["a"], [Translation(text="b")])
    return folder


def test_memories_are_listed_and_go_to_another_root_and_back(remembering: Path, tmp_path: Path, told: Any) -> None:
    listed = told(["mt", "memory", "list", "--root", str(remembering)]).splitlines()
    assert re.fullmatch(rf"{ENGINE} +1,234 +[\d,]{{6,}}", listed[2])
    assert listed[3].split()[:2] == ["deepl:en-it", "1"]
    file, again, other = tmp_path / "memory.parquet", tmp_path / "again.parquet", tmp_path / "other"
    for words, said in (
        (["export", ENGINE, str(file), "--root", str(remembering)], f"wrote 1,234 translations to {file}"),
        (["import", str(file), "--root", str(other)], f"1,234 new translations of {ENGINE}; 0 were already cached"),
        (["import", str(file), "--root", str(remembering)], f"0 new translations of {ENGINE}; 1,234 were already"),
        (["export", ENGINE, str(again), "--root", str(other)], "wrote 1,234"),
    ):
        assert told(["mt", "memory", *words]).startswith(said)
    assert again.read_bytes() == file.read_bytes()
    with writer_lock(remembering):  # exporting waits for no writer
        assert told(["mt", "memory", "export", ENGINE, str(file), "--root", str(remembering), "--force"])
        importing = ["mt", "memory", "import", str(file), "--root", str(remembering)]
        assert "is being written by process" in told(importing, code=75)


def test_what_cannot_be_done_changes_nothing(remembering: Path, tmp_path: Path, told: Any) -> None:
    (tmp_path / "text.parquet").write_text("mine")
    before = sorted(tmp_path.iterdir())
    text, out, nowhere, new = (str(tmp_path / name) for name in ("text.parquet", "out.parquet", "nowhere", "new"))
    for words, message in (
        (["list", "--root", nowhere], "nowhere does not exist"),
        (["export", ENGINE, out, "--root", nowhere], "nowhere does not exist"),
        (["export", "argos:en-de:1", out, "--root", str(remembering)], f"it has: {ENGINE}, deepl:en-it"),
        (["export", ENGINE, text, "--root", str(remembering)], "already exists"),
        (["import", text, "--root", new], "text.parquet is missing, damaged or not a Parquet file"),
    ):
        assert message in told(["mt", "memory", *words], code=1)
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "text.parquet").read_text() == "mine"


def test_pairs_of_the_grammar_are_written_in_the_language_that_is_asked_for(tmp_path: Path, told: Any) -> None:
    for arguments, lang in (([], "it"), (["--to", "de"], "de")):
        out = tmp_path / lang / "pairs.tsv"
        assert main(["scenes-pairs", str(out), "--seed", "5", "--num-pairs", "70", *arguments]) == 0
        expected = parallel_pairs(seed=5, num_pairs=70, lang=lang)
        assert out.read_bytes().decode().split("\n") == [*("\t".join(pair) for pair in expected), ""]
    before = out.read_bytes()
    for words, message in (
        ([str(out), "--to", "fr"], "English and fr"),
        ([str(out), "--num-pairs", "0"], "at least 1, got 0"),
        ([str(tmp_path), "--num-pairs", "3"], "is not a regular file"),
        ([f"{out}/pairs.tsv", "--num-pairs", "3"], "cannot be written"),
    ):
        assert message in told(["scenes-pairs", *words], code=1)
    assert out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["de", "it", "pairs.tsv", "pairs.tsv"]
