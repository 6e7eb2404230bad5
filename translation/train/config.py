"""Settings of `vernaclip mt train`, and presets of them."""

import math
import re
from dataclasses import dataclass

from data_catalog.errors import SettingsError

PRECISIONS = ("fp32", "bf16")
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
    """How a package is trained; the defaults suit captions of a small world and two cores.

    Args:
        vocabulary_size: most pieces of the joint vocabulary.
        batch_tokens: padded positions of a batch (rows times the widest row).
        lr: peak learning rate, reached after `warmup_steps`; it falls to nothing over half a cosine by `num_steps`.
        average_decay: share of the averaged weights that stays at a step; the averaged weights are what is scored
            and packed. 0 takes the weights as they are.
        num_held_out: pairs kept for validation, where no file of them is given.
        validate_every_steps: how often the held-out pairs are translated and a state to resume from is written.
        early_stop: validations in a row without a better chrF after which training ends; 0 never does.
        precision: "fp32", or "bf16" for autocast (faster where the processor has bfloat16 instructions).
        check_languages: drop pairs that are clearly in other languages, where the languages can be told.
        license: what the package's card says of the rights in it, such as an SPDX identifier.
        threads: of torch. The order of its sums, and so the package's bytes, depend on it; 0 takes torch's own number.
    """

    vocabulary_size: int = 1000
    embed_dim: int = 128
    num_heads: int = 4
    ffn_dim: int = 512
    num_encoder_layers: int = 3
    num_decoder_layers: int = 2
    dropout: float = 0.1
    label_smoothing: float = 0.1
    num_steps: int = 2000
    warmup_steps: int = 200
    batch_tokens: int = 2048
    lr: float = 2e-3
    weight_decay: float = 0.01
    average_decay: float = 0.99
    num_held_out: int = 1000
    validate_every_steps: int = 200
    early_stop: int = 10
    precision: str = "fp32"
    check_languages: bool = True
    seed: int = 1
    package_version: str = "1.0"
    license: str = "not stated"
    threads: int = 1

    def __post_init__(self) -> None:
        """Raise SettingsError for values that cannot work."""
        self._require_positive()
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

    def _require_positive(self) -> None:
        sizes = ("vocabulary_size", "embed_dim", "num_heads", "ffn_dim", "num_encoder_layers", "num_decoder_layers")
        counts = ("num_steps", "batch_tokens", "lr", "num_held_out", "validate_every_steps")
        for name in sizes + counts:
            if not 0 < getattr(self, name) < math.inf:
                raise SettingsError(f"mt_train.{name} must be finite and positive, got {getattr(self, name)}")
