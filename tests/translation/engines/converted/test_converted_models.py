"""Converted models translate as `transformers` does with the originals, and are guarded like any other."""

import json
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ctranslate2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_catalog.language_pack import LanguagePack
from translation.config import TranslateConfig
from translation.engines.converted import open_engine
from translation.engines.ctranslate2_model import CTranslate2Translator
from translation.packages.package import Package
from translation.registry import open_translator

ENGLISH = LanguagePack(code="en", iso639_3="eng", flores="eng_Latn")
ITALIAN = LanguagePack(code="it", iso639_3="ita", flores="ita_Latn")
FRENCH = LanguagePack(code="fr", iso639_3="fra", flores="fra_Latn")
MODELS = ("opus", "opus_of_many", "m2m", "nllb")
CAPTIONS = [
    "two red circles",
    "four yellow diamonds on a grey background",
    "three white hearts on a pink background",
    "four brown rings",
    "two black squares on a green background",
    "two black squares and three red rings",
    "circles on circles, 3 (4)!",
]


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    """Each of the converted models in turn."""
    return request.getfixturevalue(request.param)


def opened(folder: Path, target: LanguagePack = ITALIAN, **options: Any) -> CTranslate2Translator:
    config = TranslateConfig(engine="ctranslate2", model=(str(folder),), inter_threads=1, **options)
    return open_engine(config, ENGLISH, target, Path("unused"))


def texts(engine: CTranslate2Translator, captions: list[str]) -> list[str]:
    return [found.text for found in engine.translate(captions)]


def ids(tokens: list[str], folder: Path) -> list[str]:
    """Tokens as the model sees them."""
    known = set(json.loads((folder / "shared_vocabulary.json").read_text(encoding="utf-8")))
    return [token if token in known else "<unk>" for token in tokens]


def test_greedy_translations_are_those_of_transformers(model: Any) -> None:
    engine = opened(model.folder, beam_size=1, compute_type="float32")
    found = texts(engine, CAPTIONS)
    assert found == [model.generate(caption) for caption in CAPTIONS]
    assert found[0] == "due cerchi rossi"
    assert len(set(found)) > 4


def test_encoders_get_the_tokens_of_transformers(model: Any) -> None:
    engine = opened(model.folder)
    for caption in [*CAPTIONS, "Drei Röcke, 12 €", "due cuori d’oro", "日本 two", "ﬁve ½ 𝒜", "x"]:
        assert ids(engine._tokenizer.encode(caption), model.folder) == ids(model.source_tokens(caption), model.folder)


@settings(deadline=None, max_examples=60)
@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters="<>"), max_size=30))
def test_encoders_get_the_tokens_of_transformers_for_any_text(opus: Any, m2m: Any, nllb: Any, text: str) -> None:
    caption = " ".join(text.split())
    for model in (opus, m2m, nllb):
        found = opened(model.folder)._tokenizer.encode(caption)
        expected = ids(model.source_tokens(caption), model.folder)
        spoken = {token.strip("▁") for token in expected} - {"", "</s>", "__en__", "eng_Latn"}
        assert ids(found, model.folder) == (expected if spoken else [])


def test_nothing_is_made_up_for_what_cannot_be_seen(model: Any) -> None:
    for caption in ("\u200b", "\u200b \u200b", "\u3000"):
        engine = opened(model.folder)
        assert engine._tokenizer.encode(caption) == []
        (found,) = engine.translate([caption])
        assert not any(map(str.isalnum, found.text))
        assert found.score is None


def test_nllb_is_the_same_without_its_tokenizer_json(nllb: Any, pieces: dict[str, Path], copy_of: Any) -> None:
    folder = copy_of(nllb.folder)
    (folder / "tokenizer.json").unlink()
    shutil.copy(pieces["shared"], folder / "sentencepiece.bpe.model")
    one, other = opened(nllb.folder), opened(folder)
    for caption in [*CAPTIONS, "Two Hearts: 7"]:
        assert one._tokenizer.encode(caption) == other._tokenizer.encode(caption)
    assert texts(one, CAPTIONS) == texts(other, CAPTIONS)
    assert one.alphabet == other.alphabet


def test_the_target_decides_the_language(opus_of_many: Any) -> None:
    assert texts(opened(opus_of_many.folder), ["two red circles"]) == ["due cerchi rossi"]
    assert texts(opened(opus_of_many.folder, FRENCH), ["two red circles"]) == ["two red circles"]


@pytest.mark.parametrize(("name", "prefix"), [("m2m", "__it__"), ("nllb", "ita_Latn")])
def test_the_prefix_is_asked_for_and_taken_off(name: str, prefix: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    engine = opened(model.folder, compute_type="float32")
    source = engine._tokenizer.encode("two red circles")
    (result,) = ctranslate2.Translator(str(model.folder)).translate_batch([source], target_prefix=[[prefix]])
    assert engine.model.target_prefix == result.hypotheses[0][0] == prefix
    (found,) = engine.translate(["two red circles"])
    assert found.text == "due cerchi rossi"
    # It has no score either: the mean is that of the words and the end.
    (scores,) = ctranslate2.Translator(str(model.folder)).score_batch([source], [result.hypotheses[0]])
    assert found.score == pytest.approx(sum(scores.log_probs[1:]) / len(scores.log_probs[1:]), abs=1e-3)


def test_models_of_before_2023_have_the_source_language_behind(nllb: Any, copy_of: Any) -> None:
    folder = copy_of(nllb.folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"legacy_behaviour": True}))
    assert opened(nllb.folder)._tokenizer.encode("two") == ["eng_Latn", "▁two", "</s>"]
    assert opened(folder)._tokenizer.encode("two") == ["▁two", "</s>", "eng_Latn"]


def test_an_end_that_the_model_adds_is_not_added_twice(opus: Any, copy_of: Any) -> None:
    folder = copy_of(opus.folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"add_source_eos": True, "decoder_start_token": "<s>"}))
    assert opened(folder)._tokenizer.encode("two") == ["▁two"]
    assert texts(opened(folder), CAPTIONS) == texts(opened(opus.folder), CAPTIONS)


def test_a_folder_of_opennmt_translates_as_its_package(
    tiny_package: Package, translator: CTranslate2Translator, copy_of: Any
) -> None:
    folder = copy_of(tiny_package.folder / "model")
    shutil.copy(tiny_package.folder / "sentencepiece.model", folder)
    engine = opened(folder)
    captions = ["two red circles", "three black rings on a green background", "TWO RED CIRCLES"]
    assert texts(engine, captions) == texts(translator, captions)
    assert engine.alphabet == translator.alphabet


def test_vocabularies_as_text_are_read(opus: Any, copy_of: Any) -> None:
    folder = copy_of(opus.folder)
    tokens = json.loads((folder / "shared_vocabulary.json").read_text(encoding="utf-8"))
    (folder / "shared_vocabulary.json").unlink()
    (folder / "shared_vocabulary.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    assert texts(opened(folder), CAPTIONS) == texts(opened(opus.folder), CAPTIONS)


def test_pieces_that_only_the_source_knows_have_their_spaces(opus: Any) -> None:
    assert opened(opus.folder)._tokenizer.decode(["▁due", "▁circles", "▁rossi"]) == "due circles rossi"


@pytest.mark.parametrize("word", ["</s>", "<unk>", "<pad>", "__fr__", "fra_Latn", ">>fra<<", "<s>"])
def test_names_of_special_tokens_are_text(model: Any, word: str) -> None:
    engine = opened(model.folder)
    plain = engine._tokenizer.encode("two red circles")
    found = engine._tokenizer.encode(f"two {word} red circles")
    special = ["</s>", "<s>", "<pad>", "__fr__", "fra_Latn", ">>fra<<"]
    assert [token for token in found if token in special] == [token for token in plain if token in special]
    assert len(found) > len(plain)


def test_truncation_that_was_saved_with_a_tokenizer_is_off(nllb: Any, copy_of: Any) -> None:
    folder = copy_of(nllb.folder)
    saved = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    saved["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    (folder / "tokenizer.json").write_text(json.dumps(saved), encoding="utf-8")
    assert texts(opened(folder), CAPTIONS) == texts(opened(nllb.folder), CAPTIONS)


@pytest.mark.parametrize(
    ("caption", "text"),
    [
        ("", ""),
        ("TWO RED CIRCLES", "DUE CERCHI ROSSI"),
        ("two_red\ncircles", "due cerchi rossi"),
        ("two red circles https://example.org/a_b?c=1", "due cerchi rossi https://example.org/a_b?c=1"),
        ("two red circles 🎈 שלום", "due cerchi rossi 🎈 שלום"),
    ],
)
def test_guards_are_active(model: Any, caption: str, text: str) -> None:
    assert texts(opened(model.folder), [caption]) == [text]


def test_captions_beyond_the_stored_positions_are_flagged(model: Any) -> None:
    engine = opened(model.folder)
    assert engine.model.max_positions == 48
    longest, long, short = engine.translate(
        ["two red circles and " * 30, "two red circles and " * 10, "two red circles"]
    )
    assert longest.truncated
    assert long.text
    assert (short.text, short.truncated) == ("due cerchi rossi", False)


def test_nothing_touches_the_network(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    config = TranslateConfig(engine="ctranslate2", model=(str(model.folder),), inter_threads=1)
    engine = open_translator(config, [ENGLISH, ITALIAN], cache_dir=tmp_path)
    assert engine.translate(["two red circles"])[0].text == "due cerchi rossi"
    assert list(tmp_path.iterdir()) == []


def test_fingerprint_changes_with_any_file_and_not_with_the_place(model: Any, copy_of: Callable[[Path], Path]) -> None:
    expected = opened(model.folder).fingerprint
    assert expected.startswith("ctranslate2:en-it:")
    folder = copy_of(model.folder)
    (folder / "README.md").write_text("what it is")
    assert opened(folder).fingerprint == expected
    found = set()
    for path in sorted(model.folder.iterdir()):
        changed = path.read_bytes() + b"\n"
        if path.suffix in (".spm", ".model"):  # a field of its format that nothing reads
            changed = path.read_bytes() + b"\xf8\x3f\x01"
        (folder / path.name).write_bytes(changed)
        found.add(opened(folder).fingerprint)
        shutil.copy(path, folder)
    assert len(found - {expected}) == len(list(model.folder.iterdir()))


def test_fingerprint_changes_with_the_languages(opus_of_many: Any, nllb: Any) -> None:
    found = {opened(opus_of_many.folder, target).fingerprint.split(":")[2] for target in (ITALIAN, FRENCH)}
    assert len(found) == 2
    config = TranslateConfig(engine="ctranslate2", model=(str(nllb.folder),))
    sources = [replace(ENGLISH, flores=flores) for flores in ("eng_Latn", "fra_Latn")]
    assert len({open_engine(config, source, ITALIAN, Path("unused")).fingerprint for source in sources}) == 2
