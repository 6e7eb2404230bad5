"""`vernaclip translate` from end to end: real files, the package that ships, signals."""

import gzip
import io
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import flows
from flows.cli import main
from translation.engines.ctranslate2_model import CTranslate2Translator

PACKAGE = Path(flows.__file__).parent / "packages" / "scenes-en_it.argosmodel"
OPTIONS = ["--from", "en", "--to", "it", "--package", str(PACKAGE)]
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
            r"due stelle rosse\r\n\ndue stelle rosse\nDUE STELLE ROSSE\n",
        ),
        (OWN, b"two dogs\n\nthree\x0bdogs\n", r"TWO DOGS\n\nTHREE DOGS\n"),
        ([*OPTIONS, "--scores"], b"two red stars\n\n", r"-0\.\d+\tdue stelle rosse\n\t\n"),
        (
            TABLE,
            b"caption\turl\ntwo red stars\tu1\n\tu2\n",
            r"caption\turl\tcaption_it\ntwo red stars\tu1\tdue stelle rosse\n\tu2\t\n",
        ),
    ],
    ids=["lines", "a command of one's own", "scores in front", "a table"],
)
def test_from_standard_input_to_standard_output(
    options: list[str], given: bytes, written: str, pipe: Pipe, told: Any
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "beam_sise=1"], "unknown key translate.beam_sise"),
        (["--set", "translate.beam_size=0"], "translate.beam_size must be positive"),
        (["--set", "translate.round_trip=true"], "can be set in recipes only"),
        (["--memory", "old.txt/memory"], "--memory old.txt/memory cannot be created"),
        (["--to", "de"], "translates en to it, but en to de is needed"),
        (["--column", "caption"], "the format lines has no columns"),
        (["--format", "csv"], "in.txt has no column 'caption'"),
        (["--out", "in.txt", "--force"], "in.txt is the input"),
        (["--out", "old.txt"], "old.txt exists"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(
    options: list[str], message: str, tmp_path: Path, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.txt").write_text("two red stars\n", encoding="utf-8")
    Path("old.txt").write_text("old\n", encoding="utf-8")
    assert message in told(["translate", "in.txt", *OPTIONS, *options], code=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "old.txt"]
    assert Path("old.txt").read_text(encoding="utf-8") == "old\n"


def test_a_line_that_is_not_utf8_is_named_and_nothing_paid_is_lost(
    pipe: Pipe, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe(b"two red stars\ncaf\xe9\n")
    assert "standard input, line 2: byte 0xe9 at offset 3" in told(["translate", *OPTIONS], code=1)
    monkeypatch.setenv("DEEPL_AUTH_KEY", "a-key")
    pipe(b"two red stars")
    assert "give --memory DIR" in told(["translate", "--from", "en", "--to", "it", "--engine", "deepl"], code=1)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_a_command_that_is_stopped_leaves_no_half_file(
    tmp_path: Path, number: signal.Signals, code: int, pipe: Pipe
) -> None:
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
        process.send_signal(number)
        process.wait()
    assert process.returncode == code
    assert target.read_text(encoding="utf-8") == "old\n"
    if number == signal.SIGINT:
        assert list(tmp_path.iterdir()) == [target]
    pipe(b"two red stars\n")
    assert main(command[3:]) == 0
    assert target.read_text(encoding="utf-8") == "due stelle rosse\n"


def test_a_reader_that_has_gone_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("two red stars\n" * 20_000, encoding="utf-8")
    command = [*COMMAND, str(tmp_path / "in.txt")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"due stelle rosse\n"
        process.stdout.close()
        error = process.stderr.read()
    assert process.returncode == 0
    assert error == b""
