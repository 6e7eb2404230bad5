"""Models of `transformers`, unconverted: they translate as the library does, and a folder is trusted in nothing."""

import json
import random
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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
    "three white hearts on a pink background",
    "four brown rings",
    "two black squares on a green background",
    "two black squares and three red rings",
    "circles on circles, 3 (4)!",
]

CopyOf = Callable[[Path], Path]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small are many times slower with two on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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


def test_scores_are_those_of_ctranslate2(model: Any) -> None:
    ours = opened(model.original).translate(CAPTIONS)
    config = TranslateConfig(engine="ctranslate2", model=(str(model.folder),), compute_type="float32", device="cpu")
    theirs = open_translator(config, [ENGLISH, ITALIAN], cache_dir=Path("unused")).translate(CAPTIONS)
    same = [(one, other) for one, other in zip(ours, theirs, strict=True) if one.text == other.text]
    assert len(same) > len(CAPTIONS) // 2
    for one, other in same:
        assert one.score == pytest.approx(other.score, abs=1e-3)


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


def test_the_same_captions_give_the_same_translations_in_any_order(model: Any) -> None:
    captions = [*CAPTIONS, *(f"{word} {caption}" for word in ("two", "four red") for caption in CAPTIONS)]
    first = opened(model.original, max_batch_tokens=60).translate(captions)
    shuffled = random.Random(1).sample(captions, len(captions))
    again = dict(zip(shuffled, opened(model.original, max_batch_tokens=60).translate(shuffled), strict=True))
    assert first == [again[caption] for caption in captions]
    assert all(found.score is not None and -20 < found.score <= 0 for found in first)


def test_progress_adds_up(opus: Any) -> None:
    done: list[int] = []
    opened(opus.original, max_batch_tokens=30).translate(["", *CAPTIONS, CAPTIONS[0]], done.append)
    assert sum(done) == len(CAPTIONS) + 2
    assert len(done) > 3


def test_what_is_cut_off_is_flagged(model: Any) -> None:
    long, short = opened(model.original).translate(["two red circles and " * 30, "two red circles"])
    assert long.truncated
    assert not short.truncated


@pytest.mark.parametrize(
    ("caption", "text"),
    [
        ("", ""),
        ("\u200b", "\u200b"),
        ("TWO RED CIRCLES", "DUE CERCHI ROSSI"),
        ("two_red\ncircles", "due cerchi rossi"),
        ("two red circles https://example.org/a_b?c=1", "due cerchi rossi https://example.org/a_b?c=1"),
        ("two red circles 🎈 שלום", "due cerchi rossi 🎈 שלום"),
    ],
)
def test_guards_are_active(model: Any, caption: str, text: str) -> None:
    assert texts(opened(model.original), [caption]) == [text]


@pytest.mark.parametrize("word", ["</s>", "<pad>", "__fr__", "fra_Latn", ">>fra<<", "<s>"])
def test_names_of_special_tokens_change_nothing_around_them(model: Any, word: str) -> None:
    engine = opened(model.original)
    plain, special = engine.encode("two red circles"), engine._vocabulary.special
    for caption in (f"two {word} red circles", f"{word} two red circles", f"two red circles {word}"):
        found = [n for n in engine.encode(caption) if n != engine._vocabulary.tokenizer.unk_token_id]
        assert [n for n in found if n in special] == [n for n in plain if n in special]


def test_the_target_decides_the_language(opus_of_many: Any) -> None:
    assert texts(opened(opus_of_many.original, FRENCH), ["two red circles"]) == ["two red circles"]
    fingerprints = {opened(opus_of_many.original, target).fingerprint.split(":")[2] for target in (ITALIAN, FRENCH)}
    assert len(fingerprints) == 2


@pytest.mark.parametrize(("name", "known"), [("opus_of_many", ">>fra<<, >>ita<<"), ("nllb", "eng_Latn, fra_Latn, ita")])
def test_a_language_that_the_model_does_not_know(name: str, known: str, request: pytest.FixtureRequest) -> None:
    told = refusal(request.getfixturevalue(name).original, GERMAN)
    assert "has no token for de (" in told
    assert f"it has {known}" in told


def test_nothing_touches_the_network(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert texts(opened(model.original), ["two red circles"]) == ["due cerchi rossi"]


def test_fingerprint_changes_with_any_deciding_file_and_not_with_the_place(opus: Any, copy_of: CopyOf) -> None:
    expected = opened(opus.original).fingerprint
    folder = copy_of(opus.original)
    (folder / "README.md").write_text("what it is")
    assert opened(folder).fingerprint == expected
    assert opened(folder, beam_size=4).fingerprint != expected
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"note": 1}))
    assert opened(folder).fingerprint != expected


def test_what_a_folder_says_of_decoding_is_not_heard(opus: Any, copy_of: CopyOf) -> None:
    folder = copy_of(opus.original)
    path = folder / "generation_config.json"
    said = {"do_sample": True, "temperature": 9.0, "num_beams": 7, "max_length": 3, "repetition_penalty": 5.0}
    path.write_text(json.dumps(json.loads(path.read_text()) | said))
    assert texts(opened(folder), CAPTIONS) == texts(opened(opus.original), CAPTIONS)


def test_half_precision(opus: Any) -> None:
    assert texts(opened(opus.original, compute_type="bfloat16"), CAPTIONS[:1]) == ["due cerchi rossi"]


T5_TOKENS = ["▁translate", "▁English", "▁to", "▁Italian", ":", "▁two", "▁dogs", "▁due", "▁cani", "▁", "a", "b"]


def t5(folder: Path, *more: str) -> Path:
    """A T5 with random weights."""
    from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer

    vocabulary = [(token, float(-number)) for number, token in enumerate(["<pad>", "</s>", "<unk>", *T5_TOKENS, *more])]
    tokenizer = T5Tokenizer(vocab=vocabulary, extra_ids=0)
    torch.manual_seed(1)
    shape = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
    network = T5ForConditionalGeneration(T5Config(vocab_size=len(tokenizer) + 5, **shape))
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tokens(engine: TransformersTranslator, sentence: str) -> list[str]:
    found: list[str] = engine._vocabulary.tokenizer.convert_ids_to_tokens(engine.encode(sentence))
    return found


def test_t5_is_asked_in_english(tmp_path: Path) -> None:
    engine = opened(t5(tmp_path / "t5"))
    asked = ["▁translate", "▁English", "▁to", "▁Italian", ":", "▁two", "▁dogs", "</s>"]
    assert tokens(engine, "two dogs") == asked
    assert len(engine.translate(["two dogs"])) == 1
    assert "the English names of languages, and the name of fr is not known: set name" in refusal(
        tmp_path / "t5", FRENCH
    )


def test_madlad_is_asked_by_a_token(tmp_path: Path) -> None:
    engine = opened(t5(tmp_path / "madlad", "▁<2it>", "<2it>"))
    found = tokens(engine, "two dogs")
    assert found[-3:] == ["▁two", "▁dogs", "</s>"]
    assert "<2it>" in found[0] or "<2it>" in found[1]
    assert "has no token for de (<2de>, <2deu>, <2deu_Latn>), it has <2it>" in refusal(tmp_path / "madlad", GERMAN)


def mbart(folder: Path, kind: str) -> Path:
    """An mBART with random weights."""
    import transformers
    from transformers import MBartConfig, MBartForConditionalGeneration

    pieces = [(token, float(-number)) for number, token in enumerate(["<unk>", "<s>", "</s>", *T5_TOKENS])]
    tokenizer = getattr(transformers, f"{kind}Tokenizer")(vocab=pieces, src_lang="en_XX", tgt_lang="it_IT")
    torch.manual_seed(1)
    shape = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 32}
    config = MBartConfig(vocab_size=len(tokenizer), decoder_start_token_id=2, **shape, **heads)
    network = MBartForConditionalGeneration(config)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "with_special", "given"),
    [
        ("MBart50", ["en_XX", "▁two", "▁dogs", "</s>"], ["</s>", "it_IT"]),
        ("MBart", ["▁two", "▁dogs", "</s>", "en_XX"], ["it_IT"]),
    ],
)
def test_mbart_wants_its_languages(kind: str, with_special: list[str], given: list[str], tmp_path: Path) -> None:
    engine = opened(mbart(tmp_path / "mbart", kind))
    assert tokens(engine, "two dogs") == with_special
    (found,) = engine.translate(["two dogs " * 40])
    assert found.truncated
    written = engine._model.generate(engine._padded([engine.encode("two dogs")]), 8, 0)[0].tolist()
    assert engine._vocabulary.tokenizer.convert_ids_to_tokens(written[: len(given)]) == given
    assert "has no token for" in refusal(tmp_path / "mbart", LanguagePack(code="sc"))


def test_a_model_that_says_nothing_of_languages(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import BartConfig, BartForConditionalGeneration, PreTrainedTokenizerFast

    numbers = {token: number for number, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "▁a", "▁two", "▁dogs"])}
    raw = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", numbers["<s>"]), ("</s>", numbers["</s>"])]
    )
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    PreTrainedTokenizerFast(tokenizer_object=raw, **special).save_pretrained(tmp_path)
    shape = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 32}
    torch.manual_seed(1)
    BartForConditionalGeneration(BartConfig(vocab_size=len(numbers), **shape, **heads)).save_pretrained(tmp_path)
    engine = opened(tmp_path)
    assert "does not state its languages; it is assumed to translate en to it" in caplog.text
    assert tokens(engine, "two dogs") == ["<s>", "▁two", "▁dogs", "</s>"]
    assert len(engine.translate(["two dogs", "a"])) == 2


def without_safetensors(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(PICKLE)


PICKLE = b"\x80\x04cos\nsystem\n(S'touch pickled'\ntR."


def with_an_index_of_pickles(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "kept")
    (folder / "evil.bin").write_bytes(PICKLE)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "evil.bin"}, "metadata": {}}))


def with_other_weights(folder: Path) -> None:
    (folder / "adapter_model.bin").write_bytes(PICKLE)
    changed("config.json", transformers_weights="adapter_model.bin")(folder)


def changed(name: str, **values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")

    return change


def cut(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return change


def with_code(folder: Path) -> None:
    (folder / "mine.py").write_text("open('ran', 'w')\n")
    changed("config.json", auto_map={"AutoConfig": "mine.C", "AutoModelForSeq2SeqLM": "mine.M"}, model_type="mine")(
        folder
    )


def of_other_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["model.decoder.layers.0.fc1.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "pickles": (without_safetensors, "has no weights in safetensors, and pickles may run code. Name a revision with"),
    "an index of pickles": (with_an_index_of_pickles, "names weights that are not safetensors files in its folder"),
    "other weights": (
        with_other_weights,
        "names other weights (transformers_weights = 'adapter_model.bin') than model.s",
    ),
    "code": (with_code, "cannot be opened (ValueError:"),
    "a kernel": (changed("config.json", attn_implementation="evil/kernel"), "asks for code that is not part of it"),
    "an adapter": (lambda folder: (folder / "adapter_config.json").write_text("{}"), "is an adapter of another model"),
    "layers": (changed("config.json", encoder_layers=10**9), "is damaged: no model has encoder_layers = 1000000000"),
    "width": (changed("config.json", d_model=10**6), "cannot be loaded ("),
    "another kind": (changed("config.json", model_type="bert"), "a model of type bert does not translate text"),
    "no kind": (changed("config.json", model_type="no-such"), "cannot be opened (ValueError:"),
    "lost weights": (
        of_other_weights,
        "its weights do not match its config.json: they lack model.decoder.layers.0.fc1.",
    ),
    "cut weights": (cut("model.safetensors"), "cannot be loaded (SafetensorError"),
    "cut config": (cut("config.json"), "config.json is damaged"),
    "a deep config": (
        lambda folder: (folder / "config.json").write_text("[" * 100_000),
        "config.json is damaged (maximum recursion",
    ),
    "cut tokenizer": (cut("source.spm"), "cannot be opened ("),
    "no tokenizer": (lambda folder: (folder / "vocab.json").unlink(), "cannot be opened ("),
    "no config": (lambda folder: (folder / "config.json").unlink(), "has no config.json: copy it again"),
    "no start": (changed("config.json", decoder_start_token_id="x"), "cannot be opened ("),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_or_damaged_folder(
    name: str, opus: Any, copy_of: CopyOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = copy_of(opus.original)
    change, message = HOSTILE[name]
    change(folder)
    assert message in refusal(folder)
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "pickled").exists()


def test_weights_in_parts(opus: Any, copy_of: CopyOf) -> None:
    folder = copy_of(opus.original)
    (folder / "model.safetensors").unlink()
    opus.network.save_pretrained(folder, max_shard_size="20KB")
    assert (folder / "model.safetensors.index.json").is_file()
    assert texts(opened(folder), CAPTIONS) == texts(opened(opus.original), CAPTIONS)


def test_names_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opus: Any) -> None:
    import huggingface_hub

    asked: list[tuple[str, str | None]] = []

    def fetched(repository: str, *, revision: str | None, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        asked.append((repository, revision))
        assert not any(pattern.endswith((".bin", ".py", ".pt")) for pattern in allow_patterns)
        return str(shutil.copytree(opus.original, tmp_path / "fetched", dirs_exist_ok=True))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetched)
    assert opened("Helsinki-NLP/opus-mt-en-it").fingerprint == opened(opus.original).fingerprint
    opened("Helsinki-NLP/opus-mt-en-it@refs/pr/1")
    assert asked == [("Helsinki-NLP/opus-mt-en-it", None), ("Helsinki-NLP/opus-mt-en-it", "refs/pr/1")]

    def refused(*_: object, **__: object) -> str:
        raise OSError("no network\nhere")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refused)
    told = refusal("some/model")
    assert (
        "some/model is not a folder, and cannot be downloaded from the hub (OSError: no network here): without a"
        in told
    )
    for name in ("./no-such", "/no/such", "a/b/c", "a b"):
        assert f"translate.model: {name} is not a folder and not the name of a model" in refusal(name)
