"""Settings of `vernaclip mt train`."""

from dataclasses import dataclass

from data_catalog.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainPackageConfig:
    """How a package is trained; the defaults suit captions of a small world and two cores.

    Args:
        vocabulary_size: most pieces of the joint vocabulary.
        batch_tokens: padded positions of a batch (rows times the widest row).
        lr: peak learning rate, reached after `warmup_steps`.
        num_held_out: pairs kept for validation.
        validate_every_steps: how often the held-out loss is logged.
        license: what the package's card says of the rights in it, such as an SPDX identifier.
        threads: of torch. The order of its sums, and so the package's bytes, depend on it; 0 leaves it to torch.
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
    num_held_out: int = 1000
    validate_every_steps: int = 500
    seed: int = 1
    package_version: str = "1.0"
    license: str = "not stated"
    threads: int = 1

    def __post_init__(self) -> None:
        """Raise ConfigError for values that cannot work."""
        self._require_positive()
        for name in ("dropout", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"mt_train.{name} must be at least 0 and below 1, got {getattr(self, name)}")
        if self.embed_dim % (2 * self.num_heads) or self.embed_dim < 4:
            raise ConfigError(
                f"mt_train.embed_dim must be a multiple of twice num_heads ({2 * self.num_heads}), got {self.embed_dim}"
            )
        for name in ("threads", "weight_decay", "warmup_steps"):
            if getattr(self, name) < 0:
                raise ConfigError(f"mt_train.{name} must not be negative, got {getattr(self, name)}")

    def _require_positive(self) -> None:
        sizes = ("vocabulary_size", "embed_dim", "num_heads", "ffn_dim", "num_encoder_layers", "num_decoder_layers")
        counts = ("num_steps", "batch_tokens", "lr", "num_held_out", "validate_every_steps")
        for name in sizes + counts:
            if getattr(self, name) <= 0:
                raise ConfigError(f"mt_train.{name} must be positive, got {getattr(self, name)}")
