"""Converted models of Hugging Face translate as `transformers` does."""

import json
import shutil
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_catalog.base.errors import PipelineError
from data_catalog.base.language_pack import LanguagePack
from translation.config import TranslateConfig
from translation.engines.argos import argos_translator
from translation.engines.converted import max_positions
from translation.engines.registry import open_translator
from translation.packages.package import open_package

KNOWN = (("en", "eng", "English"), ("it", "ita", "Italian"), ("fr", "fra", ""), ("de", "deu", "German"))
PACKS = {
    **{c: LanguagePack(code=c, iso639_3=long, flores=f"{long}_Latn", name=name) for c, long, name in KNOWN},
    **{f"minimal {code}": LanguagePack.minimal(code) for code in ("en", "it", "sc")},
    "jw": LanguagePack(code="jw", flores="jav_Latn"),
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


@pytest.fixture(params=["opus", "opus_of_many", "m2m", "nllb"])
def model(request: Any) -> Any:
    return request.getfixturevalue(request.param)


def opened(folder: Path, source: str = "en", target: str = "it", **options: Any) -> Any:
    """The engine over a folder."""
    config = TranslateConfig(engine="ctranslate2", model=(str(folder),), inter_threads=1, **options)
    return open_translator(config, [PACKS[source], PACKS[target]], cache_dir=Path("unused"))


def texts(engine: Any, captions: list[str]) -> list[str]:
    return [found.text for found in engine.translate(captions)]


def refusal(folder: Path, source: str = "en", target: str = "it") -> str:
    with pytest.raises(PipelineError) as caught:
        opened(folder, source, target).translate(["two red circles"])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def test_greedy_translations_are_those_of_the_library(model: Any) -> None:
    found = texts(opened(model.ctranslate2, beam_size=1, compute_type="float32"), CAPTIONS)
    assert found == [model.generate(caption) for caption in CAPTIONS]
    assert found[0] == "due cerchi rossi"
    assert len(set(found)) > 4


@pytest.fixture(scope="module")
def encoders(opus: Any, m2m: Any, nllb: Any) -> Any:
    """Models with their engines and vocabularies."""
    vocabularies = [model.ctranslate2 / "shared_vocabulary.json" for model in (opus, m2m, nllb)]
    known = [set(json.loads(path.read_text(encoding="utf-8"))) for path in vocabularies]
    return [(model, opened(model.ctranslate2), words) for model, words in zip((opus, m2m, nllb), known, strict=True)]


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters="<>"), max_size=30))
def test_encoders_get_the_tokens_of_the_library_for_any_text(encoders: Any, text: str) -> None:
    caption = " ".join(text.split())
    for model, engine, known in encoders:
        found, expected = (
            [token if token in known else "<unk>" for token in tokens]
            for tokens in (engine.tokenizer.encode(caption), model.source_tokens(caption))
        )
        spoken = {token.strip("▁") for token in expected} - {"", "</s>", "__en__", "eng_Latn"}
        assert found == (expected if spoken else [])


def test_captions_beyond_the_stored_positions_are_flagged(model: Any) -> None:
    engine = opened(model.ctranslate2)
    assert engine.model.max_positions == 48
    longest, long, short = engine.translate([*("two red circles and " * number for number in (30, 10)), CAPTIONS[0]])
    assert longest.truncated
    assert long.text
    assert (short.text, short.truncated) == ("due cerchi rossi", False)


def test_nothing_touches_the_network_and_guards_are_active(opus: Any, monkeypatch: Any) -> None:
    monkeypatch.delattr(socket, "socket")
    monkeypatch.delattr(socket, "getaddrinfo")
    engine = opened(opus.ctranslate2)
    assert texts(engine, ["TWO_RED\nCIRCLES https://a.org/b 🎈"]) == ["DUE CERCHI ROSSI https://a.org/b 🎈"]
    assert not Path("unused").exists()


def test_the_languages_decide_the_text_and_the_fingerprint(opus_of_many: Any) -> None:
    italian, french = (opened(opus_of_many.ctranslate2, target=target) for target in ("it", "fr"))
    assert [texts(each, ["two red circles"]) for each in (italian, french)] == [["due cerchi rossi"], CAPTIONS[:1]]
    assert italian.fingerprint.split(":")[2] != french.fingerprint.split(":")[2]


def test_the_code_of_the_source_language_decides_the_fingerprint(nllb: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    english = opened(nllb.ctranslate2).fingerprint
    monkeypatch.setitem(PACKS, "en", replace(PACKS["en"], flores="fra_Latn"))
    assert opened(nllb.ctranslate2).fingerprint != english


@pytest.mark.parametrize("name", ["opus", "nllb"])
def test_fingerprint_changes_with_any_file_and_not_with_the_place(name: str, request: Any, copy_of: Any) -> None:
    original = request.getfixturevalue(name).ctranslate2
    expected, folder, found = opened(original).fingerprint, copy_of(original), set()
    assert expected.startswith("ctranslate2:en-it:")
    (folder / "README.md").write_text("what it is")
    assert opened(folder).fingerprint == expected
    for path in sorted(original.iterdir()):
        # In models of sentencepiece, a field of their format that nothing reads.
        more = b"\xf8\x3f\x01" if path.suffix in (".spm", ".model") else b"\n"
        (folder / path.name).write_bytes(path.read_bytes() + more)
        found.add(opened(folder).fingerprint)
        shutil.copy(path, folder)
    assert len(found - {expected}) == len(list(original.iterdir()))


def test_the_folder_says_where_the_source_language_and_the_end_stand(opus: Any, nllb: Any, copy_of: Any) -> None:
    folder = copy_of(nllb.ctranslate2)
    edit(folder / "tokenizer_config.json", legacy_behaviour=True)  # models of before 2023
    assert opened(nllb.ctranslate2).tokenizer.encode("two") == ["eng_Latn", "▁two", "</s>"]
    assert opened(folder).tokenizer.encode("two") == ["▁two", "</s>", "eng_Latn"]
    folder = copy_of(opus.ctranslate2)
    edit(folder / "config.json", add_source_eos=True, decoder_start_token="<s>")
    assert opened(folder).tokenizer.encode("two") == ["▁two"]
    assert texts(opened(folder), CAPTIONS) == texts(opened(opus.ctranslate2), CAPTIONS)


def test_nllb_is_the_same_without_its_tokenizer_json(nllb: Any, pieces: dict[str, Path], copy_of: Any) -> None:
    folder = copy_of(nllb.ctranslate2)
    (folder / "tokenizer.json").unlink()
    shutil.copy(pieces["shared"], folder / "sentencepiece.bpe.model")
    one, other = opened(nllb.ctranslate2), opened(folder)
    for caption in [*CAPTIONS, "Two Hearts: 7"]:
        assert one.tokenizer.encode(caption) == other.tokenizer.encode(caption)
    assert texts(one, CAPTIONS) == texts(other, CAPTIONS)
    assert one.alphabet == other.alphabet


def test_a_folder_of_opennmt_translates_as_its_package(copy_of: Any, tmp_path: Path) -> None:
    package = open_package(SCENES, tmp_path / "cache")
    folder = copy_of(package.folder / "model")
    shutil.copy(package.folder / "sentencepiece.model", folder)
    engine, expected = opened(folder), argos_translator(package, TranslateConfig(inter_threads=1))
    assert max_positions(folder / "model.bin") is None
    captions = [*CAPTIONS[:2], "TWO RED CIRCLES"]
    assert texts(engine, captions) == texts(expected, captions)
    assert engine.alphabet == expected.alphabet


def test_what_is_no_converted_model_is_told_how_to_become_one(opus: Any, nllb: Any, tmp_path: Path) -> None:
    assert f"{tmp_path / 'nowhere'} is not a folder" in refusal(tmp_path / "nowhere")
    command = "ct2-transformers-converter --model {0} --output_dir {0}-ct2 --copy_files {1}"
    files = "source.spm target.spm vocab.json tokenizer_config.json"
    assert command.format(opus.transformers, files) in refusal(opus.transformers)
    assert command.format(nllb.transformers, "tokenizer.json tokenizer_config.json") in refusal(nllb.transformers)
    assert f"run `ct2-transformers-converter --model {tmp_path} --output_dir {tmp_path}-ct2`" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("opus", "config.json", None, "config.json is missing or damaged"),
        ("opus", "shared_vocabulary.json", None, "has no vocabulary"),
        ("opus", "target.spm", None, "copy source.spm and target.spm"),
        ("opus", "source.spm", "no pieces", "source.spm"),
        ("opus", "tokenizer_config.json", '{"tokenizer_class": "MBart50Tokenizer"}', "MBart50Tokenizer"),
        ("opus", "tokenizer_config.json", '{"separate_vocabs": true}', "target vocabulary"),
        ("nllb", "tokenizer.json", None, "copy tokenizer.json"),
        ("nllb", "tokenizer_config.json", "null", "tokenizer_config.json must contain a JSON object"),
        ("nllb", "shared_vocabulary.json", "[1, 2]", "shared_vocabulary.json is damaged (no list of tokens)"),
        ("nllb", "tokenizer.json", "{}", "tokenizer.json is damaged"),
        ("nllb", "model.bin", "abcdefgh", "cannot be loaded"),
    ],
)
def test_missing_damaged_and_other_parts_are_named(
    name: str, file: str, content: str | None, message: str, request: Any, copy_of: Any
) -> None:
    folder = copy_of(request.getfixturevalue(name).ctranslate2)
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    assert message in refusal(folder)


@pytest.mark.parametrize(
    ("name", "source", "target", "message"),
    [
        ("opus", "en", "de", "target_lang = 'it'"),
        ("opus", "de", "it", "source_lang = 'en'"),
        ("opus_of_many", "en", "de", "de (>>de<<, >>deu<<, >>deu_Latn<<), it has >>fra<<, >>ita<<"),
        ("opus_of_many", "en", "minimal it", "iso639_3"),
        ("m2m", "en", "jw", "jw (__jw__), it has __af__, __am__"),
        ("m2m", "jw", "it", "jw.toml"),
        ("nllb", "en", "de", "de (deu_Latn), it has eng_Latn, fra_Latn"),
        ("nllb", "en", "minimal it", "set flores"),
        ("nllb", "minimal en", "it", "en.toml"),
    ],
)
def test_other_languages_are_refused(name: str, source: str, target: str, message: str, request: Any) -> None:
    assert message in refusal(request.getfixturevalue(name).ctranslate2, source, target)


def test_codes_of_three_letters_are_the_same_language(opus: Any, copy_of: Any) -> None:
    folder = copy_of(opus.ctranslate2)
    edit(folder / "tokenizer_config.json", source_lang="eng", target_lang="ita")
    assert opened(folder).fingerprint.startswith("ctranslate2:en-it:")
    assert "set iso639_3" in refusal(folder, target="minimal it")
    edit(folder / "tokenizer_config.json", source_lang="gem", target_lang="it")  # reads all Germanic languages
    assert opened(folder, source="de").fingerprint.startswith("ctranslate2:de-it:")


@pytest.mark.parametrize("share", [0.0, 0.9])
def test_a_model_that_is_cut_off_is_refused(share: float, m2m: Any, copy_of: Any) -> None:
    folder = copy_of(m2m.ctranslate2)
    content = (folder / "model.bin").read_bytes()
    (folder / "model.bin").write_bytes(content[: int(share * len(content))])
    assert str(folder) in refusal(folder)
