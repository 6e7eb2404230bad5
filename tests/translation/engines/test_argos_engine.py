"""The argos engine over a real, tiny package."""

import json
import random
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import ctranslate2
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_catalog.errors import InputError, SettingsError
from data_catalog.language_pack import LanguagePack
from translation.config import TranslateConfig
from translation.engine import Translation, Translator, translate_stream
from translation.engines.argos import argos_translator
from translation.engines.ctranslate2_model import CTranslate2Translator
from translation.engines.sentences import decoding_limit, token_batches
from translation.packages.package import Package, install, read_package
from translation.registry import open_translator
from translation.train.config import TrainPackageConfig
from translation.train.model import TranslationModel, save_ctranslate2

ROUTE = [LanguagePack(code="en"), LanguagePack(code="it")]
CAPTIONS = [
    f"{number} {colour} {noun}{ground}"
    for number in ("two", "three", "four")
    for colour in ("red", "black", "white")
    for noun in ("circles", "squares", "rings")
    for ground in ("", " on a green background", " on a pink background, on a grey background and on a pink background")
]


def test_captions_of_the_trained_kind_are_translated(translator: CTranslate2Translator) -> None:
    found = translator.translate(["two red circles", "three black rings on a green background"])
    assert [item.text for item in found] == ["due cerchi rossi", "tre anelli neri su sfondo verde"]
    assert all(-1 < item.score <= 0 and not item.truncated and not item.repetitive for item in found)


def test_result_does_not_depend_on_order_or_repeats(translator: CTranslate2Translator) -> None:
    expected = dict(zip(CAPTIONS, translator.translate(CAPTIONS), strict=True))
    mixed = CAPTIONS + CAPTIONS[:20]
    random.Random(7).shuffle(mixed)
    assert translator.translate(mixed) == [expected[caption] for caption in mixed]


def test_result_does_not_depend_on_batches_in_flight(translator: CTranslate2Translator, tiny_package: Package) -> None:
    config = TranslateConfig(max_batch_tokens=64, inter_threads=1)
    one = argos_translator(tiny_package, config)
    three = argos_translator(tiny_package, replace(config, inter_threads=3))
    assert three.translate(CAPTIONS) == one.translate(CAPTIONS)
    texts = [item.text for item in translator.translate(CAPTIONS)]
    assert [item.text for item in one.translate(CAPTIONS)] == texts


def test_score_is_the_mean_log_probability_of_all_tokens(tiny_package: Package) -> None:
    exact = argos_translator(tiny_package, TranslateConfig(compute_type="float32", inter_threads=1, beam_size=1))
    model = ctranslate2.Translator(str(tiny_package.folder / "model"), compute_type="float32")
    for caption, item in zip(CAPTIONS[:5], exact.translate(CAPTIONS[:5]), strict=True):
        source = exact._tokenizer.encode(caption)
        # Greedy: of several beams CTranslate2 4.8.5 may lose the best, by the processor that trained it.
        target = model.translate_batch([source], beam_size=1)[0].hypotheses[0]
        tokens = model.score_batch([source], [target])[0].log_probs
        # The first token's probability is taken among all but the end token, which may not come first.
        assert item.score == pytest.approx(sum(tokens) / len(tokens), abs=0.002)


@pytest.mark.parametrize(
    ("caption", "text"),
    [
        ("", ""),
        (" \n\t ", ""),
        ("TWO RED CIRCLES", "DUE CERCHI ROSSI"),
        ("two red\ncircles\r\n", "due cerchi rossi"),
        ("two\u2028red circles", "due cerchi rossi"),
        ("two_red_circles", "due cerchi rossi"),
        ("Two red circles on a green background", "due cerchi rossi su sfondo verde"),
        ("two red circles. Three black rings", "due cerchi rossi tre anelli neri"),
        ("TWO RED CIRCLES! THREE BLACK RINGS", "DUE CERCHI ROSSI TRE ANELLI NERI"),
        ("two red circles 5.6", "due cerchi rossi 5.6"),
        ("two red circles https://example.org/a_b?c=1", "due cerchi rossi https://example.org/a_b?c=1"),
        ("www.example.org: two red circles", "www.example.org: due cerchi rossi"),
        ("two red circles 🎈🎈", "due cerchi rossi 🎈🎈"),
        ("two red circles שלום עליכם two red circles", "due cerchi rossi שלום עליכם due cerchi rossi"),
        ("👍", "👍"),
    ],
)
def test_captions_are_prepared(translator: CTranslate2Translator, caption: str, text: str) -> None:
    assert [item.text for item in translator.translate([caption])] == [text]


def test_a_caption_of_several_sentences_has_the_score_of_all_its_tokens(translator: CTranslate2Translator) -> None:
    one, two = translator.translate(["two red circles", "three black rings on a green background"])
    (both,) = translator.translate(["two red circles. Three black rings on a green background"])
    assert isinstance(one.score, float)
    assert isinstance(two.score, float)
    assert isinstance(both.score, float)
    assert min(one.score, two.score) - 0.2 < both.score < max(one.score, two.score) + 0.2


def test_a_caption_that_is_too_long_is_flagged(translator: CTranslate2Translator) -> None:
    longest, short = translator.translate(["two red circles and " * 600, "two red circles"])
    assert longest.truncated
    assert (short.text, short.truncated) == ("due cerchi rossi", False)


def test_captions_stream_in_order(translator: CTranslate2Translator) -> None:
    taken: list[str] = []
    captions = (taken.append(caption) or caption for caption in CAPTIONS)  # type: ignore[func-returns-value]
    stream = translate_stream(translator, captions, window=4)
    first = next(stream)
    assert len(taken) == 4  # no further ahead than a window
    texts = [first.text, *(found.text for found in stream)]
    assert texts == [found.text for found in translator.translate(CAPTIONS)]


def test_nothing_has_no_score(translator: CTranslate2Translator) -> None:
    assert translator.translate([]) == []
    assert translator.translate([""]) == [Translation(text="")]


def test_loops_get_a_second_try(translator: CTranslate2Translator, tiny_package: Package) -> None:
    caption = "red again and again"
    model = ctranslate2.Translator(str(tiny_package.folder / "model"))
    source = translator._tokenizer.encode(caption)
    stock = translator._tokenizer.decode(model.translate_batch([source], beam_size=4)[0].hypotheses[0])
    assert stock.split().count("rossi") > 3
    assert translator.translate([caption])[0].text.split().count("rossi") <= 3


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), max_size=5))
def test_any_text_gets_an_answer(translator: CTranslate2Translator, captions: list[str]) -> None:
    done: list[int] = []
    found = translator.translate(captions, done.append)
    assert len(found) == len(captions) == sum(done)
    for item in found:
        assert "\n" not in item.text
        assert item.score is None or item.score <= 0


def test_nothing_touches_the_network(tiny_argosmodel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    config = TranslateConfig(package=(str(tiny_argosmodel),), inter_threads=1)
    engine: Translator = open_translator(config, ROUTE, cache_dir=tmp_path)
    assert engine.translate(["two red circles"])[0].text == "due cerchi rossi"


def test_a_package_for_another_pair_is_refused(tiny_argosmodel: Path, tmp_path: Path) -> None:
    config = TranslateConfig(package=(str(tiny_argosmodel),))
    with pytest.raises(InputError, match="translates en to it, but en to de is needed"):
        open_translator(config, [ROUTE[0], LanguagePack(code="de")], cache_dir=tmp_path)


def test_installed_packages_are_found(
    tiny_argosmodel: Path, tiny_package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARGOS_PACKAGES_DIR", str(tmp_path / "packages"))
    with pytest.raises(InputError, match=r"no Argos package translates en to it in .*packages: install one"):
        open_translator(TranslateConfig(), ROUTE, cache_dir=tmp_path)
    install(tiny_argosmodel, tmp_path / "packages")
    engine = open_translator(TranslateConfig(), ROUTE, cache_dir=tmp_path)
    assert engine.fingerprint == argos_translator(tiny_package, TranslateConfig()).fingerprint


def test_fingerprint_names_what_decides_the_text(tiny_package: Package) -> None:
    def fingerprint(**options: int | str) -> str:
        return argos_translator(tiny_package, TranslateConfig(**options)).fingerprint  # type: ignore[arg-type]

    assert fingerprint().startswith("argos:en-it:")
    assert fingerprint(inter_threads=7) == fingerprint()
    changed = [
        fingerprint(),
        fingerprint(beam_size=1),
        fingerprint(patience=1),
        fingerprint(max_batch_tokens=1024),
        fingerprint(compute_type="float32"),
        fingerprint(intra_threads=2),
    ]
    assert len(set(changed)) == len(changed)
    other = replace(tiny_package, sha256="0" * 64)
    assert argos_translator(other, TranslateConfig()).fingerprint not in changed


@pytest.mark.parametrize(("device", "advice"), [("cpu", ""), ("cuda", ".*set translate.device=cpu$")])
def test_a_damaged_model_is_a_config_error(device: str, advice: str, tiny_package: Package, tmp_path: Path) -> None:
    model = tmp_path / "torn" / "model"
    model.mkdir(parents=True)
    for file in (tiny_package.folder / "model").iterdir():
        (model / file.name).write_bytes(file.read_bytes()[: 100 if file.name == "model.bin" else None])
    torn = replace(tiny_package, folder=model.parent)
    (model.parent / "sentencepiece.model").write_bytes((tiny_package.folder / "sentencepiece.model").read_bytes())
    engine = argos_translator(torn, TranslateConfig(inter_threads=1, device=device))
    with pytest.raises(InputError, match=f"cannot be loaded: {advice}") as caught:
        engine.translate(["two red circles"])
    assert ("device" in str(caught.value)) == bool(advice)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_size": 0}, "translate.beam_size must be positive, got 0"),
        ({"max_batch_tokens": -5}, "translate.max_batch_tokens must not be negative"),
        ({"inter_threads": -1}, "translate.inter_threads must not be negative"),
        ({"compute_type": "int4"}, "translate.compute_type must be one of"),
        ({"device": "tpu"}, "translate.device must be one of"),
        ({"engine": "Bing"}, "translate.engine must be one of argos, ctranslate2, transformers, deepl, apertium, comm"),
        ({"engine": "transformers"}, "translate.model is missing: give a folder, or a name on the hub"),
        (
            {"engine": "transformers", "model": ("x",), "compute_type": "int8"},
            "translate.compute_type must be one of d",
        ),
        (
            {"model": ("x",)},
            "translate.model is only for ctranslate2 and transformers; the engine 'argos' does not use it. Remove it",
        ),
        ({"package": ("x",), "pivot": "ca"}, "translate.package must name 2, one for each pair of languages"),
        ({"package": ("x", "y")}, "translate.package must name 1, one for each pair of languages"),
        ({"engine": "ctranslate2"}, "translate.model is missing: give the folder of a converted model"),
        ({"engine": "deepl", "pivot": "ca"}, "translate.pivot cannot be used with the engine 'deepl'"),
        ({"engine": "ctranslate2", "model": ("x",), "round_trip": True}, "translate.reverse_model is missing"),
    ],
)
def test_wrong_settings_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        TranslateConfig(**options)


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
    shuffled = dict(sorted(tokens.items(), key=lambda item: item[0][::-1]))
    assert list(token_batches(shuffled, budget)) == batches


def test_older_packages_with_a_bpe_tokenizer_work(tmp_path: Path) -> None:
    torch.manual_seed(1)
    config = TrainPackageConfig(
        vocabulary_size=9,
        embed_dim=16,
        num_heads=2,
        ffn_dim=16,
        num_encoder_layers=1,
        num_decoder_layers=1,
        dropout=0.0,
    )
    pieces = ["<unk>", "<s>", "</s>", "re@@", "d", "star", "stel@@", "la", "rossa"]
    (tmp_path / "model").mkdir()
    save_ctranslate2(TranslationModel(config), pieces, tmp_path / "model", quantization="int8")
    (tmp_path / "bpe.model").write_text("#version: 0.2\nr e\ns t\na r</w>\nst ar</w>\n")
    metadata = {"from_code": "en", "to_code": "it", "package_version": "1.0", "argos_version": "1.0"}
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    engine = argos_translator(read_package(tmp_path), TranslateConfig(inter_threads=1))
    assert engine._tokenizer.encode("red star") == ["re@@", "d", "star"]
    assert engine._tokenizer.decode(["stel@@", "la", "rossa"]) == "stella rossa"
    (found,) = engine.translate(["red star"])
    assert "@@ " not in found.text
