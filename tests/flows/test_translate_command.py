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

import pyarrow as pa
import pyarrow.parquet as pq
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


@pytest.mark.parametrize(
    ("options", "given", "written"),
    [
        pytest.param(
            OPTIONS,
            b"two red stars\r\n\ntwo\x0bred\xe2\x80\xa8stars\nTWO RED STARS",
            r"due stelle rosse\r\n\ndue stelle rosse\nDUE STELLE ROSSE\n",
            id="lines",
        ),
        pytest.param(OWN, b"two dogs\n\nthree\x0bdogs\n", r"TWO DOGS\n\nTHREE DOGS\n", id="a command of one's own"),
        pytest.param(
            [*OPTIONS, "--scores"], b"two red stars\n\n", r"-0\.\d+\tdue stelle rosse\n\t\n", id="scores in front"
        ),
        pytest.param(
            [*OPTIONS, "--out", "-", "--format", "tsv"],
            b"caption\turl\ntwo red stars\tu1\n\tu2\n",
            r"caption\turl\tcaption_it\ntwo red stars\tu1\tdue stelle rosse\n\tu2\t\n",
            id="a table",
        ),
    ],
)
def test_from_standard_input_to_standard_output(
    options: list[str], given: bytes, written: str, pipe: Pipe, told: Any
) -> None:
    pipe(given)
    out = told(["translate", "-", *options])
    assert re.fullmatch(written, out), out


def test_a_csv_of_a_spreadsheet(tmp_path: Path) -> None:
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_bytes(
        b'\xef\xbb\xbfid,title,note\r\n1,two red stars,"a\nb"\r\n2,"a red star, a blue ring","""x"""\r\n'
    )
    options = ["--column", "title", "--write-column", "titolo"]
    assert main(["translate", str(source), "--out", str(target), *OPTIONS, *options]) == 0
    assert target.read_bytes() == (
        b'\xef\xbb\xbfid,title,note,titolo\r\n1,two red stars,"a\nb",due stelle rosse\r\n'
        b'2,"a red star, a blue ring","""x""","una stella rossa, un anello blu"\r\n'
    )


def test_a_parquet_column_with_scores(tmp_path: Path) -> None:
    source, target = tmp_path / "in.parquet", tmp_path / "out.parquet"
    nested = pa.array([{"n": [1, 2]}, None, {"n": None}])
    table = pa.table({"caption": ["two red stars", None, ""], "nested": nested}).replace_schema_metadata({"mine": "1"})
    pq.write_table(table, source)
    assert main(["translate", str(source), "--out", str(target), "--scores", *OPTIONS]) == 0
    found = pq.read_table(target)
    assert found.select(["caption", "nested"]).equals(pq.read_table(source), check_metadata=True)
    assert found.column("caption_it").to_pylist() == ["due stelle rosse", None, ""]
    score, *others = found.column("caption_it_score").to_pylist()
    assert -1 < score < 0
    assert others == [None, None]
    assert found.column("caption_it_truncated").to_pylist() == [False, None, False]
    assert found.column("caption_it_repetitive").to_pylist() == [False, None, False]


@pytest.mark.parametrize(("content", "expected"), [(b"", b""), (b"two red stars", b"due stelle rosse\n")])
def test_an_empty_file_and_one_of_one_row(tmp_path: Path, content: bytes, expected: bytes) -> None:
    source, target = tmp_path / "in.txt.gz", tmp_path / "out.txt.gz"
    source.write_bytes(gzip.compress(content))
    assert main(["translate", str(source), "--out", str(target), *OPTIONS]) == 0
    assert gzip.decompress(target.read_bytes()) == expected


def test_a_second_run_with_a_memory_translates_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, folder = tmp_path / "in.txt", tmp_path / "memory"
    options = [*OPTIONS, "--memory", str(folder), "--scores", "--force", "--out", str(tmp_path / "out.txt")]
    source.write_text("two red stars\n\ntwo red stars\na blue ring\n", encoding="utf-8")
    assert main(["translate", str(source), *options]) == 0
    first = (tmp_path / "out.txt").read_bytes()
    asked: list[str] = []
    translate = CTranslate2Translator.translate

    def counting(translator: CTranslate2Translator, captions: list[str], *more: object) -> object:
        asked.extend(captions)
        return translate(translator, captions, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(CTranslate2Translator, "translate", counting)
    assert main(["translate", str(source), *options]) == 0
    assert asked == []
    assert (tmp_path / "out.txt").read_bytes() == first
    with source.open("a", encoding="utf-8") as file:
        file.write("three green rings\n")
    assert main(["translate", str(source), *options]) == 0
    assert asked == ["three green rings"]
    assert main(["translate", str(source), *options, "--set", "translate.beam_size=1"]) == 0
    assert len(asked) == 5, "another beam is another engine"
    assert len(list(folder.glob("*.sqlite"))) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "beam_sise=1"], "unknown key translate.beam_sise"),
        (["--set", "translate.beam_size=0"], "translate.beam_size must be positive"),
        (["--set", "engine=argos", "--engine", "argos"], "translate.engine is given twice"),
        (["--set", "translate.round_trip=true"], "can be set in recipes only"),
        (["--engine", "ctranslate2"], "translate.package is only for argos"),
        (["--set", "max_characters=5"], "Remove it, or give --set translate.max_characters=500000"),
        (["--pivot", "ca"], "translate.package must name 2"),
        (["--from", "EN"], "--from EN is not a language code"),
        (["--to", "pt-BR"], "--to pt-BR is not a language code"),
        (["--pivot", "CA", "--package", str(PACKAGE)], "translate.pivot CA is not a language code"),
        (["--memory", "old.txt/memory"], "--memory old.txt/memory cannot be created"),
        (["--to", "de"], "translates en to it, but en to de is needed"),
        (["--column", "caption"], "the format lines has no columns"),
        (["--format", "csv"], "in.txt has no column 'caption'"),
        (["--format", "parquet"], "Parquet cannot be piped"),
        (["--out", "in.txt", "--force"], "in.txt is the input"),
        (["--out", "old.txt"], "old.txt exists"),
        (["--out", "new.csv"], "new.csv has the suffix of csv"),
        (["--package", "none.argosmodel"], "translate.package must name 1"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.txt").write_text("two red stars\n", encoding="utf-8")
    Path("old.txt").write_text("old\n", encoding="utf-8")
    assert main(["translate", "in.txt", *OPTIONS, *options]) == 1
    out, err = capsys.readouterr()
    assert message in err
    assert out == ""
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
