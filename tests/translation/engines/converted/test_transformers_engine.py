"""Models of `transformers`, unconverted: they translate as the library does, and a folder is trusted in nothing."""

import json
import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from data_catalog.errors import PipelineError
from data_catalog.language_pack import LanguagePack
from translation.config import TranslateConfig
from translation.engines.transformers_model import TransformersTranslator
from translation.registry import open_translator

ENGLISH = LanguagePack(code="en", iso639_3="eng", flores="eng_Latn", name="English")
ITALIAN = LanguagePack(code="it", iso639_3="ita", flores="ita_Latn", name="Italian")
FRENCH = LanguagePack(code="fr", iso639_3="fra", flores="fra_Latn")
GERMAN = LanguagePack(code="de", iso639_3="deu", flores="deu_Latn", name="German")
CAPTIONS = [
    "two red circles",
    "four yellow diamonds on a grey background",
    "two black squares and three red rings",
    "circles on circles, 3 (4)!",
]

CopyOf = Callable[[Path], Path]


@pytest.fixture(params=["opus", "opus_of_many", "m2m", "nllb"])
def model(request: pytest.FixtureRequest) -> Any:
    """Each of the trained models in turn."""
    return request.getfixturevalue(request.param)


def opened(folder: Path | str, target: LanguagePack = ITALIAN, **options: Any) -> TransformersTranslator:
    config = TranslateConfig(engine="transformers", model=(str(folder),), **{"device": "cpu", **options})
    found = open_translator(config, [ENGLISH, target], cache_dir=Path("unused"))
    assert isinstance(found, TransformersTranslator)
    return found


def texts(engine: TransformersTranslator, captions: list[str]) -> list[str]:
    return [found.text for found in engine.translate(captions)]


def refusal(folder: Path | str, target: LanguagePack = ITALIAN, **options: Any) -> str:
    with pytest.raises(PipelineError) as caught:
        opened(folder, target, **options).translate(["two red circles"])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_greedy_translations_are_those_of_the_library(model: Any) -> None:
    found = texts(opened(model.original, beam_size=1), CAPTIONS)
    assert found == [model.generate(caption) for caption in CAPTIONS]
    assert found[0] == "due cerchi rossi"


def test_a_score_is_that_of_the_beam_search(opus: Any) -> None:
    caption = "two red circles"
    (found,) = opened(opus.original, beam_size=3).translate([caption])
    inputs = opus.tokenizer(caption, return_tensors="pt")
    with torch.no_grad():
        written = opus.network.generate(
            **inputs, num_beams=3, do_sample=False, max_length=40, return_dict_in_generate=True, output_scores=True
        )
    assert found.text == opus.tokenizer.decode(written.sequences[0], skip_special_tokens=True)
    assert found.score == pytest.approx(float(written.sequences_scores[0]), abs=1e-4)


@pytest.mark.parametrize("name", ["opus", "m2m"])
def test_the_same_captions_give_the_same_translations_in_any_order(name: str, request: pytest.FixtureRequest) -> None:
    engine = opened(request.getfixturevalue(name).original, max_batch_tokens=60)
    captions, done = ["", *CAPTIONS, *(f"two {caption}" for caption in CAPTIONS)], list[int]()
    first = engine.translate([*captions, captions[1]], done.append)
    assert sum(done) == len(captions) + 1
    assert len(done) > 3
    shuffled = random.Random(1).sample(captions, len(captions))
    again = dict(zip(shuffled, engine.translate(shuffled), strict=True))
    assert first == [again[caption] for caption in [*captions, captions[1]]]
    assert all(found.score is not None and -20 < found.score <= 0 for found in first[1:])


def test_nothing_touches_the_network_and_guards_are_active(opus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "socket")
    monkeypatch.delattr(socket, "getaddrinfo")
    found = texts(opened(opus.original, compute_type="bfloat16"), ["TWO_RED\nCIRCLES https://a.org/b 🎈"])
    assert found == ["DUE CERCHI ROSSI https://a.org/b 🎈"]


def test_the_target_decides_the_language(opus_of_many: Any, nllb: Any) -> None:
    assert texts(opened(opus_of_many.original, FRENCH), ["two red circles"]) == ["two red circles"]
    fingerprints = {opened(opus_of_many.original, target).fingerprint.split(":")[2] for target in (ITALIAN, FRENCH)}
    assert len(fingerprints) == 2
    assert "it has >>fra<<, >>ita<<" in refusal(opus_of_many.original, GERMAN)
    assert "it has eng_Latn, fra_Latn, ita" in refusal(nllb.original, GERMAN)


def test_fingerprint_changes_with_any_deciding_file_and_not_with_the_place(opus: Any, copy_of: CopyOf) -> None:
    expected, folder = opened(opus.original).fingerprint, copy_of(opus.original)
    (folder / "README.md").write_text("what it is")
    assert opened(folder).fingerprint == expected
    changed = opened(folder, beam_size=4).fingerprint
    config(note=1)(folder)
    assert len({expected, changed, opened(folder).fingerprint}) == 3


def test_what_a_folder_says_of_decoding_is_not_heard(opus: Any, copy_of: CopyOf) -> None:
    folder = copy_of(opus.original)
    said = {"do_sample": True, "temperature": 9.0, "num_beams": 7, "max_length": 3, "repetition_penalty": 5.0}
    config("generation_config.json", **said)(folder)
    assert texts(opened(folder), CAPTIONS) == texts(opened(opus.original), CAPTIONS)


SMALL = {
    "d_model": 16,
    **dict.fromkeys(["encoder_layers", "decoder_layers"], 1),
    **dict.fromkeys(["encoder_attention_heads", "decoder_attention_heads"], 2),
    **dict.fromkeys(["encoder_ffn_dim", "decoder_ffn_dim"], 16),
    "max_position_embeddings": 32,
}
SMALL_T5 = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
T5_TOKENS = ["▁translate", "▁English", "▁to", "▁Italian", ":", "▁two", "▁dogs", "▁due", "▁cani", "▁", "a", "b"]


def saved(folder: Path, network: str, tokenizer: Any, **settings: Any) -> Path:
    """A model with random weights: `network` is its name in `transformers`."""
    import transformers

    kind = getattr(transformers, network)
    torch.manual_seed(1)
    kind(kind.config_class(vocab_size=len(tokenizer), **settings)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def t5(folder: Path, *more: str) -> Path:
    from transformers import T5Tokenizer

    vocabulary = [(token, float(-number)) for number, token in enumerate(["<pad>", "</s>", "<unk>", *T5_TOKENS, *more])]
    return saved(folder, "T5ForConditionalGeneration", T5Tokenizer(vocab=vocabulary, extra_ids=0), **SMALL_T5)


def tokens(engine: TransformersTranslator, sentence: str) -> list[str]:
    found: list[str] = engine._vocabulary.tokenizer.convert_ids_to_tokens(engine.encode(sentence))
    return found


def test_t5_is_asked_in_english_and_madlad_by_a_token(tmp_path: Path) -> None:
    engine = opened(t5(tmp_path / "t5"))
    asked = ["▁translate", "▁English", "▁to", "▁Italian", ":", "▁two", "▁dogs", "</s>"]
    assert tokens(engine, "two dogs") == asked
    assert len(engine.translate(["two dogs"])) == 1
    assert "the name of fr is not known" in refusal(tmp_path / "t5", FRENCH)
    *first, two, dogs, end = tokens(opened(t5(tmp_path / "madlad", "▁<2it>", "<2it>")), "two dogs")
    assert (two, dogs, end) == ("▁two", "▁dogs", "</s>")
    assert "<2it>" in "".join(first)
    assert "de (<2de>, <2deu>, <2deu_Latn>), it has <2it>" in refusal(tmp_path / "madlad", GERMAN)


@pytest.mark.parametrize(
    ("kind", "with_special", "given"),
    [
        ("MBart50", ["en_XX", "▁two", "▁dogs", "</s>"], ["</s>", "it_IT"]),
        ("MBart", ["▁two", "▁dogs", "</s>", "en_XX"], ["it_IT"]),
    ],
)
def test_mbart_wants_its_languages(kind: str, with_special: list[str], given: list[str], tmp_path: Path) -> None:
    import transformers

    pieces = [(token, float(-number)) for number, token in enumerate(["<unk>", "<s>", "</s>", *T5_TOKENS])]
    tokenizer = getattr(transformers, f"{kind}Tokenizer")(vocab=pieces, src_lang="en_XX", tgt_lang="it_IT")
    engine = opened(saved(tmp_path, "MBartForConditionalGeneration", tokenizer, decoder_start_token_id=2, **SMALL))
    assert tokens(engine, "two dogs") == with_special
    (found,) = engine.translate(["two dogs " * 40])
    assert found.truncated
    written = engine._model.generate(engine._padded([engine.encode("two dogs")]), 8, 0)[0].tolist()
    assert engine._vocabulary.tokenizer.convert_ids_to_tokens(written[: len(given)]) == given
    assert "has no token for" in refusal(tmp_path, LanguagePack(code="sc"))


def test_a_model_that_says_nothing_of_languages(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    numbers = {token: number for number, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "▁a", "▁two", "▁dogs"])}
    raw = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", numbers["<s>"]), ("</s>", numbers["</s>"])]
    )
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, **special)
    engine = opened(saved(tmp_path, "BartForConditionalGeneration", tokenizer, **SMALL))
    assert "assumed to translate en to it" in caplog.text
    assert tokens(engine, "two dogs") == ["<s>", "▁two", "▁dogs", "</s>"]
    assert len(engine.translate(["two dogs", "a"])) == 2


PICKLE = b"\x80\x04cos\nsystem\n(S'touch pickled'\ntR."


def config(name: str = "config.json", **values: Any) -> Callable[[Path], None]:
    """Change what a file of settings says."""

    def change(folder: Path) -> None:
        known = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps(known | values), encoding="utf-8")

    return change


def file(name: str, content: bytes | str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def cut(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:2000])


INDEX = json.dumps({"weight_map": {"a": "evil.bin"}, "metadata": {}})
CODE = config(auto_map={"AutoConfig": "mine.C", "AutoModelForSeq2SeqLM": "mine.M"}, model_type="mine")
WEIGHTS = "model.safetensors"
HOSTILE: dict[str, tuple[Any, ...]] = {
    "pickles": (remove(WEIGHTS), file("pytorch_model.bin", PICKLE), "pickles"),
    "an index": (remove(WEIGHTS), file("evil.bin", PICKLE), file(f"{WEIGHTS}.index.json", INDEX), "not safetensors"),
    "other weights": (file("a.bin", PICKLE), config(transformers_weights="a.bin"), "a.bin"),
    "code": (file("mine.py", "open('ran', 'w')\n"), CODE, "cannot be opened (ValueError:"),
    "a kernel": (config(attn_implementation="evil/kernel"), "code that is not part of it"),
    "an adapter": (file("adapter_config.json", "{}"), "is an adapter"),
    "layers": (config(encoder_layers=10**9), "encoder_layers = 1000000000"),
    "another kind": (config(model_type="bert"), "bert"),
    "more layers than weights": (config(encoder_layers=2), "model.encoder.layers.1."),
    "cut weights": (cut(WEIGHTS), "cannot be loaded (SafetensorError"),
    "a deep config": (file("config.json", "[" * 100_000), "config.json is damaged"),
    "cut tokenizer": (cut("source.spm"), "cannot be opened ("),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_or_damaged_folder(
    name: str, opus: Any, copy_of: CopyOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = copy_of(opus.original)
    *changes, message = HOSTILE[name]
    for change in changes:
        change(folder)
    assert message in refusal(folder)
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "pickled").exists()


def test_names_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opus: Any) -> None:
    import huggingface_hub

    asked: list[tuple[str, str | None]] = []

    def fetched(repository: str, *, revision: str | None, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        asked.append((repository, revision))
        assert not any(pattern.endswith((".bin", ".py", ".pt")) for pattern in allow_patterns)
        return str(opus.original)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetched)
    assert opened("Helsinki-NLP/opus-mt-en-it").fingerprint == opened(opus.original).fingerprint
    opened("Helsinki-NLP/opus-mt-en-it@refs/pr/1")
    assert asked == [("Helsinki-NLP/opus-mt-en-it", None), ("Helsinki-NLP/opus-mt-en-it", "refs/pr/1")]
    monkeypatch.setattr(huggingface_hub, "snapshot_download", Mock(side_effect=OSError("no network\nhere")))
    assert "OSError: no network here" in refusal("some/model")
    for name in ("./no-such", "/no/such", "a/b/c", "a b"):
        assert f"translate.model: {name} is not a folder" in refusal(name)
