"""`vernaclip mt packages`, `mt install` and `translate`, from end to end."""

import gzip
import hashlib
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main
from flows.orchestration.doctor import diagnose
from translation.engines.ctranslate2_model import CTranslate2Translator
from translation.packages.package import read_package

SCENES = Path(__file__).resolve().parents[2] / "flows" / "packages" / "scenes-en_it.argosmodel"


@pytest.fixture
def packages_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where packages go: empty, and not the user's."""
    monkeypatch.setenv("ARGOS_PACKAGES_DIR", str(tmp_path / "argos" / "packages"))
    return tmp_path / "argos" / "packages"


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
            | {"links": ["ipfs://Qm", f"{url}/translate-{source}_{target}-1_0.argosmodel"]}
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
        ["ca-en", "1.0", f"{index}/translate-ca_en-1_0.argosmodel"],
        ["en-it", "1.0", "1.0", f"{index}/translate-en_it-1_0.argosmodel"],  # de has a format from the future
    ]
    for options, first in ((["--from", "ca"], "ca-en"), (["--to", "it"], "en-it"), (["--from", "xx"], "(no")):
        assert told(["mt", "packages", *options]).splitlines()[-1].split()[0] == first


def test_install_takes_a_file_or_a_pair(index: str, packages_dir: Path, told: Any) -> None:
    for options, message in (
        (["--from", "en"], "give either FILE, or both --from and --to"),
        (["p", "--from", "en", "--to", "it"], "give either FILE, or both --from and --to"),
        (["--from", "ca", "--to", "it"], "only ca-en and en-it"),  # a third language is not taken in silence
    ):
        assert message in told(["mt", "install", *options], code=1)
    assert not packages_dir.exists()


OPTIONS = ["--from", "en", "--to", "it", "--package", str(SCENES)]
COMMAND = [sys.executable, "-m", "flows.cli", "translate", *OPTIONS]

Pipe = Callable[[bytes], None]


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Pipe:
    """Called with bytes, puts them into standard input."""

    def fill(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(content))))

    return fill


OWN_COMMAND = [sys.executable, "-c", "import sys; [print(line.upper(), end='', flush=True) for line in sys.stdin]"]
OWN = ["--from", "en", "--to", "it", "--engine", "command", "--set", f"command={OWN_COMMAND!r}"]
TABLE = [*OPTIONS, "--out", "-", "--format", "tsv"]


@pytest.mark.parametrize(
    ("options", "given", "written"),
    [
        (
            OPTIONS,
            b"two red stars\r\n\ntwo\x0bred\xe2\x80\xa8stars\nTWO RED STARS",
            r"due stelle rosse\n\ndue stelle rosse\nDUE STELLE ROSSE\n",
        ),
        (OWN, b"two dogs\n\nthree\x0bdogs\n", r"TWO DOGS\n\nTHREE DOGS\n"),
        ([*OPTIONS, "--scores"], b"two red stars\n\n", r"-0\.\d+\tdue stelle rosse\n\t\n"),
        (
            TABLE,
            b"caption\turl\ntwo red stars\tu1\n\tu2\n",
            r"caption\turl\tcaption_it\r\ntwo red stars\tu1\tdue stelle rosse\r\n\tu2\t\r\n",
        ),
    ],
    ids=["lines", "a command of one's own", "scores in front", "a table"],
)
def test_from_standard_input_to_standard_output(
    options: list[str], given: bytes, written: str, pipe: Any, told: Any
) -> None:
    pipe(given)
    out = told(["translate", "-", *options])
    assert re.fullmatch(written, out), out


def test_a_second_run_with_a_memory_translates_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target, asked = tmp_path / "in.txt.gz", tmp_path / "out.txt", list[list[str]]()
    command = ["translate", str(source), *OPTIONS, "--memory", str(tmp_path / "memory"), "--scores", "--force"]
    command += ["--out", str(target)]
    translate = CTranslate2Translator.translate

    def counting(translator: CTranslate2Translator, captions: list[str], *more: object) -> object:
        asked.append([caption for caption in captions if caption])
        return translate(translator, captions, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(CTranslate2Translator, "translate", counting)
    text = "two red stars\n\ntwo red stars\na blue ring\n"
    source.write_bytes(gzip.compress(text.encode()))
    assert main(command) == 0
    first = target.read_bytes()
    assert main(command) == 0
    assert asked == [["two red stars", "a blue ring"]]
    assert target.read_bytes() == first
    source.write_bytes(gzip.compress(f"{text}three green rings\n".encode()))
    assert main(command) == 0
    assert asked[1:] == [["three green rings"]]
    assert main([*command, "--set", "translate.beam_size=1"]) == 0
    assert len(asked[2]) == 3, "another beam is another engine"


def test_what_is_wrong_is_said_before_anything_is_written(
    tmp_path: Path, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.txt").write_text("two red stars\n", encoding="utf-8")
    Path("old.txt").write_text("old\n", encoding="utf-8")
    for options, message in (
        (["--set", "beam_sise=1"], "unknown key translate.beam_sise"),
        (["--set", "translate.round_trip=true"], "can be set in recipes only"),
        (["--set", f"package={SCENES}"], "translate.package is given twice"),
        (["--to", "de"], "translates en to it, but en to de is needed"),
        (["--column", "caption"], "the format lines has no columns"),
        (["--format", "csv"], "in.txt has no column 'caption'"),
        (["--out", "in.txt", "--force"], "in.txt is the input"),
        (["--out", "old.txt"], "old.txt exists"),
    ):
        assert message in told(["translate", "in.txt", *OPTIONS, *options], code=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "old.txt"]
    assert Path("old.txt").read_text(encoding="utf-8") == "old\n"


def test_a_line_that_is_not_utf8_is_named_and_nothing_paid_is_lost(
    pipe: Any, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe(b"two red stars\ncaf\xe9\n")
    assert "standard input, line 2: byte 0xe9 at offset 3" in told(["translate", *OPTIONS], code=1)
    monkeypatch.setenv("DEEPL_AUTH_KEY", "a-key")
    pipe(b"two red stars")
    assert "give --memory DIR" in told(["translate", "--from", "en", "--to", "it", "--engine", "deepl"], code=1)


def test_a_command_that_is_killed_leaves_no_half_file(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    target.write_text("old\n", encoding="utf-8")
    command = [*COMMAND, "--out", str(target), "--force"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b"two red stars\n")
        process.stdin.flush()  # more may come, so that the command waits
        while len(list(tmp_path.iterdir())) == 1:
            assert process.poll() is None, "the command ended too early"
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        process.wait()
    assert process.returncode == 130
    assert target.read_text(encoding="utf-8") == "old\n"
    assert list(tmp_path.iterdir()) == [target]
