"""A compact pre-norm Transformer whose every operation has its twin in CTranslate2's Transformer specification.

Imports torch: import this module inside functions only.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYER_NORM_EPSILON = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Sizes of the network; `vocabulary_size` rows are shared by source, target and output."""

    vocabulary_size: int
    embed_dim: int
    num_heads: int
    ffn_dim: int
    num_encoder_layers: int
    num_decoder_layers: int
    dropout: float


def sinusoids(length: int, embed_dim: int) -> Tensor:
    """Position encodings (length, embed_dim), as CTranslate2 computes them: positions from 1, sines then cosines."""
    half = embed_dim // 2
    timescales = torch.exp(torch.arange(half) * (-math.log(10000.0) / (half - 1)))
    angles = torch.arange(1, length + 1).unsqueeze(1) * timescales
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class Attention(nn.Module):
    """Multi-head attention with its own layer norm, fused the way CTranslate2 stores it."""

    def __init__(self, shape: ModelShape, *, over_memory: bool) -> None:
        super().__init__()
        self.num_heads = shape.num_heads
        self.layer_norm = nn.LayerNorm(shape.embed_dim, eps=LAYER_NORM_EPSILON)
        self.query: nn.Linear | None = nn.Linear(shape.embed_dim, shape.embed_dim) if over_memory else None
        # Self-attention: queries, keys and values; over a memory: its keys and values.
        self.fused = nn.Linear(shape.embed_dim, shape.embed_dim * (2 if over_memory else 3))
        self.output = nn.Linear(shape.embed_dim, shape.embed_dim)

    def forward(self, states: Tensor, mask: Tensor | None, memory: Tensor | None = None) -> Tensor:
        """Attend from `states` (batch, length, dim); True in `mask` marks what may be seen, None means causal."""
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
    """Two linear layers with a ReLU between, after a layer norm."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(shape.embed_dim, eps=LAYER_NORM_EPSILON)
        self.inner = nn.Linear(shape.embed_dim, shape.ffn_dim)
        self.outer = nn.Linear(shape.ffn_dim, shape.embed_dim)

    def forward(self, states: Tensor) -> Tensor:
        """(batch, length, dim) to the same shape."""
        return self.outer(F.relu(self.inner(self.layer_norm(states))))  # type: ignore[no-any-return]


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward, each with a residual."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.self_attention = Attention(shape, over_memory=False)
        self.ffn = FeedForward(shape)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """(batch, length, dim) to the same shape."""
        states = states + self.dropout(self.self_attention(states, mask))
        return states + self.dropout(self.ffn(states))  # type: ignore[no-any-return]


class DecoderLayer(nn.Module):
    """Causal self-attention, attention over the source, feed-forward, each with a residual."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.self_attention = Attention(shape, over_memory=False)
        self.attention = Attention(shape, over_memory=True)
        self.ffn = FeedForward(shape)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, states: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """(batch, length, dim) to the same shape; `memory` is the encoder's output."""
        states = states + self.dropout(self.self_attention(states, None))
        states = states + self.dropout(self.attention(states, mask, memory))
        return states + self.dropout(self.ffn(states))  # type: ignore[no-any-return]


class TranslationModel(nn.Module):
    """Encoder and decoder over one shared table of embeddings, which is the output projection as well."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary_size, shape.embed_dim)
        nn.init.normal_(self.embedding.weight, std=shape.embed_dim**-0.5)
        self.encoder = nn.ModuleList(EncoderLayer(shape) for _ in range(shape.num_encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(shape) for _ in range(shape.num_decoder_layers))
        self.encoder_norm = nn.LayerNorm(shape.embed_dim, eps=LAYER_NORM_EPSILON)
        self.decoder_norm = nn.LayerNorm(shape.embed_dim, eps=LAYER_NORM_EPSILON)
        self.output_bias = nn.Parameter(torch.zeros(shape.vocabulary_size))
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, source: Tensor, source_lengths: Tensor, target: Tensor) -> Tensor:
        """Logits (batch, target length, vocabulary) of the tokens that follow each target token.

        Args:
            source: token ids (batch, source length), padded at the end with anything.
            source_lengths: how many tokens of each row are real (batch).
            target: token ids (batch, target length), starting with the start token.
        """
        return self.logits(self.states(source, source_lengths, target))

    def states(self, source: Tensor, source_lengths: Tensor, target: Tensor) -> Tensor:
        """What `logits` projects (batch, target length, dim); the arguments are those of `forward`."""
        mask = visible(source_lengths, source.shape[1])
        return self.decode(self.encode(source, mask), mask, target)

    def encode(self, source: Tensor, mask: Tensor) -> Tensor:
        """Encoder output (batch, source length, dim)."""
        states = self._embed(source)
        for layer in self.encoder:
            states = layer(states, mask)
        return self.encoder_norm(states)  # type: ignore[no-any-return]

    def decode(self, memory: Tensor, mask: Tensor, target: Tensor) -> Tensor:
        """Decoder output (batch, target length, dim)."""
        states = self._embed(target)
        for layer in self.decoder:
            states = layer(states, memory, mask)
        return self.decoder_norm(states)  # type: ignore[no-any-return]

    def logits(self, states: Tensor) -> Tensor:
        """Scores of each piece (..., vocabulary) from decoder output (..., dim)."""
        return F.linear(states, self.embedding.weight, self.output_bias)

    def _embed(self, ids: Tensor) -> Tensor:
        scaled = self.embedding(ids) * math.sqrt(self.shape.embed_dim)
        return self.dropout(scaled + sinusoids(ids.shape[1], self.shape.embed_dim))  # type: ignore[no-any-return]


def visible(lengths: Tensor, width: int) -> Tensor:
    """Attention mask (batch, 1, 1, width): True where a row has a real token."""
    return (torch.arange(width) < lengths.unsqueeze(1))[:, None, None, :]
