"""The argos engine over the package that ships."""

import hashlib
import json
import os
import random
import socket
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import ctranslate2
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_catalog.base.errors import InputError
from data_catalog.base.language_pack import LanguagePack
from data_catalog.sample.grammar import parallel_pairs
from training.packages.config import TrainPackageConfig
from training.packages.network import TranslationModel, save_ctranslate2
from translation.config import TranslateConfig
from translation.engines.argos import argos_translator, try_out
from translation.engines.ctranslate2_model import CTranslate2Translator, decoding_limit, token_batches
from translation.engines.registry import open_translator
from translation.packages.install import install_file
from translation.packages.package import Package, open_package, read_package

SCENES = Path(__file__).resolve().parents[3] / "flows" / "packages" / "scenes-en_it.argosmodel"
ROUTE = [LanguagePack(code="en"), LanguagePack(code="it")]
GROUNDS = ("", " on a green background", " on a pink background, on a grey background and on a pink background")
WORDS = (("two", "three", "four"), ("red", "black", "white"), ("circles", "squares", "rings"), GROUNDS)
CAPTIONS = [f"{number} {colour} {noun}{ground}" for number, colour, noun, ground in product(*WORDS)]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return open_package(SCENES, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def translator(package: Package) -> CTranslate2Translator:
    return argos_translator(package, TranslateConfig(inter_threads=1))


def test_result_depends_neither_on_batches_in_flight_nor_on_order_or_repeats(
    translator: CTranslate2Translator, package: Package
) -> None:
    config = TranslateConfig(max_batch_tokens=64, inter_threads=1)
    one = argos_translator(package, config)
    three = argos_translator(package, replace(config, inter_threads=3))
    assert three.translate(CAPTIONS) == one.translate(CAPTIONS)
    expected = dict(zip(CAPTIONS, translator.translate(CAPTIONS), strict=True))
    mixed = random.Random(7).sample(CAPTIONS + CAPTIONS[:20], len(CAPTIONS) + 20)
    assert translator.translate(mixed) == [expected[caption] for caption in mixed]
    assert [item.text for item in one.translate(CAPTIONS)] == [item.text for item in expected.values()]


def test_score_is_the_mean_log_probability_of_all_tokens(package: Package) -> None:
    exact = argos_translator(package, TranslateConfig(compute_type="float32", inter_threads=1, beam_size=1))
    model = ctranslate2.Translator(str(package.folder / "model"), compute_type="float32")
    for caption, item in zip(CAPTIONS[:5], exact.translate(CAPTIONS[:5]), strict=True):
        source = exact.tokenizer.encode(caption)
        # Greedy: of several beams CTranslate2 4.8.5 may lose the best, by the processor that trained it.
        target = model.translate_batch([source], beam_size=1)[0].hypotheses[0]
        tokens = model.score_batch([source], [target])[0].log_probs
        # The first token's probability is taken among all but the end token, which may not come first.
        assert item.score == pytest.approx(sum(tokens) / len(tokens), abs=0.002)


@pytest.mark.parametrize(
    ("caption", "text"),
    [
        ("TWO RED CIRCLES", "DUE CERCHI ROSSI"),
        ("two red circles. Three black rings", "due cerchi rossi. Tre anelli neri"),
        ("two red circles שלום עליכם two red circles", "due cerchi rossi שלום עליכם due cerchi rossi"),
        ("👍", "👍"),
    ],
)
def test_captions_are_prepared(translator: CTranslate2Translator, caption: str, text: str) -> None:
    assert [item.text for item in translator.translate([caption])] == [text]


def test_a_caption_that_is_too_long_is_flagged(translator: CTranslate2Translator) -> None:
    longest, short = translator.translate(["two red circles and " * 600, "two red circles"])
    assert longest.truncated
    assert (short.text, short.truncated, short.repetitive) == ("due cerchi rossi", False, False)
    assert -1 < short.score <= 0


def test_loops_get_a_second_try(translator: CTranslate2Translator, package: Package) -> None:
    model = ctranslate2.Translator(str(package.folder / "model"))
    source = translator.tokenizer.encode("stars")
    stock = translator.tokenizer.decode(model.translate_batch([source], beam_size=4)[0].hypotheses[0])
    assert stock.split().count("stelle") > 3
    assert translator.translate(["stars"])[0].text.split().count("stelle") <= 3


def test_installed_packages_are_found(package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARGOS_PACKAGES_DIR", str(tmp_path / "packages"))
    with pytest.raises(InputError, match=r"no Argos package translates en to it in .*packages: install one"):
        open_translator(TranslateConfig(), ROUTE, cache_dir=tmp_path)
    install_file(SCENES, tmp_path / "packages", try_out)
    monkeypatch.delattr(socket, "socket")  # nothing touches the network
    monkeypatch.delattr(socket, "getaddrinfo")
    engine = open_translator(TranslateConfig(), ROUTE, cache_dir=tmp_path)
    assert engine.fingerprint == argos_translator(package, TranslateConfig()).fingerprint
    assert engine.translate([]) == []
    assert engine.translate(["two red circles"])[0].text == "due cerchi rossi"


def test_fingerprint_names_what_decides_the_text(package: Package) -> None:
    def fingerprint(**options: int | str) -> str:
        return argos_translator(package, TranslateConfig(**options)).fingerprint

    assert fingerprint().startswith("argos:en-it:")
    assert fingerprint(inter_threads=7) == fingerprint()
    deciding = {"beam_size": 1, "patience": 1, "max_batch_tokens": 1024, "compute_type": "float32", "intra_threads": 2}
    changed = [fingerprint(), *(fingerprint(**{name: value}) for name, value in deciding.items())]
    assert len(set(changed)) == len(changed)
    other = replace(package, sha256="0" * 64)
    assert argos_translator(other, TranslateConfig()).fingerprint not in changed


@given(st.dictionaries(st.text(min_size=1), st.integers(1, 60)), st.integers(1, 300))
def test_batches_hold_each_text_once_within_the_budget(lengths: dict[str, int], budget: int) -> None:
    tokens = {text: ["x"] * length for text, length in lengths.items()}
    batches = list(token_batches(tokens, budget))
    assert sorted(text for batch in batches for text in batch) == sorted(lengths)
    for batch in batches:
        longest = lengths[batch[0]]
        assert longest == max(lengths[text] for text in batch)
        assert len(batch) == 1 or len(batch) * longest <= budget
        assert {decoding_limit(lengths[text]) for text in batch} == {decoding_limit(longest)}


# Argos Translate as its users call it, but for the sentence splitters, which it would download, and import for seconds.
STOCK = """
import json, sys
from unittest.mock import MagicMock
sys.modules |= {name: MagicMock() for name in ("minisbd", "spacy", "stanza")}
from argostranslate import package, translate

class OneSentence:
    def split_sentences(self, text):
        return [text]

package.install_from_path(sys.argv[1])
translation = translate.get_translation_from_codes("en", "it")
translation.underlying.sentencizer = OneSentence()
print(json.dumps([translation.translate(caption) for caption in json.loads(sys.argv[2])]))
"""


def test_stock_argos_translate_says_the_same(package: Package, tmp_path: Path) -> None:
    captions = [source for source, _ in parallel_pairs(seed=20_240, num_pairs=20)]
    captions += ["a photograph of a zebra", "Two dogs, some cats & a bird."]
    ours = argos_translator(package, TranslateConfig(beam_size=4, patience=1)).translate(captions)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ARGOS_", "XDG_"))}
    environment |= {"HOME": str(tmp_path), "ARGOS_PACKAGES_DIR": str(tmp_path / "p"), "ARGOS_INTRA_THREADS": "1"}
    command = [sys.executable, "-c", STOCK, str(SCENES), json.dumps(captions)]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert [translation.text for translation in ours] == json.loads(found.stdout.splitlines()[-1])


def test_the_package_that_ships_is_whole_small_and_knows_the_grammar_of_scenes(
    translator: CTranslate2Translator,
) -> None:
    assert SCENES.stat().st_size <= 5_000_000
    digest = hashlib.sha256(SCENES.read_bytes()).hexdigest()
    assert SCENES.with_name(SCENES.name + ".sha256").read_text() == f"{digest}  {SCENES.name}\n"
    pairs = list(parallel_pairs(seed=20_240, num_pairs=120))
    texts = [found.text for found in translator.translate([source for source, _ in pairs])]
    wrong = [(pair, text) for pair, text in zip(pairs, texts, strict=True) if pair[1] != text]
    assert len(wrong) <= 2, wrong


def test_older_packages_with_a_bpe_tokenizer_work(tmp_path: Path) -> None:
    torch.manual_seed(1)
    sizes = {"embed_dim": 16, "num_heads": 2, "ffn_dim": 16, "num_encoder_layers": 1, "num_decoder_layers": 1}
    config = TrainPackageConfig(vocabulary_size=9, **sizes)
    pieces = ["<unk>", "<s>", "</s>", "re@@", "d", "star", "stel@@", "la", "rossa"]
    (tmp_path / "model").mkdir()
    save_ctranslate2(TranslationModel(config), pieces, tmp_path / "model", quantization="int8")
    (tmp_path / "bpe.model").write_text("#version: 0.2\nr e\ns t\na r</w>\nst ar</w>\n")
    metadata = {"from_code": "en", "to_code": "it", "package_version": "1.0", "argos_version": "1.0"}
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    engine = argos_translator(read_package(tmp_path), TranslateConfig(inter_threads=1))
    assert engine.tokenizer.encode("red star") == ["re@@", "d", "star"]
    assert engine.tokenizer.decode(["stel@@", "la", "rossa"]) == "stella rossa"
    (found,) = engine.translate(["red star"])
    assert "@@ " not in found.text
