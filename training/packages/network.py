"""A compact pre-norm Transformer, whose operations all exist in CTranslate2, and its vocabulary."""

import io
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sentencepiece
import torch
import torch.nn.functional as F
from ctranslate2.specs import TransformerSpec
from torch import Tensor, nn

from data_catalog.base.boundary import about
from data_catalog.base.errors import SettingsError
from training.packages.config import TrainPackageConfig

# Names and ids of sentencepiece, which CTranslate2 must know as well.
UNKNOWN, START, END = "<unk>", "<s>", "</s>"
START_ID, END_ID = 1, 2
LAYER_NORM_EPSILON = 1e-5


def train_vocabulary(texts: Iterable[str], path: Path, *, size: int) -> None:
    """Train one unigram model of at most `size` pieces for both languages; equal texts give an equal file.

    Each distinct text counts once.
    """
    model, distinct = io.BytesIO(), sorted(set(texts))
    remedy = "raise it, as the pairs need at least one piece for each character"
    with about(f"vocabulary_size {size} is too small", kind=SettingsError, remedy=remedy):
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(distinct),
            model_writer=model,
            model_type="unigram",
            vocab_size=size,
            hard_vocab_limit=False,  # a small corpus may have fewer pieces than `size`
            character_coverage=1.0,
            num_threads=1,  # the order of sums over several threads is random
            minloglevel=2,
        )
    path.write_bytes(model.getvalue())


def load_vocabulary(path: Path) -> Any:
    """Return the sentencepiece processor of a trained vocabulary."""
    return sentencepiece.SentencePieceProcessor(model_file=str(path))


def pieces_of(vocabulary: Any) -> list[str]:
    """Return all pieces, in the order of their ids."""
    return [vocabulary.id_to_piece(index) for index in range(vocabulary.get_piece_size())]


class Attention(nn.Module):
    """Multi-head attention with its own layer norm, with the fused weights that CTranslate2 stores."""

    def __init__(self, config: TrainPackageConfig, *, over_memory: bool = False) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.layer_norm = nn.LayerNorm(config.embed_dim, eps=LAYER_NORM_EPSILON)
        self.query: nn.Linear | None = nn.Linear(config.embed_dim, config.embed_dim) if over_memory else None
        # Queries, keys and values in self-attention; keys and values in attention over a memory.
        self.fused = nn.Linear(config.embed_dim, config.embed_dim * (2 if over_memory else 3))
        self.output = nn.Linear(config.embed_dim, config.embed_dim)

    def forward(self, states: Tensor, mask: Tensor | None, memory: Tensor | None = None) -> Tensor:
        """Attend from `states` (batch, length, dim); True in `mask` marks visible positions, None means causal."""
        normed = self.layer_norm(states)
        if self.query is None:
            queries, keys, values = self.fused(normed).chunk(3, dim=-1)
        else:
            keys, values = self.fused(memory).chunk(2, dim=-1)
            queries = self.query(normed)
        attended = F.scaled_dot_product_attention(
            self._split(queries), self._split(keys), self._split(values), attn_mask=mask, is_causal=mask is None
        )
        return self.output(attended.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _split(self, states: Tensor) -> Tensor:
        batch, length, width = states.shape
        return states.view(batch, length, self.num_heads, width // self.num_heads).transpose(1, 2)


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between them, after a layer norm."""

    def __init__(self, config: TrainPackageConfig) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.embed_dim, eps=LAYER_NORM_EPSILON)
        self.inner = nn.Linear(config.embed_dim, config.ffn_dim)
        self.outer = nn.Linear(config.ffn_dim, config.embed_dim)

    def forward(self, states: Tensor) -> Tensor:
        """Map states (batch, length, dim) to the same shape."""
        return self.outer(F.relu(self.inner(self.layer_norm(states))))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """Self-attention, in a decoder attention over the source, then feed-forward, each with a residual connection."""

    def __init__(self, config: TrainPackageConfig, *, is_decoder: bool) -> None:
        super().__init__()
        self.self_attention = Attention(config)
        self.attention = Attention(config, over_memory=True) if is_decoder else None
        self.ffn = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, states: Tensor, mask: Tensor, memory: Tensor | None = None) -> Tensor:
        """Map states (batch, length, dim) to the same shape; `memory` is the encoder's output, `mask` the source's."""
        states = states + self.dropout(self.self_attention(states, mask if self.attention is None else None))
        if self.attention is not None:
            states = states + self.dropout(self.attention(states, mask, memory))
        return states + self.dropout(self.ffn(states))  # type: ignore[no-any-return]


class TranslationModel(nn.Module):
    """Encoder and decoder with one shared embedding table, which is also the output projection.

    Its `config` has the size of the actual vocabulary as `vocabulary_size`.
    """

    def __init__(self, config: TrainPackageConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary_size, config.embed_dim)
        nn.init.normal_(self.embedding.weight, std=config.embed_dim**-0.5)
        self.encoder = nn.ModuleList(Layer(config, is_decoder=False) for _ in range(config.num_encoder_layers))
        self.decoder = nn.ModuleList(Layer(config, is_decoder=True) for _ in range(config.num_decoder_layers))
        self.encoder_norm = nn.LayerNorm(config.embed_dim, eps=LAYER_NORM_EPSILON)
        self.decoder_norm = nn.LayerNorm(config.embed_dim, eps=LAYER_NORM_EPSILON)
        self.output_bias = nn.Parameter(torch.zeros(config.vocabulary_size))
        self.dropout = nn.Dropout(config.dropout)

    @property
    def num_parameters(self) -> int:
        """Return the number of weights, shared ones counted once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, source: Tensor, source_lengths: Tensor, target: Tensor, real: Tensor | None = None) -> Tensor:
        """Return logits (batch, target length, vocabulary) of the token after each target token.

        Rows of `source` (batch, source length) are padded at the end with any ids; those of `target` start with the
        start token. The mask `real` (batch, target length) has the tokens to return, as rows (tokens, vocabulary).
        """
        mask = (torch.arange(source.shape[1]) < source_lengths.unsqueeze(1))[:, None, None, :]
        memory = self._embed(source)
        for layer in self.encoder:
            memory = layer(memory, mask)
        memory, states = self.encoder_norm(memory), self._embed(target)
        for layer in self.decoder:
            states = layer(states, mask, memory)
        states = self.decoder_norm(states)
        return F.linear(states if real is None else states[real], self.embedding.weight, self.output_bias)

    def _embed(self, ids: Tensor) -> Tensor:
        """Return embeddings with positions as CTranslate2 encodes them: from 1, sines then cosines."""
        embed_dim = self.config.embed_dim
        half = embed_dim // 2
        timescales = torch.exp(torch.arange(half) * (-math.log(10000.0) / (half - 1)))
        angles = torch.arange(1, ids.shape[1] + 1).unsqueeze(1) * timescales
        positions = torch.cat([angles.sin(), angles.cos()], dim=1)
        return self.dropout(self.embedding(ids) * math.sqrt(embed_dim) + positions)  # type: ignore[no-any-return]


def save_ctranslate2(model: TranslationModel, pieces: list[str], folder: Path, *, quantization: str | None) -> None:
    """Write a network as a CTranslate2 model to a folder, which must exist.

    `pieces` is the vocabulary, in the order of the embedding's rows. The `quantization` "int8" stores a quarter of the
    bytes; None keeps float32.
    """
    layers = (model.config.num_encoder_layers, model.config.num_decoder_layers)
    spec = TransformerSpec.from_config(layers, model.config.num_heads, pre_norm=True)
    spec.config.layer_norm_epsilon = LAYER_NORM_EPSILON
    spec.config.unk_token, spec.config.bos_token, spec.config.eos_token = UNKNOWN, START, END
    spec.config.decoder_start_token = START

    spec.encoder.embeddings[0].weight = _array(model.embedding.weight)
    spec.decoder.embeddings.weight = _array(model.embedding.weight)
    spec.decoder.projection.weight = _array(model.embedding.weight)
    spec.decoder.projection.bias = _array(model.output_bias)
    _fill(spec.encoder.layer_norm, model.encoder_norm)
    _fill(spec.decoder.layer_norm, model.decoder_norm)
    layer_specs = [*spec.encoder.layer, *spec.decoder.layer]
    for layer_spec, layer in zip(layer_specs, [*model.encoder, *model.decoder], strict=True):
        _fill_attention(layer_spec.self_attention, layer.self_attention)
        if layer.attention is not None:
            _fill_attention(layer_spec.attention, layer.attention)
        _fill(layer_spec.ffn.layer_norm, layer.ffn.layer_norm)
        _fill(layer_spec.ffn.linear_0, layer.ffn.inner)
        _fill(layer_spec.ffn.linear_1, layer.ffn.outer)

    spec.register_source_vocabulary(pieces)
    spec.register_target_vocabulary(pieces)
    spec.validate()
    spec.optimize(quantization=quantization)
    spec.save(str(folder))


def _fill_attention(spec: Any, attention: Attention) -> None:
    _fill(spec.layer_norm, attention.layer_norm)
    linears = filter(None, [attention.query, attention.fused, attention.output])
    for linear_spec, linear in zip(spec.linear, linears, strict=True):
        _fill(linear_spec, linear)


def _fill(spec: Any, module: nn.Linear | nn.LayerNorm) -> None:
    names = ("gamma", "beta") if isinstance(module, nn.LayerNorm) else ("weight", "bias")
    for name, parameter in zip(names, (module.weight, module.bias), strict=True):
        setattr(spec, name, _array(parameter))


def _array(parameter: Tensor) -> Any:
    # CTranslate2 quantizes in place, and the network may be trained further, so it gets a copy.
    return parameter.detach().numpy().copy()
