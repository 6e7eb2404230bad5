"""Settings of training and evaluation; the flows read them from a recipe's `[train]` and `[evaluate]`."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_catalog.errors import SettingsError
from data_catalog.settings import NAME_OR_JSON, how, name_or_path, what_values

DEVICES = ("auto", "cpu", "cuda")
# What `training.data.augment` does to images, by name: "crop", and the others in its order.
AUGMENTATIONS = (
    *("crop", "hue", "brightness", "contrast", "flip"),
    *("affine", "tilt", "perspective", "autocontrast", "equalize"),
)
AUGMENTATION_SETS = {
    # Under these what a caption says stays true: no colour, count, side or size that it may name becomes another.
    "caption_safe": ("crop", "brightness", "contrast", "tilt"),
    # CLIP-Italian's, with its numbers, but for its crop: images come squashed to a square here, and are cropped little.
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
    """Settings of training: model, phases, optimizer, data."""

    model: str = field(default="compact", metadata={"path": NAME_OR_JSON})
    """Name of a model config that comes with vernaclip ("compact", "compact-96", "italian", "lit"), or path of a JSON
    file of that form."""
    # Where weights are is in no key: what they are is, beside the settings.
    image_weights: str = name_or_path("")
    """File or folder of weights that the image tower starts from. Empty takes those of open_clip that the model config
    names, or random ones."""
    text_encoder: str = name_or_path("")
    """Folder, or name on the Hugging Face hub, of the text encoder. Empty takes the model config's."""
    lock_image: bool = False
    """Keep the image tower as it is all along, projection included, as LiT does (https://arxiv.org/abs/2111.07991).
    Good for a strong tower, few data, or little time."""
    epochs: int = 10
    """Passes over the train split with all weights trained."""
    frozen_epochs: int = 0
    """Most passes before `epochs`, in which both towers are frozen and only their projections into the common space are
    trained. The phase ends sooner once the validation loss stops improving, and the run goes on from the best weights.
    0 leaves it out."""
    steps: int = 0
    """Optimizer steps of the run in the place of epochs, whatever the number of images: exactly so many, the last
    weights are kept, and `patience` counts for nothing. Frozen epochs get their share of them. 0 goes by epochs."""
    patience: int = 0
    """Epochs without a better validation loss after which either phase ends. 0 goes through all of them, but for the
    frozen ones, which then end at the first."""
    batch_size: int = 128
    """Images a step, at least 2; 128 in the paper. A last, smaller batch of an epoch is left out."""
    microbatch: int = 0
    """Images that go through the towers at a time, where memory is short. The loss is of the whole batch all the same,
    and a step takes a third longer. 0 takes the batch at once."""
    optimizer: str = "adamw"
    """Optimizer: "adamw", or "adabelief", which is the paper's."""
    lr: float = 1e-3
    """Learning rate at its peak. In each phase a cosine takes it down to 0."""
    weight_decay: float = 0.1
    """Weight decay, of weights with two dimensions or more."""
    warmup_steps: int = 50
    """Steps of each phase until the learning rate is at its peak. 0 goes by `warmup_ratio`."""
    warmup_ratio: float = 0.0
    """Share of each phase's steps until the learning rate is at its peak, 0 to 1. It counts where `warmup_steps` is
    0."""
    max_grad_norm: float = 1.0
    """Norm to which all gradients together are clipped. 0 leaves them as they are."""
    agc: float = 0.0
    """Adaptive gradient clipping: most that a gradient may be, in norms of the weights of its unit. 0 switches it off;
    0.01 in the paper."""
    loss: str = "clip"
    """Loss: "clip" has each image find its caption among all of the batch, and each caption its image; "siglip" asks of
    each image and caption whether they belong together."""
    logit_scale: float = 0.0
    """Factor of similarities, fixed, 1 to 100; 20 in the paper. 0 has it learned."""
    captions: str = "random"
    """Caption of each image that an epoch takes: a "random" one, or always the "first"."""
    seed: int = 0
    """Seed of initial weights, order, captions and augmentation."""
    precision: str = "fp32"
    """Precision of the towers: "fp32", or "bf16" for autocast, which is faster where the processor has bfloat16
    instructions."""
    augment: tuple[str, ...] = ("crop",)
    """Augmentations of images, drawn at random: "crop" (to 90-100 % of the area), "hue", "brightness", "contrast",
    "flip", "affine", "tilt", "perspective", "autocontrast", "equalize"; "caption_safe" and "paper" stand for several.
    Flips make left right, and hues change colours that captions name."""
    vocab_size: int = 2048
    """Most tokens that the tokenizer may learn, at least 300."""
    shuffle_window: int = 20_000
    """Samples that are shuffled together, at least one row group. It bounds the memory beside the cache."""
    device: str = how("auto")
    """Device that trains: "cpu", "cuda", or "auto" for a GPU where there is one. On a GPU sums come in no fixed order,
    so that a run that goes on there may differ in its last digits."""
    num_threads: int = how(0)
    """Threads of the processor. 0 takes all that there are."""
    cache_max_bytes: int = how(2 << 30)
    """Bytes of memory for decoded images. They are kept if all fit, else decoded in each epoch. The default is 2
    GiB."""
    checkpoint_every_steps: int = how(200)
    """Steps between the states that a killed run goes on from."""

    def __post_init__(self) -> None:
        for name in ("epochs", "lr", "shuffle_window", "checkpoint_every_steps"):
            if not 0 < getattr(self, name) < math.inf:
                raise SettingsError(f"train.{name} must be positive, got {getattr(self, name)}")
        not_negative = ("frozen_epochs", "steps", "patience", "microbatch", "weight_decay", "warmup_steps")
        for name in (*not_negative, "max_grad_norm", "agc", "seed", "num_threads", "cache_max_bytes"):
            if not 0 <= getattr(self, name) < math.inf:
                raise SettingsError(f"train.{name} must not be negative, got {getattr(self, name)}")
        for name, least, why in (
            ("batch_size", 2, "each image is told from others"),
            ("vocab_size", 300, "256 bytes and a few words"),
        ):
            if getattr(self, name) < least:
                raise SettingsError(f"train.{name} must be at least {least} ({why}), got {getattr(self, name)}")
        if not 0 <= self.warmup_ratio <= 1:
            raise SettingsError(f"train.warmup_ratio must be from 0 to 1, got {self.warmup_ratio}")
        if self.logit_scale != 0 and not 1 <= self.logit_scale <= 100:
            raise SettingsError(
                f"train.logit_scale must be 0, for a learned one, or from 1 to 100, got {self.logit_scale}"
            )
        unknown = sorted(self.augmentations - set(AUGMENTATIONS))
        if unknown:
            known = ", ".join((*AUGMENTATIONS, *AUGMENTATION_SETS))
            raise SettingsError(f"train.augment must name some of {known}, got {unknown[0]!r}")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise SettingsError(f"train.{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")

    @property
    def augmentations(self) -> frozenset[str]:
        """Return the names of single augmentations."""
        sets = (AUGMENTATION_SETS.get(name, (name,)) for name in self.augment)
        return frozenset(name for names in sets for name in names)

    def what(self) -> dict[str, Any]:
        """Return the settings that decide what the model becomes; a run by epochs has the key that it always had."""
        settings = what_values(self)
        settings["model"] = Path(self.model).name  # what the file holds is hashed beside, wherever it is
        if not self.steps:
            del settings["steps"]
        return settings

    @property
    def frozen_steps(self) -> int:
        """Return those of `steps` with frozen towers: the share that the frozen epochs have of all."""
        return round(self.steps * self.frozen_epochs / (self.frozen_epochs + self.epochs))


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig:
    """Settings of scoring: gallery, intervals."""

    split: str = ""
    """Split whose images are the gallery: "train", "val" or "test". Empty takes "test" where it has images, else
    "val"."""
    batch_size: int = 128
    """Images or captions that are encoded at a time."""
    bootstrap_rounds: int = 1000
    """Resamplings of the gallery's images, for the 95 % intervals."""
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
