"""Engines of the user's own: a program of lines in and lines out, and those of other people's packages."""

import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from data_catalog.base.errors import InputError, PipelineError, SettingsError, TransientError
from data_catalog.base.language_pack import LanguagePack
from translation.config import ENGINES, TranslateConfig
from translation.engine import Translator
from translation.engines import processes
from translation.engines.answers import CAPTIONS_PER_CALL
from translation.engines.command import LINES_PER_BATCH
from translation.engines.plugins import engine_names
from translation.engines.processes import Program
from translation.engines.registry import open_translator, reverse

EN, IT, DE = (LanguagePack(code=code) for code in ("en", "it", "de"))
LOOP = "import os, sys, time\nfor number, line in enumerate(sys.stdin):\n    line = line.rstrip('\\n')\n    "
WHOLE = "import sys, time\nlines = sys.stdin.read().splitlines()\n"


@pytest.fixture
def engine(tmp_path: Path) -> Any:
    """`engine(code, *arguments, **settings)`: an engine over a program in Python."""

    def make(code: str, *arguments: str, **settings: Any) -> Translator:
        (tmp_path / "mine.py").write_text(code, encoding="utf-8")
        words = (sys.executable, "-u", str(tmp_path / "mine.py"), *arguments)
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
    shouting = engine(LOOP + "print(line.upper())")
    captions = ["two dogs", "", "a\nb\r\nc\u2028d\0e\x0bf", "  naïve 日本 😀 ", "two dogs", " \n", "\0", "a b c d e f"]
    done: list[int] = []
    found = shouting.translate(captions, done.append)
    expected = ["TWO DOGS", "", "A B C D E F", "NAÏVE 日本 😀", "TWO DOGS", "", "", "A B C D E F"]
    assert [each.text for each in found] == expected
    assert {each.score for each in found} == {None}
    assert sum(done) == len(captions)
    assert texts(shouting, [chr(0xD800)]) == ["?"]


def test_one_program_answers_many_batches(engine: Any) -> None:
    counting = engine(LOOP + "print(f'{os.getpid()} {number} {line}')")
    captions = [f"caption {number} {'x' * 5_000}" for number in range(2 * LINES_PER_BATCH + 7)]
    found = [*texts(counting, captions[:150]), *texts(counting, captions[150:])]
    pid = found[0].split()[0]
    assert found == [f"{pid} {number} {caption}" for number, caption in enumerate(captions)]


def test_a_program_that_answers_at_the_end_of_its_input(engine: Any, tmp_path: Path) -> None:
    noting = f"open({str(tmp_path / 'runs')!r}, 'a').write(f'{{len(lines)}}\\n')\n"
    code = f"{WHOLE}{noting}print('\\n'.join(f'{{line}} {{lines[-1]}}' for line in lines), end='')"
    marking = engine(code, mode="batch")
    captions = [f"caption {number}" for number in range(CAPTIONS_PER_CALL + 7)]
    assert texts(marking, ["", *captions, captions[0]]) == [
        "",
        *(f"{caption} {captions[-1]}" for caption in (*captions, captions[0])),
    ]
    assert texts(marking, ["a"]) == ["a a"]
    assert (tmp_path / "runs").read_text().split() == [str(len(captions)), "1"], "one run for each call"
    assert marking.fingerprint != engine(code).fingerprint


def test_a_program_that_dies_is_started_once_more(engine: Any, tmp_path: Path) -> None:
    died = tmp_path / "died"
    once = f"not os.path.exists({str(died)!r}) and (open({str(died)!r}, 'w'), os._exit(3))"
    for code, mode in (
        (f"{LOOP}number == 1 and {once}\n    print(line)", "lines"),
        (f"{WHOLE}import os; {once}\n", "batch"),
    ):
        code += "print('a\\nb\\nc')" if mode == "batch" else ""
        assert texts(engine(code, mode=mode), ["a", "b", "c"]) == ["a", "b", "c"]
        died.unlink()


def test_a_program_that_never_reads(engine: Any) -> None:
    many = ["x" * 10_000 + str(number) for number in range(100)]
    assert "code 7 after 0 of 100 answers" in refusal(engine("import os; os.close(0); os._exit(7)"), many)


LINES = {
    "print(line)\n    if number == 1: sys.exit('no memory\\nleft')": "code 1 after 2 of 3 answers: no memory left",
    "print(line); print(line)": "wrote more answers",
    "sys.stdout.buffer.write(b'\\xff\\n')": "not UTF-8",
    "print('x\\0y')": "NUL",
    "[sys.stdout.write('x' * 60_000) for _ in iter(int, 1)]": "1,000,000 bytes",
}
BATCHES = {
    "print('x')": "code 0 after 1 of 3 answers",
    "print('x\\n' * 4)": "wrote more answers",
    "print('x\\n' * 3); sys.exit('no memory left')": "code 1 after ",
    "print('x\\n' * 10**6)": "wrote more answers",
}


@pytest.mark.parametrize("body", [*LINES, *BATCHES])
def test_what_is_no_translation(body: str, engine: Any) -> None:
    code, mode = (LOOP + body, "lines") if body in LINES else (WHOLE + body, "batch")
    assert (LINES | BATCHES)[body] in refusal(engine(code, mode=mode))


def test_a_program_that_hangs_dies_with_what_it_started(tmp_path: Path) -> None:
    alive = tmp_path / "alive"  # has a writer while the program or its child runs
    os.mkfifo(alive)
    reader = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)
    two = 'read -r a; echo "$a"; read -r a; echo "$a"'
    for mode, told in (("lines", "killed because it gave 2 of 3 answers within 1 s"), ("batch", "gave 2 of 3 answers")):
        words = ("sh", "-c", f"sleep 600 >'{alive}' & {two}; sleep 600")
        config = TranslateConfig(engine="command", command=words, mode=mode, timeout_s=1.0)
        assert told in refusal(open_translator(config, [EN, IT], cache_dir=tmp_path))
    os.set_blocking(reader, True)
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_what_a_program_says_beside_its_answers_takes_little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_LOG_CHECK_S", 0.05)
    code = f"{LOOP}[os.write(2, b'x' * 1_000_000) for _ in range(40)]; time.sleep(0.5); print(line)"
    program = Program([sys.executable, "-u", "-c", code], end=b"\n", timeout_s=60.0)
    assert program.answers(["a", "b"]) == [b"a", b"b"]
    sizes = []
    for file in list(Path("/proc/self/fd").iterdir()):
        with suppress(OSError):
            sizes += [file.stat().st_size] if str(file.readlink()).endswith(" (deleted)") else []
    assert max(sizes) < 60_000_000
    assert program.has_error_output()
    program.close()


@pytest.mark.parametrize("num_captions", [1, 4])
@pytest.mark.parametrize(
    "body",
    [
        "print('Model loaded') if number == 0 else time.sleep(0.2); print(line)",
        "time.sleep(0.2); print(line); print(line)",
        "print('working'); time.sleep(0.2); print(line)",
    ],
)
def test_a_surplus_line_of_a_slow_program(body: str, num_captions: int, engine: Any) -> None:
    assert "wrote more answers" in refusal(engine(LOOP + body), ["a", "b", "c", "d"][:num_captions])


def test_a_surplus_line_for_a_later_call(engine: Any) -> None:
    slow = engine(LOOP + "time.sleep(0.2); print(line); line == 'd' and print(line)")
    assert texts(slow, ["a", "b"]) == ["a", "b"]
    assert texts(slow, ["c"]) == ["c"]
    assert "wrote more answers" in refusal(slow, ["d", "e"])


def test_the_fingerprint_holds_what_is_known_of_the_command(engine: Any) -> None:
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


DOCS = (Path(__file__).parents[3] / "docs" / "translation.md").read_text(encoding="utf-8")
EXAMPLE = re.findall(r"```python\n# vernaclip_glossary\.py\n(.*?)```", DOCS, re.DOTALL)[0]

# An engine that works, which tests take apart by replacing what is between the marks.
GOOD = """
class Engine:
    fingerprint = "1"
    asked = []
    def translate(self, captions):
        self.asked.append(captions)
        return [caption.upper() for caption in captions]

def open_engine(request):
    global REQUEST
    REQUEST = request
    return Engine()
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`install(source, name="mine", package="mine-engine")`: puts a package with that engine on the path."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def put(source: str, name: str = "mine", package: str = "mine-engine") -> str:
        module, site = package.replace("-", "_"), tmp_path / f"site-{package}"
        info = site / f"{module}-1.5.dist-info"
        info.mkdir(parents=True)
        (site / f"{module}.py").write_text(source, encoding="utf-8")
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.5\n")
        (info / "entry_points.txt").write_text(f"[vernaclip.engines]\n{name} = {module}:open_engine\n")
        monkeypatch.delitem(sys.modules, module, raising=False)
        monkeypatch.syspath_prepend(str(site))
        return module

    return put


def opened(name: str = "mine", target: LanguagePack = IT, **settings: Any) -> Translator:
    return open_translator(
        TranslateConfig(engine=name, settings=settings), [EN, target], cache_dir=Path("unused-and-never-made")
    )


def fault(error: type[PipelineError], name: str = "mine", captions: tuple[str, ...] = ("a", "b")) -> str:
    """What is said of an engine, at its opening or when it translates; one line."""
    with pytest.raises(PipelineError) as caught:
        opened(name).translate(captions)
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_example_of_the_docs_translates(install: Any, tmp_path: Path) -> None:
    install(EXAMPLE, name="glossary", package="vernaclip-glossary")
    (tmp_path / "words.tsv").write_text("two\tdue\ndogs\tcani\n", encoding="utf-8")
    engine = opened("glossary", file=str(tmp_path / "words.tsv"))
    assert [found.text for found in engine.translate(["two dogs", " ", "two cats"])] == ["due cani", "", "due cats"]
    assert re.fullmatch(r"glossary:en-it:[0-9a-f]{12}", engine.fingerprint)
    (tmp_path / "words.tsv").write_text("two\tdue\n", encoding="utf-8")
    assert opened("glossary", file=str(tmp_path / "words.tsv")).fingerprint != engine.fingerprint
    with pytest.raises(InputError, match=r"vernaclip-glossary 1\.5 cannot be opened"):
        opened("glossary", DE, file=str(tmp_path / "words.tsv"))
    with pytest.raises(InputError, match=r"KeyError: 'file'.*translate\.settings"):
        opened("glossary")


def test_listing_names_and_reading_settings_imports_nothing(install: Any) -> None:
    module = install("raise RuntimeError('imported')", name="lister")
    assert engine_names() == [*ENGINES, "lister"]
    TranslateConfig(engine="lister", settings={"a": 1})
    assert module not in sys.modules


def test_what_the_factory_gets_and_what_the_engine_is_asked(install: Any, tmp_path: Path) -> None:
    module = install(GOOD)
    given = {"words": ["x"], "deep": {"n": 1}}
    engine = opened(**given)
    told = sys.modules[module].REQUEST
    assert (told.source, told.target, dict(told.settings)) == (EN, IT, given)
    assert told.settings["words"] is not given["words"], "an engine cannot change the recipe"
    assert told.folder == tmp_path / "cache" / "vernaclip" / "engines" / "mine"
    assert told.folder.is_dir()
    captions = [f"caption {number}" for number in range(CAPTIONS_PER_CALL + 1)]
    done: list[int] = []
    found = engine.translate(["", *captions, captions[0], "\n"], done.append)
    assert [each.text for each in found] == ["", *(text.upper() for text in (*captions, captions[0])), ""]
    assert [len(asked) for asked in sys.modules[module].Engine.asked] == [CAPTIONS_PER_CALL, 1]
    assert sum(done) == len(captions) + 3


def test_texts_with_scores_limits_and_the_way_back(install: Any) -> None:
    install(
        "import numpy\nclass Engine:\n    fingerprint, max_chunk_size = 'x', 2\n"
        "    def __init__(self, way): self.way = way\n"
        "    def translate(self, captions):\n        assert len(captions) <= 2\n"
        "        said = {'b': ('b', None), 'n': None}\n"
        "        return [said.get(c, (f'{self.way}\\n {c}', numpy.float32(-0.5))) for c in captions]\n"
        "def open_engine(request): return Engine(request.source.code + request.target.code)\n"
    )
    engine = opened()
    assert engine.max_chunk_size == 2
    found = [(each.text, each.score) for each in engine.translate(["a", "b", "n", "c"])]
    assert found == [("enit a", -0.5), ("b", None), ("", None), ("enit c", -0.5)]
    config = TranslateConfig(engine="mine", pivot="de", round_trip=True)
    there = open_translator(config, [EN, DE, IT], cache_dir=Path("unused"))
    back = open_translator(reverse(config), [IT, DE, EN], cache_dir=Path("unused"))
    assert there.translate(["a"])[0].text == "deit ende a"
    assert back.translate(["a"])[0].text == "deen itde a"


TRANSLATE = "        self.asked.append(captions)\n        return [caption.upper() for caption in captions]\n"
ENGINE = "\ndef open_engine(r): return E()"
BROKEN_AT_OPENING = {
    "import no_such_module": "ModuleNotFoundError: No module named 'no_such_module'",
    "def open_engine(r): return None": "fingerprint must be a non-empty string, got None",
    f"class E: fingerprint, max_chunk_size = 'x', 0{ENGINE}": "size must be a pos",
    "import uuid\nclass E:\n    translate = print\n    fingerprint = property(lambda _: str(uuid.uuid4()))"
    + ENGINE: "between two reads",
}
BROKEN_AT_WORK = {
    "return []": "0 translations for 2 captions",
    "return ['x', 'y', 'z']": "3 translations for 2 captions",
    "return 'ab'": "it returned 'ab', not a list",
    "return [b'x', b'y']": "b'x' for the caption 'a'",
    "return [('x', -1, 2), 'y']": "('x', -1, 2) for the caption 'a'",
    "return [('x', float('nan')), 'y']": "the score nan for 'a'",
    "return [('x', 0.1), 'y']": "the score 0.1 for 'a'",
    r"return ['x\0', 'y']": "NUL",
    r"return ['x', '\ud800']": "surrogate",
    "self.fingerprint = '2'; return captions": "fingerprint changed",
    "raise ValueError('two\\nlines')": "(ValueError: two lines)",
    "exit(3)": "(SystemExit: 3)",
}


@pytest.mark.parametrize("code", [*BROKEN_AT_OPENING, *BROKEN_AT_WORK])
def test_a_package_that_does_not_open_or_does_not_translate_is_named(code: str, install: Any) -> None:
    install(code if code in BROKEN_AT_OPENING else GOOD.replace(TRANSLATE, f"        {code}\n"))
    told = fault(InputError)
    assert told.startswith("the engine 'mine' of the package mine-engine 1.5 ")
    assert (BROKEN_AT_OPENING | BROKEN_AT_WORK)[code] in told


def test_answers_beside_a_wrong_one_are_not_kept(install: Any) -> None:
    code = "        self.asked.append(captions)\n        return ['x', 'y', 'z'] if len(self.asked) == 1 else captions\n"
    install(GOOD.replace(TRANSLATE, code))
    engine = opened()
    assert "3 translations for 2 captions" in refusal(engine, ["a", "b"])
    assert texts(engine, ["a", "b"]) == ["a", "b"]


def test_threads_that_share_an_engine_get_their_own_answers(install: Any) -> None:
    install(GOOD)
    engine = opened()

    def ask(number: int) -> list[str]:
        return texts(engine, [f"{number}-{caption}" for caption in "abcde"])

    with ThreadPoolExecutor(4) as executor:
        assert list(executor.map(ask, range(40))) == [[f"{n}-{c}".upper() for c in "abcde"] for n in range(40)]


def test_a_damaged_package_harms_no_engine(install: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(GOOD)
    for name, content in (("bad_text", b"\xff\xfe"), ("bad_line", b"[vernaclip.engines]\nno value\n")):
        folder = tmp_path / "damaged" / f"{name}-1.dist-info"
        folder.mkdir(parents=True)
        (folder / "entry_points.txt").write_bytes(content)
    monkeypatch.syspath_prepend(str(tmp_path / "damaged"))
    assert texts(opened(), ["a"]) == ["A"]


RAISED: dict[str, tuple[type[PipelineError], str]] = {
    "ConnectionResetError('gone')": (TransientError, "ConnectionResetError: gone"),
    "SettingsError('xy')": (SettingsError, "failed: xy"),
    "Own('x', 'y')": (TransientError, "failed: xy"),
}


@pytest.mark.parametrize("raised", RAISED)
def test_errors_have_the_class_of_who_must_act(raised: str, install: Any) -> None:
    own = "class Own(TransientError):\n    def __init__(self, a, b):\n        super().__init__(a + b)\n"
    imported = "from data_catalog.base.errors import SettingsError, TransientError\n"
    install(imported + own + GOOD.replace(TRANSLATE, f"        raise {raised}\n"))
    error, message = RAISED[raised]
    assert message in fault(error)


def test_names_that_are_taken(install: Any) -> None:
    for name, package in (("mine", "first"), ("mine", "second"), ("argos", "third")):
        install("raise RuntimeError('imported')", name=name, package=package)
    assert "several packages, first and second" in fault(InputError)
    assert "the package third has an engine 'argos'" in fault(InputError, "argos")
