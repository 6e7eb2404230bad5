"""Models of Hugging Face, converted or not, translate as `transformers` does; a folder is trusted in nothing."""

import json
import random
import shutil
import socket
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
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
ENGINES = ["ctranslate2", "transformers"]
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


def opened(folder: Path | str, source: str = "en", target: str = "it", engine: str = "", **options: Any) -> Any:
    """The engine over a folder: by what it holds, or the one that is named."""
    engine = engine or ENGINES[not (Path(folder) / "model.bin").exists()]
    fixed = {"inter_threads": 1} if engine == "ctranslate2" else {"device": "cpu"}
    config = TranslateConfig(engine=engine, model=(str(folder),), **(fixed | options))
    return open_translator(config, [PACKS[source], PACKS[target]], cache_dir=Path("unused"))


def texts(engine: Any, captions: list[str]) -> list[str]:
    return [found.text for found in engine.translate(captions)]


def refusal(folder: Path | str, source: str = "en", target: str = "it", engine: str = "") -> str:
    with pytest.raises(PipelineError) as caught:
        opened(folder, source, target, engine).translate(["two red circles"])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


@pytest.mark.parametrize("engine", ENGINES)
def test_greedy_translations_are_those_of_the_library(engine: str, model: Any) -> None:
    found = texts(opened(getattr(model, engine), beam_size=1, compute_type="float32"), CAPTIONS)
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
            for tokens in (engine.encode(caption), model.source_tokens(caption))
        )
        spoken = {token.strip("▁") for token in expected} - {"", "</s>", "__en__", "eng_Latn"}
        assert found == (expected if spoken else [])


def test_a_score_is_that_of_the_beam_search(opus: Any) -> None:
    (found,) = opened(opus.transformers, beam_size=3).translate(CAPTIONS[:1])
    inputs = opus.tokenizer(CAPTIONS[0], return_tensors="pt")
    scored = {"max_length": 40, "return_dict_in_generate": True, "output_scores": True}
    with torch.no_grad():
        written = opus.network.generate(**inputs, num_beams=3, do_sample=False, **scored)
    assert found.text == opus.tokenizer.decode(written.sequences[0], skip_special_tokens=True)
    assert found.score == pytest.approx(float(written.sequences_scores[0]), abs=1e-4)


@pytest.mark.parametrize("name", ["opus", "m2m"])
def test_the_same_captions_give_the_same_translations_in_any_order(name: str, request: Any) -> None:
    engine = opened(request.getfixturevalue(name).transformers, max_batch_tokens=60)
    captions, done = ["", *CAPTIONS, *(f"two {caption}" for caption in CAPTIONS)], list[int]()
    first = engine.translate([*captions, captions[1]], done.append)
    assert sum(done) == len(captions) + 1
    assert len(done) > 3
    shuffled = random.Random(1).sample(captions, len(captions))
    again = dict(zip(shuffled, engine.translate(shuffled), strict=True))
    assert first == [again[caption] for caption in [*captions, captions[1]]]
    assert all(found.score is not None and -20 < found.score <= 0 for found in first[1:])


def test_captions_beyond_the_stored_positions_are_flagged(model: Any) -> None:
    engine = opened(model.ctranslate2)
    assert engine.model.max_positions == 48
    longest, long, short = engine.translate([*("two red circles and " * number for number in (30, 10)), CAPTIONS[0]])
    assert longest.truncated
    assert long.text
    assert (short.text, short.truncated) == ("due cerchi rossi", False)


@pytest.mark.parametrize("options", [{"engine": "ctranslate2"}, {"engine": "transformers", "compute_type": "bfloat16"}])
def test_nothing_touches_the_network_and_guards_are_active(opus: Any, monkeypatch: Any, options: Any) -> None:
    monkeypatch.delattr(socket, "socket")
    monkeypatch.delattr(socket, "getaddrinfo")
    engine = opened(getattr(opus, options["engine"]), **options)
    assert texts(engine, ["TWO_RED\nCIRCLES https://a.org/b 🎈"]) == ["DUE CERCHI ROSSI https://a.org/b 🎈"]
    assert not Path("unused").exists()


@pytest.mark.parametrize("engine", ENGINES)
def test_the_languages_decide_the_text_and_the_fingerprint(engine: str, opus_of_many: Any) -> None:
    italian, french = (opened(getattr(opus_of_many, engine), target=target) for target in ("it", "fr"))
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


def test_the_fingerprint_of_an_unconverted_model_follows_its_files_and_settings(opus: Any, copy_of: Any) -> None:
    expected, folder = opened(opus.transformers).fingerprint, copy_of(opus.transformers)
    (folder / "README.md").write_text("what it is")
    assert opened(folder).fingerprint == expected
    changed = opened(folder, beam_size=4).fingerprint
    edit(folder / "config.json", note=1)
    assert len({expected, changed, opened(folder).fingerprint}) == 3


def test_what_a_folder_says_of_decoding_is_not_heard(opus: Any, copy_of: Any) -> None:
    folder = copy_of(opus.transformers)
    said = {"do_sample": True, "temperature": 9.0, "num_beams": 7, "max_length": 3, "repetition_penalty": 5.0}
    edit(folder / "generation_config.json", **said)
    assert texts(opened(folder), CAPTIONS) == texts(opened(opus.transformers), CAPTIONS)


def test_the_folder_says_where_the_source_language_and_the_end_stand(opus: Any, nllb: Any, copy_of: Any) -> None:
    folder = copy_of(nllb.ctranslate2)
    edit(folder / "tokenizer_config.json", legacy_behaviour=True)  # models of before 2023
    assert opened(nllb.ctranslate2).encode("two") == ["eng_Latn", "▁two", "</s>"]
    assert opened(folder).encode("two") == ["▁two", "</s>", "eng_Latn"]
    folder = copy_of(opus.ctranslate2)
    edit(folder / "config.json", add_source_eos=True, decoder_start_token="<s>")
    assert opened(folder).encode("two") == ["▁two"]
    assert texts(opened(folder), CAPTIONS) == texts(opened(opus.ctranslate2), CAPTIONS)


def test_nllb_is_the_same_without_its_tokenizer_json(nllb: Any, pieces: dict[str, Path], copy_of: Any) -> None:
    folder = copy_of(nllb.ctranslate2)
    (folder / "tokenizer.json").unlink()
    shutil.copy(pieces["shared"], folder / "sentencepiece.bpe.model")
    one, other = opened(nllb.ctranslate2), opened(folder)
    for caption in [*CAPTIONS, "Two Hearts: 7"]:
        assert one.encode(caption) == other.encode(caption)
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
    told = partial(refusal, engine="ctranslate2")
    assert f"{tmp_path / 'nowhere'} is not a folder" in told(tmp_path / "nowhere")
    command = "ct2-transformers-converter --model {0} --output_dir {0}-ct2 --copy_files {1}"
    files = "source.spm target.spm vocab.json tokenizer_config.json"
    assert command.format(opus.transformers, files) in told(opus.transformers)
    assert command.format(nllb.transformers, "tokenizer.json tokenizer_config.json") in told(nllb.transformers)
    assert f"run `ct2-transformers-converter --model {tmp_path} --output_dir {tmp_path}-ct2`" in told(tmp_path)


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
    model = request.getfixturevalue(name)
    assert message in refusal(model.ctranslate2, source, target)
    if target == "de" and name != "opus":
        assert message.partition("it has")[2] in refusal(model.transformers, source, target)


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


LAYERS = ("layers", "attention_heads", "ffn_dim")
SIZES = {
    f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in zip(LAYERS, (1, 2, 16), strict=True)
}
SMALL = {"d_model": 16, "max_position_embeddings": 32, **SIZES}
SMALL_T5 = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
TOKENS = ["▁translate", "▁English", "▁to", "▁Italian", ":", "▁two", "▁dogs", "▁due", "▁cani", "▁", "a", "b"]


def saved(folder: Path, network: str, tokenizer: Any, **settings: Any) -> Path:
    """A model with random weights: `network` is its name in `transformers`."""
    import transformers

    kind = getattr(transformers, f"{network}ForConditionalGeneration")
    torch.manual_seed(1)
    kind(kind.config_class(vocab_size=len(tokenizer), **settings)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def pieces_of(*tokens: str) -> list[tuple[str, float]]:
    return [(token, float(-number)) for number, token in enumerate(tokens)]


def t5(folder: Path, *more: str) -> Path:
    from transformers import T5Tokenizer

    vocabulary = pieces_of("<pad>", "</s>", "<unk>", *TOKENS, *more)
    return saved(folder, "T5", T5Tokenizer(vocab=vocabulary, extra_ids=0), **SMALL_T5)


def tokens(engine: Any, sentence: str) -> list[str]:
    found: list[str] = engine._vocabulary.tokenizer.convert_ids_to_tokens(engine.encode(sentence))
    return found


def test_t5_is_asked_in_english_and_madlad_by_a_token(tmp_path: Path) -> None:
    engine = opened(t5(tmp_path / "t5"))
    asked = ["▁translate", "▁English", "▁to", "▁Italian", ":", "▁two", "▁dogs", "</s>"]
    assert tokens(engine, "two dogs") == asked
    assert len(engine.translate(["two dogs"])) == 1
    assert "the name of fr is not known" in refusal(tmp_path / "t5", target="fr")
    *first, two, dogs, end = tokens(opened(t5(tmp_path / "madlad", "▁<2it>", "<2it>")), "two dogs")
    assert (two, dogs, end) == ("▁two", "▁dogs", "</s>")
    assert "<2it>" in "".join(first)
    assert "de (<2de>, <2deu>, <2deu_Latn>), it has <2it>" in refusal(tmp_path / "madlad", target="de")


@pytest.mark.parametrize(
    ("kind", "with_special", "given"),
    [
        ("MBart50", ["en_XX", "▁two", "▁dogs", "</s>"], ["</s>", "it_IT"]),
        ("MBart", ["▁two", "▁dogs", "</s>", "en_XX"], ["it_IT"]),
    ],
)
def test_mbart_wants_its_languages(kind: str, with_special: list[str], given: list[str], tmp_path: Path) -> None:
    import transformers

    vocabulary = pieces_of("<unk>", "<s>", "</s>", *TOKENS)
    tokenizer = getattr(transformers, f"{kind}Tokenizer")(vocab=vocabulary, src_lang="en_XX", tgt_lang="it_IT")
    engine = opened(saved(tmp_path, "MBart", tokenizer, decoder_start_token_id=2, **SMALL))
    assert tokens(engine, "two dogs") == with_special
    (found,) = engine.translate(["two dogs " * 40])
    assert found.truncated
    ids = torch.tensor([engine.encode("two dogs")])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    written = engine._model.generate(inputs, 8, 0)[0].tolist()
    assert engine._vocabulary.tokenizer.convert_ids_to_tokens(written[: len(given)]) == given
    assert "has no token for" in refusal(tmp_path, target="minimal sc")


def test_other_models_translate_with_a_warning_that_no_language_is_selected(tmp_path: Path, caplog: Any) -> None:
    from transformers import T5Tokenizer

    tokenizer = T5Tokenizer(vocab=pieces_of("<pad>", "</s>", "<unk>", *TOKENS), extra_ids=0)
    engine = opened(saved(tmp_path, "Bart", tokenizer, **SMALL))
    assert "assumed to translate en to it" in caplog.text
    assert tokens(engine, "two dogs") == ["▁two", "▁dogs", "</s>"]
    assert len(engine.translate(["two dogs", "a"])) == 2


PICKLE = b"\x80\x04cos\nsystem\n(S'touch pickled'\ntR."
INDEX = json.dumps({"weight_map": {"a": "evil.bin"}, "metadata": {}}).encode()
CODE = {"auto_map": {"AutoConfig": "mine.C", "AutoModelForSeq2SeqLM": "mine.M"}, "model_type": "mine"}
WEIGHTS = "model.safetensors"
NO_WEIGHTS = {WEIGHTS: None}
HOSTILE: dict[str, tuple[dict[str, bytes | int | None], dict[str, object], str]] = {
    # Files to write, to cut to a number of bytes or to remove; what config.json says; what is told.
    "pickles": (NO_WEIGHTS | {"pytorch_model.bin": PICKLE}, {}, "pickles"),
    "an index": (NO_WEIGHTS | {"evil.bin": PICKLE, f"{WEIGHTS}.index.json": INDEX}, {}, "not safetensors"),
    "other weights": ({"a.bin": PICKLE}, {"transformers_weights": "a.bin"}, "a.bin"),
    "code": ({"mine.py": b"open('ran', 'w')\n"}, CODE, "cannot be opened ("),
    "a kernel": ({}, {"attn_implementation": "evil/kernel"}, "code that is not part of it"),
    "an adapter": ({"adapter_config.json": b"{}"}, {}, "is an adapter"),
    "layers": ({}, {"encoder_layers": 10**9}, "encoder_layers = 1000000000"),
    "another kind": ({}, {"model_type": "bert"}, "bert"),
    "more layers than weights": ({}, {"encoder_layers": 2}, "model.encoder.layers.1."),
    "cut weights": ({WEIGHTS: 2000}, {}, "cannot be loaded ("),
    "a deep config": ({"config.json": b"[" * 100_000}, {}, "config.json is missing or damaged"),
    "cut tokenizer": ({"source.spm": 2000}, {}, "cannot be opened ("),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_or_damaged_folder(name: str, opus: Any, copy_of: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    folder = copy_of(opus.transformers)
    files, config, message = HOSTILE[name]
    edit(folder / "config.json", **config)
    for file, content in files.items():
        if content is None:
            (folder / file).unlink()
            continue
        written = (folder / file).read_bytes()[:content] if isinstance(content, int) else content
        (folder / file).write_bytes(written)
    assert message in refusal(folder)
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "pickled").exists()


def test_names_of_the_hub(monkeypatch: pytest.MonkeyPatch, opus: Any) -> None:
    import huggingface_hub

    asked: list[tuple[str, str | None]] = []

    def fetched(repository: str, *, revision: str | None, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        asked.append((repository, revision))
        assert not any(pattern.endswith((".bin", ".py", ".pt")) for pattern in allow_patterns)
        return str(opus.transformers)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetched)
    assert opened("Helsinki-NLP/opus-mt-en-it").fingerprint == opened(opus.transformers).fingerprint
    opened("Helsinki-NLP/opus-mt-en-it@refs/pr/1")
    assert asked == [("Helsinki-NLP/opus-mt-en-it", None), ("Helsinki-NLP/opus-mt-en-it", "refs/pr/1")]
    monkeypatch.setattr(huggingface_hub, "snapshot_download", Mock(side_effect=OSError("no network\nhere")))
    assert "(no network here)" in refusal("some/model")
    for name in ("./no-such", "/no/such", "a/b/c", "a b"):
        assert f"translate.model: {name} is not a folder" in refusal(name)
