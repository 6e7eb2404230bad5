"""The engine `command`: a program of lines in and lines out, and what any engine that answers texts is held to."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from data_catalog.base.errors import InputError, PipelineError
from data_catalog.base.language_pack import LanguagePack
from translation.config import TranslateConfig
from translation.engine import Translator
from translation.engines import command
from translation.engines.registry import open_translator, reverse

EN, IT, DE = (LanguagePack(code=code) for code in ("en", "it", "de"))
READ = "import os, sys\nlines = sys.stdin.read().splitlines()\n"
EACH = READ + "for line in lines: "


@pytest.fixture
def engine(tmp_path: Path) -> Any:
    """`engine(code, *arguments, **settings)`: an engine over a program in Python."""

    def make(code: str, *arguments: str, **settings: Any) -> Translator:
        (tmp_path / "mine.py").write_text(code, encoding="utf-8")
        words = (sys.executable, str(tmp_path / "mine.py"), *arguments)
        config = TranslateConfig(engine="command", command=words, **{"timeout_s": 60.0, **settings})
        return open_translator(config, [EN, IT], cache_dir=tmp_path)

    return make


def texts(engine: Translator, captions: list[str]) -> list[str]:
    return [found.text for found in engine.translate(captions)]


def refusal(engine: Translator, captions: list[str] | None = None) -> str:
    with pytest.raises(InputError) as caught:
        engine.translate(captions or ["a", "b", "c"])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_captions_are_lines_and_translations_are_lines(engine: Any) -> None:
    shouting = engine(EACH + "print(line.upper(), end=' \\r\\n')")
    captions = ["two dogs", "", "a\nb\r\nc\u2028d\0e\x0bf", "  naïve 日本 😀 ", "two dogs", " \n", "\0", "a b c d e f"]
    done: list[int] = []
    found = shouting.translate(captions, done.append)
    expected = ["TWO DOGS", "", "A B C D E F", "NAÏVE 日本 😀", "TWO DOGS", "", "", "A B C D E F"]
    assert [each.text for each in found] == expected
    assert {each.score for each in found} == {None}
    assert sum(done) == len(captions)
    assert texts(shouting, [chr(0xD800)]) == ["?"]


def test_the_program_is_started_once_a_batch_and_gets_each_line_once(engine: Any, tmp_path: Path) -> None:
    noting = f"open({str(tmp_path / 'runs')!r}, 'a').write(f'{{len(lines)}}\\n')\n"
    marking = engine(f"{READ}{noting}print('\\n'.join(f'{{line}} {{lines[-1]}}' for line in lines), end='')")
    captions = [f"caption {number} {'x' * 1_000}" for number in range(507)]
    assert texts(marking, ["", *captions, captions[0]]) == [
        "",
        *(f"{caption} {captions[-1]}" for caption in (*captions, captions[0])),
    ]
    assert texts(marking, ["a"]) == ["a a"]
    assert (tmp_path / "runs").read_text().split() == [str(len(captions)), "1"]


def test_empty_translations_stay_in_their_places(engine: Any) -> None:
    code = EACH + "print(line.replace('b', '').replace('d', ''))"
    assert texts(engine(code), ["a", "b", "c", "d"]) == ["a", "", "c", ""]
    assert texts(engine(code + "\nprint('\\n')"), ["a", "d"]) == ["a", ""], "what follows is empty"


def test_a_program_that_dies_is_started_once_more(engine: Any, tmp_path: Path) -> None:
    died = tmp_path / "died"
    once = f"not os.path.exists({str(died)!r}) and (open({str(died)!r}, 'w'), os._exit(3))\n"
    assert texts(engine(f"{READ}{once}print('a\\nb\\nc')"), ["a", "b", "c"]) == ["a", "b", "c"]


def test_a_program_that_never_reads(engine: Any) -> None:
    many = ["x" * 10_000 + str(number) for number in range(100)]
    assert "0 lines for 100 captions and ended with code 7" in refusal(engine("import os; os._exit(7)"), many)


WRONG = {
    "print('x')": "wrote 1 lines for 3 captions and ended with code 0",
    "print('x\\n' * 4)": "wrote 4 lines for 3 captions and ended with code 0",
    "print('x\\n' * 3); sys.exit('no memory\\nleft')": "ended with code 1: no memory left",
    "[sys.stdout.write('x' * 60_000) for _ in iter(int, 1)]": "more than 1,000,000 bytes",
    "sys.stdout.buffer.write(b'a\\nb\\n\\xff\\n')": "not UTF-8",
    "print('x\\0y\\nb\\nc')": "a NUL character in the translation of 'a'",
}


@pytest.mark.parametrize("body", WRONG)
def test_what_is_no_translation(body: str, engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "MAX_OUTPUT_BYTES", 1_000_000)
    told = refusal(engine(READ + body))
    assert told.startswith("the command python")
    assert WRONG[body] in told


@pytest.mark.parametrize("script", ["sleep 600", "exec >&-; sleep 600", "while :; do echo x; sleep 0.01; done"])
def test_a_program_that_hangs_dies_with_what_it_started(script: str, tmp_path: Path) -> None:
    alive = tmp_path / "alive"  # has a writer while the program or its child runs
    os.mkfifo(alive)
    reader = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)
    words = ("sh", "-c", f"echo loading >&2; sleep 600 >'{alive}' & {script}")
    config = TranslateConfig(engine="command", command=words, timeout_s=1.0)
    told = refusal(open_translator(config, [EN, IT], cache_dir=tmp_path))
    assert "did not end within 1 s and was killed (translate.timeout_s): loading" in told
    os.set_blocking(reader, True)
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_the_fingerprint_holds_what_is_known_of_the_command(engine: Any) -> None:
    def fingerprint(code: str = "print(line)", beam: str = "2", version: str = "1") -> str:
        return engine(EACH + code, beam, version=version).fingerprint

    first = fingerprint()
    assert first.startswith("command:en-it:")
    assert len({first, fingerprint("print( line)"), fingerprint(beam="3"), fingerprint(version="2")}) == 4
    again = engine(EACH + "print(line)", "2", version="1", timeout_s=7.0, max_chunk_size=5)
    assert (again.fingerprint, again.max_chunk_size) == (first, 5)
    assert texts(engine(EACH + "print(line)", "x" * 5000, "~nobody/x"), ["a"]) == ["a"], "no paths, though long"


def test_no_shell_reads_the_words_and_the_way_back_knows_its_languages(tmp_path: Path) -> None:
    words = (sys.executable, "-c", EACH + "print(sys.argv[1], line)", "$HOME {from}>{to}")
    config = TranslateConfig(engine="command", command=words, pivot="de", round_trip=True)
    packs = [EN, DE, IT]
    assert open_translator(config, packs, cache_dir=tmp_path).translate(["a"])[0].text == "$HOME de>it $HOME en>de a"
    back = open_translator(reverse(config), packs[::-1], cache_dir=tmp_path)
    assert back.translate(["a"])[0].text == "$HOME de>en $HOME it>de a"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        *(({"command": words}, "command is missing") for words in ((), ("",), ("cat", "a\0b"))),
        ({"command": ("./no-such",)}, "'./no-such'"),
        ({"command": ("sed -u s/a/b/",)}, '["sed", ...]'),
        ({"command": ("cat",), "round_trip": True}, "translate.round_trip"),
        ({"command": ("cat",), "pivot": "de"}, "translate.pivot"),
    ],
)
def test_what_is_wrong_is_said_before_work(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(PipelineError) as caught:
        open_translator(TranslateConfig(engine="command", **settings), [EN, IT], cache_dir=tmp_path)
    assert message in str(caught.value)


def test_answers_beside_a_wrong_one_are_not_kept(engine: Any, tmp_path: Path) -> None:
    second = f"sys.stdout.write('x\\0\\n') if open({str(tmp_path / 'asked')!r}, 'a').tell() else print(lines[0])\n"
    noting = f"open({str(tmp_path / 'asked')!r}, 'a').write('x')\n"
    once = engine(READ + second + noting, max_chunk_size=1)
    assert "NUL" in refusal(once, ["a", "b"])
    (tmp_path / "asked").unlink()
    assert "NUL" in refusal(once, ["a", "b"]), "the first is asked again"
    assert (tmp_path / "asked").read_text() == "xx"


def test_threads_that_share_an_engine_get_their_own_answers(engine: Any) -> None:
    shouting = engine(EACH + "print(line.upper())")

    def ask(number: int) -> list[str]:
        return texts(shouting, [f"{number}-{caption}" for caption in "abcde"])

    with ThreadPoolExecutor(4) as executor:
        assert list(executor.map(ask, range(8))) == [[f"{n}-{c}".upper() for c in "abcde"] for n in range(8)]
