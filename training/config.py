"""Settings of training and evaluation, which recipes have in `[train]` and `[evaluate]`."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_catalog.errors import SettingsError
from data_catalog.settings import NAME_OR_JSON, how, name_or_path, what_values

DEVICES = ("auto", "cpu", "cuda")
# Names of the augmentations in `training.data.augment`: "crop", then the others in the order in which they apply.
AUGMENTATIONS = (
    *("crop", "hue", "brightness", "contrast", "flip"),
    *("affine", "tilt", "perspective", "autocontrast", "equalize"),
)
AUGMENTATION_SETS = {
    # These keep captions true: they change no colour, count, side or size that a caption may name.
    "caption_safe": ("crop", "brightness", "contrast", "tilt"),
    # CLIP-Italian's augmentations with its values, except its crop: here images are squashed to a square and cropped
    # little.
    "paper": ("crop", "hue", "flip", "affine", "perspective", "autocontrast", "equalize"),
}
SPLITS = ("train", "val", "test")
CHOICES = {
    "optimizer": ("adamw", "adabelief"),
    "loss": ("clip", "siglip"),
    "captions": ("random", "first"),
    "precision": ("fp32", "bf16"),
    "device": DEVICES,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Settings of training: model, phases, optimizer, data and hardware."""

    model: str = field(default="compact", metadata={"path": NAME_OR_JSON})
    """Model config: "compact", "compact-96", "italian", "lit", or the path of a JSON file in that format."""
    # The paths are not part of a run's key. The content or hub name of the weights is.
    image_weights: str = name_or_path("")
    """Initial weights of the image tower: a file or folder. By default those that the model config names, or random
    ones."""
    text_encoder: str = name_or_path("")
    """Text encoder: a folder, or a name on the Hugging Face hub. By default the model config's."""
    lock_image: bool = False
    """Freeze the image tower and its projection, as LiT does (https://arxiv.org/abs/2111.07991). Useful with a strong
    tower or little data."""
    epochs: int = 10
    """Passes over the train split with all weights trained."""
    frozen_epochs: int = 0
    """Maximum number of passes before `epochs` that train the projections only. They end when the validation loss stops
    improving; training continues from the best weights."""
    steps: int = 0
    """Optimizer steps of the whole run, instead of epochs; frozen epochs get their share. Keeps the last weights and
    ignores `patience`. 0 trains by epochs."""
    patience: int = 0
    """Epochs without a better validation loss after which a phase ends. 0 runs all epochs; frozen ones still end after
    the first without improvement."""
    batch_size: int = 128
    """Images per step, at least 2. An incomplete last batch of an epoch is dropped."""
    microbatch: int = 0
    """Images that pass the towers at a time, to save memory. The loss covers the whole batch; a step takes a third
    longer. 0: the whole batch."""
    optimizer: str = "adamw"
    """Optimizer: "adamw", or "adabelief" as in the paper."""
    lr: float = 1e-3
    """Peak learning rate. In each phase it falls to 0 along a cosine."""
    weight_decay: float = 0.1
    """Weight decay, for weights with two or more dimensions."""
    warmup_steps: int = 50
    """Steps of each phase until the learning rate peaks. 0 uses `warmup_ratio`."""
    warmup_ratio: float = 0.0
    """The same as a share of the phase's steps, 0 to 1, if `warmup_steps` is 0."""
    max_grad_norm: float = 1.0
    """Maximum norm of all gradients together; larger ones are clipped. 0 disables it."""
    agc: float = 0.0
    """Adaptive gradient clipping: maximum norm of a gradient relative to its unit's weights; 0.01 in the paper. 0
    disables it."""
    loss: str = "clip"
    """Loss: "clip" finds each image's caption and each caption's image in the batch; "siglip" decides for each image
    and caption whether they match."""
    logit_scale: float = 0.0
    """Fixed factor of similarities, 1 to 100; 20 in the paper. 0 learns it."""
    captions: str = "random"
    """Caption of an image in each epoch: a "random" one, or always the "first"."""
    seed: int = 0
    """Seed of initial weights, order, captions and augmentations."""
    precision: str = "fp32"
    """Precision of the towers: "fp32", or "bf16" (autocast), faster on processors with bfloat16 instructions."""
    augment: tuple[str, ...] = ("crop",)
    """Random augmentations of images (docs/training.md): "crop", "hue", "brightness", "contrast", "flip", "affine",
    "tilt", "perspective", "autocontrast", "equalize", or the sets "caption_safe" and "paper"."""
    vocab_size: int = 2048
    """Maximum vocabulary of a trained tokenizer, at least 300."""
    shuffle_window: int = 20_000
    """Samples shuffled together, at least one row group. Limits the memory used besides the cache."""
    device: str = how("auto")
    """Device: "cpu", "cuda", or "auto" for a GPU if there is one. On a GPU, a resumed run may differ in the last
    digits."""
    num_threads: int = how(0)
    """Number of CPU threads. 0 uses all."""
    cache_max_bytes: int = how(2 << 30)
    """Maximum memory for decoded images, in bytes. If they all fit, they are decoded once, otherwise in each epoch.
    Default: 2 GiB."""
    checkpoint_every_steps: int = how(200)
    """Steps between checkpoints. An interrupted run continues from the last one."""

    def __post_init__(self) -> None:
        for name in ("epochs", "lr", "shuffle_window", "checkpoint_every_steps"):
            if not 0 < getattr(self, name) < math.inf:
                raise SettingsError(f"train.{name} must be positive, got {getattr(self, name)}")
        not_negative = ("frozen_epochs", "steps", "patience", "microbatch", "weight_decay", "warmup_steps")
        for name in (*not_negative, "max_grad_norm", "agc", "seed", "num_threads", "cache_max_bytes"):
            if not 0 <= getattr(self, name) < math.inf:
                raise SettingsError(f"train.{name} must not be negative, got {getattr(self, name)}")
        for name, least, why in (
            ("batch_size", 2, "an image needs others to compare with"),
            ("vocab_size", 300, "256 bytes and some words"),
        ):
            if getattr(self, name) < least:
                raise SettingsError(f"train.{name} must be at least {least} ({why}), got {getattr(self, name)}")
        if not 0 <= self.warmup_ratio <= 1:
            raise SettingsError(f"train.warmup_ratio must be from 0 to 1, got {self.warmup_ratio}")
        if self.logit_scale != 0 and not 1 <= self.logit_scale <= 100:
            raise SettingsError(
                f"train.logit_scale must be 0 (a trained scale) or from 1 to 100, got {self.logit_scale}"
            )
        unknown = sorted(self.augmentations - set(AUGMENTATIONS))
        if unknown:
            known = ", ".join((*AUGMENTATIONS, *AUGMENTATION_SETS))
            raise SettingsError(f"train.augment has an unknown augmentation {unknown[0]!r}: use {known}")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise SettingsError(f"train.{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")

    @property
    def augmentations(self) -> frozenset[str]:
        """Return the names of the single augmentations, with sets replaced by their members."""
        sets = (AUGMENTATION_SETS.get(name, (name,)) for name in self.augment)
        return frozenset(name for names in sets for name in names)

    def what(self) -> dict[str, Any]:
        """Return the settings that decide the trained weights, for the key of a run."""
        settings = what_values(self)
        # The key includes the content of the model config, so its path does not matter.
        settings["model"] = Path(self.model).name
        if not self.steps:
            del settings["steps"]
        return settings

    @property
    def frozen_steps(self) -> int:
        """Return the number of `steps` with frozen towers: the share of the frozen epochs among all epochs."""
        return round(self.steps * self.frozen_epochs / (self.frozen_epochs + self.epochs))


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig:
    """Settings of scoring: gallery and confidence intervals."""

    split: str = ""
    """Split whose images are the gallery: "train", "val" or "test". By default "test" if it has images, else "val"."""
    batch_size: int = 128
    """Images or captions encoded at a time."""
    bootstrap_rounds: int = 1000
    """Number of bootstrap resamplings of the gallery's images for the 95 % confidence intervals."""
    seed: int = 0
    """Seed of the resampling."""

    def __post_init__(self) -> None:
        if self.split not in ("", *SPLITS):
            raise SettingsError(f"evaluate.split must be one of {', '.join(SPLITS)}, got {self.split!r}")
        for name in ("batch_size", "bootstrap_rounds"):
            if getattr(self, name) < 1:
                raise SettingsError(f"evaluate.{name} must be positive, got {getattr(self, name)}")
        if self.seed < 0:
            raise SettingsError(f"evaluate.seed must not be negative, got {self.seed}")
