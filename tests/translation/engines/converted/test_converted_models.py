"""Converted models translate as `transformers` does with the originals; what is none is refused before any work."""

import json
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ctranslate2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_catalog.errors import InputError, PipelineError
from data_catalog.language_pack import LanguagePack
from translation.config import TranslateConfig
from translation.engines.argos import argos_translator
from translation.engines.converted import max_positions, open_engine
from translation.engines.ctranslate2_model import CTranslate2Translator
from translation.packages.package import open_package

PACKS = {
    "en": LanguagePack(code="en", iso639_3="eng", flores="eng_Latn"),
    "it": LanguagePack(code="it", iso639_3="ita", flores="ita_Latn"),
    "fr": LanguagePack(code="fr", iso639_3="fra", flores="fra_Latn"),
    "de": LanguagePack(code="de", iso639_3="deu", flores="deu_Latn"),
    "jw": LanguagePack(code="jw", flores="jav_Latn"),
    "minimal en": LanguagePack.minimal("en"),
    "minimal it": LanguagePack.minimal("it"),
}
SCENES = Path(__file__).resolve().parents[4] / "flows" / "packages" / "scenes-en_it.argosmodel"
CAPTIONS = [
    "two red circles",
    "four yellow diamonds on a grey background",
    "three white hearts on a pink background",
    "four brown rings",
    "two black squares on a green background",
    "two black squares and three red rings",
    "circles on circles, 3 (4)!",
]
CopyOf = Callable[[Path], Path]


@pytest.fixture(params=["opus", "opus_of_many", "m2m", "nllb"])
def model(request: pytest.FixtureRequest) -> Any:
    """Each of the converted models in turn."""
    return request.getfixturevalue(request.param)


def opened(folder: Path, source: str = "en", target: str = "it", **options: Any) -> CTranslate2Translator:
    config = TranslateConfig(engine="ctranslate2", model=(str(folder),), inter_threads=1, **options)
    return open_engine(config, PACKS[source], PACKS[target], Path("unused"))


def texts(engine: CTranslate2Translator, captions: list[str]) -> list[str]:
    return [found.text for found in engine.translate(captions)]


def refusal(folder: Path, source: str = "en", target: str = "it") -> str:
    with pytest.raises(PipelineError) as error:
        opened(folder, source, target)
    return str(error.value)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def test_greedy_translations_are_those_of_transformers(model: Any) -> None:
    found = texts(opened(model.folder, beam_size=1, compute_type="float32"), CAPTIONS)
    assert found == [model.generate(caption) for caption in CAPTIONS]
    assert found[0] == "due cerchi rossi"
    assert len(set(found)) > 4


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters="<>"), max_size=30))
def test_encoders_get_the_tokens_of_transformers_for_any_text(opus: Any, m2m: Any, nllb: Any, text: str) -> None:
    caption = " ".join(text.split())
    for model in (opus, m2m, nllb):
        known = set(json.loads((model.folder / "shared_vocabulary.json").read_text(encoding="utf-8")))
        found, expected = (
            [token if token in known else "<unk>" for token in tokens]
            for tokens in (opened(model.folder).encode(caption), model.source_tokens(caption))
        )
        spoken = {token.strip("▁") for token in expected} - {"", "</s>", "__en__", "eng_Latn"}
        assert found == (expected if spoken else [])


def test_nllb_is_the_same_without_its_tokenizer_json(nllb: Any, pieces: dict[str, Path], copy_of: CopyOf) -> None:
    folder = copy_of(nllb.folder)
    (folder / "tokenizer.json").unlink()
    shutil.copy(pieces["shared"], folder / "sentencepiece.bpe.model")
    one, other = opened(nllb.folder), opened(folder)
    for caption in [*CAPTIONS, "Two Hearts: 7"]:
        assert one.encode(caption) == other.encode(caption)
    assert texts(one, CAPTIONS) == texts(other, CAPTIONS)
    assert one.alphabet == other.alphabet


def test_the_languages_decide_the_text_and_the_fingerprint(opus_of_many: Any, nllb: Any) -> None:
    italian, french = opened(opus_of_many.folder), opened(opus_of_many.folder, target="fr")
    assert [texts(engine, ["two red circles"]) for engine in (italian, french)] == [["due cerchi rossi"], CAPTIONS[:1]]
    assert italian.fingerprint.split(":")[2] != french.fingerprint.split(":")[2]
    config = TranslateConfig(engine="ctranslate2", model=(str(nllb.folder),))
    sources = [replace(PACKS["en"], flores=flores) for flores in ("eng_Latn", "fra_Latn")]
    assert len({open_engine(config, source, PACKS["it"], Path("unused")).fingerprint for source in sources}) == 2


@pytest.mark.parametrize(("name", "prefix"), [("m2m", "__it__"), ("nllb", "ita_Latn")])
def test_the_prefix_is_asked_for_and_taken_off(name: str, prefix: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    engine = opened(model.folder, compute_type="float32")
    source = engine.encode("two red circles")
    (result,) = ctranslate2.Translator(str(model.folder)).translate_batch([source], target_prefix=[[prefix]])
    assert engine.model.target_prefix == result.hypotheses[0][0] == prefix
    (found,) = engine.translate(["two red circles"])
    assert found.text == "due cerchi rossi"
    # It has no score either: the mean is that of the words and the end.
    (scores,) = ctranslate2.Translator(str(model.folder)).score_batch([source], [result.hypotheses[0]])
    assert found.score == pytest.approx(sum(scores.log_probs[1:]) / len(scores.log_probs[1:]), abs=1e-3)


def test_the_folder_says_where_the_source_language_and_the_end_stand(opus: Any, nllb: Any, copy_of: CopyOf) -> None:
    folder = copy_of(nllb.folder)
    edit(folder / "tokenizer_config.json", legacy_behaviour=True)  # models of before 2023
    assert opened(nllb.folder).encode("two") == ["eng_Latn", "▁two", "</s>"]
    assert opened(folder).encode("two") == ["▁two", "</s>", "eng_Latn"]
    folder = copy_of(opus.folder)
    edit(folder / "config.json", add_source_eos=True, decoder_start_token="<s>")
    assert opened(folder).encode("two") == ["▁two"]
    assert texts(opened(folder), CAPTIONS) == texts(opened(opus.folder), CAPTIONS)


def test_a_folder_of_opennmt_translates_as_its_package(copy_of: CopyOf, tmp_path: Path) -> None:
    package = open_package(SCENES, tmp_path / "cache")
    folder = copy_of(package.folder / "model")
    shutil.copy(package.folder / "sentencepiece.model", folder)
    engine, expected = opened(folder), argos_translator(package, TranslateConfig(inter_threads=1))
    assert max_positions(folder / "model.bin") is None
    captions = ["two red circles", "three black rings on a green background", "TWO RED CIRCLES"]
    assert texts(engine, captions) == texts(expected, captions)
    assert engine.alphabet == expected.alphabet


def test_captions_beyond_the_stored_positions_are_flagged(model: Any) -> None:
    engine = opened(model.folder)
    assert engine.model.max_positions == 48
    longest, long, short = engine.translate([*("two red circles and " * number for number in (30, 10)), CAPTIONS[0]])
    assert longest.truncated
    assert long.text
    assert (short.text, short.truncated) == ("due cerchi rossi", False)


def test_nothing_touches_the_network(m2m: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "socket")
    monkeypatch.delattr(socket, "getaddrinfo")
    assert texts(opened(m2m.folder), ["two red circles https://a.org/b"]) == ["due cerchi rossi https://a.org/b"]
    assert not Path("unused").exists()


@pytest.mark.parametrize("name", ["opus", "nllb"])
def test_fingerprint_changes_with_any_file_and_not_with_the_place(name: str, request: Any, copy_of: CopyOf) -> None:
    model = request.getfixturevalue(name)
    expected = opened(model.folder).fingerprint
    assert expected.startswith("ctranslate2:en-it:")
    folder = copy_of(model.folder)
    (folder / "README.md").write_text("what it is")
    assert opened(folder).fingerprint == expected
    found = set()
    for path in sorted(model.folder.iterdir()):
        # In models of sentencepiece, a field of their format that nothing reads.
        more = b"\xf8\x3f\x01" if path.suffix in (".spm", ".model") else b"\n"
        (folder / path.name).write_bytes(path.read_bytes() + more)
        found.add(opened(folder).fingerprint)
        shutil.copy(path, folder)
    assert len(found - {expected}) == len(list(model.folder.iterdir()))


def test_what_is_no_converted_model_is_told_how_to_become_one(opus: Any, nllb: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "nowhere", tmp_path / "file"):
        assert f"{path} is not a folder" in refusal(path)
    assert "model.bin" in refusal(tmp_path)
    command = "ct2-transformers-converter --model {0} --output_dir {0}-ct2 --copy_files {1}"
    files = "source.spm target.spm vocab.json tokenizer_config.json"
    assert command.format(opus.original, files) in refusal(opus.original)
    assert command.format(nllb.original, "tokenizer.json tokenizer_config.json") in refusal(nllb.original)
    (tmp_path / "pytorch_model-00001-of-00002.bin").touch()
    assert f"run `ct2-transformers-converter --model {tmp_path} --output_dir {tmp_path}-ct2`" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("opus", "config.json", None, "has no config.json"),
        ("opus", "shared_vocabulary.json", None, "has no vocabulary"),
        ("opus", "target.spm", None, "copy source.spm and target.spm"),
        ("opus", "source.spm", "no pieces", "source.spm"),
        ("opus", "tokenizer_config.json", '{"tokenizer_class": "MBart50Tokenizer"}', "MBart50Tokenizer"),
        ("opus", "tokenizer_config.json", '{"tokenizer_class": ["MarianTokenizer", null]}', "OPUS-MT"),
        ("opus", "tokenizer_config.json", '{"separate_vocabs": true}', "target vocabulary"),
        ("m2m", "sentencepiece.bpe.model", None, "copy sentencepiece.bpe.model"),
        ("nllb", "tokenizer.json", None, "copy tokenizer.json"),
        ("nllb", "config.json", "{", "config.json is damaged"),
        ("nllb", "tokenizer_config.json", "null", "tokenizer_config.json must contain a JSON object"),
        ("nllb", "shared_vocabulary.json", "[1, 2]", "shared_vocabulary.json must contain a list of tokens"),
        ("nllb", "tokenizer.json", "{}", "tokenizer.json is damaged"),
        ("nllb", "model.bin", "abcdefgh", "layout 1684234849"),
    ],
)
def test_missing_damaged_and_other_parts_are_named(
    name: str, file: str, content: str | None, message: str, request: Any, copy_of: CopyOf
) -> None:
    folder = copy_of(request.getfixturevalue(name).folder)
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    assert message in refusal(folder)


@pytest.mark.parametrize(
    ("name", "source", "target", "message"),
    [
        ("opus", "en", "de", "target_lang = 'it'"),
        ("opus", "de", "it", "source_lang = 'en'"),
        ("opus_of_many", "en", "de", "de (de, deu, deu_Latn), it has >>fra<<, >>ita<<"),
        ("opus_of_many", "en", "minimal it", "set iso639_3"),
        ("m2m", "en", "jw", "jw (__jw__), it has __af__, __am__"),
        ("m2m", "jw", "it", "jw.toml"),
        ("nllb", "en", "de", "de (deu_Latn), it has eng_Latn, fra_Latn"),
        ("nllb", "en", "minimal it", "set flores"),
        ("nllb", "minimal en", "it", "en.toml"),
    ],
)
def test_other_languages_are_refused(name: str, source: str, target: str, message: str, request: Any) -> None:
    assert message in refusal(request.getfixturevalue(name).folder, source, target)


def test_codes_of_three_letters_are_the_same_language(opus: Any, copy_of: CopyOf) -> None:
    folder = copy_of(opus.folder)
    edit(folder / "tokenizer_config.json", source_lang="eng", target_lang="ita")
    assert opened(folder).fingerprint.startswith("ctranslate2:en-it:")
    assert "set iso639_3" in refusal(folder, target="minimal it")
    edit(folder / "tokenizer_config.json", source_lang="gem", target_lang="it")  # reads all Germanic languages
    assert opened(folder, source="de").fingerprint.startswith("ctranslate2:de-it:")


@given(share=st.floats(0, 1, exclude_max=True))
def test_a_model_that_is_cut_off_anywhere_is_refused(
    m2m: Any, tmp_path_factory: pytest.TempPathFactory, share: float
) -> None:
    content = (m2m.folder / "model.bin").read_bytes()
    path = tmp_path_factory.mktemp("cut") / "model.bin"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"model\.bin is damaged"):
        max_positions(path)
