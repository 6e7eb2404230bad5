"""A program of the user's as an engine: lines in and lines out, and everything else that a program may do instead."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_catalog.errors import InputError, PipelineError
from data_catalog.language_pack import LanguagePack
from translation.config import TranslateConfig
from translation.engines import command as command_module
from translation.engines.command import LINES_PER_BATCH, CommandTranslator, as_line
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


def test_no_shell_reads_the_words(engine: Engine) -> None:
    echoing = engine("import sys\n" + LOOP + "print(sys.argv[1])", "$HOME; `ls` {from}>{to}")
    assert texts(echoing, ["x"]) == ["$HOME; `ls` en>it"]


def test_a_program_with_nothing_to_say_says_nothing(engine: Engine) -> None:
    assert texts(engine(LOOP + "print()"), ["a", "b"]) == ["", ""]


def test_a_program_that_dies_is_started_once_more(engine: Engine, tmp_path: Path) -> None:
    once = LOOP + f"number == 1 and not os.path.exists({str(tmp_path / 'died')!r}) and (open("
    dying = engine(once + f"{str(tmp_path / 'died')!r}, 'w'), os._exit(3))\n    print(line)")
    assert texts(dying, ["a", "b", "c"]) == ["a", "b", "c"]
    assert (tmp_path / "died").exists()


def test_a_program_may_end_between_batches(engine: Engine) -> None:
    ending = engine(LOOP + f"print(f'{{os.getpid()}}')\n    if number == {LINES_PER_BATCH - 1}: break")
    found = texts(ending, [f"caption {number}" for number in range(2 * LINES_PER_BATCH)])
    assert len(set(found)) == 2


def test_death_in_the_middle(engine: Engine) -> None:
    told = refusal(engine(LOOP + "print(line)\n    if number == 1: sys.exit('no memory\\nleft')"))
    assert told.endswith(" ended with code 1 after 2 of 3 lines: no memory left, for the second time")


def test_a_program_that_never_reads(engine: Engine) -> None:
    assert "ended with code 0 after 0 of 3 lines" in refusal(engine("pass"))
    assert "ended with code 7 after 0 of 100 lines" in refusal(
        engine("import os; os.close(0); os._exit(7)"), ["x" * 10_000 + str(number) for number in range(100)]
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("print(line); print(line)", "wrote more lines than it had captions"),
        ("sys.stdout.write(line + '\\n' + 'x')", "wrote more lines than it had captions"),
        ("print(line)\n    if number == 2: time.sleep(0.01); print('late')", "wrote more lines"),
        ("sys.stdout.buffer.write(b'\\xff\\n')", "translation of 'a' is not UTF-8: b'\\xff'"),
        ("print('x\\0y')", "translation of 'a' contains a NUL character: 'x\\x00y'"),
        ("sys.stdout.write('x' * 3_000_000)", "wrote a line of more than 1,000,000 bytes"),
        ("[print('y') for _ in iter(int, 1)]", "wrote more lines than it had captions"),
        ("[sys.stdout.write('x' * 60_000) for _ in iter(int, 1)]", "wrote a line of more than 1,000,000 bytes"),
    ],
)
def test_what_is_no_translation(body: str, message: str, engine: Engine) -> None:
    assert message in refusal(engine(LOOP + body))


def test_lines_before_the_captions(engine: Engine) -> None:
    told = refusal(engine("import time\nprint('ready')\n" + LOOP + "print(line)"))
    assert "wrote more lines than it had captions" in told
    early = "import time\nfor _ in range(100): print('x')\ntime.sleep(60)"
    assert "wrote 100 lines before it had read as many" in refusal(
        engine(early), ["x" * 10_000 + str(number) for number in range(100)]
    )


@pytest.mark.parametrize(
    ("body", "given"),
    [
        ("time.sleep(600)", "0 of 3"),
        ("number == 2 and time.sleep(600); print(line)", "2 of 3"),
        ("[sys.stderr.write('x' * 60_000) for _ in iter(int, 1)]", "0 of 3"),
        ("[(print('x', end=''), time.sleep(0.01)) for _ in iter(int, 1)]", "0 of 3"),
    ],
)
def test_a_program_that_hangs_is_killed(body: str, given: str, engine: Engine) -> None:
    started = time.monotonic()
    told = refusal(engine(LOOP + body, timeout_s=2.0))
    assert f"was killed because it gave {given} lines within 2 s (translate.timeout_s); a program must flush" in told
    assert time.monotonic() - started < 30


def test_what_a_program_started_dies_with_it(engine: Engine, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    child = "import subprocess\np = subprocess.Popen(['sleep', '600'])\n"
    told = refusal(engine(f"{child}open({str(note)!r}, 'w').write(str(p.pid))\n{LOOP}time.sleep(600)", timeout_s=2.0))
    assert "was killed" in told
    for _ in range(100):
        if not _is_alive(int(note.read_text())):
            return
        time.sleep(0.1)
    raise AssertionError("the program's child lives")


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_an_engine_that_failed_begins_anew(engine: Engine) -> None:
    odd = engine(LOOP + "print(line if line != 'bad' else 'x\\ny')")
    assert "wrote more" in refusal(odd, ["bad"])
    assert texts(odd, ["a", "b"]) == ["a", "b"]


def test_the_program_ends_with_its_engine(engine: Engine) -> None:
    asking = engine(LOOP + "print(os.getpid())")
    (pid,) = texts(asking, ["a"])
    assert _is_alive(int(pid))
    del asking
    assert not _is_alive(int(pid))


def test_the_fingerprint_holds_what_is_known_of_the_command(engine: Engine, tmp_path: Path) -> None:
    first = engine(LOOP + "print(line)", "--beam=2", version="1")
    assert first.fingerprint.startswith("command:en-it:")
    found = {
        first.fingerprint,
        engine(LOOP + "print(line)", "--beam=2", version="2").fingerprint,
        engine(LOOP + "print(line)", "--beam=3", version="1").fingerprint,
        engine(LOOP + "print( line)", "--beam=2", version="1").fingerprint,
    }
    assert len(found) == 4
    again = engine(LOOP + "print(line)", "--beam=2", version="1", timeout_s=7.0, max_chunk_size=5)
    assert (again.fingerprint, again.max_chunk_size) == (first.fingerprint, 5)
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine").write_text("#!/bin/sh\ncat\n")
        (tmp_path / folder / "mine").chmod(0o755)
    one, other = (
        open_translator(
            TranslateConfig(engine="command", command=(str(tmp_path / folder / "mine"),)), [EN, IT], cache_dir=tmp_path
        )
        for folder in ("here", "there")
    )
    assert one.fingerprint == other.fingerprint
    assert [found.text for found in one.translate(["a b"])] == ["a b"]


def test_the_way_back_knows_its_languages(tmp_path: Path) -> None:
    words = (sys.executable, "-u", "-c", LOOP + "print(sys.argv[1], line)", "{from}>{to}")
    config = TranslateConfig(engine="command", command=words, pivot="de", round_trip=True)
    packs = [EN, LanguagePack(code="de"), IT]
    assert open_translator(config, packs, cache_dir=tmp_path).translate(["a"])[0].text == "de>it en>de a"
    back = open_translator(reverse(config), packs[::-1], cache_dir=tmp_path)
    assert back.translate(["a"])[0].text == "de>en it>de a"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "translate.command is missing: give the program"),
        ({"command": ("",)}, "translate.command is missing: give the program"),
        ({"command": ("cat", "a\0b")}, "translate.command is missing: give the program"),
        ({"command": ("no-such-program",)}, "there is no executable program 'no-such-program'"),
        ({"command": ("./no-such",)}, "there is no executable program './no-such'"),
        ({"command": ("sed -u s/a/b/",)}, 'Give arguments as separate strings: ["sed", ...]'),
        ({"command": ("cat",), "timeout_s": 0.0}, "translate.timeout_s must be positive, got 0.0"),
        ({"command": ("cat",), "timeout_s": float("nan")}, "translate.timeout_s must be positive, got nan"),
        ({"command": ("cat",), "max_chunk_size": -1}, "translate.max_chunk_size must not be negative, got -1"),
        ({"command": ("cat",), "round_trip": True}, "translate.round_trip needs the command for more than one pair"),
        ({"command": ("cat",), "pivot": "de"}, "translate.pivot needs the command for more than one pair"),
    ],
)
def test_what_is_wrong_is_said_before_work(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(PipelineError) as caught:
        open_translator(TranslateConfig(engine="command", **settings), [EN, IT], cache_dir=tmp_path)
    assert message in str(caught.value)


def test_a_file_that_is_no_program(tmp_path: Path) -> None:
    broken = tmp_path / "mine"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    config = TranslateConfig(engine="command", command=(str(broken),))
    engine = open_translator(config, [EN, IT], cache_dir=tmp_path)
    with pytest.raises(InputError, match="mine cannot be started: No such file"):
        engine.translate(["a"])


def test_few_descriptors_stay_open(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_module, "GRACE_S", 0.0)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        refusal(engine("pass"), ["a"])
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2


def test_a_line_is_one_line() -> None:
    assert as_line(" a\t\x85b\x1cc ") == "a b c"
