"""The package that ships with the sample: stock Argos Translate reads it and says the same; it knows its world."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from data_catalog.language_pack import LanguagePack
from data_catalog.sample.grammar import parallel_pairs
from translation.config import TranslateConfig
from translation.engines.ctranslate2_model import CTranslate2Translator
from translation.registry import open_translator

PACKAGE = Path(__file__).resolve().parents[3] / "flows" / "packages" / "scenes-en_it.argosmodel"
ROUTE = [LanguagePack(code="en"), LanguagePack(code="it")]
SEED = 20_240  # not the one that the package was trained with

# Argos Translate as its users call it, but for the sentence splitter, which it would download.
STOCK = """
import json, sys
from argostranslate import package, translate

class OneSentence:
    def split_sentences(self, text):
        return [text]

package.install_from_path(sys.argv[1])
translation = translate.get_translation_from_codes("en", "it")
translation.underlying.sentencizer = OneSentence()
print(json.dumps([translation.translate(caption) for caption in json.load(sys.stdin)]))
"""


def stock_translations(captions: Sequence[str], home: Path) -> list[str]:
    """What `argostranslate` makes of the captions, in a process and a home of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ARGOS_", "XDG_"))}
    found = subprocess.run(
        [sys.executable, "-c", STOCK, str(PACKAGE)],
        input=json.dumps(captions),
        env=environment | {"HOME": str(home), "ARGOS_PACKAGES_DIR": str(home / "packages"), "ARGOS_INTRA_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    texts: list[str] = json.loads(found.stdout.splitlines()[-1])
    return texts


@pytest.fixture(scope="module")
def scenes_translator(tmp_path_factory: pytest.TempPathFactory) -> CTranslate2Translator:
    """Our engine over the package that ships."""
    config = TranslateConfig(package=(str(PACKAGE),), beam_size=4, patience=1)
    return open_translator(config, ROUTE, cache_dir=tmp_path_factory.mktemp("cache"))


def test_stock_argos_translate_says_the_same(scenes_translator: CTranslate2Translator, tmp_path: Path) -> None:
    captions = [source for source, _ in parallel_pairs(seed=SEED, num_pairs=60)]
    captions += ["a photograph of a zebra", "Two dogs, some cats & a bird."]
    ours = [found.text for found in scenes_translator.translate(captions)]
    assert ours == stock_translations(captions, tmp_path)


def test_it_knows_the_grammar_of_scenes(scenes_translator: CTranslate2Translator) -> None:
    pairs = list(parallel_pairs(seed=SEED, num_pairs=400))
    texts = [found.text for found in scenes_translator.translate([source for source, _ in pairs])]
    wrong = [(pair, text) for pair, text in zip(pairs, texts, strict=True) if pair[1] != text]
    assert len(wrong) <= 8, wrong


def test_gender_and_number_agree(scenes_translator: CTranslate2Translator) -> None:
    (found,) = scenes_translator.translate(["two red stars above a blue square"])
    assert found.text == "due stelle rosse sopra un quadrato blu"


def test_it_is_small_and_whole() -> None:
    assert PACKAGE.stat().st_size <= 5_000_000
    digest = hashlib.sha256(PACKAGE.read_bytes()).hexdigest()
    assert PACKAGE.with_name(PACKAGE.name + ".sha256").read_text() == f"{digest}  {PACKAGE.name}\n"


def test_translating_writes_nothing_at_home(tmp_path: Path) -> None:
    home, cache = tmp_path / "home", tmp_path / "cache"
    home.mkdir()
    code = """
import sys
from pathlib import Path
from data_catalog.language_pack import LanguagePack
from translation.config import TranslateConfig
from translation.registry import open_translator
import translation.memory, translation.train.config, translation.train.pairs
route = [LanguagePack(code="en"), LanguagePack(code="it")]
heavy = {"argostranslate", "ctranslate2", "sentencepiece", "torch"} & set(sys.modules)
assert not heavy, heavy
engine = open_translator(TranslateConfig(package=(sys.argv[1],)), route, cache_dir=Path(sys.argv[2]))
assert "torch" not in sys.modules
print(engine.translate(["a red star"])[0].text)
"""
    found = subprocess.run(
        [sys.executable, "-c", code, str(PACKAGE), str(cache)],
        env=os.environ | {"HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stdout) == (0, "una stella rossa\n"), found.stderr
    assert list(home.iterdir()) == []
