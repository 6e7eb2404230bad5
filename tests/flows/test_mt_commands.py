"""`vernaclip mt packages`, `mt install`, `mt memory` and `scenes-pairs` as a user meets them."""

import hashlib
import json
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cleaning.checks import CheckConfig, apply_rules, translation_measure
from data_catalog.downloads import download
from data_catalog.sample.grammar import parallel_pairs
from data_catalog.schema import CAPTIONS, PENDING
from data_catalog.storage.lock import writer_lock
from flows.cli import main
from flows.doctor import diagnose
from flows.recipe.language_packs import load_language_packs
from translation.engine import Translation
from translation.memory import TranslationMemory
from translation.packages.package import read_package

SCENES = Path(__file__).resolve().parents[2] / "flows" / "packages" / "scenes-en_it.argosmodel"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Silence."""


@pytest.fixture
def packages_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where packages go: empty, and not the user's."""
    monkeypatch.setenv("ARGOS_PACKAGES_DIR", str(tmp_path / "argos" / "packages"))
    return tmp_path / "argos" / "packages"


REFUSED = "https://10.1.2.3/x.argosmodel"  # at an address that is never asked: the next link is taken


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of an index that offers en-it, which is there, and ca-en and en-de, which are not."""
    folder = tmp_path / "served"
    folder.mkdir()
    shutil.copy(SCENES, folder / "translate-en_it-1_0.argosmodel")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        entries = [
            {"from_code": source, "to_code": target, "package_version": "1.0", "argos_version": argos_version}
            | {"links": ["ipfs://Qm", REFUSED, f"{url}/translate-{source}_{target}-1_0.argosmodel"]}
            for source, target, argos_version in (("en", "it", "1.0"), ("ca", "en", "1.9"), ("en", "de", "3.0"))
        ]
        (folder / "index.json").write_text(json.dumps(entries), encoding="utf-8")
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        monkeypatch.setenv("ARGOS_PACKAGE_INDEX", url)
        yield url
        server.shutdown()


def test_install_tells_what_it_did_and_the_doctor_is_content(
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


def test_packages_are_installed_from_files_and_listed_with_what_the_index_offers(
    index: str, packages_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = packages_dir / "translate-en_it-1_0"
    assert main(["mt", "install", str(SCENES)]) == 0
    assert "downloaded" not in capsys.readouterr().out
    assert main(["mt", "packages", "--installed"]) == 0
    header, _, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["pair", "version", "MB", "sha256", "folder", "from"]
    assert row.split() == ["en-it", "1.0", "1.5", read_package(folder).sha256[:12], str(folder)]
    assert main(["mt", "packages"]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()[2:]] == [
        ["ca-en", "1.0", REFUSED],
        ["en-it", "1.0", "1.0", REFUSED],  # de has a format from the future
    ]
    for options, first in ((["--from", "ca"], "ca-en"), (["--to", "it"], "en-it"), (["--from", "xx"], "(no")):
        assert main(["mt", "packages", *options]) == 0
        assert capsys.readouterr().out.splitlines()[-1].split()[0] == first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give either FILE, or both --from and --to"),
        (["--from", "en"], "give either FILE, or both --from and --to"),
        (["--to", "it"], "give either FILE, or both --from and --to"),
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
    command: list[str], packages_dir: Path, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = socket.getaddrinfo
    here = {"mirror.example": "127.0.0.1"}
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *args, **more: system(here.get(host, host), *args, **more))
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    monkeypatch.delenv("https_proxy", raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Quiet) as server:  # which speaks no TLS: it is met, and no more
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        monkeypatch.setenv("ARGOS_PACKAGE_INDEX", f"https://mirror.example:{server.server_address[1]}")
        assert "allow it with --private-host mirror.example" in told(command, code=1)
        assert "SSL" in told([*command, "--private-host", "mirror.example"], code=1)
        server.shutdown()


ENGINE = "argos:en-it:0123456789ab"


@pytest.fixture
def remembering(tmp_path: Path) -> Path:
    captions = [f"caption {number}" for number in range(1_234)]
    folder = tmp_path / "catalog"
    TranslationMemory(folder / "memory", ENGINE).record(captions, [Translation(text=name.upper()) for name in captions])
    TranslationMemory(folder / "memory", "deepl:en-it").record(["a"], [Translation(text="b")])
    return folder


def test_memories_are_listed(remembering: Path, tmp_path: Path, told: Any) -> None:
    listed = told(["mt", "memory", "list", "--root", str(remembering)]).splitlines()
    assert listed[0].split() == ["fingerprint", "captions", "bytes"]
    assert re.fullmatch(rf"{ENGINE} +1,234 +[\d,]{{6,}}", listed[2])
    assert listed[3].split()[:2] == ["deepl:en-it", "1"]
    (empty := tmp_path / "empty").mkdir()
    assert told(["mt", "memory", "list", "--root", str(empty)]) == f"no translation memories in {empty}\n"


def test_a_memory_goes_to_another_root_and_back(remembering: Path, tmp_path: Path, told: Any) -> None:
    file, other = tmp_path / "memory.parquet", tmp_path / "other"
    memory = ["mt", "memory"]
    assert [
        told([*memory, "export", ENGINE, str(file), "--root", str(remembering)]),
        told([*memory, "import", str(file), "--root", str(other)]),
        told([*memory, "import", str(file), "--root", str(remembering)]),
    ] == [
        f"wrote 1,234 translations to {file}\n",
        f"1,234 new translations of {ENGINE}; 0 were already cached; 0 differ from the cached ones, which are kept\n",
        f"0 new translations of {ENGINE}; 1,234 were already cached; 0 differ from the cached ones, which are kept\n",
    ]
    again = tmp_path / "again.parquet"
    told([*memory, "export", ENGINE, str(again), "--root", str(other)])
    assert again.read_bytes() == file.read_bytes()


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
        (["import", out, "--root", new], "out.parquet is missing, damaged or not a Parquet file"),
    ):
        assert message in told(["mt", "memory", *words], code=1)
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "text.parquet").read_text() == "mine"


def test_importing_waits_for_no_other_writer_and_exporting_needs_none(
    remembering: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "memory.parquet"
    file.write_text("mine")
    with writer_lock(remembering):
        assert main(["mt", "memory", "export", ENGINE, str(file), "--root", str(remembering), "--force"]) == 0
        assert main(["mt", "memory", "import", str(file), "--root", str(remembering)]) == 75
    assert "is being written by process" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "lang"), [([], "it"), (["--to", "de"], "de")])
def test_pairs_in_the_language_that_is_asked_for(tmp_path: Path, arguments: list[str], lang: str) -> None:
    out = tmp_path / "new" / "pairs.tsv"
    assert main(["scenes-pairs", str(out), "--seed", "5", "--num-pairs", "70", *arguments]) == 0
    expected = parallel_pairs(seed=5, num_pairs=70, lang=lang)
    assert out.read_bytes().decode().split("\n") == [*("\t".join(pair) for pair in expected), ""]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pairs.tsv", "--to", "fr"], "English and fr"),
        (["pairs.tsv", "--to", "en"], "English and en"),
        (["pairs.tsv", "--num-pairs", "0"], "at least 1, got 0"),
        (["a folder", "--num-pairs", "3"], "is not a regular file"),
        (["pairs.tsv/pairs.tsv", "--num-pairs", "3"], "cannot be written"),
    ],
)
def test_what_cannot_be_written_leaves_all_files_alone(
    tmp_path: Path, told: Any, words: list[str], message: str
) -> None:
    (tmp_path / "a folder").mkdir()
    (tmp_path / "pairs.tsv").write_text("mine", encoding="utf-8")
    error = told(["scenes-pairs", str(tmp_path / words[0]), *words[1:]], code=1)
    assert message in error
    assert "defect" not in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a folder", "pairs.tsv"]
    assert (tmp_path / "pairs.tsv").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("lang", ["it", "de"])
def test_the_checks_keep_what_the_grammar_says(lang: str) -> None:
    pairs = list(parallel_pairs(seed=3, num_pairs=400, lang=lang))
    sources, targets = ([pair[side] for pair in pairs] for side in (0, 1))
    pack = load_language_packs()[lang]
    known = {
        "clean_caption": sources,
        "caption": targets,
        "source_lang": ["en"] * len(pairs),
        "target_lang": [lang] * len(pairs),
        "outcome": [PENDING] * len(pairs),
        **translation_measure(pack)(sources, targets),
    }
    nothing = [None] * len(pairs)
    fields = [field.with_nullable(True) for field in CAPTIONS]
    table = pa.table({field.name: pa.array(known.get(field.name, nothing), field.type) for field in fields})
    rules = [rule for rule in CheckConfig().rules(pack) if rule.translations_only]
    reasons = apply_rules(table, rules, step="check").column("drop_reason").to_pylist()
    assert [(pair, reason) for pair, reason in zip(pairs, reasons, strict=True) if reason] == []
