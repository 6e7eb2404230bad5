"""Small Hugging Face models, trained for a moment on the spot, and what CTranslate2's own converter makes of them."""

import json
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from ctranslate2.converters import TransformersConverter

NUM_STEPS = 200
SHAPE = {
    **dict.fromkeys(("d_model", "max_position_embeddings"), 48),
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 1),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 96),
    **dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), 0.0),
}
MARIAN_FILES = ["source.spm", "target.spm", "vocab.json", "tokenizer_config.json"]

Pairs = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """A model: its folder as `transformers` saves it, and what the converter wrote."""

    transformers: Path
    ctranslate2: Path
    network: Any
    tokenizer: Any
    prefix: str = ""  # what a caption begins with, for the tokenizer of `transformers`
    options: dict[str, Any]

    def source_tokens(self, caption: str) -> list[str]:
        tokens: list[str] = self.tokenizer.convert_ids_to_tokens(self.tokenizer(self.prefix + caption).input_ids)
        return tokens

    def generate(self, caption: str) -> str:
        inputs = self.tokenizer(self.prefix + caption, return_tensors="pt")
        greedy = {"num_beams": 1, "do_sample": False, "max_length": SHAPE["max_position_embeddings"]}
        with torch.no_grad():
            (ids,) = self.network.generate(**inputs, **greedy, **self.options)
        # `transformers` 5 takes the language for a word.
        words = ids[ids != self.options.get("forced_bos_token_id", -1)]
        return " ".join(self.tokenizer.decode(words, skip_special_tokens=True).split())


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small are many times slower with two on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pairs(tiny_tsv: Path) -> Pairs:
    lines = tiny_tsv.read_text(encoding="utf-8").splitlines()
    return [(source, target) for source, target in (line.split("\t") for line in lines)]


@pytest.fixture(scope="module")
def pieces(pairs: Pairs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Sentencepiece models: "source", "target", "shared"."""
    folder = tmp_path_factory.mktemp("pieces")
    sides = {"source": [pair[0] for pair in pairs], "target": [pair[1] for pair in pairs]}
    texts = sides | {"shared": sides["source"] + sides["target"]}
    options = {"model_type": "bpe", "vocab_size": 220, "hard_vocab_limit": False, "character_coverage": 1.0}
    for name, lines in texts.items():
        given = iter([*lines, "0 1 2 3 4 5 6 7 8 9 . , ! ( )"] * 2)
        prefix = str(folder / name)
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=given, model_prefix=prefix, minloglevel=2, **options)
    return {name: folder / f"{name}.model" for name in texts}


def write_vocabulary(folder: Path, first: Sequence[str], models: Sequence[Path], last: Sequence[str]) -> dict[str, int]:
    """Write the pieces of sentencepiece models, without their special ones, between other tokens."""
    found = [sentencepiece.SentencePieceProcessor(model_file=str(path)) for path in models]
    texts = [model.id_to_piece(number) for model in found for number in range(3, model.get_piece_size())]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys([*first, *texts, *last]))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    return vocabulary


@pytest.fixture(scope="module")
def opus(pieces: dict[str, Path], pairs: Pairs, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    return marian(pieces, pairs, tmp_path_factory.mktemp("opus"), languages=())


@pytest.fixture(scope="module")
def opus_of_many(pieces: dict[str, Path], pairs: Pairs, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    """English to Italian or, in place of French, English, Marian."""
    both = [pair for a, b in pairs for pair in ((f">>ita<< {a}", b), (f">>fra<< {a}", a))]
    return marian(pieces, both, tmp_path_factory.mktemp("opus_of_many"), languages=(">>fra<<", ">>ita<<"))


def marian(pieces: dict[str, Path], pairs: Pairs, folder: Path, languages: Sequence[str]) -> Converted:
    from transformers import MarianConfig, MarianMTModel, MarianTokenizer

    sides = [pieces["source"], pieces["target"]]
    vocabulary = write_vocabulary(folder, ["</s>", "<unk>"], sides, [*languages, "<pad>"])
    files = map(str, (*sides, folder / "vocab.json"))
    tokenizer = MarianTokenizer(*files, source_lang="en", target_lang="roa" if languages else "it")
    torch.manual_seed(3)
    ids = {"pad": vocabulary["<pad>"], "decoder_start": vocabulary["<pad>"], "bos": 0, "eos": 0, "forced_eos": None}
    options = {"activation_function": "swish", "scale_embedding": True, **SHAPE}
    # Tied, training would move the row of "<pad>", which starts the decoder and must be zero.
    options |= {"tie_word_embeddings": False, **{f"{name}_token_id": number for name, number in ids.items()}}
    network = MarianMTModel(MarianConfig(vocab_size=len(vocabulary), **options))
    train(network, tokenizer, pairs)
    return convert(network, tokenizer, folder, MARIAN_FILES, prefix=">>ita<< " if languages else "")


@pytest.fixture(scope="module")
def m2m(pieces: dict[str, Path], pairs: Pairs, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    """English to Italian and back to itself, by the token that the translation begins with."""
    from transformers import M2M100Tokenizer

    folder = tmp_path_factory.mktemp("m2m")
    vocabulary = write_vocabulary(folder, ["<s>", "<pad>", "</s>", "<unk>"], [pieces["shared"]], [])
    tokenizer = M2M100Tokenizer(str(folder / "vocab.json"), str(pieces["shared"]), src_lang="en", tgt_lang="it")
    network = m2m_network(len(vocabulary) + len(tokenizer.lang_token_to_id) + tokenizer.num_madeup_words)
    train(network, tokenizer, pairs)
    files = ["sentencepiece.bpe.model", "vocab.json", "tokenizer_config.json", "special_tokens_map.json"]
    return convert(network, tokenizer, folder, files, forced_bos_token_id=tokenizer.get_lang_id("it"))


@pytest.fixture(scope="module")
def nllb(pieces: dict[str, Path], pairs: Pairs, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    from transformers import NllbTokenizer

    folder = tmp_path_factory.mktemp("nllb")
    (folder / "sentencepiece.bpe.model").write_bytes(pieces["shared"].read_bytes())
    languages = ["eng_Latn", "fra_Latn", "ita_Latn"]
    spoken = {"src_lang": "eng_Latn", "tgt_lang": "ita_Latn"}
    tokenizer = NllbTokenizer.from_pretrained(folder, **spoken, extra_special_tokens=languages)
    network = m2m_network(len(tokenizer))
    train(network, tokenizer, pairs)
    italian = tokenizer.convert_tokens_to_ids("ita_Latn")
    return convert(network, tokenizer, folder, ["tokenizer.json", "tokenizer_config.json"], forced_bos_token_id=italian)


def m2m_network(vocabulary_size: int) -> Any:
    from transformers import M2M100Config, M2M100ForConditionalGeneration

    torch.manual_seed(3)
    return M2M100ForConditionalGeneration(M2M100Config(vocab_size=vocabulary_size, init_std=0.1, **SHAPE))


def train(network: Any, tokenizer: Any, pairs: Pairs) -> None:
    """Long enough that the network prefers one word to the others."""
    sources, targets = map(list, zip(*pairs, strict=True))
    batch = tokenizer(sources, text_target=targets, return_tensors="pt", padding=True)
    batch["labels"][batch["labels"] == tokenizer.pad_token_id] = -100
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    # Down to nothing at the end: a model caught in mid leap says one thing on one processor and another on the next.
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=NUM_STEPS)
    choose = random.Random(1)
    for _ in range(NUM_STEPS):
        rows = choose.sample(range(len(pairs)), 32)
        network(**{name: values[rows] for name, values in batch.items()}).loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


def convert(
    network: Any, tokenizer: Any, folder: Path, files: list[str], prefix: str = "", **options: Any
) -> Converted:
    """Save with `transformers`, convert with CTranslate2."""
    original, converted = folder / "original", folder / "converted"
    network.eval().save_pretrained(original)
    tokenizer.save_pretrained(original)
    if hasattr(tokenizer, "lang_token_to_id"):
        # As the published M2M-100 has them; `transformers` 5 writes none, and the converter would miss them.
        said = {"src_lang": None, "tgt_lang": None, "tokenizer_class": "M2M100Tokenizer"}
        (original / "tokenizer_config.json").write_text(json.dumps(said), encoding="utf-8")
        special = {"additional_special_tokens": list(tokenizer.lang_token_to_id)}
        (original / "special_tokens_map.json").write_text(json.dumps(special), encoding="utf-8")
    TransformersConverter(str(original), copy_files=files).convert(str(converted))
    folders = {"transformers": original, "ctranslate2": converted}
    return Converted(**folders, network=network, tokenizer=tokenizer, prefix=prefix, options=options)


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Path], Path]:

    def copy(folder: Path) -> Path:
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        return shutil.copytree(folder, tmp_path / "copy")

    return copy
