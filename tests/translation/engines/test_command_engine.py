"""A program of the user's as an engine: lines in and lines out, and everything else that a program may do instead."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_catalog.errors import InputError, PipelineError
from data_catalog.language_pack import LanguagePack
from translation.config import TranslateConfig
from translation.engines.command import LINES_PER_BATCH, CommandTranslator
from translation.registry import open_translator, reverse

EN, IT = LanguagePack(code="en"), LanguagePack(code="it")
LOOP = "import os, sys, time\nfor number, line in enumerate(sys.stdin):\n    line = line.rstrip('\\n')\n    "

Engine = Callable[..., CommandTranslator]


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    """`engine(code, *arguments, **settings)`: an engine over a program in Python."""

    def make(code: str, *arguments: str, **settings: Any) -> CommandTranslator:
        (tmp_path / "mine.py").write_text(code, encoding="utf-8")
        words = (sys.executable, "-u", str(tmp_path / "mine.py"), *arguments)
        config = TranslateConfig(engine="command", command=words, **{"timeout_s": 60.0, **settings})
        found = open_translator(config, [EN, IT], cache_dir=tmp_path)
        assert isinstance(found, CommandTranslator)
        return found

    return make


def texts(engine: CommandTranslator, captions: list[str]) -> list[str]:
    return [found.text for found in engine.translate(captions)]


def refusal(engine: CommandTranslator, captions: list[str] | None = None) -> str:
    with pytest.raises(InputError) as caught:
        engine.translate(captions or ["a", "b", "c"])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_captions_are_lines_and_translations_are_lines(engine: Engine) -> None:
    shouting = engine(LOOP + "print(line.upper())")
    captions = ["two dogs", "", "a\nb\r\nc\u2028d\0e\x0bf", "  naïve 日本 😀 ", "two dogs", " \n"]
    done: list[int] = []
    found = shouting.translate(captions, done.append)
    assert [each.text for each in found] == ["TWO DOGS", "", "A B C D E F", "NAÏVE 日本 😀", "TWO DOGS", ""]
    assert {each.score for each in found} == {None}
    assert sum(done) == len(captions)
    assert texts(shouting, [chr(0xD800)]) == ["?"]


def test_one_program_answers_many_batches(engine: Engine) -> None:
    counting = engine(LOOP + "print(f'{os.getpid()} {number} {line}')")
    captions = [f"caption {number} {'x' * 5_000}" for number in range(2 * LINES_PER_BATCH + 7)]
    found = [*texts(counting, captions[:150]), *texts(counting, captions[150:])]
    pids, numbers, *_ = zip(*(text.split(" ", 2) for text in found), strict=True)
    assert len(set(pids)) == 1
    assert list(map(int, numbers)) == list(range(len(captions)))
    assert [text.split(" ", 2)[2] for text in found] == captions


def test_a_program_that_dies_is_started_once_more(engine: Engine, tmp_path: Path) -> None:
    died = tmp_path / "died"
    once = f"number == 1 and not os.path.exists({str(died)!r}) and (open({str(died)!r}, 'w'), os._exit(3))"
    assert texts(engine(f"{LOOP}{once}\n    print(line)"), ["a", "b", "c"]) == ["a", "b", "c"]
    assert died.exists()


def test_a_program_that_never_reads(engine: Engine) -> None:
    assert "code 0 after 0 of 3 lines" in refusal(engine("pass"))
    many = ["x" * 10_000 + str(number) for number in range(100)]
    assert "code 7 after 0 of 100 lines" in refusal(engine("import os; os.close(0); os._exit(7)"), many)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("print(line)\n    if number == 1: sys.exit('no memory\\nleft')", "code 1 after 2 of 3 lines: no memory left"),
        ("print(line); print(line)", "wrote more lines"),
        ("print(line)\n    if number == 2: time.sleep(0.01); print('late')", "wrote more lines"),
        ("sys.stdout.buffer.write(b'\\xff\\n')", "not UTF-8"),
        ("print('x\\0y')", "NUL"),
        ("sys.stdout.write('x' * 3_000_000)", "1,000,000 bytes"),
        ("[sys.stdout.write('x' * 60_000) for _ in iter(int, 1)]", "1,000,000 bytes"),
    ],
)
def test_what_is_no_translation(body: str, message: str, engine: Engine) -> None:
    assert message in refusal(engine(LOOP + body))


@pytest.mark.parametrize(
    ("body", "told", "timeout_s"),
    [
        ("time.sleep(600)", "0 of 3 lines within 0.5 s", 0.5),
        ("number == 2 and time.sleep(600); print(line)", "2 of 3 lines within 3 s", 3.0),
    ],
)
def test_a_program_that_hangs_is_killed(body: str, told: str, timeout_s: float, engine: Engine) -> None:
    assert f"killed because it gave {told}" in refusal(engine(LOOP + body, timeout_s=timeout_s))


def test_what_a_program_started_dies_with_it(engine: Engine, tmp_path: Path) -> None:
    alive = tmp_path / "alive"  # has a writer while the program or its child runs
    os.mkfifo(alive)
    reader = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)
    child = f"import subprocess\nsubprocess.Popen(['sleep', '600'], stdout=open({str(alive)!r}, 'w'))\n"
    assert "was killed" in refusal(engine(f"{child}{LOOP}time.sleep(600)", timeout_s=3.0))
    os.set_blocking(reader, True)
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_the_fingerprint_holds_what_is_known_of_the_command(engine: Engine) -> None:
    def fingerprint(code: str = "print(line)", beam: str = "2", version: str = "1") -> str:
        return engine(LOOP + code, beam, version=version).fingerprint

    first = fingerprint()
    assert first.startswith("command:en-it:")
    assert len({first, fingerprint("print( line)"), fingerprint(beam="3"), fingerprint(version="2")}) == 4
    again = engine(LOOP + "print(line)", "2", version="1", timeout_s=7.0, max_chunk_size=5)
    assert (again.fingerprint, again.max_chunk_size) == (first, 5)
    assert texts(engine(LOOP + "print(line)", "x" * 5000, "~nobody/x"), ["a"]) == ["a"], "no paths, though long"


def test_no_shell_reads_the_words_and_the_way_back_knows_its_languages(tmp_path: Path) -> None:
    words = (sys.executable, "-u", "-c", LOOP + "print(sys.argv[1], line)", "$HOME {from}>{to}")
    config = TranslateConfig(engine="command", command=words, pivot="de", round_trip=True)
    packs = [EN, LanguagePack(code="de"), IT]
    assert open_translator(config, packs, cache_dir=tmp_path).translate(["a"])[0].text == "$HOME de>it $HOME en>de a"
    back = open_translator(reverse(config), packs[::-1], cache_dir=tmp_path)
    assert back.translate(["a"])[0].text == "$HOME de>en $HOME it>de a"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        *(({"command": words}, "command is missing") for words in ((), ("",), ("cat", "a\0b"))),
        ({"command": ("./no-such",)}, "'./no-such'"),
        ({"command": ("sed -u s/a/b/",)}, '["sed", ...]'),
        *(({"command": ("cat",), "timeout_s": seconds}, "translate.timeout_s") for seconds in (0.0, float("nan"))),
        ({"command": ("cat",), "max_chunk_size": -1}, "translate.max_chunk_size"),
        ({"command": ("cat",), "round_trip": True}, "translate.round_trip"),
        ({"command": ("cat",), "pivot": "de"}, "translate.pivot"),
    ],
)
def test_what_is_wrong_is_said_before_work(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(PipelineError) as caught:
        open_translator(TranslateConfig(engine="command", **settings), [EN, IT], cache_dir=tmp_path)
    assert message in str(caught.value)
