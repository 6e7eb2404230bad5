"""Settings of `vernaclip mt train`, and presets of them."""

import math
import re
from dataclasses import dataclass

from data_catalog.errors import SettingsError

PRECISIONS = ("fp32", "bf16")
# Settings that the weights of a training fix.
SIZES = ("vocabulary_size", "embed_dim", "num_heads", "ffn_dim", "num_encoder_layers", "num_decoder_layers")
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+-]{0,49}")  # part of a folder's name
_SEEDS = range(-(2**63), 2**64)  # that torch takes

# Beside each preset: what it is for. `tiny` is the defaults below.
PRESETS: dict[str, dict[str, int | float | str]] = {
    # A few thousand templates or a small world, minutes on one core.
    "tiny": {},
    # Tens of thousands of captions, an hour or two on two cores; settings measured on Multi30k (docs/translation.md).
    "small": {
        "vocabulary_size": 8000,
        "embed_dim": 192,
        "ffn_dim": 768,
        "num_encoder_layers": 4,
        "num_decoder_layers": 4,
        "dropout": 0.15,
        "num_steps": 4400,
        "warmup_steps": 400,
        "batch_tokens": 2048,
        "lr": 2e-3,
    },
    # Hundreds of thousands of pairs and more: the Transformer of Vaswani et al. (2017). Training uses no GPU, so days.
    "base": {
        "vocabulary_size": 32000,
        "embed_dim": 512,
        "num_heads": 8,
        "ffn_dim": 2048,
        "num_encoder_layers": 6,
        "num_decoder_layers": 6,
        "num_steps": 100_000,
        "warmup_steps": 4000,
        "batch_tokens": 8192,
        "lr": 7e-4,
        "validate_every_steps": 2000,
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainPackageConfig:
    """Settings of training a package; the defaults suit captions of a small world and two cores."""

    vocabulary_size: int = 1000
    """Most pieces of the joint vocabulary."""
    embed_dim: int = 128
    """Width of the model: a multiple of twice `num_heads`."""
    num_heads: int = 4
    """Attention heads of each layer."""
    ffn_dim: int = 512
    """Width of the feed-forward part of each layer."""
    num_encoder_layers: int = 3
    """Layers of the encoder."""
    num_decoder_layers: int = 2
    """Layers of the decoder. Fewer translate faster."""
    dropout: float = 0.1
    """Share of activations that training drops, from 0 to below 1."""
    label_smoothing: float = 0.1
    """Share of each target token's probability that is spread over all others, from 0 to below 1."""
    num_steps: int = 2000
    """Most steps of the optimizer."""
    warmup_steps: int = 200
    """Steps until the learning rate is at its peak."""
    batch_tokens: int = 2048
    """Padded positions of a batch: rows times the widest row."""
    lr: float = 2e-3
    """Learning rate at its peak, after `warmup_steps`. It falls to nothing over half a cosine by `num_steps`."""
    weight_decay: float = 0.01
    """Weight decay."""
    average_decay: float = 0.99
    """Share of the averaged weights that stays at a step, from 0 to below 1. The averaged weights are what is scored
    and packed; 0 takes the weights as they are."""
    num_held_out: int = 1000
    """Pairs that are kept for validation, where no file of them is given."""
    validate_every_steps: int = 200
    """Steps between two validations: the held-out pairs are translated, and a state to resume from is written."""
    early_stop: int = 10
    """Validations in a row without a better chrF after which training ends. 0 never ends it."""
    precision: str = "fp32"
    """Precision: "fp32", or "bf16" for autocast, which is faster where the processor has bfloat16 instructions."""
    check_languages: bool = True
    """Drop pairs that are clearly in other languages, where the languages can be told."""
    seed: int = 1
    """Seed of initial weights, order and dropout."""
    package_version: str = "1.0"
    """Version of the package: letters and digits with . + - between."""
    license: str = "not stated"
    """License that the package's card states, such as an SPDX identifier."""
    threads: int = 1
    """Threads of torch. The order of its sums, and so the package's bytes, depend on it. 0 takes torch's own number."""

    def __post_init__(self) -> None:
        """Raise SettingsError for values that cannot work."""
        for name in (*SIZES, "num_steps", "batch_tokens", "lr", "num_held_out", "validate_every_steps"):
            if not 0 < getattr(self, name) < math.inf:
                raise SettingsError(f"mt_train.{name} must be finite and positive, got {getattr(self, name)}")
        for name in ("dropout", "label_smoothing", "average_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise SettingsError(f"mt_train.{name} must be at least 0 and below 1, got {getattr(self, name)}")
        if self.embed_dim % (2 * self.num_heads) or self.embed_dim < 4:
            raise SettingsError(
                f"mt_train.embed_dim must be a multiple of twice num_heads ({2 * self.num_heads}), got {self.embed_dim}"
            )
        for name in ("threads", "weight_decay", "warmup_steps", "early_stop"):
            if not 0 <= getattr(self, name) < math.inf:
                raise SettingsError(f"mt_train.{name} must be finite and not negative, got {getattr(self, name)}")
        if self.precision not in PRECISIONS:
            raise SettingsError(f"mt_train.precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if self.seed not in _SEEDS:
            raise SettingsError(f"mt_train.seed must be at least -2^63 and below 2^64, got {self.seed}")
        if not _VERSION.fullmatch(self.package_version):
            raise SettingsError(
                f"mt_train.package_version must be letters and digits with . + - between, got {self.package_version!r}"
            )
