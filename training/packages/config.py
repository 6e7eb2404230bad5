"""Settings of `vernaclip mt train`, and their presets."""

import re
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval

from data_catalog.base.errors import SettingsError
from data_catalog.base.precision import Precision
from training.config import Count, CountOrZero, NotNegative, Positive

# Settings that a training keeps which continues from the weights of another.
SIZES = ("vocabulary_size", "embed_dim", "num_heads", "ffn_dim", "num_encoder_layers", "num_decoder_layers")
KEPT = (*SIZES, "num_held_out")
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+-]{0,49}")  # part of a folder's name
_BelowOne = Annotated[float, Interval(ge=0, lt=1)]

# Each preset has a comment about its use. `tiny` has the defaults below.
PRESETS: dict[str, dict[str, int | float | str]] = {
    # Several thousand captions from templates or a small domain; minutes on one core.
    "tiny": {},
    # Tens of thousands of captions; one or two hours on two cores. Settings measured on Multi30k (docs/translation.md).
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
    # Hundreds of thousands of pairs and more: the Transformer of Vaswani et al. (2017). Days, as training uses no GPU.
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
    """Settings of the training of a package; the defaults suit captions of a small domain and two cores."""

    vocabulary_size: Count = 1000
    """Maximum size of the vocabulary, which both languages share."""
    embed_dim: Count = 128
    """Width of the model: a multiple of 2 × `num_heads`."""
    num_heads: Count = 4
    """Number of attention heads per layer."""
    ffn_dim: Count = 512
    """Width of the feed-forward layers."""
    num_encoder_layers: Count = 3
    """Number of encoder layers."""
    num_decoder_layers: Count = 2
    """Number of decoder layers. Fewer translate faster."""
    dropout: _BelowOne = 0.1
    """Dropout rate."""
    label_smoothing: _BelowOne = 0.1
    """Label smoothing."""
    num_steps: Count = 2000
    """Maximum number of optimizer steps."""
    warmup_steps: CountOrZero = 200
    """Steps until the learning rate peaks."""
    batch_tokens: Count = 2048
    """Size of a batch: rows times the longest row."""
    lr: Positive = 2e-3
    """Peak learning rate. It falls to 0 along half a cosine until `num_steps`."""
    weight_decay: NotNegative = 0.01
    """Weight decay."""
    average_decay: _BelowOne = 0.99
    """Decay per step of the moving average of the weights. The averaged weights are scored and packed; 0 averages
    nothing."""
    num_held_out: Count = 1000
    """Number of pairs held out for validation, at most a tenth, unless a file of them is given."""
    validate_every_steps: Count = 200
    """Steps between validations, which translate the held-out pairs and write a checkpoint."""
    early_stop: CountOrZero = 10
    """Number of validations in a row without a better chrF after which training ends. 0 disables it."""
    precision: Precision = "auto"
    """Precision: "bf16", "fp32", or "auto", as `train.precision`."""
    check_languages: bool = True
    """Drop pairs that are clearly in other languages."""
    seed: int = 1
    """Seed of initial weights, order and dropout."""
    package_version: str = "1.0"
    """Version of the package: letters and digits, separated by . + or -."""
    license: str = "not stated"
    """License on the package's card, such as an SPDX identifier."""
    threads: CountOrZero = 1
    """Number of torch threads, which affects the package's bytes. 0 uses torch's default."""

    def __post_init__(self) -> None:
        if self.embed_dim % (2 * self.num_heads) or self.embed_dim < 4:
            raise SettingsError(
                f"mt_train.embed_dim must be a multiple of twice num_heads ({2 * self.num_heads}), got {self.embed_dim}"
            )
        if not _VERSION.fullmatch(self.package_version):
            raise SettingsError(
                "mt_train.package_version must be letters and digits, with . + - between them, got "
                f"{self.package_version!r}"
            )
