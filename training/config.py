"""Settings of training and evaluation; the flows read them from a recipe's `[train]` and `[evaluate]`."""

import math
from dataclasses import dataclass, field
from typing import Any

from data_catalog.errors import SettingsError
from data_catalog.settings import NAME_OR_FILE, how, name_or_path, what

DEVICES = ("auto", "cpu", "cuda")
# What `training.augment` does to images, by name: "crop", and the others in its order.
AUGMENTATIONS = (
    "crop",
    "hue",
    "brightness",
    "contrast",
    "flip",
    "affine",
    "tilt",
    "perspective",
    "autocontrast",
    "equalize",
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
    """How a model is trained.

    Args:
        model: name of a model config that comes with vernaclip ("compact"), or the path of such a JSON file.
        image_weights: file or folder of weights that the image tower starts from; empty takes what the model config
            names of open_clip's, or random ones.
        text_encoder: folder, or name on the Hugging Face hub, of the text encoder; empty takes the model config's.
        lock_image: whether the image tower stays as it is, projection included, all along, as LiT does
            (https://arxiv.org/abs/2111.07991): for a strong tower, few data, or little time.
        epochs: passes over the train split with all weights trained.
        frozen_epochs: most passes before those in which both towers are frozen and only their projections into the
            common space are trained; 0 for none. It ends sooner once the validation loss stops improving, and goes on
            from the best weights.
        steps: optimizer steps of the run in the place of epochs, whatever the number of images: exactly so many, the
            last weights are kept, and `patience` counts for nothing; where there are frozen epochs the steps are shared
            out as the epochs are. 0 goes by epochs.
        patience: epochs without a better validation loss after which either phase ends; 0 goes through all of them,
            but for the frozen ones, which then end at the first.
        batch_size: images a step; a last, smaller batch of an epoch is left out.
        microbatch: images that go through the towers at a time, where memory is short; the loss is of the whole batch
            all the same, and a step takes a third longer. 0 takes the batch at once.
        optimizer: "adamw", or the paper's "adabelief".
        lr: learning rate at its peak; in each phase a cosine takes it down to 0.
        weight_decay: of weights with two dimensions or more.
        warmup_steps: steps of each phase until the peak; 0 goes by `warmup_ratio`.
        warmup_ratio: the same, as a share of the phase's steps.
        max_grad_norm: gradients are clipped to this norm, all together; 0 leaves them as they are.
        agc: adaptive gradient clipping: most that a gradient may be, in norms of the weights of its unit; 0 for off,
            0.01 in the paper.
        loss: "clip", which has each image find its caption among all of the batch and each caption its image, or
            "siglip", which asks of each image and caption whether they belong together.
        logit_scale: what similarities are multiplied with, fixed; 0 has it learned. 20 in the paper.
        captions: which of an image's captions an epoch takes: "random", or always the "first".
        seed: of initial weights, order, captions and augmentation.
        precision: "fp32", or "bf16" for autocast (faster where the processor has bfloat16 instructions).
        augment: what is done to images at random, by name: "crop" (to 90-100 % of the area), and those of
            `training.augment`; "caption_safe" and "paper" stand for several. Flips make left right, and hues change
            colours that captions name.
        vocab_size: most tokens that the tokenizer may learn.
        shuffle_window: samples that are shuffled together, at least one row group; bounds memory beside the cache.
        device: "cpu", "cuda", or "auto" for a GPU where there is one. On a GPU sums come in no fixed order, so there a
            run that goes on may differ in its last digits.
        num_threads: of the processor; 0 takes all that there are.
        cache_max_bytes: decoded images are kept in memory if they all fit in this, else decoded in each epoch.
        checkpoint_every_steps: steps between resume states.
    """

    model: str = field(default="compact", metadata={"path": NAME_OR_FILE})
    # Where weights are is in no key: what they are is, beside the settings.
    image_weights: str = name_or_path("")
    text_encoder: str = name_or_path("")
    lock_image: bool = False
    epochs: int = 10
    frozen_epochs: int = 0
    steps: int = 0
    patience: int = 0
    batch_size: int = 128
    microbatch: int = 0
    optimizer: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.1
    warmup_steps: int = 50
    warmup_ratio: float = 0.0
    max_grad_norm: float = 1.0
    agc: float = 0.0
    loss: str = "clip"
    logit_scale: float = 0.0
    captions: str = "random"
    seed: int = 0
    precision: str = "fp32"
    augment: tuple[str, ...] = ("crop",)
    vocab_size: int = 2048
    shuffle_window: int = 20_000
    device: str = how("auto")
    num_threads: int = how(0)
    cache_max_bytes: int = how(2 << 30)
    checkpoint_every_steps: int = how(200)

    def __post_init__(self) -> None:
        for name in ("epochs", "lr", "shuffle_window", "checkpoint_every_steps"):
            if not 0 < getattr(self, name) < math.inf:
                raise SettingsError(f"train.{name} must be positive, got {getattr(self, name)}")
        not_negative = (
            "frozen_epochs",
            "steps",
            "patience",
            "microbatch",
            "weight_decay",
            "warmup_steps",
            "max_grad_norm",
            "agc",
        )
        for name in (*not_negative, "seed", "num_threads", "cache_max_bytes"):
            if not 0 <= getattr(self, name) < math.inf:
                raise SettingsError(f"train.{name} must not be negative, got {getattr(self, name)}")
        if self.batch_size < 2:
            raise SettingsError(
                f"train.batch_size must be at least 2 (each image is told from others), got {self.batch_size}"
            )
        if self.vocab_size < 300:
            raise SettingsError(
                f"train.vocab_size must be at least 300 (256 bytes and a few words), got {self.vocab_size}"
            )
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
        """Names of single augmentations."""
        sets = (AUGMENTATION_SETS.get(name, (name,)) for name in self.augment)
        return frozenset(name for names in sets for name in names)

    def what(self) -> dict[str, Any]:
        """The settings that decide what the model becomes; a run by epochs has the key that it always had."""
        settings = what(self)
        if not self.steps:
            del settings["steps"]
        return settings

    @property
    def frozen_steps(self) -> int:
        """Of `steps`, those with frozen towers: the share that the frozen epochs have of all."""
        return round(self.steps * self.frozen_epochs / (self.frozen_epochs + self.epochs))


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig:
    """How a trained model is scored.

    Args:
        split: whose images are the gallery; empty: "test" where it has images, else "val".
        batch_size: images or captions encoded at a time.
        bootstrap_rounds: resamplings of the gallery's images, for the 95 % intervals.
        seed: of the resampling.
    """

    split: str = ""
    batch_size: int = 128
    bootstrap_rounds: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.split not in ("", *SPLITS):
            raise SettingsError(f"evaluate.split must be one of {', '.join(SPLITS)}, got {self.split!r}")
        for name in ("batch_size", "bootstrap_rounds"):
            if getattr(self, name) < 1:
                raise SettingsError(f"evaluate.{name} must be positive, got {getattr(self, name)}")
        if self.seed < 0:
            raise SettingsError(f"evaluate.seed must not be negative, got {self.seed}")
