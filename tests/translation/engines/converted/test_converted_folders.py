"""What is no whole converted model, or none for these languages, is refused before any work, with what to do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_catalog.errors import InputError, PipelineError
from data_catalog.language_pack import LanguagePack
from translation.config import TranslateConfig
from translation.engines.converted import max_positions, open_engine
from translation.packages.package import Package

ENGLISH = LanguagePack(code="en", iso639_3="eng", flores="eng_Latn")
ITALIAN = LanguagePack(code="it", iso639_3="ita", flores="ita_Latn")
GERMAN = LanguagePack(code="de", iso639_3="deu", flores="deu_Latn")
MINIMAL = LanguagePack.minimal("it")
JAVANESE = LanguagePack(code="jw", flores="jav_Latn")


def opened(folder: Path, source: LanguagePack = ENGLISH, target: LanguagePack = ITALIAN) -> Any:
    config = TranslateConfig(engine="ctranslate2", model=(str(folder),))
    return open_engine(config, source, target, Path("unused"))


def refusal(folder: Path, source: LanguagePack = ENGLISH, target: LanguagePack = ITALIAN) -> str:
    with pytest.raises(PipelineError) as error:
        opened(folder, source, target)
    return str(error.value)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def test_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "nowhere", tmp_path / "file"):
        assert f"{path} is not a folder. Name the folder of a converted model" in refusal(path)


def test_no_model(tmp_path: Path) -> None:
    assert "has no model.bin: name a folder that a converter of CTranslate2 wrote" in refusal(tmp_path)


def test_a_model_of_transformers_is_told_how_to_be_converted(opus: Any, nllb: Any, tmp_path: Path) -> None:
    command = "ct2-transformers-converter --model {0} --output_dir {0}-ct2 --copy_files {1}"
    files = "source.spm target.spm vocab.json tokenizer_config.json"
    assert command.format(opus.original, files) in refusal(opus.original)
    assert command.format(nllb.original, "tokenizer.json tokenizer_config.json") in refusal(nllb.original)
    (tmp_path / "pytorch_model-00001-of-00002.bin").touch()
    assert f"run `ct2-transformers-converter --model {tmp_path} --output_dir {tmp_path}-ct2`" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "lost", "message"),
    [
        ("opus", "config.json", "has no config.json: convert the model with CTranslate2 3.0 or later"),
        ("opus", "shared_vocabulary.json", "has no vocabulary, such as shared_vocabulary.json: convert"),
        ("opus", "source.spm", "has no tokenizer: copy source.spm and target.spm, or sentencepiece.model from the"),
        ("opus", "target.spm", "has no tokenizer: copy source.spm and target.spm, or sentencepiece.model from the"),
        ("m2m", "sentencepiece.bpe.model", "has no tokenizer: copy sentencepiece.bpe.model from the original model"),
        ("nllb", "tokenizer.json", "has no tokenizer: copy tokenizer.json, or sentencepiece.bpe.model from the"),
    ],
)
def test_missing_parts_are_named(name: str, lost: str, message: str, request: Any, copy_of: Any) -> None:
    folder = copy_of(request.getfixturevalue(name).folder)
    (folder / lost).unlink()
    assert message in refusal(folder)


@pytest.mark.parametrize("name", ["opus", "m2m", "nllb"])
def test_without_a_tokenizer_config_the_vocabulary_tells(name: str, request: Any, copy_of: Any) -> None:
    model = request.getfixturevalue(name)
    folder = copy_of(model.folder)
    (folder / "tokenizer_config.json").unlink()
    found, expected = opened(folder), opened(model.folder)
    assert found._tokenizer.encode("two red circles") == expected._tokenizer.encode("two red circles")
    assert found.translate(["two red circles"]) == expected.translate(["two red circles"])


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", "{", "config.json is damaged"),
        ("config.json", "[]", "config.json must contain a JSON object"),
        ("tokenizer_config.json", '{"a": ', "tokenizer_config.json is damaged"),
        ("tokenizer_config.json", "null", "tokenizer_config.json must contain a JSON object"),
        ("shared_vocabulary.json", '{"a": 1}', "shared_vocabulary.json must contain a list of tokens"),
        ("shared_vocabulary.json", "[1, 2]", "shared_vocabulary.json must contain a list of tokens"),
        ("shared_vocabulary.json", '["a', "shared_vocabulary.json is damaged"),
        ("tokenizer.json", "{}", "tokenizer.json is damaged"),
        ("tokenizer.json", '{"version": "1.0"', "tokenizer.json is damaged"),
        ("model.bin", "", "model.bin is damaged, or not a CTranslate2 model: convert or copy it again"),
        ("model.bin", "abcdefgh", "model.bin has layout 1684234849, not 6: convert the model with CTranslate2 4"),
    ],
)
def test_damage_is_named(file: str, content: str, message: str, nllb: Any, copy_of: Any) -> None:
    folder = copy_of(nllb.folder)
    (folder / file).write_text(content)
    assert message in refusal(folder)


def test_damaged_text_and_sentencepiece_are_named(opus: Any, copy_of: Any) -> None:
    folder = copy_of(opus.folder)
    (folder / "source.spm").write_bytes(b"\x00" * 50)
    assert "source.spm is not a complete sentencepiece model: copy it from the original again" in refusal(folder)
    (folder / "shared_vocabulary.json").unlink()
    (folder / "shared_vocabulary.txt").write_bytes(b"a\n\xff\xfe\n")
    assert "shared_vocabulary.txt is damaged" in refusal(folder)


def test_other_tokenizers_are_refused(opus: Any, copy_of: Any) -> None:
    folder = copy_of(opus.folder)
    edit(folder / "tokenizer_config.json", tokenizer_class="MBart50Tokenizer")
    assert "has a MBart50Tokenizer: only OPUS-MT (Marian), M2M-100, NLLB and OpenNMT models" in refusal(folder)
    edit(folder / "tokenizer_config.json", tokenizer_class=["MarianTokenizer", None])
    assert "only OPUS-MT (Marian), M2M-100, NLLB and OpenNMT models" in refusal(folder)
    edit(folder / "tokenizer_config.json", tokenizer_class="MarianTokenizer", separate_vocabs=True)
    assert "lost its target vocabulary when it was converted" in refusal(folder)


@pytest.mark.parametrize(
    ("name", "source", "target", "message"),
    [
        ("opus", ENGLISH, GERMAN, "has target_lang = 'it' in tokenizer_config.json, but de is needed. Name another"),
        ("opus", GERMAN, ITALIAN, "has source_lang = 'en' in tokenizer_config.json, but de is needed. Name another"),
        ("opus_of_many", ENGLISH, GERMAN, "has no token for de (de, deu, deu_Latn), it has >>fra<<, >>ita<<: name"),
        ("opus_of_many", ENGLISH, MINIMAL, "or set iso639_3 in the language pack it.toml"),
        ("m2m", ENGLISH, JAVANESE, "has no token for jw (__jw__), it has __af__, __am__, __ar__"),
        ("m2m", JAVANESE, ITALIAN, "or correct the codes in the language pack jw.toml"),
        ("nllb", ENGLISH, GERMAN, "has no token for de (deu_Latn), it has eng_Latn, fra_Latn, ita_Latn: name another"),
        ("nllb", ENGLISH, MINIMAL, "is an NLLB model, and the FLORES code of it is not known: set flores, such as"),
        (
            "nllb",
            LanguagePack.minimal("en"),
            ITALIAN,
            'language_packs = ["en.toml"], or with --language-pack en.toml',
        ),
    ],
)
def test_other_languages_are_refused(
    name: str, source: LanguagePack, target: LanguagePack, message: str, request: Any
) -> None:
    assert message in refusal(request.getfixturevalue(name).folder, source, target)


def test_codes_of_three_letters_are_the_same_language(opus: Any, copy_of: Any) -> None:
    folder = copy_of(opus.folder)
    edit(folder / "tokenizer_config.json", source_lang="eng", target_lang="ita")
    assert opened(folder).fingerprint.startswith("ctranslate2:en-it:")
    assert "if that is the same language, set iso639_3 in the language pack it.toml" in refusal(folder, target=MINIMAL)
    edit(folder / "tokenizer_config.json", source_lang="gem", target_lang="it")  # reads all Germanic languages
    assert opened(folder, GERMAN).fingerprint.startswith("ctranslate2:de-it:")


def test_a_model_of_one_target_needs_no_token_even_if_it_has_some(opus_of_many: Any, copy_of: Any) -> None:
    folder = copy_of(opus_of_many.folder)
    edit(folder / "tokenizer_config.json", target_lang="de")
    assert opened(folder, target=GERMAN)._tokenizer.encode("two") == ["▁two", "</s>"]


def test_m2m_without_its_languages_says_so(m2m: Any, copy_of: Callable[[Path], Path]) -> None:
    folder = copy_of(m2m.folder)
    path = folder / "shared_vocabulary.json"
    tokens = [token.strip("_") for token in json.loads(path.read_text(encoding="utf-8"))]
    path.write_text(json.dumps(tokens), encoding="utf-8")
    assert "has no token for en (__en__, __eng__), it has none" in refusal(folder)


def test_stored_positions_are_found(opus: Any, m2m: Any, tiny_package: Package) -> None:
    assert max_positions(opus.folder / "model.bin") == max_positions(m2m.folder / "model.bin") == 48
    assert max_positions(tiny_package.folder / "model" / "model.bin") is None


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_model_that_is_cut_off_anywhere_is_refused(
    m2m: Any, tmp_path_factory: pytest.TempPathFactory, share: float
) -> None:
    content = (m2m.folder / "model.bin").read_bytes()
    path = tmp_path_factory.mktemp("cut") / "model.bin"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"model\.bin is damaged"):
        max_positions(path)
