"""Engines of other people's packages: the one in the docs works, and one that does not is named in one sentence."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_catalog.errors import InputError, PipelineError, SettingsError, TransientError
from data_catalog.language_pack import LanguagePack
from translation.config import ENGINES, TranslateConfig
from translation.engine import Translation, Translator
from translation.engines.plugins import CAPTIONS_PER_CALL, engine_names
from translation.registry import open_translator, reverse

EN, IT, DE = (LanguagePack(code=code) for code in ("en", "it", "de"))
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

Install = Callable[..., str]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """`install(source, name="mine", package="mine-engine")`: puts a package with that engine on the path."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def put(
        source: str, name: str = "mine", package: str = "mine-engine", entry_points: str = "", metadata: str = ""
    ) -> str:
        module, site = package.replace("-", "_"), tmp_path / f"site-{package}"
        info = site / f"{module}-1.5.dist-info"
        info.mkdir(parents=True)
        (site / f"{module}.py").write_text(source, encoding="utf-8")
        (info / "METADATA").write_text(metadata or f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.5\n")
        (info / "entry_points.txt").write_text(entry_points or f"[vernaclip.engines]\n{name} = {module}:open_engine\n")
        monkeypatch.delitem(sys.modules, module, raising=False)
        monkeypatch.syspath_prepend(str(site))
        return module

    return put


def opened(name: str = "mine", target: LanguagePack = IT, **settings: Any) -> Translator:
    return open_translator(
        TranslateConfig(engine=name, settings=settings), [EN, target], cache_dir=Path("unused-and-never-made")
    )


def refusal(error: type[PipelineError], name: str = "mine", captions: tuple[str, ...] = ("a", "b")) -> str:
    """What is said of an engine, at its opening or when it translates; one line."""
    with pytest.raises(PipelineError) as caught:
        opened(name).translate(captions)
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_example_of_the_docs_translates(install: Install, tmp_path: Path) -> None:
    install(EXAMPLE, name="glossary", package="vernaclip-glossary")
    (tmp_path / "words.tsv").write_text("two\tdue\ndogs\tcani\n", encoding="utf-8")
    engine = opened("glossary", file=str(tmp_path / "words.tsv"))
    assert [found.text for found in engine.translate(["two dogs", " ", "two cats"])] == ["due cani", "", "due cats"]
    assert re.fullmatch(r"glossary:en-it:[0-9a-f]{12}", engine.fingerprint)
    (tmp_path / "words.tsv").write_text("two\tdue\n", encoding="utf-8")
    assert opened("glossary", file=str(tmp_path / "words.tsv")).fingerprint != engine.fingerprint
    with pytest.raises(InputError, match=r"vernaclip-glossary 1\.5 cannot be opened"):
        opened("glossary", DE, file=str(tmp_path / "words.tsv"))
    with pytest.raises(InputError, match=r"translate\.settings"):
        opened("glossary")


def test_listing_names_and_reading_settings_imports_nothing(install: Install) -> None:
    module = install("raise RuntimeError('imported')", name="lister")
    assert engine_names() == [*ENGINES, "lister"]
    TranslateConfig(engine="lister", settings={"a": 1})
    assert module not in sys.modules


def test_what_the_factory_gets_and_what_the_engine_is_asked(install: Install, tmp_path: Path) -> None:
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


def test_texts_with_scores_limits_and_the_way_back(install: Install) -> None:
    install(
        "import numpy\nclass Engine:\n    fingerprint, max_chunk_size = 'x', 2\n"
        "    def __init__(self, way): self.way = way\n"
        "    def translate(self, captions):\n        assert len(captions) <= 2\n"
        "        return [(f'{self.way}\\n {c}', numpy.float32(-0.5)) if c != 'b' else (c, None) for c in captions]\n"
        "def open_engine(request): return Engine(request.source.code + request.target.code)\n"
    )
    engine = opened()
    assert engine.max_chunk_size == 2
    assert engine.translate(["a", "b", "c"]) == [
        Translation(text="enit a", score=-0.5), Translation(text="b"), Translation(text="enit c", score=-0.5)
    ]  # fmt: skip
    config = TranslateConfig(engine="mine", pivot="de", round_trip=True)
    there = open_translator(config, [EN, DE, IT], cache_dir=Path("unused"))
    back = open_translator(reverse(config), [IT, DE, EN], cache_dir=Path("unused"))
    assert there.translate(["a"])[0].text == "deit ende a"
    assert back.translate(["a"])[0].text == "deen itde a"


TRANSLATE = "        self.asked.append(captions)\n        return [caption.upper() for caption in captions]\n"
ENGINE = "\ndef open_engine(r): return E()"
BROKEN_AT_OPENING = {
    "import no_such_module": "ModuleNotFoundError: No module named 'no_such_module'",
    "def other(): pass": "AttributeError",
    "open_engine = 3": "must be a function, but is 3",
    "def open_engine(r): return None": "fingerprint must be a non-empty string, got None",
    f"class E: fingerprint = ''{ENGINE}": "fingerprint must be a non-empty string, got ''",
    f"class E: fingerprint = 'x'{ENGINE}": "no method",
    f"class E: fingerprint, max_chunk_size = 'x', 0{ENGINE}": "size must be a pos",
    "import uuid\nclass E:\n    translate = print\n    fingerprint = property(lambda _: str(uuid.uuid4()))"
    + ENGINE: "between two reads",
}
BROKEN_AT_WORK = {
    "return []": "0 translations for 2 captions",
    "return 'ab'": "it returned 'ab', not a list",
    "return [b'x', b'y']": "b'x' for the caption 'a'",
    "return [('x', -1, 2), 'y']": "('x', -1, 2) for the caption 'a'",
    "return [('x', 0.5), 'y']": "score of 'a' is 0.5",
    "return [('x', float('nan')), 'y']": "score of 'a' is nan",
    r"return ['x\0', 'y']": "NUL",
    r"return ['x', '\ud800']": "surrogate",
    "self.fingerprint = '2'; return captions": "fingerprint changed",
    "captions.clear(); return captions": "0 translations for 2 captions",
    "raise ValueError('two\\nlines')": "(ValueError: two lines)",
    "exit(3)": "(SystemExit: 3)",
}


BROKEN = BROKEN_AT_OPENING | {
    GOOD.replace(TRANSLATE, f"        {body}\n"): message for body, message in BROKEN_AT_WORK.items()
}


@pytest.mark.parametrize("source", BROKEN, ids=[*BROKEN_AT_OPENING, *BROKEN_AT_WORK])
def test_a_package_that_does_not_open_or_does_not_translate_is_named(source: str, install: Install) -> None:
    install(source)
    told = refusal(InputError)
    assert told.startswith("the engine 'mine' of the package mine-engine 1.5 ")
    assert BROKEN[source] in told


@pytest.mark.parametrize(
    ("raised", "error", "message"),
    [
        ("ConnectionResetError('gone')", TransientError, "ConnectionResetError: gone"),
        ("SettingsError('xy')", SettingsError, "failed: xy"),
        ("Own('x', 'y')", TransientError, "failed: xy"),
    ],
)
def test_errors_have_the_class_of_who_must_act(
    raised: str, error: type[PipelineError], message: str, install: Install
) -> None:
    own = "class Own(TransientError):\n    def __init__(self, a, b):\n        super().__init__(a + b)\n"
    imported = "from data_catalog.errors import SettingsError, TransientError\n"
    install(imported + own + GOOD.replace(TRANSLATE, f"        raise {raised}\n"))
    assert message in refusal(error)


def test_names_that_are_taken(install: Install) -> None:
    for name, package in (("mine", "first"), ("mine", "second"), ("argos", "third")):
        install("raise RuntimeError('imported')", name=name, package=package)
    assert "several packages, first and second" in refusal(InputError)
    assert "the package third has an engine 'argos'" in refusal(InputError, "argos")


def test_metadata_may_be_anything(install: Install, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    install("", package="shapeless", entry_points="[vernaclip.engines]\nno equals sign\n")
    install("", package="misnamed", entry_points="[vernaclip.engines]\nÜber Engine = misnamed:open\n")
    install(GOOD, package="nameless", name="orphan", metadata="\n")
    info = tmp_path / "site-shapeless" / "bytes-1.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_bytes(b"[vernaclip.engines]\n\xff")
    assert engine_names() == [*ENGINES, "orphan"]
    assert "the engines of the package shapeless cannot be read" in caplog.text
    assert "the package misnamed has an engine with the invalid name 'Über Engine'" in caplog.text
    assert opened("orphan").translate(["a"])[0].text == "A"
